"""The first build of the native libraries, into an empty cache, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LIBRARY = {"cpu": "_C", "cuda": "_C_cuda"}


def test_first_build(device, benchmark, tmp_path):
    code = f"from softnce_ext import native; print(native.library({LIBRARY[device]!r}))"
    env = {**os.environ, "SOFTNCE_CACHE": str(tmp_path)}

    def build() -> Path:
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.split()[-1])

    benchmark.group = f"build, {device}"
    path = benchmark.pedantic(build, rounds=1)  # a second one would find it built
    assert path.is_file() and path.is_relative_to(tmp_path)
