"""`softnce build` and `softnce doctor`: what one asks for the other does, whatever is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from softnce_ext import native, ops
from softnce_ext.cli.main import main


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Return a function that feigns a machine; it gives the names of the libraries built there."""

    def feign(cuda: str | None, gpus: int, nvcc: str | None) -> list[str]:
        built: list[str] = []

        def library(name: str) -> Path:
            missing = native.missing_tools(name)
            if missing:
                raise native.NativeUnavailable(missing[0])
            built.append(name)
            return tmp_path / name

        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        monkeypatch.setattr(native, "_nvcc", lambda: nvcc)
        monkeypatch.setattr(native, "_built_ahead", lambda name: None)
        monkeypatch.setattr(
            native, "_verified", lambda folder, name: tmp_path / name if name in built else None
        )
        monkeypatch.setattr(native, "library", library)
        monkeypatch.setattr(ops, "unavailable", lambda device: None)
        native.build_key.cache_clear()
        return built

    yield feign
    native.build_key.cache_clear()


def doctor(capsys) -> tuple[int, str | None]:
    code = main(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)["cure"]


@pytest.mark.parametrize(
    ("cuda", "gpus", "wanted"),
    [
        (None, 0, ["_C"]),
        ("13.0", 0, ["_C"]),
        (None, 1, ["_C"]),  # ROCm's
        ("13.0", 1, ["_C", "_C_cuda"]),
    ],
)
def test_the_doctors_cure_is_a_command_that_ends_the_cure(place, capsys, cuda, gpus, wanted):
    nvcc = "/usr/bin/nvcc" if len(wanted) == 2 else None
    built = place(cuda, gpus, nvcc)
    assert doctor(capsys)[1] == "softnce build"
    assert main(["build"]) == 0
    assert built == wanted
    capsys.readouterr()
    assert doctor(capsys) == (0, None)


def test_the_doctor_knows_that_building_is_forbidden(place, capsys, monkeypatch):
    place(None, 0, None)
    monkeypatch.setenv("SOFTNCE_DISABLE_JIT", "1")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "cpu       runs torch: _C is not built and SOFTNCE_DISABLE_JIT=1 forbids it" in shown
    assert "to mend   env -u SOFTNCE_DISABLE_JIT softnce build" in shown


def test_a_gpu_without_nvcc_is_told_of_the_toolkit(place, capsys):
    built = place("13.0", 1, None)
    code, cure = doctor(capsys)
    assert code == 1 and cure.startswith("install the CUDA 13.0 toolkit")
    assert main(["build"]) == 1
    assert "no nvcc was found: install the CUDA toolkit" in capsys.readouterr().err
    assert main(["build", "--cpu-only"]) == 0
    assert built == ["_C", "_C"]


def test_cuda_kernels_are_built_without_a_gpu_where_they_are_asked_for(place, capsys):
    built = place("13.0", 0, "/usr/bin/nvcc")
    assert main(["build", "--cuda"]) == 0
    assert built == ["_C", "_C_cuda"]
    assert main(["build", "--cuda", "--cpu-only"]) == 1
    assert "--cuda and --cpu-only exclude each other" in capsys.readouterr().err
