"""Which source files belong to which package: of a folder, of the running interpreter."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from .grammars import CURE, has_grammar
from .source_files import SOURCE_FILES, SUFFIXES, is_example, language_of

# Copies of other projects; they would stand in two packages at once.
_VENDORED = frozenset(
    {"_vendor", "vendor", "vendors", "vendored", "_vendored"}
    | {"extern", "_extern", "external", "_external", "externals", "_externals"}
    | {"third_party", "thirdparty", "third-party", "3rdparty"}
    | {"node_modules", "site-packages", "dist-packages"}
)
_TESTS = frozenset({"test", "tests", "testing", "_testing", "idle_test"})
_CACHES = frozenset({"__pycache__"})
_INSTALLED = _VENDORED | _TESTS | _CACHES  # not mined from an installed package
_CHECKOUT = _INSTALLED | {"build", "dist", "venv", "env"}  # nor from a folder of source
_OWN = "softnce-ext"
_PYTHON = frozenset({"python"})
# What stands at the top of one project, in one of the languages or in any.
_MARKS = (
    *(".git", "__init__.py", "pyproject.toml", "setup.py", "go.mod", "package.json", "pom.xml"),
    *("build.gradle", "build.gradle.kts", "composer.json", "Gemfile", "*.gemspec"),
)


class Package(NamedTuple):
    """A package's source files: (path relative to root, bytes)."""

    name: str
    version: str
    root: str
    files: list[tuple[str, int]]


def folder_packages(root: Path, language: str | None = None) -> list[Package]:
    """Return the packages of a folder of source.

    A folder that is one project (it holds .git, __init__.py, or what a language's tools want at a
    project's top, such as pyproject.toml, go.mod, pom.xml, package.json) is one package of its own
    name. In any other folder each top-level folder is a package, and the files beside them are one
    more.

    Args:
        root: The folder, or one source file.
        language: Whose files; None for all.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is a file of another kind.
    """
    languages = SOURCE_FILES.keys() if language is None else {language}
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such file or folder")
    if root.is_file():
        if language_of(root.name) is None:
            raise ValueError(f"{root}: a source file must end in {', '.join(SUFFIXES)}")
        files = [(root.name, root.stat().st_size)] * (language_of(root.name) in languages)
        return [Package(root.stem, "", str(root.parent), files)]
    name = root.resolve().name or "root"
    is_project = any(next(root.glob(mark), None) for mark in _MARKS)
    found: dict[str, list[tuple[str, int]]] = {}
    for path, size in _walk(root, _CHECKOUT, languages):
        top, _, rest = path.partition(os.sep)
        found.setdefault(name if is_project or not rest else top, []).append((path, size))
    return [Package(each, "", str(root), found[each]) for each in sorted(found)]


def readable_packages(
    root: Path, language: str | None = None
) -> tuple[list[Package], dict[str, int]]:
    """Return the packages of a folder with the files whose language can be read here.

    Args:
        root: The folder, or one source file.
        language: Whose files; None for all.

    Returns:
        The packages, and how many files of which language were left out for want of a grammar.

    Raises:
        FileNotFoundError, ValueError: As of `folder_packages`.
        ImportError: There are files, and not one can be read.
    """
    packages = folder_packages(root, language)
    counts = Counter(language_of(path) or "" for each in packages for path, _ in each.files)
    unread = {
        name: counts[name] for name in sorted(counts) if name != "python" and not has_grammar(name)
    }
    if not unread:
        return packages, unread
    if unread.keys() == counts.keys():
        raise ImportError(f"{root}: {unread_files(unread)}")
    kept = (
        each._replace(files=[file for file in each.files if language_of(file[0]) not in unread])
        for each in packages
    )
    return [each for each in kept if each.files], unread


def unread_files(unread: dict[str, int]) -> str:
    """Return the sentence about files that no grammar is there for."""
    counts = ", ".join(f"{count:,} {name}" for name, count in unread.items())
    return f"{counts} files cannot be read without tree-sitter and its grammars: {CURE}"


def interpreter_packages() -> list[Package]:
    """Return the standard library, as one package named "python", and every distribution.

    Names are normalised ("scikit-learn"). Vendored copies, tests and this package are left out.
    A distribution installed in editable mode has no files of its own and is left out too.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    files = list(_walk(stdlib, _INSTALLED, _PYTHON))
    packages = {"python": Package("python", platform.python_version(), str(stdlib), files)}
    for distribution in importlib.metadata.distributions():
        raw_name = distribution.metadata["Name"]
        if not raw_name:  # a folder left over from a broken uninstall
            continue
        name = re.sub(r"[-_.]+", "-", raw_name).lower()
        root = str(distribution.locate_file(""))
        # The first on sys.path is the one that an import finds.
        if name == _OWN or name in packages or not os.path.isdir(root):
            continue
        files = _distribution_files(distribution, root)
        packages[name] = Package(name, distribution.version or "", root, files)
    return [packages[name] for name in sorted(packages)]


def is_left_out(path: str) -> bool:
    """Say whether a Python file's path inside a package is a test, a vendored copy or a cache."""
    *folders, file = path.replace("\\", "/").split("/")
    return not _INSTALLED.isdisjoint(folders) or not is_example("python", folders, file)


def _distribution_files(
    distribution: importlib.metadata.Distribution, root: str
) -> list[tuple[str, int]]:
    """Return a distribution's Python files by its RECORD, or by its top-level names without one."""
    record = distribution.read_text("RECORD")
    if record is not None:
        rows = csv.reader(record.splitlines())
        paths = [row[0] for row in rows if row and row[0].endswith(".py")]
    else:
        paths = []
        for top in (distribution.read_text("top_level.txt") or "").split():
            paths.append(f"{top}.py")
            walked = _walk(Path(root, top), _INSTALLED, _PYTHON)
            paths.extend(os.path.join(top, path) for path, _ in walked)
    files = []
    for path in sorted(set(paths)):
        # RECORD also lists scripts ("../../bin/x.py"), which stand in no package.
        if path.startswith(("..", "/")) or is_left_out(path):
            continue
        try:
            files.append((path, os.stat(os.path.join(root, path)).st_size))
        except OSError:
            continue
    return files


def _walk(
    root: Path, skip: frozenset[str], languages: Collection[str]
) -> Iterator[tuple[str, int]]:
    """Yield (path relative to root, bytes) of the source files below a folder, in name order.

    Hidden folders, virtual environments and the folders named in `skip` are not entered, links
    to folders are not followed, and what is no regular file (a pipe would block) is passed over.
    """
    for folder, subfolders, names in os.walk(root):
        if "pyvenv.cfg" in names:
            subfolders.clear()
            continue
        subfolders[:] = sorted(
            each for each in subfolders if each not in skip and not each.startswith(".")
        )
        inner = os.path.relpath(folder, root)
        for name in sorted(names):
            language = language_of(name)
            if language not in languages or language is None:
                continue
            path = os.path.join(folder, name)
            if is_example(language, inner.split(os.sep), name) and os.path.isfile(path):
                yield os.path.normpath(os.path.join(inner, name)), os.stat(path).st_size
