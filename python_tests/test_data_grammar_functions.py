"""Functions of Go, Java, JavaScript, PHP and Ruby: goldens, and forms that are easily misread."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from softnce_ext.data.function_grammars import GRAMMARS
from softnce_ext.data.grammar_functions import grammar_functions, may_document, why_left_out
from softnce_ext.data.source_files import SOURCE_FILES

GO = """package store

var limit = 7 // of open files

// Close ends every connection
// that is still open.
//
// It may be called twice.
//
//go:noinline
func (s *Store[K, V]) Close(force bool) (int, error) {
\tcount := 0
\tfor _, each := range s.open {
\t\tcount += each.close(force)
\t}
\treturn count, nil
}

/*
Count returns how many keys are stored.
*/
func Count(keys []string) (n int) {
\tn = 1
\tn *= len(keys)
\treturn
}

// Apart is described too early.

func Apart(a int) int {
\ta++
\ta++
\treturn a
}

// Far is written in assembly.
func Far(a int) int

// Outer calls a function of its own.
func Outer(a int) int {
\tinner := func(b int) int {
\t\treturn b + 1
\t}
\treturn inner(a)
}
"""

JAVA = """package store;

/** Keeps rows. */
public class Store<T extends Comparable<T>> {
    /** Makes a store that is empty at first. */
    public Store(int size) {
        this.size = size;
        this.rows = new ArrayList<>();
        this.open = true;
    }

    /**
     * Returns the largest of {@code List<T>}, see {@link #smallest(List, int) the other one}.
     * <p>Rows that are <b>null</b> are passed over.
     *
     * @param rows the rows
     * @return the largest
     */
    @Override
    @SuppressWarnings("unchecked")
    public <U extends T> T largest(List<? extends U> rows) throws IOException {
        T best = null;
        for (T row : rows) {
            if (best == null || row.compareTo(best) > 0) { best = row; }
        }
        return best;
    }

    /** Says what the store holds, for people. */
    public String toString() {
        StringBuilder text = new StringBuilder();
        text.append(rows);
        return text.toString();
    }

    Comparator<T> order = new Comparator<T>() {
        /** Compares two rows by what they hold. */
        public int compare(T a, T b) {
            int left = a.size();
            int right = b.size();
            return left - right;
        }
    };
}

interface Source {
    /** Reads one row more, or none. */
    Row read();

    /** Reads all rows that are left. */
    default List<Row> readAll() {
        List<Row> rows = new ArrayList<>();
        for (Row row = read(); row != null; row = read()) { rows.add(row); }
        return rows;
    }
}

class StoreTest {
    /** Checks that the largest row is found. */
    void findsTheLargest() {
        int a = 1;
        int b = 2;
        check(a < b);
    }
}
"""

JAVASCRIPT = """/**
 * A store of rows, in one file.
 */

export default function open(path) {
  const store = {};
  store.path = path;
  return store;
}

/**
 * Adds the sizes of all rows.
 *
 * @param {Row[]} rows
 * @returns {number}
 */
export const total = async (rows) => {
  let sum = 0;
  for (const row of rows) sum += row.size;
  return sum;
};

/**
 * Look up a route by its name.
 *
 * @api private
 */

Router.prototype.lookup = function (name) {
  const found = this.routes[name];
  if (!found) throw new Error(name);
  return found;
};

/** Makes both of them at once. */
const left = function () {
  a();
  b();
  return c();
}, right = () => 1;

class Queue extends Base {
  /** Starts with no item at all. */
  constructor() {
    super();
    this.items = [];
    this.open = true;
  }

  /** Takes the first item out. */
  // eslint-disable-next-line
  @bound
  static async *take(queue) {
    const first = queue.items.shift();
    queue.count -= 1;
    yield first;
  }

  /** Puts an item at the end. */
  put = (item) => {
    this.items.push(item);
    this.count += 1;
    return this;
  };
}

(function () {
  /** Tells whether a value is a list. */
  function isList(value) {
    const kind = typeof value;
    function inner() { return kind; }
    return Array.isArray(value);
  }
  list.forEach(function named(item) {
    use(item);
    use(item);
    use(item);
  });
})();

module.exports = {
  /** Turns a text into words. */
  "split-words": function (text) {
    const words = text.split(" ");
    words.sort();
    return words;
  },
  /** Joins the words with a blank. */
  join(words) {
    const text = words.join(" ");
    log(text);
    return text;
  },
};
"""

PHP = """<html><body><?php if ($x): ?><b>text</b><?php endif; ?>
<?php
namespace Store;

/**
 * Reads the rows of a table.
 *
 * @param string $table
 */
#[Pure]
function read_rows(string $table, int ...$ids): array {
    $rows = [];
    foreach ($ids as $id) { $rows[] = load($table, $id); }
    return $rows;
}

abstract class Table {
    /** Makes a table that is empty. */
    public function __construct(private int $size) {
        $this->rows = [];
        $this->open = true;
        $this->size = $size;
    }

    /** Says how a row is written. */
    abstract protected function write(Row $row): string;

    /** {@inheritdoc} */
    public function close() {
        $this->open = false;
        $this->rows = [];
        return $this;
    }

    /**
     * Counts the rows &amp; columns.
     */
    final public static function count(Table $table): int {
        $each = function ($row) { return count($row); };
        $sizes = array_map($each, $table->rows);
        # the sum of all
        return array_sum($sizes);
    }
}

if (!function_exists('starts_with')) {
    /** Tells whether a text starts with another. */
    function starts_with($text, $start) {
        $length = strlen($start);
        $head = substr($text, 0, $length);
        return $head === $start;
    }
}
?>
<p>function not_code() { }</p>
"""

RUBY = """# frozen_string_literal: true
module Store
  class Table < Base
    LIMIT = 7 # at most

    # Makes a table of so many rows.
    def initialize(size)
      @size = size
      @rows = []
      @open = true
    end

    # call-seq:
    #   each_row(&block) -> table
    #
    # Calls the block with each +row+
    # of the table.
    #
    # @yield [Row]
    def each_row(&block)
      text = <<~TEXT
        a here-document
      TEXT
      @rows.each { |row| block.call(row, text) }
      self
    end

=begin
Opens a table by its name.
=end
    def self.open(name)
      table = new(name)
      table.read
      table
    end

    # Drops the rows that are too old.
    private def drop_old(age)
      old = @rows.select { |row| row.age > age }
      @rows -= old
      old
    end

    ##
    # Tells whether there is no row
    # rubocop:disable Naming/PredicateName
    def empty?
      count = @rows.size
      count -= 1 while count > LIMIT
      count.zero?
    end

    # Compares two tables by size.
    def <=>(other)
      a = size
      b = other.size
      a <=> b
    end

    class << self
      # Counts the tables that are open.
      memoize def count_open
        tables = all
        open = tables.select(&:open?)
        open.size
      end
    end

    # Not about the next one.

    def undocumented
      a = 1
      b = 2
      a + b
    end
  end
end
"""

GOLDEN = {
    "go": (
        GO,
        [
            (11, "Close", "Close ends every connection that is still open."),
            (22, "Count", "Count returns how many keys are stored."),
            (40, "Outer", "Outer calls a function of its own."),
        ],
        {"functions": 5, "no documentation": 1, "stub": 1},
        """func (s *Store[K, V]) Close(force bool) (int, error) {
\tcount := 0
\tfor _, each := range s.open {
\t\tcount += each.close(force)
\t}
\treturn count, nil
}""",
    ),
    "java": (
        JAVA,
        [
            (19, "largest", "Returns the largest of List<T>, see the other one."),
            (38, "compare", "Compares two rows by what they hold."),
            (51, "readAll", "Reads all rows that are left."),
        ],
        {"functions": 7, "special method": 2, "stub": 1, "test": 1},
        """@Override
@SuppressWarnings("unchecked")
public <U extends T> T largest(List<? extends U> rows) throws IOException {
    T best = null;
    for (T row : rows) {
        if (best == null || row.compareTo(best) > 0) { best = row; }
    }
    return best;
}""",
    ),
    "javascript": (
        JAVASCRIPT,
        [
            (17, "total", "Adds the sizes of all rows."),
            (29, "lookup", "Look up a route by its name."),
            (36, "left", "Makes both of them at once."),
            (52, "take", "Takes the first item out."),
            (60, "put", "Puts an item at the end."),
            (69, "isList", "Tells whether a value is a list."),
            (83, "split-words", "Turns a text into words."),
            (89, "join", "Joins the words with a blank."),
        ],
        {"functions": 11, "no documentation": 2, "special method": 1},
        """const total = async (rows) => {
  let sum = 0;
  for (const row of rows) sum += row.size;
  return sum;
};""",
    ),
    "php": (
        PHP,
        [
            (10, "read_rows", "Reads the rows of a table."),
            (38, "count", "Counts the rows & columns."),
            (48, "starts_with", "Tells whether a text starts with another."),
        ],
        {"functions": 6, "special method": 1, "stub": 1, "no documentation": 1},
        """#[Pure]
function read_rows(string $table, int ...$ids): array {
    $rows = [];
    foreach ($ids as $id) { $rows[] = load($table, $id); }
    return $rows;
}""",
    ),
    "ruby": (
        RUBY,
        [
            (20, "each_row", "Calls the block with each row of the table."),
            (31, "open", "Opens a table by its name."),
            (38, "drop_old", "Drops the rows that are too old."),
            (47, "empty?", "Tells whether there is no row"),
            (62, "count_open", "Counts the tables that are open."),
        ],
        {"functions": 8, "special method": 2, "no documentation": 1},
        """def each_row(&block)
  text = <<~TEXT
    a here-document
  TEXT
  @rows.each { |row| block.call(row, text) }
  self
end""",
    ),
}


@pytest.mark.parametrize("language", GOLDEN)
def test_functions_of_a_file_are_listed_with_what_documents_them(language: str) -> None:
    source, expected, counts, first = GOLDEN[language]
    functions, seen = grammar_functions(source.encode(), language)
    assert [(each.line, each.name, each.query) for each in functions] == expected
    assert seen == Counter(counts)
    assert functions[0].code == first
    for each in functions:
        assert each.query not in " ".join(each.code.split())


@pytest.mark.parametrize("language", GOLDEN)
def test_keep_all_lists_every_named_function(language: str) -> None:
    source, kept, counts, _ = GOLDEN[language]
    functions, seen = grammar_functions(source.encode(), language, keep_all=True)
    assert len(functions) == counts["functions"] and seen == {"functions": counts["functions"]}
    assert {line for line, _, _ in kept} <= {each.line for each in functions}
    assert "" in {each.query for each in functions} or language == "java"


@pytest.mark.parametrize("language", GOLDEN)
@pytest.mark.parametrize("form", ["windows", "mac", "utf-8-sig", "utf-16", "latin-1"])
def test_encodings_and_line_ends_change_nothing(language: str, form: str) -> None:
    source = GOLDEN[language][0]
    plain, _ = grammar_functions(source.encode(), language)
    end = {"windows": "\r\n", "mac": "\r"}.get(form, "\n")
    data = source.replace("\n", end).encode("utf-8" if end != "\n" else form)
    assert grammar_functions(data, language)[0] == plain


def one(language: str, source: str) -> tuple[str, str, str]:
    (function,) = grammar_functions(source.encode("latin-1"), language)[0]
    return function.name, function.query, function.code


def test_text_of_other_encodings_is_read_and_cut_at_characters() -> None:
    source = (
        "/* \xe4\xf6\xfc */ /** Reads the na\xefve rows. */ function caf\xe9() "
        '{\n a();\n b();\n return "\xe4";\n}'
    )
    code = 'function caf\xe9() {\n a();\n b();\n return "\xe4";\n}'
    assert one("javascript", source) == ("caf\xe9", "Reads the na\xefve rows.", code)


WHOLE = {
    "function f() {}": (
        "export default function f() {}",
        "async function f() {}",
        "x(); function f() {}",
    ),
    "const f = () => 1;": ("export const f = () => 1;", "  const f = () => 1;"),
    "f = function () {}": ("var f = function () {}, g;", "a = 1, f = function () {}"),
    "a.b.f = () => 1": ("a.b.f = () => 1",),
    "f: () => 1": ("x = { f: () => 1 }", "x = { a: 1, f: () => 1, b }"),
    "f = () => 1": ("class A { f = () => 1; b }", "let g, f = () => 1;"),
    "static f() {}": ("class A { static f() {} }",),
}


@pytest.mark.parametrize("code", WHOLE)
def test_a_function_without_a_name_is_cut_out_with_what_names_it(code: str) -> None:
    for source in WHOLE[code]:
        functions, _ = grammar_functions(source.encode(), "javascript", keep_all=True)
        assert [(each.name, each.code.removeprefix("async ")) for each in functions] == [
            ("f", code)
        ]


def test_lines_that_only_close_are_no_body() -> None:
    doc = "# Reads all of the rows.\ndef f\n"
    for body, is_long in ((" if a\n  b\n end\n", False), (" if a\n  b\n end\n c\n", True)):
        functions, _ = grammar_functions(f"{doc}{body}end".encode(), "ruby")
        assert bool(functions) == is_long
    for body, is_long in (("if (a) {\nb;\n}\n", False), ("if (a) {\nb;\n}\nc;\n", True)):
        functions, _ = grammar_functions(f"{DOC}\nfunction f() {{\n{body}}}".encode(), "javascript")
        assert bool(functions) == is_long


BODY = " {\n  a();\n  b();\n  return c();\n}"
DOC = "/** Reads all of the rows. */"
FRONTS = {
    "blank line, in Java": ("java", f"class A {{\n{DOC}\n\nint f(){BODY} }}", False),
    "blank line, in PHP": ("php", f"<?php\n{DOC}\n\nfunction f(){BODY}", False),
    "two blank lines": ("javascript", f"x();\n{DOC}\n\n\nfunction f(){BODY}", False),
    "a file's header": ("javascript", f"{DOC}\n\nfunction f(){BODY}", False),
    "no header, as it is near": ("javascript", f"{DOC}\nfunction f(){BODY}", True),
    "a note between": ("javascript", f"{DOC}\n// as it was\n/* istanbul */\nf = () =>{BODY}", True),
    "code between": ("javascript", f"{DOC}\nvar x;\nfunction f(){BODY}", False),
    "on one line": ("javascript", f"{DOC} export const f = function (){BODY}", True),
    "inside the front": ("javascript", f"const f = {DOC} function (){BODY}", False),
    "no documentation": ("javascript", f"/* Reads all of the rows. */\nfunction f(){BODY}", False),
    "an empty one": ("javascript", f"/**/\nfunction f(){BODY}", False),
    "another's": ("javascript", f"x = {{\n{DOC}\na: 1, f: function (){BODY} }}", False),
    "of the second": ("javascript", f"const a = 1,\n{DOC}\nf = function (){BODY}", True),
    "chained": ("javascript", f"{DOC}\nexports.f = exports.g = function f(){BODY}", True),
    "behind code": ("go", f"package a\nvar x = 1 // Reads all of the rows.\nfunc f(){BODY}", False),
    "two of Go": (
        "go",
        f"package a\n/* Reads all of the rows. */\n// And more of them.\nfunc f(){BODY}",
        False,
    ),
    "a Go directive": ("go", f"package a\n//nolint:all of the rows\nfunc f(){BODY}", False),
    "shebang": ("ruby", "#!/usr/bin/ruby all the rows\ndef f\n a\n b\n c\nend", False),
    "RDoc's switch": ("ruby", "# Reads all of the rows.\n# :nodoc:\ndef f\n a\n b\n c\nend", True),
}


@pytest.mark.parametrize("case", FRONTS)
def test_only_what_stands_directly_in_front_documents(case: str) -> None:
    language, source, is_documented = FRONTS[case]
    functions, counts = grammar_functions(source.encode(), language)
    assert [each.query for each in functions] == ["Reads all of the rows."] * is_documented
    assert counts["no documentation"] == (not is_documented)
    assert [each.name for each in grammar_functions(source.encode(), language, keep_all=True)[0]]


UNWANTED = {
    "short body": ("javascript", f"{DOC}\nfunction f() {{\n  // a\n  a();\n  return 1;\n}}"),
    "test": ("go", f"package a\n// Reads all of the rows.\nfunc TestRows(t *T){BODY}"),
    "special method": ("php", f"<?php class A {{ {DOC}\nfunction __get($name){BODY} }}"),
    "short documentation": ("java", f"class A {{ /** Reads it. */\nint f(){BODY} }}"),
    "not English": ("javascript", f"/** Читает все строки таблицы. */\nfunction f(){BODY}"),
    "long code": ("javascript", f"{DOC}\nfunction f() {{{'  call();' * 4000}\n a;\n b;\n c;\n}}"),
    "syntax error": ("java", f"class A {{ {DOC}\nint f(int){BODY} }}"),
}


@pytest.mark.parametrize("reason", UNWANTED)
def test_what_is_left_out_is_counted(reason: str) -> None:
    language, source = UNWANTED[reason]
    functions, counts = grammar_functions(source.encode(), language)
    assert (functions, counts) == ([], {"functions": 1, reason: 1})


def test_a_faulty_file_gives_its_sound_functions() -> None:
    source = f"class A {{ {DOC}\nint f(){BODY}\n}} ]] oops ((\nclass B {{ {DOC}\nint g(){BODY} }}"
    functions, counts = grammar_functions(source.encode(), "java")
    assert "f" in {each.name for each in functions}
    assert counts["functions"] >= len(functions)


@pytest.mark.parametrize("language", GOLDEN)
def test_no_bytes_make_it_fail(language: str) -> None:
    chance = random.Random(0)
    source = GOLDEN[language][0].encode()
    for _ in range(60):
        data = bytearray(source)
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        start = chance.randrange(len(data))
        for cut in (bytes(data), bytes(data[start:])):
            functions, _ = grammar_functions(cut, language, keep_all=True)
            assert all(each.name and each.code and each.line > 0 for each in functions)
    for data in (b"", b"\0" * 100, b"\xff\xfe", b"\xff\xfe\x00\xd8", b"(" * 20_000, b"{[" * 9000):
        assert grammar_functions(data, language) == ([], Counter())


def test_generated_and_minified_files_are_told() -> None:
    header = b"// Code generated by a tool from rows.txt. DO NOT EDIT.\n\npackage a\n"
    assert why_left_out(header, "go") == "generated files"
    assert why_left_out(b"<?php // @generated by hand\n", "php") == "generated files"
    assert why_left_out(b"// The generated key; do\n// not edit it.\n", "go") == ""
    assert why_left_out(b"x=1;" * 2000, "javascript") == "minified files"
    assert why_left_out(b"x=1;" * 2000, "java") == ""
    assert why_left_out(b"x = 1;\n" * 2000, "javascript") == ""


def test_every_golden_may_document_and_every_language_has_a_table() -> None:
    assert all(may_document(GOLDEN[language][0].encode(), language) for language in GOLDEN)
    assert not may_document(b"/* Reads all. */ class A { }", "java")
    assert set(SOURCE_FILES) == {*GRAMMARS, "python"} == {*GOLDEN, "python"}
