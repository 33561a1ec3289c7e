"""Find the compiled ops, or build them once and keep them.

A library lives in ``<cache>/<key>/``, where the key is a hash of everything that decides its
bytes: sources, flags, compiler, torch, architecture. So no library is ever stale, and no two builds
meet in one folder. A build runs under an OS file lock, which dies with its process, in a folder of
its own that is renamed into place when whole. Nothing compiles at import: the first call builds.

Environment: ``SOFTNCE_CACHE`` (where libraries are kept), ``SOFTNCE_DISABLE_JIT=1`` (never build),
``CXX``, ``CXXFLAGS``, ``CUDACXX``, ``CUDA_HOME``, ``TORCH_CUDA_ARCH_LIST``, ``CUDAARCHS``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

LOCK_TIMEOUT_S = 600
_FLAGS = ("CXX", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS", "TORCH_CUDA_ARCH_LIST", "CUDAARCHS")
_LIBRARIES = {"_C": "SOFTNCE_CPU", "_C_cuda": "SOFTNCE_CUDA"}  # library -> its CMake option


class NativeUnavailable(RuntimeError):
    """A native library is neither there nor can it be built; the text names the cure."""


def library(name: str) -> Path:
    """Return the path of a built library, building it where that has not been done yet.

    Args:
        name: "_C" (schemas and CPU kernels) or "_C_cuda".

    Raises:
        NativeUnavailable: no library, and none can be built here.
    """
    ahead = _built_ahead(name)
    if ahead is not None:
        return ahead
    key = build_key(name)
    for root in cache_roots():
        found = _verified(root / key, name)
        if found is not None:
            return found
    if _is_jit_disabled():
        raise NativeUnavailable(
            f"{name} is not built and SOFTNCE_DISABLE_JIT=1 forbids it: run `softnce build"
            f"{' --cuda' if name == '_C_cuda' else ''}` once where it is not set"
        )
    missing = missing_tools(name)
    if missing:
        raise NativeUnavailable(f"{missing[0]}; `softnce doctor` tells all")
    problems = []
    for root in cache_roots():
        try:
            _prepare(root)
            return _build(root, key, name)
        except OSError as error:  # read-only, full, not ours: the next place may do
            problems.append(f"{root}: {error}")
    raise NativeUnavailable(
        f"{name} cannot be built in any cache folder ({'; '.join(problems)}); "
        "set SOFTNCE_CACHE to a folder you can write"
    )


def cache_roots() -> list[Path]:
    """List the folders a library may be kept in, best first."""
    roots = []
    if os.environ.get("SOFTNCE_CACHE"):
        roots.append(Path(os.environ["SOFTNCE_CACHE"]) / "native")
    elif os.environ.get("XDG_CACHE_HOME"):
        roots.append(Path(os.environ["XDG_CACHE_HOME"]) / "softnce_ext" / "native")
    else:
        home = os.path.expanduser("~")
        if os.path.isabs(home):
            roots.append(Path(home) / ".cache" / "softnce_ext" / "native")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    # One flat folder: in a sticky temporary folder nobody else can rename what _trusted checks.
    with contextlib.suppress(FileNotFoundError):  # no temporary folder at all
        roots.append(Path(tempfile.gettempdir()) / f"softnce_ext-{user}")
    return roots


@functools.cache
def source_dir() -> Path:
    """Return the folder of CMakeLists.txt and csrc/: inside the wheel, or the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_native", package.parent):
        if (folder / "CMakeLists.txt").is_file() and (folder / "csrc" / "ops.cpp").is_file():
            return folder
    raise NativeUnavailable("this installation lacks the C++ sources; install softnce_ext again")


@functools.cache
def build_key(name: str) -> str:
    """Return the name of the folder `name` is kept in: a hash of all that decides its bytes."""
    import torch

    digest = hashlib.sha256()
    source = source_dir()
    others = {"testing", "cpu" if name == "_C_cuda" else "cuda"}  # folders it is not built from
    for path in sorted([source / "CMakeLists.txt", *(source / "csrc").rglob("*")]):
        if path.is_file() and not others & set(path.relative_to(source).parts[1:-1]):
            digest.update(f"{path.relative_to(source)}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    facts = [name, torch.__version__, torch.version.git_version, str(torch.version.cuda)]
    facts += [
        platform.system(),
        platform.machine(),
        *platform.libc_ver(),
        _version(*_compiler() or ()),
    ]
    facts += [f"{flag}={os.environ.get(flag, '')}" for flag in _FLAGS]
    if name == "_C_cuda":
        facts += [_version(_nvcc() or ""), _architectures()]
    digest.update("\0".join(facts).encode())
    return f"{name}-{digest.hexdigest()[:24]}"


def missing_tools(name: str) -> list[str]:
    """List what a build of `name` lacks, each as one sentence with its cure."""
    missing = []
    if _compiler() is None:
        missing.append(
            "no C++ compiler was found: install one (Debian: `apt install g++`) or set CXX"
        )
    for tool in ("cmake", "ninja"):
        if find_tool(tool) is None:
            missing.append(f"{tool} was not found: run `pip install {tool}`")
    if name == "_C_cuda" and _nvcc() is None:
        missing.append("no nvcc was found: install the CUDA toolkit or set CUDA_HOME")
    return missing


def gpus() -> list[str]:
    """Return the names of the GPUs that the CUDA kernels would run on."""
    import torch

    count = torch.cuda.device_count() if torch.version.cuda is not None else 0  # ROCm counts too
    return [torch.cuda.get_device_name(device) for device in range(count)]


def _is_jit_disabled() -> bool:
    return os.environ.get("SOFTNCE_DISABLE_JIT") == "1"


def report() -> dict[str, Any]:
    """Describe what is found, built, cached and missing, for `softnce doctor`."""
    import torch

    found = gpus()
    libraries: dict[str, Any] = {}
    for name in _LIBRARIES:
        if name == "_C_cuda" and torch.version.cuda is None:
            libraries[name] = {"state": "not needed: torch is a CPU build"}
            continue
        entry: dict[str, Any] = {"state": "not built", "missing": missing_tools(name)}
        if name == "_C_cuda" and not found:
            entry = {"state": "not needed: no GPU is here; `softnce build --cuda` builds it"}
        ahead = _built_ahead(name)
        places = (
            [ahead]
            if ahead
            else [_verified(root / build_key(name), name) for root in cache_roots()]
        )
        for path in places:
            if path is not None:
                entry |= {"state": "built", "path": str(path)}
                break
        libraries[name] = entry
    tools = {"c++": _compiler()}
    others = {"nvcc": _nvcc(), "cmake": find_tool("cmake"), "ninja": find_tool("ninja")}
    tools |= {tool: [found] if found else None for tool, found in others.items()}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": found,
        "tools": {
            tool: {"path": " ".join(command), "version": _version(*command)} if command else None
            for tool, command in tools.items()
        },
        "sources": str(source_dir()),
        "cache": [str(root) for root in cache_roots()],
        "libraries": libraries,
        "is_jit_disabled": _is_jit_disabled(),
    }


def _built_ahead(name: str) -> Path | None:
    """Return the library an ahead-of-time wheel carries, wherever the installer put it."""
    spec = importlib.util.find_spec(f"softnce_ext.{name}")
    return Path(spec.origin) if spec is not None and spec.origin else None


def _verified(folder: Path, name: str) -> Path | None:
    """Return the library in a finished folder if it is ours and whole."""
    path = folder / f"{name}.so"
    try:
        if not _trusted(folder):
            return None
        recorded = json.loads((folder / "build.json").read_text())["sha256"]
        return path if hashlib.sha256(path.read_bytes()).hexdigest() == recorded else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _trusted(folder: Path) -> bool:
    """Tell whether only this user (or root) could have written to a folder we would load from."""
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & 0o022


def _prepare(root: Path) -> None:
    # Readable by others: an image may build as root and run as another user.
    root.mkdir(parents=True, exist_ok=True, mode=0o755)
    if not _trusted(root):
        raise PermissionError("the folder belongs to another user or others may write to it")


def _build(root: Path, key: str, name: str) -> Path:
    from filelock import FileLock, Timeout

    started = time.time()
    lock = FileLock(root / f"{key}.lock", timeout=LOCK_TIMEOUT_S)
    failure = root / f"{key}.failed.log"
    try:
        with lock:
            found = _verified(root / key, name)  # another process may have built it meanwhile
            if found is not None:
                return found
            if failure.is_file() and failure.stat().st_mtime >= started:
                raise NativeUnavailable(_failure_text(name, failure))
            for left in root.glob(f"{key}.tmp-*"):  # of builds that were killed
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=f"{key}.tmp-") as folder:
                _compile(Path(folder), name, failure)
                shutil.rmtree(root / key, ignore_errors=True)  # a damaged one, if any
                os.replace(Path(folder) / "out", root / key)
            failure.unlink(missing_ok=True)
    except Timeout:
        raise NativeUnavailable(
            f"waited {LOCK_TIMEOUT_S} s for another process to build {name} ({lock.lock_file})"
        ) from None
    return root / key / f"{name}.so"


def _compile(folder: Path, name: str, failure: Path) -> None:
    """Build `name` below `folder` and leave it, with its checksum and log, in ``folder/out``."""
    import torch

    build, out, log = folder / "build", folder / "out", folder / "build.log"
    out.mkdir(mode=0o755)
    cmake, ninja = find_tool("cmake"), find_tool("ninja")
    configure = [str(cmake), "-G", "Ninja", "-S", str(source_dir()), "-B", str(build)]
    configure += [
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DCMAKE_CXX_COMPILER={';'.join(_compiler() or ())}",
    ]
    configure += [f"-DTORCH_DIR={Path(torch.__file__).parent}"]
    configure += [
        f"-D{option}={'ON' if key == name else 'OFF'}" for key, option in _LIBRARIES.items()
    ]
    if name == "_C_cuda":
        configure += [f"-DCMAKE_CUDA_COMPILER={_nvcc()}"]
        if _architectures():
            configure += [f"-DCMAKE_CUDA_ARCHITECTURES={_architectures()}"]
    with log.open("w") as stream:
        for command in (configure, [str(cmake), "--build", str(build), "--target", name]):
            stream.write(f"$ {' '.join(command)}\n")
            stream.flush()
            done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False)
            if done.returncode != 0:
                shutil.copyfile(log, failure)
                raise NativeUnavailable(_failure_text(name, failure))
    shutil.copyfile(build / f"{name}.so", out / f"{name}.so")
    shutil.copyfile(log, out / "build.log")
    digest = hashlib.sha256((out / f"{name}.so").read_bytes()).hexdigest()
    # Last: a folder without it is not whole.
    (out / "build.json").write_text(json.dumps({"sha256": digest, "torch": torch.__version__}))


def _failure_text(name: str, log: Path) -> str:
    """Return what the compiler said first, or CMake, whose words follow the line of its error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if " error: " in line]
    first = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    said = " | ".join(errors[:3]) or " ".join(lines[first : first + 4])
    cure = "CXX names another compiler" if name == "_C" else "CUDA_HOME names another toolkit"
    return f"the build of {name} failed: {said} (whole log: {log}); {cure}"


def _first(paths: list[str | None]) -> str | None:
    return next((path for path in paths if path and os.path.isfile(path)), None)


@functools.cache
def _compiler() -> list[str] | None:
    """Return the C++ compiler's command: CXX, which may be of several words ("ccache g++")."""
    wish = shlex.split(os.environ.get("CXX", ""))
    if wish:
        found = shutil.which(wish[0])
        return [found, *wish[1:]] if found else None
    found = _first([shutil.which(name) for name in ("c++", "g++", "clang++")])
    return [found] if found else None


@functools.cache
def find_tool(name: str) -> str | None:
    """Return cmake or ninja: the one installed beside this Python, else the one on PATH."""
    beside = os.path.join(sysconfig.get_path("scripts"), name)
    return _first([beside, shutil.which(name)])


@functools.cache
def _nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [os.environ.get("CUDACXX")]
    candidates += [os.path.join(home, "bin", "nvcc") for home in homes if home]
    candidates += [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    spec = importlib.util.find_spec("nvidia")  # PyPI's nvcc packages
    for place in spec.submodule_search_locations or [] if spec is not None else []:
        candidates += [str(path) for path in sorted(Path(place).glob("*/bin/nvcc"))]
    return _first(candidates)


def _architectures() -> str:
    """Return the GPUs present as CMake writes them; "" where CMakeLists.txt or the user decides."""
    import torch

    if os.environ.get("TORCH_CUDA_ARCH_LIST") or os.environ.get("CUDAARCHS"):
        return ""
    devices = range(torch.cuda.device_count())
    found = sorted({torch.cuda.get_device_capability(device) for device in devices})
    return ";".join(f"{major}{minor}-real" for major, minor in found)


@functools.cache
def _version(*command: str) -> str:
    """Return what a tool says of its version, on one line; empty where it says nothing."""
    if not command or not command[0]:
        return ""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    # nvcc's first line is its name; its version stands in the last two.
    return " ".join(lines[-2:]) if lines and lines[0].startswith("nvcc") else "".join(lines[:1])
