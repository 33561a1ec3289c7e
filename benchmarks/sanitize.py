"""Small steps for compute-sanitizer: each type, similarity and reduction, short rows and long ones.

compute-sanitizer --tool memcheck python benchmarks/sanitize.py
"""

from __future__ import annotations

import argparse

import machine
import torch
from problem import RULE, SCALE
from torch import Tensor

import softnce_ext as sx

# Ragged against every tile; the last row is longer than a multiprocessor's shared memory.
SHAPES = [(33, 70, 24), (130, 257, 72), (3, 66_000, 16)]


def steps(device: str) -> int:
    count = 0
    for n, m, d in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            generator = torch.Generator(device).manual_seed(0)

            def draw(*shape: int, like: torch.dtype = dtype, source=generator) -> Tensor:
                return torch.randn(*shape, generator=source, device=device).to(like)

            query = torch.nn.functional.normalize(draw(n, d)).requires_grad_()
            code = torch.nn.functional.normalize(draw(m, d)).requires_grad_()
            groups = tuple(torch.arange(rows, device=device) % 29 for rows in (n, m))
            similarities = (None, draw(n, m, like=torch.float32), (draw(n, d), draw(m, d)))
            for similarity in similarities:
                for reduction in ("mean", "none"):
                    options = {"scale": SCALE, "reduction": reduction, "positive_offset": m - n}
                    loss = sx.soft_info_nce(
                        query, code, similarity, groups=groups, impl="native", **options, **RULE
                    )
                    grads = torch.autograd.grad(loss.sum(), (query, code))
                    assert all(bool(part.isfinite().all()) for part in (loss, *grads))
                    count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    args = parser.parse_args()
    machine.need(args.device)
    print(f"{steps(args.device)} steps ran")


if __name__ == "__main__":
    main()
