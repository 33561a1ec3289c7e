"""Which Python files belong to which package: of a folder, of the running interpreter."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
_TEST_FILE = re.compile(r"(?:test_.*|.*_tests?|tests?|conftest)\.py$")
_OWN = "softnce-ext"


class Package(NamedTuple):
    """A package's Python files: (path relative to root, bytes)."""

    name: str
    version: str
    root: str
    files: list[tuple[str, int]]


def folder_packages(root: Path) -> list[Package]:
    """Return the packages of a folder of source.

    A folder that is one project (it holds .git, pyproject.toml, setup.py or __init__.py) is one
    package of its own name. In any other folder each top-level folder is a package, and the
    files beside them are one more.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: It is a file that does not end in ".py".
    """
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such file or folder")
    if root.is_file():
        if root.suffix != ".py":
            raise ValueError(f"{root}: a source file must end in .py")
        return [Package(root.stem, "", str(root.parent), [(root.name, root.stat().st_size)])]
    name = root.resolve().name or "root"
    marks = (".git", "pyproject.toml", "setup.py", "__init__.py")
    is_project = any((root / mark).exists() for mark in marks)
    files: dict[str, list[tuple[str, int]]] = {}
    for path, size in _walk(root, _CHECKOUT):
        top, _, rest = path.partition(os.sep)
        files.setdefault(name if is_project or not rest else top, []).append((path, size))
    return [Package(each, "", str(root), files[each]) for each in sorted(files)]


def interpreter_packages() -> list[Package]:
    """Return the standard library, as one package named "python", and every distribution.

    Names are normalised ("scikit-learn"). Vendored copies, tests and this package are left out.
    A distribution installed in editable mode has no files of its own and is left out too.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    files = list(_walk(stdlib, _INSTALLED))
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
    """Say whether a path inside a package is a test, a vendored copy or a cache."""
    *folders, file = path.replace("\\", "/").split("/")
    return not _INSTALLED.isdisjoint(folders) or bool(_TEST_FILE.match(file))


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
            walked = _walk(Path(root, top), _INSTALLED)
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


def _walk(root: Path, skip: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Yield (path relative to root, bytes) of the Python files below a folder, in name order.

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
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(".py") and not _TEST_FILE.match(name) and os.path.isfile(path):
                yield os.path.relpath(path, root), os.stat(path).st_size
