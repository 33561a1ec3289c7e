"""Build and import the tests' bridges (csrc/testing), and run CUDA kernels on the host."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import filelock
import pybind11
import pytest
import torch

from softnce_ext import native

# Every barrier interval in both orders of any two warps, and then at random (engine.h).
ORDERS = (("ascending", 0), ("descending", 0), ("shuffled", 1), ("shuffled", 2))


def build(target: str) -> Path:
    """Build one target and return the build's folder; a build that fails is a failed test."""
    folder, problem = _build(target)
    assert not problem, problem
    return folder


@functools.cache  # failures too: one that every test repeats takes for ever
def _build(target: str) -> tuple[Path, str]:
    """Return the build's folder, and what went wrong.

    The folder is kept, named by all that decides the build but the sources, which ninja compares.
    """
    header = Path(sysconfig.get_path("include")) / "Python.h"
    assert header.is_file(), "the tests' bridge needs Python's headers (Debian: python3-dev)"
    compiler = native._compiler()
    assert compiler is not None, native.missing_tools("_C")[0]
    cmake, ninja = native.find_tool("cmake"), native.find_tool("ninja")
    options = [f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_CXX_COMPILER={';'.join(compiler)}"]
    options += ["-DSOFTNCE_CPU=OFF", "-DSOFTNCE_TESTING=ON", "-DSOFTNCE_WERROR=ON"]
    options += [f"-DTORCH_DIR={Path(torch.__file__).parent}"]
    options += [f"-DPYTHON_INCLUDES={header.parent};{pybind11.get_include()}"]
    source = native.source_dir()
    facts = [str(source), sys.version, native._version(*compiler), *options]
    facts += [f"{flag}={os.environ.get(flag, '')}" for flag in native._FLAGS]
    key = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    root = native.cache_roots()[0].parent
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"testing-{key}"
    configure = [cmake, "-G", "Ninja", "-S", source, "-B", folder, *options]
    commands = [[cmake, "--build", folder, "--target", target]]
    with filelock.FileLock(f"{folder}.lock", timeout=native.LOCK_TIMEOUT_S):
        if not (folder / "build.ninja").is_file():
            commands.insert(0, configure)
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                return folder, (done.stdout + done.stderr)[:8000]  # the first errors
    return folder, ""


@functools.cache
def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, build(name) / f"{name}.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load() -> ModuleType:
    """Return the CPU row kernels of each instruction set."""
    return _module("softnce_testing")


def kernels() -> ModuleType:
    """Return the CUDA kernels on the host; `run_kernel` runs them."""
    return _module("softnce_kernels")


def run_kernel(
    kernel: str,
    arrays: dict[str, Any],
    *,
    grid: int | tuple[int, ...] = 1,
    block: int | tuple[int, ...] = 32,
    cluster: int = 1,
    shared_bytes: int = 0,
    cooperative: bool = False,
    order: tuple[str, int] = ORDERS[0],
    **numbers: float,
) -> None:
    """Run a kernel of csrc/testing/kernel_table.h on the host, thread for thread.

    Args:
        kernel: Its name in the table.
        arrays: Numpy arrays by name, changed in place as a GPU would.
        grid: Blocks, of up to three dimensions, x first.
        block: Threads of a block, likewise.
        cluster: Blocks of a cluster, along x.
        shared_bytes: Dynamic shared memory of a block.
        cooperative: Whether all blocks are live at once.
        order: Which lanes, warps and blocks run first, and the seed of "shuffled".
        numbers: The kernel's other arguments.

    Raises:
        RuntimeError: What a GPU leaves undefined was done; names the block and the thread.
    """
    sizes = [(size,) if isinstance(size, int) else size for size in (grid, block)]
    three = [[*size, 1, 1][:3] for size in sizes]
    given = {name: float(value) for name, value in numbers.items()}
    kernels().run(kernel, arrays, given, *three, cluster, shared_bytes, cooperative, *order)


@functools.cache
def tsan_driver() -> list[str]:
    """Return the command of csrc/testing/tsan_driver.cpp; skip where it cannot be linked."""
    probe = [*(native._compiler() or ()), "-fsanitize=thread", "-x", "c++", "-", "-o", "/dev/null"]
    linked = subprocess.run(probe, input="int main() {}", capture_output=True, text=True)
    if linked.returncode != 0:
        pytest.skip(f"-fsanitize=thread does not link: {linked.stderr.strip().splitlines()[-1]}")
    command = [str(build("tsan_driver") / "tsan_driver")]
    # Its shadow memory may not fit where a system with many random bits puts the program.
    tried = subprocess.run(command, capture_output=True, text=True)
    if "unexpected memory mapping" in tried.stderr:
        command = [shutil.which("setarch") or "setarch", "-R", *command]
    return command
