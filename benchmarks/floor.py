"""What a loss step cannot be faster than: its matrix products alone, and their flops and bytes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problem import DENSE, TEACHER, Problem

GEMM_ROWS, GEMM_WHOLE = 4096, 16384  # the floor's blocks, and the size up to which it needs none
# Peak rate and bandwidth, as measured with torch on such a GPU: bf16 product of 8192, and a copy.
PEAKS = {"NVIDIA H200": (790e12, 4.3e12)}


def gemms(problem: Problem) -> Callable[[], None]:
    """Return the step's matrix products, in row blocks where whole ones would take gigabytes."""
    query, code = problem.query.detach(), problem.code.detach()
    n = len(query)
    count = n if n <= GEMM_WHOLE else GEMM_ROWS
    scores = query.new_empty(count, n)
    pair = problem.similarity if problem.kind == TEACHER else None
    similarity = torch.empty_like(scores) if pair else scores
    grad_query, grad_code = torch.empty_like(query), torch.empty_like(code)

    def run() -> None:
        for begin in range(0, n, count):
            rows = slice(begin, min(begin + count, n))
            block = scores[: rows.stop - begin]
            if pair is not None:
                torch.mm(pair[0][rows], pair[1].T, out=similarity[: rows.stop - begin])
            torch.mm(query[rows], code.T, out=block)
            torch.mm(block, code, out=grad_query[rows])
            if begin == 0:
                torch.mm(block.T, query[rows], out=grad_code)
            else:
                grad_code.addmm_(block.T, query[rows])

    return run


def floor_ms(problem: Problem) -> float | None:
    """Return what the products' flops or the least traffic take at the GPU's measured peaks."""
    if problem.device.type != "cuda" or problem.query.dtype != torch.bfloat16:
        return None
    peaks = PEAKS.get(torch.cuda.get_device_name(problem.device))
    if peaks is None:
        return None
    n, d = problem.query.shape
    products = 4 if problem.kind == TEACHER else 3
    traffic = 2 * n * d * (6 if problem.kind == TEACHER else 4)
    traffic += 4 * n * n if problem.kind == DENSE else 0
    return 1e3 * max(2 * products * n * n * d / peaks[0], traffic / peaks[1])
