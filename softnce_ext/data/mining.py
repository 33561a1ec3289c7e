"""(Documentation, function) pairs from source code: of a folder, of the running interpreter.

The filters are CodeSearchNet's (Husain et al. 2019): the documentation's first paragraph, 3 to
256 words, in English; a body of at least 3 lines; no tests, no dunder methods or what other
languages have in their place, no stubs. The same files give the same pairs in the same order,
whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .pairs import Pair, Pairs
from .source_files import language_of
from .sources import Package, interpreter_packages, readable_packages, unread_files
from .workers import Chunk, Parsed, parse_chunks

MAX_PER_PACKAGE = 3000
CHUNK_BYTES = 1_000_000  # some 0.1 s of parsing: the step of the progress bar and of a Ctrl-C
# Below this, starting processes costs more than they save.
ALONE_BYTES = 4_000_000
_FILE_COUNTS = (
    *("files", "unreadable files", "large files", "unparsable files"),
    *("generated files", "minified files", "functions"),
)


def mine_folder(
    root: str | Path,
    *,
    language: str | None = None,
    keep_all: bool = False,
    max_per_package: int | None = None,
    workers: int = 2,
    progress: bool = True,
) -> Pairs:
    """Mine pairs from a folder of source, or from one file.

    A folder that is one project (as it holds .git, pyproject.toml, go.mod, pom.xml or the like) is
    one package; in any other folder each top-level folder is one. Tests, vendored copies, virtual
    environments, generated code and hidden folders are left out. Go, Java, JavaScript, PHP and Ruby
    are read by tree-sitter; where it is not installed, their files are counted in a warning.

    Args:
        root: The folder, or one source file.
        language: "go", "java", "javascript", "php", "python" or "ruby"; None for all.
        keep_all: Return every function, filtered by nothing, for a search index. A function
            without documentation has the query "".
        max_per_package: Largest number of pairs a package gives; None for no bound.
        workers: Number of processes.
        progress: Show a progress bar on stderr.

    Returns:
        The pairs, sorted by package, path and line. `report` counts files and functions, and
        under "unread_files" those per language that no grammar is installed for.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: A bound is below 1, or the file is no source.
        ImportError: There is source, and all of it needs a grammar that is not installed.
    """
    packages, unread = readable_packages(Path(root), language)
    pairs = _mine(packages, keep_all, max_per_package, workers, progress)
    if unread:
        pairs.report["unread_files"] = unread
        warnings.warn(f"{root}: {unread_files(unread)}", stacklevel=2)
    return pairs


def mine_interpreter(
    *,
    packages: Iterable[str] | None = None,
    max_per_package: int | None = MAX_PER_PACKAGE,
    workers: int = 2,
    progress: bool = True,
) -> Pairs:
    """Mine pairs from the Python packages of the running interpreter.

    The standard library is one package named "python"; every distribution of site-packages is one
    more. Vendored copies, tests and softnce_ext itself are left out.

    Args:
        packages: Names of the packages to mine, such as "python" or "scikit-learn"; None for all.
        max_per_package: Largest number of pairs a package gives; None for no bound. Which ones is
            decided by a hash of their file's path.
        workers: Number of processes.
        progress: Show a progress bar on stderr.

    Returns:
        The pairs, sorted by package, path and line. `versions` names every package's version.

    Raises:
        ValueError: A bound is below 1, or a named package is not installed.
    """
    found = interpreter_packages()
    if packages is not None:
        wanted = set(packages)
        missing = sorted(wanted - {package.name for package in found})
        if missing:
            raise ValueError(f"packages must be installed, got {', '.join(missing)}")
        found = [package for package in found if package.name in wanted]
    return _mine(found, False, max_per_package, workers, progress)


class _PackageState:
    """One package on its way: what is left to parse, and what was kept, in a fixed order.

    Files are taken in the order of a hash of package and path, and results are counted in that
    order, whatever worker finishes first. So a cap keeps the same functions on every machine.
    """

    def __init__(self, package: Package, keep_all: bool, cap: int | None) -> None:
        self.package, self.keep_all, self.cap = package, keep_all, cap
        self.files = sorted(package.files, key=lambda file: _file_hash(package.name, file[0]))
        self.size = sum(size for _, size in package.files)
        self.pairs: list[Pair] = []
        self.counts: Counter[str] = Counter()
        self._taken = 0  # files handed out
        self._waiting: dict[str, Parsed | None] = {}  # first path of a chunk -> its result
        self._seen: set[tuple[str, str]] = set()

    @property
    def is_full(self) -> bool:
        """Whether the cap is reached."""
        return self.cap is not None and len(self.pairs) >= self.cap

    def next_chunk(self) -> Chunk | None:
        """Return the next files to parse, None when no more are needed."""
        if self.is_full or self._taken == len(self.files):
            return None
        paths: list[str] = []
        size = 0
        while self._taken < len(self.files) and size < CHUNK_BYTES:
            path, file_size = self.files[self._taken]
            paths.append(path)
            size += file_size
            self._taken += 1
        self._waiting[paths[0]] = None
        return Chunk(self.package.name, self.package.root, paths, size, self.keep_all)

    def receive(self, chunk: Chunk, parsed: Parsed) -> None:
        """Count in a result, as soon as those of all earlier chunks are there."""
        self._waiting[chunk.paths[0]] = parsed
        while self._waiting:
            first = next(iter(self._waiting))
            ready = self._waiting[first]
            if ready is None:
                return
            del self._waiting[first]
            if not self.is_full:
                self._count_in(ready)

    def _count_in(self, parsed: Parsed) -> None:
        self.counts.update(parsed.counts)
        for query, code, name, path, line in parsed.rows:
            if not self.keep_all:
                if (query, code) in self._seen:
                    self.counts["duplicate"] += 1
                    continue
                self._seen.add((query, code))
                if self.is_full:
                    self.counts["over the cap"] += 1
                    continue
            language = language_of(path) or "python"
            self.pairs.append(Pair(query, code, name, self.package.name, path, line, language))


def _mine(
    packages: list[Package], keep_all: bool, cap: int | None, workers: int, progress: bool
) -> Pairs:
    """Parse the packages' files, the largest package first, and gather pairs and report."""
    from tqdm import tqdm

    for argument, value in (("max_per_package", cap), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    start = time.perf_counter()
    states = {package.name: _PackageState(package, keep_all, cap) for package in packages}
    todo = sorted(states.values(), key=lambda state: (-state.size, state.package.name))
    total = sum(state.size for state in todo)

    with tqdm(
        total=total, desc="mining", unit="B", unit_scale=True, mininterval=0.3, disable=not progress
    ) as bar:

        def next_chunk() -> Chunk | None:
            while todo:
                chunk = todo[0].next_chunk()
                if chunk is not None:
                    todo[0].size -= chunk.size
                    return chunk
                bar.update(todo.pop(0).size)  # files that the cap leaves unread
            return None

        def receive(chunk: Chunk, parsed: Parsed) -> None:
            states[chunk.package].receive(chunk, parsed)
            bar.update(chunk.size)

        parse_chunks(next_chunk, receive, workers if total > ALONE_BYTES else 1)

    counts: Counter[str] = Counter()
    pairs: list[Pair] = []
    seen: set[tuple[str, str]] = set()
    # A function that stands in two packages stays in the first: the standard library, then by name.
    for name in sorted(states, key=lambda name: (name != "python", name)):
        counts.update(states[name].counts)
        for pair in sorted(states[name].pairs, key=lambda pair: (pair.path, pair.line)):
            if not keep_all and (pair.query, pair.code) in seen:
                counts["duplicate"] += 1
                continue
            seen.add((pair.query, pair.code))
            pairs.append(pair)
    pairs.sort(key=lambda pair: pair.package)
    report = _report(counts, pairs, len(packages), time.perf_counter() - start)
    versions = {package.name: package.version for package in packages if package.version}
    return Pairs(pairs, versions=versions, report=report)


def _report(
    counts: Counter[str], pairs: list[Pair], packages: int, seconds: float
) -> dict[str, Any]:
    """Return what was seen, kept and dropped, ready for JSON."""
    per_package = Counter(pair.package for pair in pairs)
    return {
        "pairs": len(pairs),
        "packages": packages,
        "seconds": round(seconds, 2),
        **{name.replace(" ", "_"): counts[name] for name in _FILE_COUNTS},
        "dropped": {
            reason: count for reason, count in counts.most_common() if reason not in _FILE_COUNTS
        },
        "pairs_per_package": dict(per_package.most_common()),
    }


def _file_hash(package: str, path: str) -> bytes:
    """Return what orders a package's files: the same on every machine, no folder preferred."""
    text = f"{package}/{path}".replace("\\", "/").encode(errors="surrogatepass")
    return hashlib.sha256(text).digest()
