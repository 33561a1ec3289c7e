"""(documentation, function) rows in six languages: of templates, or mined from real packages.

$SOFTNCE_TEST_PAIRS names a folder that `.ci/real_pairs` filled; where it is set, its pairs take the
place of the templates written for the tests, in the same number.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from models import write_rows

# Documentation and, per language, a function; NOUN is filled in.
_TEMPLATES: list[tuple[str, dict[str, str]]] = [
    (
        "Return the largest NOUN of the list, or the fallback where it is empty.",
        {
            "python": """def largest_NOUN(items, fallback):
    best = fallback
    for item in items:
        if best is None or item > best:
            best = item
    return best""",
            "java": """int largestNOUN(int[] items, int fallback) {
    int best = fallback;
    for (int item : items) { if (item > best) { best = item; } }
    return best;
}""",
            "javascript": """function largestNOUN(items, fallback) {
    let best = fallback;
    for (const item of items) { if (item > best) { best = item; } }
    return best;
}""",
            "php": """function largestNOUN($items, $fallback) {
    $best = $fallback;
    foreach ($items as $key => $item) { if ($item > $best) { $best = $item; } }
    return $best;
}""",
            "ruby": """def largest_NOUN(items, fallback)
  best = fallback
  for item in items
    best = item if item > best
  end
  best
end""",
            "go": """func largestNOUN(items []int, fallback int) int {
    best := fallback
    for _, item := range items { if item > best { best = item } }
    return best
}""",
        },
    ),
    (
        "Count how often each NOUN occurs in the text.",
        {
            "python": """def count_NOUN(text):
    counts = {}
    for part in text.split():
        counts[part] = counts.get(part, 0) + 1
    return counts""",
            "java": """Map<String, Integer> countNOUN(String text) {
    Map<String, Integer> counts = new HashMap<>();
    for (String part : text.split(" ")) { counts.merge(part, 1, Integer::sum); }
    return counts;
}""",
            "javascript": """function countNOUN(text) {
    const counts = {};
    text.split(" ").forEach((part) => { counts[part] = (counts[part] || 0) + 1; });
    return counts;
}""",
            "php": """function countNOUN($text) {
    $counts = array();
    foreach (explode(" ", $text) as $at => $part) { $counts[$part] += 1; }
    return $counts;
}""",
            "ruby": """def count_NOUN(text)
  counts = Hash.new(0)
  text.split.each { |part| counts[part] += 1 }
  counts
end""",
            "go": """func countNOUN(text string) map[string]int {
    counts := map[string]int{}
    for _, part := range strings.Fields(text) { counts[part]++ }
    return counts
}""",
        },
    ),
    (
        "Wait until the NOUN is ready, at most so many seconds.",
        {
            "python": """def wait_for_NOUN(ready, seconds):
    while seconds > 0 and not ready():
        seconds -= 1
        time.sleep(1)
    return seconds > 0""",
            "java": """boolean waitForNOUN(Supplier<Boolean> ready, int seconds) {
    while (seconds > 0 && !ready.get()) { seconds -= 1; pause(1); }
    return seconds > 0;
}""",
            "javascript": """async function waitForNOUN(ready, seconds) {
    while (seconds > 0 && !ready()) { seconds -= 1; await pause(1); }
    return seconds > 0;
}""",
            "php": """function waitForNOUN($ready, $seconds) {
    while ($seconds > 0 && !$ready()) { $seconds -= 1; sleep(1); }
    return $seconds > 0;
}""",
            "ruby": """def wait_for_NOUN(ready, seconds)
  while seconds > 0 && !ready.call
    seconds -= 1
    sleep 1
  end
  seconds > 0
end""",
            "go": """func waitForNOUN(ready func() bool, seconds int) bool {
    for seconds > 0 && !ready() { seconds -= 1; time.Sleep(time.Second) }
    return seconds > 0
}""",
        },
    ),
]
_NOUNS = ["number", "price", "city", "colour", "river", "engine", "ticket", "window"]
_NOUNS += ["signal", "packet", "user", "letter", "branch", "record", "planet", "lesson"]
LANGUAGES = ("go", "java", "javascript", "php", "python", "ruby")


ROWS_PER_PACKAGE = 3
# A longer function only makes the tests slow.
MAX_CODE_CHARACTERS = 800


def language_rows(language: str) -> list[dict[str, Any]]:
    """48 rows of one language in 16 packages, 10 of them to train on."""
    folder = os.environ.get("SOFTNCE_TEST_PAIRS")
    found = _mined(Path(folder, f"{language}.jsonl")) if folder else _written(language)
    return [
        {
            "query": query,
            "code": code,
            "package": _NOUNS[i // ROWS_PER_PACKAGE],
            "language": language,
            "partition": _partition(i // ROWS_PER_PACKAGE),
        }
        for i, (query, code) in enumerate(found)
    ]


def write_languages(path: Path, *languages: str) -> Path:
    """Write the rows of some languages into one file."""
    return write_rows(path, [row for each in languages for row in language_rows(each)])


def _written(language: str) -> list[tuple[str, str]]:
    return [
        (documentation.replace("NOUN", noun), codes[language].replace("NOUN", noun))
        for noun in _NOUNS
        for documentation, codes in _TEMPLATES
    ]


def _mined(path: Path) -> list[tuple[str, str]]:
    """Return pairs that share no query and no code, spread evenly over a file."""
    by_query: dict[str, str] = {}
    seen: set[str] = set()
    for line in path.read_text().splitlines():
        row = json.loads(line)
        query, code = row["query"], row["code"]
        if query not in by_query and code not in seen and len(code) <= MAX_CODE_CHARACTERS:
            by_query[query] = code
            seen.add(code)
    pairs, count = list(by_query.items()), ROWS_PER_PACKAGE * len(_NOUNS)
    if len(pairs) < count:
        raise ValueError(f"{path} must hold {count} different pairs, got {len(pairs)}")
    return [pairs[i * len(pairs) // count] for i in range(count)]


def _partition(package: int) -> str:
    return "train" if package < 10 else "valid" if package < 13 else "test"
