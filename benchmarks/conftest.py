"""`pytest benchmarks --benchmark-only`: the suites at small sizes, on every device there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device; without a GPU "cuda" is skipped, and fails with FAIL_WITHOUT_CUDA=1."""
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail("no CUDA device", pytrace=False)
        pytest.skip("no CUDA device (FAIL_WITHOUT_CUDA=1 makes this a failure)")
    name: str = request.param
    return name


@pytest.fixture
def timed(device: str, benchmark: Any) -> Callable[..., Any]:
    """Return what benchmarks a call to its end, the GPU waited for, after one call to warm up."""

    def run(call: Callable[[], Any], group: str) -> Any:
        def whole() -> Any:
            result = call()
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        whole()
        benchmark.group = f"{group}, {device}"
        return benchmark(whole)

    return run


def pytest_configure(config: pytest.Config) -> None:
    # Small sizes, many contenders: half a second each shows their order.
    if hasattr(config.option, "benchmark_max_time") and config.option.benchmark_max_time == 1.0:
        config.option.benchmark_max_time = 0.3
