"""The CUDA sources compile clean, spill nothing and link to what they should: no GPU needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from softnce_ext import native

pytestmark = pytest.mark.timeout(900)  # minutes of compiling, more on a busy machine
NVCC = native._nvcc()
KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
REPORT = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")

if NVCC is None:
    message = "no nvcc was found (SOFTNCE_REQUIRE_NVCC=1 makes this a failure)"
    if os.environ.get("SOFTNCE_REQUIRE_NVCC") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message, allow_module_level=True)


def configure(build: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Configure the CUDA library alone; the architectures are the options' or the environment's."""
    env = {k: v for k, v in os.environ.items() if k not in ("TORCH_CUDA_ARCH_LIST", "CUDAARCHS")}
    command = [str(native.find_tool("cmake")), "-G", "Ninja", "-B", str(build)]
    command += ["-S", str(native.source_dir()), "-DSOFTNCE_CPU=OFF", "-DSOFTNCE_CUDA=ON"]
    command += [f"-DCMAKE_MAKE_PROGRAM={native.find_tool('ninja')}"]
    command += [f"-DCMAKE_CUDA_COMPILER={NVCC}", f"-DTORCH_DIR={Path(torch.__file__).parent}"]
    return subprocess.run(
        [*command, *options], env={**env, **environment}, capture_output=True, text=True
    )


def targets(build: Path) -> list[str]:
    """Return what a configured build compiles for, as nvcc is told."""
    found = re.findall(r"code=\[([\w,]+)\]", (build / "build.ninja").read_text())
    return sorted({code for group in found for code in group.split(",")})


def known_architectures() -> set[str]:
    listed = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True)
    return set(listed.stdout.split())


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A build for every architecture there are kernels for, warnings as errors, and its log."""
    folder = tmp_path_factory.mktemp("cuda")
    real = [f"{number}-real" for number in (80, 90, 100) if f"sm_{number}" in known_architectures()]
    architectures = ";".join([*real, "90-virtual"])
    options = ["-DSOFTNCE_WERROR=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"]
    done = configure(folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    command = [str(native.find_tool("cmake")), "--build", str(folder), "--target", "_C_cuda", "-v"]
    cores = f"-j{len(os.sched_getaffinity(0))}"
    done = subprocess.run([*command, cores], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_compiles_for_every_architecture_with_warnings_as_errors(build):
    folder, log = build
    assert (folder / "_C_cuda.so").is_file()
    assert "-Werror=all-warnings" in log
    assert "warning" not in log.replace("-Werror=all-warnings", "").lower()


def test_default_is_two_architectures_and_a_ptx(tmp_path):
    done = configure(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert targets(tmp_path) == ["compute_90", "sm_80", "sm_90"]


# How many instantiations of each: what is not fp32, or not a common loss, shares any_row_kernel.
KERNELS = {
    "warp_row_kernel": 1,
    "block_row_kernel": 1,
    "any_row_kernel": 6,
    "total_kernel": 2,
    "fused_step_kernel": 3,
}


def test_no_kernel_spills_or_keeps_a_stack(build):
    _, log = build
    kernels = KERNEL.findall(log)
    names = {name for name, _ in kernels}
    assert {"sm_80", "sm_90"} <= {arch for _, arch in kernels} <= {"sm_80", "sm_90", "sm_100"}
    assert {kernel: sum(kernel in name for name in names) for kernel in KERNELS} == KERNELS
    assert len(names) == sum(KERNELS.values())
    reports = REPORT.findall(log)
    assert len(reports) == len(kernels)
    assert set(reports) == {("0", "0", "0")}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils has no readelf here")
def test_library_needs_torch_and_the_c_runtime_alone(build):
    folder, _ = build
    library = str(folder / "_C_cuda.so")
    dynamic = subprocess.run(["readelf", "-dW", library], capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", dynamic))
    assert "libtorch_cuda.so" in needed
    allowed = (
        r"lib(torch_cuda|torch_cpu|c10|stdc\+\+|gcc_s|c|m|dl|rt|pthread)\.so(\.\d+)?|ld-linux.*"
    )
    assert [name for name in needed if not re.fullmatch(allowed, name)] == []
    assert "RUNPATH" not in dynamic and "RPATH" not in dynamic  # no way back to the stub
    symbols = subprocess.run(
        ["readelf", "--dyn-syms", "-W", library], capture_output=True, text=True
    ).stdout
    unresolved = re.findall(r"UND (\w+)", symbols)
    assert "torch_get_current_cuda_blas_handle" in unresolved
    assert [name for name in unresolved if re.match(r"_ZN?K?(2at|3c10|5torch)", name)] == []


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        (
            [],
            {"TORCH_CUDA_ARCH_LIST": "8.0;9.0a 12.0+PTX"},
            ["compute_120", "sm_120", "sm_80", "sm_90a"],
        ),
        (
            ["-DCMAKE_CUDA_ARCHITECTURES=90-real"],
            {"TORCH_CUDA_ARCH_LIST": "8.0"},
            ["sm_90"],
        ),
        ([], {"CUDAARCHS": "86-real"}, ["sm_86"]),
    ],
)
def test_architectures_are_the_users(tmp_path, options, environment, expected):
    done = configure(tmp_path, *options, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert targets(tmp_path) == expected


def test_unreadable_architecture_list_is_refused(tmp_path):
    done = configure(tmp_path, TORCH_CUDA_ARCH_LIST="Hopper")
    assert done.returncode != 0
    assert "got 'Hopper'" in done.stderr


def test_gpu_script_runs_every_test_that_needs_a_gpu():
    checkout = Path(__file__).resolve().parent.parent  # an installed package has no script
    script = (checkout / "benchmarks" / "gpu.sh").read_text()
    (pattern,) = re.findall(r"grep -l '(.+?)' python_tests/test_\*\.py", script)
    tests = {path.name: path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    run = {name for name, text in tests.items() if re.search(pattern, text, re.MULTILINE)}
    needing = {
        name for name, text in tests.items() if re.search(r"^(from|import) gpu\b", text, re.M)
    }
    assert run == needing
    assert {"test_cuda.py", "test_cuda_family.py", "test_cuda_small_batch.py"} <= run
