import time

import numpy as np
import pytest

from softnce_ext.data.duplicates import near_duplicates, normalised_code, normalised_query
from softnce_ext.data.pairs import Pair


def random_code(rng: np.random.Generator, length: int) -> str:
    return " ".join(f"w{each}" for each in rng.integers(0, 500, length))


def changed(rng: np.random.Generator, code: str, count: int) -> str:
    words = code.split()
    for place in rng.choice(len(words), count, replace=False):
        words[place] = f"new{place}"
    return " ".join(words)


def shingles(code: str) -> set[tuple[str, ...]]:
    words = [*normalised_code(Pair("", code)), "", ""]
    return set(zip(words, words[1:], words[2:], strict=False))


def similarity(left: str, right: str) -> float:
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def test_near_duplicates_are_those_of_all_pairs_compared() -> None:
    rng = np.random.default_rng(0)
    train = [random_code(rng, int(rng.integers(1, 80))) for _ in range(150)]
    held_out = [random_code(rng, 40) for _ in range(20)]
    for code in train:
        length = len(code.split())
        held_out.append(changed(rng, code, min(length, int(rng.integers(0, 1 + length // 6)))))
    expected = [max(similarity(code, other) for other in train) >= 0.7 for code in held_out]
    found = near_duplicates([Pair("", code) for code in held_out], [Pair("", c) for c in train])
    assert 40 < sum(expected) < 160
    # The only error MinHash may make is to miss one near the bound.
    assert not np.any(found & ~np.array(expected))
    assert np.sum(~found & np.array(expected)) <= 1


def test_layout_case_and_comments_do_not_hide_a_copy() -> None:
    code = "def f(a, b):\n    total = a + b\n    return total"
    other = "def F( a,b ) :  # adds\n\n        total = (a + b)\n        return   TOTAL"
    unlike = "def f(a, b):\n    total = a * b\n    while total:\n        b -= 1"
    found = near_duplicates([Pair("", other), Pair("", unlike)], [Pair("", code)])
    assert found.tolist() == [True, False]
    slashes = [
        Pair("", "int f() { /* why\n not */ return 1; // one\n }", language="java"),
        Pair("", "int f() { return 1; }", language="java"),
    ]
    assert normalised_code(slashes[0]) == normalised_code(slashes[1])


def test_queries_are_the_same_by_their_words() -> None:
    assert normalised_query("Read  the `Lines`.") == normalised_query("read the lines")


def test_empty_sides_and_codes_without_tokens_are_no_trouble() -> None:
    pair = Pair("q", "()")
    assert near_duplicates([], [pair]).shape == (0,)
    assert near_duplicates([pair], []).tolist() == [False]
    assert near_duplicates([pair], [Pair("q", "{}"), Pair("q", "x")]).tolist() == [True]
    with pytest.raises(ValueError, match=r"similarity must be in \(0, 1\], got 0"):
        near_duplicates([pair], [pair], similarity=0)


def test_thousands_of_rows_take_seconds() -> None:
    rng = np.random.default_rng(1)
    train = [Pair("", random_code(rng, 80)) for _ in range(6000)]
    start = time.perf_counter()
    found = near_duplicates(train[:1500], train)
    assert found.all()
    assert time.perf_counter() - start < 10
