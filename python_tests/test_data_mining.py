import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softnce_ext.data import mining, workers
from softnce_ext.data.mining import mine_folder, mine_interpreter
from softnce_ext.data.pairs import Pair
from softnce_ext.data.sources import folder_packages, interpreter_packages, is_left_out


def function(name: str, words: str = "of the list") -> str:
    return (
        f'def {name}(values):\n    """Return the {name} {words}."""\n'
        f"    total = {name!r}\n    total += values\n    return total\n\n\n"
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of two projects, with all that must be passed over."""
    files = {
        "one/a.py": function("first") + function("second"),
        "one/sub/b.py": function("third"),
        "two/c.py": function("fourth"),
        "two/test_c.py": function("unwanted"),
        "two/tests/d.py": function("unwanted"),
        "two/_vendor/e.py": function("unwanted"),
        "two/.hidden/f.py": function("unwanted"),
        "two/env3/pyvenv.cfg": "",
        "two/env3/g.py": function("unwanted"),
        "two/python2.py": 'print "old"\ndef f(): """x"""',
        "two/nul.py": 'x = "\0"\ndef f(): """x"""',
        "two/latin.py": b'x = "\xff"\ndef f(): """x"""',
        "two/deep.py": "x = " + "(" * 5000 + '\ndef f(): """x"""',
        "two/plain.py": "def undocumented(x):\n    return x\n",
        "h.py": function("fifth"),
    }
    for name, text in files.items():
        path = tmp_path / "all" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.mkfifo(tmp_path / "all" / "pipe.py")
    (tmp_path / "all" / "dangling.py").symlink_to("nowhere")
    (tmp_path / "all" / "loop").symlink_to(tmp_path / "all", target_is_directory=True)
    return tmp_path / "all"


def test_folder_gives_its_documented_functions_by_package(project: Path) -> None:
    pairs = mine_folder(project, progress=False)
    assert [(each.package, each.path, each.line, each.name) for each in pairs] == [
        ("all", "h.py", 1, "fifth"),
        ("one", "one/a.py", 1, "first"),
        ("one", "one/a.py", 8, "second"),
        ("one", "one/sub/b.py", 1, "third"),
        ("two", "two/c.py", 1, "fourth"),
    ]
    assert pairs[1] == Pair(
        "Return the first of the list.",
        "def first(values):\n    total = 'first'\n    total += values\n    return total",
        "first",
        "one",
        "one/a.py",
        1,
        "python",
    )


def test_files_that_do_not_parse_are_counted(project: Path) -> None:
    report = mine_folder(project, progress=False).report
    assert report["unparsable_files"] == 4
    assert report["files"] == 9
    assert report["pairs"] == 5
    json.dumps(report)


def test_a_project_is_one_package(project: Path) -> None:
    (project / "pyproject.toml").touch()
    assert {each.package for each in mine_folder(project, progress=False)} == {"all"}
    assert [each.name for each in folder_packages(project / "one" / "a.py")] == ["a"]


@pytest.mark.parametrize("mark", ["go.mod", "package.json", "pom.xml", "Gemfile", "x.gemspec"])
def test_what_a_language_wants_at_the_top_marks_a_project(project: Path, mark: str) -> None:
    (project / mark).touch()
    assert [each.name for each in folder_packages(project)] == ["all"]


OTHERS = {
    "lib/a.go": "package a\n\n// Sum adds the numbers.\nfunc Sum(a int) int {X}\n",
    "lib/A.java": "class A {\n/** Adds the numbers up. */\nint sum(int a) {X} }\n",
    "lib/a.mjs": "/** Adds all the numbers. */\nexport const sum = (a) => {X};\n",
    "lib/a.php": "<?php\n/** Adds numbers to others. */\nfunction sum($a) {X}\n",
    "lib/a.rb": "# Adds numbers to numbers.\ndef sum(a)\n  a += 1\n  a += 2\n  a\nend\n",
}
LEFT_OUT = ("a_test.go", "testdata/a.go", "ATest.java", "TestA.java", "AbcIT.java", "target/A.java")
LEFT_OUT += ("a.test.js", "a.spec.mjs", "a-test.js", "__tests__/a.js", "a.min.js", "spec/a.js")
LEFT_OUT += ("ATest.php", "Tests/A.php", "vendor/a.php", "a_spec.rb", "a_test.rb", "spec/a.rb")
LEFT_OUT += ("node_modules/a.js", "a.ts", "a.txt", "tests/a.go", "a.pyi", "Makefile")


@pytest.fixture
def languages(tmp_path: Path) -> Path:
    """A folder with a function of each language, and with files that are none of ours."""
    body = "\n  b(1);\n  b(2);\n  return a;\n"
    texts = {**OTHERS, "lib/a.py": function("total"), "lib/contest.js": "x()"}
    for name in LEFT_OUT:
        suffix = name.rpartition(".")[2]
        texts[name] = next((OTHERS[each] for each in OTHERS if each.endswith(suffix)), "x")
    for name, text in texts.items():
        path = tmp_path / "six" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("X", body))
    return tmp_path / "six"


def test_a_folder_gives_the_functions_of_six_languages(languages: Path) -> None:
    pairs = mine_folder(languages, progress=False)
    assert [(each.path, each.language, each.query) for each in pairs] == [
        ("lib/A.java", "java", "Adds the numbers up."),
        ("lib/a.go", "go", "Sum adds the numbers."),
        ("lib/a.mjs", "javascript", "Adds all the numbers."),
        ("lib/a.php", "php", "Adds numbers to others."),
        ("lib/a.py", "python", "Return the total of the list."),
        ("lib/a.rb", "ruby", "Adds numbers to numbers."),
    ]
    assert pairs.report["files"] == 7 and "unread_files" not in pairs.report
    assert mine_folder(languages, language="php", progress=False) == [pairs[3]]
    assert mine_folder(languages / "lib" / "a.rb", progress=False)[0].code == pairs[5].code
    alone = mine_folder(languages / "lib" / "a.rb", language="go", progress=False)
    assert (alone, alone.report["files"]) == ([], 0)


def test_workers_read_other_languages_to_the_same_pairs(
    languages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        for path in sorted((languages / "lib").glob("[Aa].*")):
            text = path.read_text().replace("umbers", f"umber {number}", 1)
            path.with_name(f"m{number}{path.suffix}").write_text(text)
    alone = mine_folder(languages, workers=1, keep_all=True, progress=False)
    monkeypatch.setattr(mining, "ALONE_BYTES", 0)
    monkeypatch.setattr(mining, "CHUNK_BYTES", 500)
    again = mine_folder(languages, workers=3, keep_all=True, progress=False)
    assert again == alone and len(alone) == 78
    assert {**again.report, "seconds": 0} == {**alone.report, "seconds": 0}


def test_without_grammars_python_is_mined_and_the_rest_is_told(
    languages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    told = "1 go, 1 java, 2 javascript, 1 php, 1 ruby files cannot be read without tree-sitter"
    with pytest.warns(UserWarning, match=told) as warned:
        pairs = mine_folder(languages, progress=False)
    assert len(warned) == 1 and "pip install 'softnce-ext[mine]'" in str(warned[0].message)
    assert [each.language for each in pairs] == ["python"]
    assert pairs.report["unread_files"]["javascript"] == 2
    (languages / "lib" / "a.py").unlink()
    with pytest.raises(ImportError, match=r"six: 1 go, .*: pip install 'softnce-ext\[mine\]'"):
        mine_folder(languages, progress=False)
    with pytest.raises(ImportError, match="1 ruby files cannot be read"):
        mine_folder(languages / "lib" / "a.rb", progress=False)


def test_keep_all_returns_every_function_for_a_search_index(project: Path) -> None:
    pairs = mine_folder(project, keep_all=True, progress=False)
    assert ("undocumented", "") in {(each.name, each.query) for each in pairs}
    assert len(pairs) == 6


def test_exact_duplicates_stay_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(function("same"))
    pairs = mine_folder(tmp_path, progress=False)
    assert [each.package for each in pairs] == ["a"]
    assert pairs.report["dropped"] == {"duplicate": 1}


def test_workers_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        folder = tmp_path / f"package{number % 3}"
        folder.mkdir(exist_ok=True)
        text = "".join(function(f"name{number}x{each}") for each in range(5))
        (folder / f"m{number}.py").write_text(text)
    whole = mine_folder(tmp_path, workers=1, max_per_package=23, progress=False)
    monkeypatch.setattr(mining, "ALONE_BYTES", 0)
    monkeypatch.setattr(mining, "CHUNK_BYTES", 700)
    alone = mine_folder(tmp_path, workers=1, max_per_package=23, progress=False)
    assert alone == whole
    for count in (2, 3):
        again = mine_folder(tmp_path, workers=count, max_per_package=23, progress=False)
        assert again == alone
        assert {**again.report, "seconds": 0} == {**alone.report, "seconds": 0}
        assert again.report["pairs_per_package"] == dict.fromkeys(
            ("package0", "package1", "package2"), 23
        )


def test_interpreter_gives_the_standard_library_as_one_package() -> None:
    pairs = mine_interpreter(packages=["python", "tqdm"], max_per_package=150, progress=False)
    assert pairs.report["pairs_per_package"]["python"] == 150
    assert pairs.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert not any(is_left_out(each.path) for each in pairs)
    assert not any("site-packages" in each.path for each in pairs)
    assert pairs == mine_interpreter(
        packages=["tqdm", "python"], max_per_package=150, workers=1, progress=False
    )


def test_interpreter_leaves_out_tests_vendored_copies_and_itself() -> None:
    packages = {package.name: package for package in interpreter_packages()}
    assert "softnce-ext" not in packages
    assert {"python", "numpy", "torch", "pytest"} <= packages.keys()
    assert packages["torch"].version.startswith("2.")
    for package in packages.values():
        assert not [path for path, _ in package.files if is_left_out(path)]
    assert is_left_out("pip/_vendor/rich/x.py")
    assert is_left_out("numpy/_core/tests/test_x.py")
    assert is_left_out("lib2to3/tests/x.py")
    assert not is_left_out("torch/utils/data.py")


def test_unknown_package_and_bad_bounds_are_named() -> None:
    with pytest.raises(ValueError, match="packages must be installed, got no-such-thing"):
        mine_interpreter(packages=["no-such-thing"], progress=False)
    with pytest.raises(ValueError, match="max_per_package must be at least 1, got 0"):
        mine_interpreter(packages=["tqdm"], max_per_package=0, progress=False)
    with pytest.raises(ValueError, match="workers must be at least 1, got -1"):
        mine_interpreter(packages=["tqdm"], workers=-1, progress=False)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        mine_folder("/nowhere/at/all")


def test_progress_goes_to_stderr_and_can_be_silenced(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine_folder(project, progress=False)
    assert capfd.readouterr() == ("", "")
    mine_folder(project)
    out, err = capfd.readouterr()
    assert out == ""
    assert "mining" in err


def test_dead_worker_is_an_error_and_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_COMMAND", "import sys; sys.stdin.readline(); sys.exit(7)")
    chunks = [workers.Chunk("p", ".", ["x.py"], 1)] * 3
    with pytest.raises(ChildProcessError, match="status 7 in p"):
        workers.parse_chunks(lambda: chunks.pop() if chunks else None, lambda *_: None, 2)


UNGUARDED = """
import signal, sys, time
from softnce_ext.data import mining
mining.ALONE_BYTES = 0
receive = mining._PackageState.receive
def slow(self, chunk, parsed):
    print("mining", flush=True)
    time.sleep(float(sys.argv[1]))
    receive(self, chunk, parsed)
mining._PackageState.receive = slow
print(len(mining.mine_interpreter(packages=["python"], max_per_package=50, progress=False)))
"""


def start(*arguments: str) -> "subprocess.Popen[str]":
    root = str(Path(workers.__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_mining_works_from_a_script_without_a_guard_and_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What runs at every start of Python must not reach the workers' pipe.
    (tmp_path / "sitecustomize.py").write_text("print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    for process, text in ((start(str(script), "0"), None), (start("-", "0"), UNGUARDED)):
        out, err = process.communicate(text, timeout=60)
        assert (out.split()[-1], err) == ("50", "")


def children(pid: int) -> set[int]:
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_end_of_the_parent_ends_the_workers(number: signal.Signals) -> None:
    process = start("-c", UNGUARDED, "30")
    assert process.stdout
    assert process.stdout.readline() == "mining\n"
    workers_of_it = children(process.pid)
    assert workers_of_it
    # As a terminal does it: Ctrl-C goes to the whole group.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("Traceback") == (number == signal.SIGINT)
    deadline = time.monotonic() + 10
    while alive := [each for each in workers_of_it if Path(f"/proc/{each}").exists()]:
        assert time.monotonic() < deadline, f"workers {alive} outlive their parent"
        time.sleep(0.05)
