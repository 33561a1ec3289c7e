"""Build and import the tests' pybind11 bridge (csrc/testing)."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import pybind11
import torch

from softnce_ext import native


@functools.cache
def load() -> ModuleType:
    """Return the module; a build that fails is a failed test."""
    folder = Path(tempfile.mkdtemp(prefix="softnce-testing-"))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    assert header.is_file(), "the tests' bridge needs Python's headers (Debian: python3-dev)"
    configure = [native.find_tool("cmake"), "-G", "Ninja", "-S", native.source_dir(), "-B", folder]
    configure += [f"-DCMAKE_MAKE_PROGRAM={native.find_tool('ninja')}", "-DSOFTNCE_CPU=OFF"]
    configure += ["-DSOFTNCE_TESTING=ON", "-DSOFTNCE_WERROR=ON"]
    configure += [f"-DTORCH_DIR={Path(torch.__file__).parent}"]
    configure += [f"-DPYTHON_INCLUDES={header.parent};{pybind11.get_include()}"]
    for command in (configure, [native.find_tool("cmake"), "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    spec = importlib.util.spec_from_file_location("softnce_testing", folder / "softnce_testing.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
