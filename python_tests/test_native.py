"""Finding, building and keeping the compiled ops; each case in a cache of its own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softnce_ext import native

CALL = """
import torch, warnings, softnce_ext as sx
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        loss = sx.info_nce(torch.eye(3), torch.eye(3))
print(round(float(loss), 5), [str(w.message) for w in caught if w.category is RuntimeWarning])
"""


def call(cache: Path, code: str = CALL, **env: str) -> subprocess.CompletedProcess[str]:
    # What another program once built lies in the machine's temporary folder, and would be found.
    own = {"SOFTNCE_CACHE": str(cache), "TMPDIR": str(cache.parent)}
    environment = {**os.environ, **own, **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )


def libraries(cache: Path) -> list[Path]:
    return sorted(cache.glob("native/_C-*/_C.so"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with a built library, in a folder with a space and an accent in its name."""
    cache = tmp_path_factory.mktemp("the cache é")
    done = call(cache)
    assert done.stdout.strip() == "0.55144 []", done.stderr
    assert len(libraries(cache)) == 1
    return cache


def test_first_call_builds_and_later_calls_find(built):
    library = libraries(built)[0]
    before = library.stat().st_mtime_ns
    done = call(built, SOFTNCE_DISABLE_JIT="1")
    assert done.stdout.strip() == "0.55144 []"
    assert library.stat().st_mtime_ns == before


def test_a_damaged_library_is_built_again(built):
    library = libraries(built)[0]
    whole = library.read_bytes()
    library.write_bytes(whole[: len(whole) // 2])
    done = call(built)
    assert done.stdout.strip() == "0.55144 []", done.stderr
    assert libraries(built)[0].stat().st_size > len(whole) // 2


def test_a_library_others_could_have_written_is_not_loaded(built):
    folder = libraries(built)[0].parent
    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.chmod(0o777)
    try:
        done = call(built, SOFTNCE_DISABLE_JIT="1", TMPDIR=str(built))
        assert "SOFTNCE_DISABLE_JIT=1 forbids it: run `softnce build` once" in done.stdout
    finally:
        folder.chmod(mode)


WARNED = """
import torch, warnings, softnce_ext as sx
eye = torch.eye(3)
rule = {"alpha": 0.5, "beta": 0.5, "temperature": 1.0}
calls = {
    "function": lambda: sx.soft_info_nce(eye, eye, **rule),
    "info_nce": lambda: sx.info_nce(eye, eye),
    "module": lambda: sx.SoftInfoNCE(**rule)(eye, eye),
    "compiled": torch.compile(lambda: sx.info_nce(eye, eye), backend="eager", fullgraph=True),
}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    calls[CALL]()
print([w.filename for w in caught if w.category is RuntimeWarning])
"""


@pytest.mark.parametrize("name", ["function", "info_nce", "module", "compiled"])
def test_the_warning_of_the_torch_path_points_at_the_users_line(tmp_path, name):
    done = call(
        tmp_path, WARNED.replace("CALL", repr(name)), SOFTNCE_DISABLE_JIT="1", TMPDIR=str(tmp_path)
    )
    assert done.stdout.strip() == "['<string>']", done.stdout + done.stderr


def test_without_a_compiler_the_torch_path_runs_with_one_warning(tmp_path):
    done = call(tmp_path, PATH="/nonexistent", CXX="/nonexistent/c++")
    loss, warning = done.stdout.strip().split(" ", 1)
    assert loss == "0.55144"
    assert warning.count("plain torch path") == 1
    assert "install one (Debian: `apt install g++`) or set CXX" in warning
    assert not libraries(tmp_path)


def test_a_failing_compiler_leaves_its_words_and_the_torch_path(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'c++: error: no space to write to' >&2\nexit 1\n")
    compiler.chmod(0o755)
    done = call(tmp_path / "cache", CXX=str(compiler))
    assert done.stdout.startswith("0.55144 ")
    assert done.stdout.count("plain torch path") == 1
    for words in ("the build of _C failed: ", "no space to write to", "whole log", "; CXX names"):
        assert words in done.stdout
    assert not libraries(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tmp-*"))


def test_a_cache_that_cannot_be_written_moves_on_to_the_next(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = call(tmp_path / "file", TMPDIR=str(tmp_path))
    assert done.stdout.strip() == "0.55144 []", done.stderr
    assert list(tmp_path.glob("softnce_ext-*/_C-*/_C.so"))


def test_many_first_calls_at_once_build_once(tmp_path):
    compiler = tmp_path / "c++"
    log = tmp_path / "compiled"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *ops.cpp) echo x >> "{log}";; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "SOFTNCE_CACHE": str(tmp_path / "cache"), "CXX": str(compiler)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CALL], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [process.communicate(timeout=300)[0].strip() for process in processes] == [
        "0.55144 []"
    ] * 4
    assert log.read_text().count("x") == 1


def test_a_killed_build_does_not_block_the_next(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(
        '#!/bin/sh\ncase "$*" in *soft_info_nce.cpp) sleep 600;; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    environment = {**os.environ, "SOFTNCE_CACHE": str(tmp_path), "CXX": str(compiler)}
    process = subprocess.Popen(
        [sys.executable, "-c", CALL], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("native/*.tmp-*/build/CMakeCache.txt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    compiler.write_text('#!/bin/sh\nexec c++ "$@"\n')  # same path and version: the same key
    begin = time.monotonic()
    assert call(tmp_path, CXX=str(compiler)).stdout.strip() == "0.55144 []"
    assert time.monotonic() - begin < 300


def test_the_key_holds_sources_compiler_and_torch(monkeypatch, tmp_path):
    def key() -> str:
        native.build_key.cache_clear()
        return native.build_key("_C")

    plain = key()
    monkeypatch.setenv("CXXFLAGS", "-O1")
    assert key() != plain
    monkeypatch.delenv("CXXFLAGS")
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert key() != plain
    monkeypatch.undo()
    assert key() == plain
    source = tmp_path / "source"
    (source / "csrc").mkdir(parents=True)
    for path in [native.source_dir() / "CMakeLists.txt", *native.source_dir().glob("csrc/**/*.*")]:
        target = source / path.relative_to(native.source_dir())
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.setattr(native, "source_dir", lambda: source)
    assert key() == plain
    (source / "csrc" / "ops.cpp").write_text((source / "csrc" / "ops.cpp").read_text() + "//\n")
    assert key() != plain
    monkeypatch.undo()
    native.build_key.cache_clear()
