"""The ahead-of-time wheel: SOFTNCE_AOT=1 pip wheel --no-build-isolation --no-deps .

Without SOFTNCE_AOT nothing is compiled and torch is not needed: the wheel carries the C++ sources,
and the first call builds them (softnce_ext/native.py).
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):
    """Compile the CPU library, and the CUDA one with SOFTNCE_AOT=cuda, into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Do so where SOFTNCE_AOT asks for it."""
        wish = os.environ.get("SOFTNCE_AOT", "")
        if not wish or self.target_name != "wheel" or version == "editable":
            return
        import torch

        build = Path(self.root) / "build" / "ahead"
        names = ["_C", "_C_cuda"] if wish == "cuda" else ["_C"]
        options = [f"-DTORCH_DIR={Path(torch.__file__).parent}"]
        options += [f"-DSOFTNCE_CUDA={'ON' if wish == 'cuda' else 'OFF'}"]
        subprocess.run(["cmake", "-G", "Ninja", "-S", self.root, "-B", build, *options], check=True)
        subprocess.run(["cmake", "--build", build], check=True)
        for name in names:
            build_data["force_include"][str(build / f"{name}.so")] = f"softnce_ext/{name}.so"
        build_data["pure_python"] = False
        system = platform.system().lower()
        build_data["tag"] = f"py3-none-{system}_{platform.machine()}"  # no Python.h in the library
