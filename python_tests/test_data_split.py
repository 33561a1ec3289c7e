import hashlib
import json
import random
from collections.abc import Sequence

import pytest

from softnce_ext.data.pairs import Pair, Pairs
from softnce_ext.data.split import Split, split_by_package


def pair(package: str, number: int, **fields: object) -> Pair:
    """A pair unlike any other of its package or of another."""
    rng = random.Random(f"{package}/{number}")
    words = " ".join(f"w{rng.randrange(10_000)}" for _ in range(20))
    values = {"path": f"{package}/m{number % 7}.py", "line": number, **fields}
    return Pair(f"Do {number} for {package}", f"def f(): {words}", "f", package, **values)  # type: ignore[arg-type]


def corpus(packages: int, rows: int = 10) -> list[Pair]:
    return [pair(f"p{each}", number) for each in range(packages) for number in range(rows)]


def names(pairs: Sequence[Pair]) -> set[str]:
    return {each.package for each in pairs}


def rows(split: Split) -> int:
    return sum(map(len, split.parts().values()))


def test_no_package_stands_in_two_parts_and_shares_are_near_the_target() -> None:
    pairs = corpus(300, 4)
    split = split_by_package(pairs)
    assert rows(split) == len(pairs)
    train, valid, test = map(names, split.parts().values())
    assert not (train & valid or train & test or valid & test)
    assert 180 < len(train) < 240
    assert 15 < len(valid) < 45
    assert 40 < len(test) < 80
    assert split.summary["unit"] == "package"
    json.dumps(split.summary)


@pytest.mark.parametrize("seed", [0, 1])
def test_many_packages_are_placed_by_thresholds_on_a_hash_of_their_names(seed: int) -> None:
    def place(package: str) -> str:
        digest = hashlib.sha256(f"{762 + seed}\0{package}".encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        return "train" if place < 0.7 else "valid" if place < 0.7 + 0.1 else "test"

    # Of very unequal size, as what is installed: rows have no say.
    pairs = [pair(f"p{each}", number) for each in range(60) for number in range(1 + each**2 // 20)]
    split = split_by_package(pairs, seed=seed)
    for name, part in split.parts().items():
        assert names(part) == {f"p{each}" for each in range(60) if place(f"p{each}") == name}
    assert split.summary["rule"] == "by package, allotted by a hash of seed and name"


@pytest.mark.parametrize("seed", range(5))
def test_many_packages_that_would_leave_too_little_are_taken_by_their_rows(seed: int) -> None:
    sizes = [int(1.4**each) for each in range(22)]
    pairs = [pair(f"p{each}", number) for each, size in enumerate(sizes) for number in range(size)]
    split = split_by_package(pairs, seed=seed)
    assert min(split.summary[name]["rows"] for name in ("valid", "test")) >= 0.05 * len(pairs)
    parts = [names(part) for part in split.parts().values()]
    assert split.summary["unit"] == "package" and sum(map(len, parts)) == len(set.union(*parts))


def test_split_depends_on_seed_alone_not_on_order_or_on_other_packages() -> None:
    pairs = corpus(60)
    split = split_by_package(pairs, max_train=6, max_held_out=3)
    mixed = random.Random(0).sample(pairs, len(pairs))
    assert split_by_package(mixed, max_train=6, max_held_out=3) == split
    assert split_by_package(pairs, seed=1).train != split_by_package(pairs).train
    fewer = split_by_package([each for each in pairs if int(each.package[1:]) % 2])
    for name, part in fewer.parts().items():
        assert names(part) <= names(split.parts()[name])


def test_caps_bound_the_rows_of_a_package() -> None:
    split = split_by_package(corpus(30, 20), max_train=12, max_held_out=5)
    for name, cap in (("train", 12), ("valid", 5), ("test", 5)):
        assert set(split.summary[name]["packages"].values()) == {cap}
        assert split.summary["dropped"][f"over the cap of {name}"] > 0
    # Chosen by hash: the first rows alone would be those of the first files.
    assert len({each.line for each in split.test}) > 10


@pytest.mark.parametrize("packages", [3, 4, 5, 8, 12, 19, 20, 21, 25])
def test_three_packages_or_more_fill_all_parts(packages: int) -> None:
    for seed in range(20):
        split = split_by_package(corpus(packages, 3), seed=seed)
        assert all(split.parts().values())
        assert len(names(split.train)) >= packages / 3


@pytest.mark.parametrize("packages", [4, 30])
def test_the_package_that_holds_most_rows_is_trained_on(packages: int) -> None:
    pairs = corpus(packages, 3) + [pair("giant", number) for number in range(200)]
    for seed in range(10):
        assert "giant" in names(split_by_package(pairs, seed=seed).train)


def test_one_repository_is_split_by_folder_or_file_and_says_so() -> None:
    by_file = split_by_package([pair("one", number) for number in range(70)])
    assert by_file.summary["unit"] == "file"
    files = [{each.path for each in part} for part in by_file.parts().values()]
    assert sum(map(len, files)) == len(set.union(*files)) == 7
    deep = [pair("one", n, path=f"one/s{n % 12}/m{n % 24}.py") for n in range(240)]
    by_folder = split_by_package(deep)
    assert by_folder.summary["unit"] == "folder"
    folders = [
        {each.path.rpartition("/")[0] for each in part} for part in by_folder.parts().values()
    ]
    assert sum(map(len, folders)) == len(set.union(*folders)) == 12
    without_paths = [pair("one", number, path="") for number in range(40)]
    assert split_by_package(without_paths).summary["unit"] == "function"


@pytest.mark.parametrize("sizes", [[400] + [1] * 30, [1] * 200, [60] * 4 + [1] * 40, [5] * 12])
def test_a_repository_gives_valid_and_test_their_share_of_the_rows(sizes: list[int]) -> None:
    pairs = [
        pair("one", 1000 * file + number, path=f"one/s{file % 15}/m{file}.py")
        for file, size in enumerate(sizes)
        for number in range(size)
    ]
    for seed in range(20):
        split = split_by_package(pairs, seed=seed)
        train, valid, test = (len(part) / len(pairs) for part in split.parts().values())
        assert train >= 0.55 and 0.05 <= valid <= 0.15 and 0.05 <= test <= 0.3


def test_packages_that_leave_too_little_are_split_by_a_finer_unit() -> None:
    pairs = [pair("giant", n) for n in range(400)] + [pair(f"p{n}", n) for n in range(3)]
    split = split_by_package(pairs)
    assert split.summary["unit"] == "file"
    assert len(split.valid) >= 20 and len(split.test) >= 20
    equal = split_by_package(corpus(3, 50))
    assert equal.summary["unit"] == "package"
    assert [len(part) for part in equal.parts().values()] == [50, 50, 50]


def test_near_duplicates_of_train_and_repeated_queries_leave_valid_and_test() -> None:
    pairs = corpus(40)
    clean = split_by_package(pairs)
    seen, held = clean.train[0], clean.test[0]
    extra = [
        Pair("Some other words", seen.code + " # copied", "g", held.package, "x.py", 1),
        Pair(seen.query.upper() + "!", "def unlike(): pass", "g", held.package, "x.py", 2),
        Pair(held.query, "def third(): return", "g", held.package, "x.py", 3),
        Pair("Copy in test", held.code, "g", held.package, "x.py", 4),
    ]
    split = split_by_package(pairs + extra)
    assert split.test == clean.test
    assert split.summary["dropped"] == {
        "near duplicates of train in test": 1,
        "repeated queries in test": 2,
        "repeated code in test": 1,
    }


def test_exact_duplicates_are_one_row() -> None:
    pairs = corpus(40)
    split = split_by_package(pairs + pairs)
    assert rows(split) == len(pairs)
    assert split.summary["dropped"] == {"exact duplicates": len(pairs)}


def test_given_partitions_are_kept_whole() -> None:
    pairs = corpus(6, 400)
    partitions = {
        each: "train"
        if each.package in ("p0", "p1")
        else "valid"
        if each.package == "p2"
        else "test"
        for each in pairs
    }
    split = split_by_package(Pairs(pairs, partitions=partitions))
    assert [len(part) for part in split.parts().values()] == [800, 400, 1200]
    assert split.summary["unit"] == "given partition"
    assert split_by_package(pairs, partitions=partitions) == split


def test_missing_held_out_part_is_taken_from_another() -> None:
    pairs = corpus(12)
    valid = {f"p{number}" for number in range(8, 12)}
    partitions = {each: "valid" if each.package in valid else "train" for each in pairs}
    split = split_by_package(pairs, partitions=partitions)
    assert names(split.valid) | names(split.test) == valid
    assert not names(split.valid) & names(split.test)
    assert len(split.train) == 80
    partitions = {each: "test" if each.package in valid else "train" for each in pairs}
    split = split_by_package(pairs, partitions=partitions)
    assert names(split.test) == valid
    assert names(split.valid)
    assert not names(split.valid) & names(split.train)
    one = [pair("one", number) for number in range(40)]
    split = split_by_package(one, partitions={p: "valid" if p.line > 20 else "train" for p in one})
    assert (len(split.train), len(split.valid) + len(split.test)) == (21, 19)
    assert split.test


def test_held_out_code_that_stands_in_train_is_kept_and_counted() -> None:
    one, two, three, four = (pair("one", number) for number in range(4))
    copies = {
        Pair("Same code, other words", one.code + "  # copied", "g", "q"): "test",
        Pair("Same code again", one.code.replace(":", " :"), "g", "q"): "valid",
        Pair("Held out twice", three.code, "g", "q"): "test",
    }
    own = {one: "train", two: "train", three: "valid", four: "test"}
    split = split_by_package([*own, *copies], partitions={**own, **copies})
    assert [len(part) for part in split.parts().values()] == [2, 2, 3]
    assert split.summary["code_in_train"] == {"valid": 1, "test": 1}
    assert "code_in_train" not in split_by_package([*own], partitions=own).summary


PARTS_OF_600 = {
    "no package": [pair("", number, path="") for number in range(600)],
    "files": [pair("one", number, path=f"one/m{number % 40}.py") for number in range(600)],
    "two packages": [pair("big", n) for n in range(570)] + [pair("tiny", n) for n in range(30)],
    "many packages": corpus(60),
}


@pytest.mark.parametrize(
    ("source", "unit"),
    list(zip(PARTS_OF_600, ("function", "file", "file", "package"), strict=True)),
)
def test_a_missing_part_takes_its_share_of_the_rows(source: str, unit: str) -> None:
    rows_of = PARTS_OF_600[source]
    test = [pair("other", number) for number in range(200)]
    for seed in range(10):
        partitions = {**dict.fromkeys(rows_of, "train"), **dict.fromkeys(test, "test")}
        split = split_by_package([*rows_of, *test], partitions=partitions, seed=seed)
        assert split.test == sorted(test, key=lambda each: (each.path, each.line))
        assert 600 / 16 <= len(split.valid) <= 600 / 5
        assert len(split.train) + len(split.valid) == 600
        told = f"valid is {len(split.valid)} of 600 rows of train, by {unit}"
        assert split.summary["rule"].endswith(f"kept as they are; {told}")
    partitions = {**dict.fromkeys(test, "train"), **dict.fromkeys(rows_of, "valid")}
    split = split_by_package([*rows_of, *test], partitions=partitions)
    assert len(split.train) == 200
    assert 300 <= len(split.test) <= 500
    assert len(split.valid) + len(split.test) == 600


def test_one_partition_alone_says_nothing_and_is_split() -> None:
    pairs = corpus(30)
    split = split_by_package(pairs, partitions=dict.fromkeys(pairs, "train"))
    assert split == split_by_package(pairs)


def test_versions_come_along() -> None:
    split = split_by_package(Pairs(corpus(30), versions={"p3": "1.2", "unused": "3"}))
    assert split.versions == {"p3": "1.2"}


def test_too_few_pairs_and_bad_bounds_are_named() -> None:
    for few in ([], corpus(1, 1), corpus(2, 1)):
        with pytest.raises(ValueError, match="pairs must fill train, valid and test, got"):
            split_by_package(few)
    with pytest.raises(ValueError, match="max_train must be at least 1, got 0"):
        split_by_package(corpus(3), max_train=0)
