from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_rows
from tiny_backbones import save_tiny_backbone

from softnce_ext.encoders.backbones import build_backbone
from softnce_ext.encoders.padding import encode_by_length, length_groups

ROWS = tiny_rows()
TEXTS = [ROWS[0]["query"], "a", "", "\n".join(row["code"] for row in ROWS[:9])]
TEXTS += [row["code"] for row in ROWS[:4]] + ["x y <pad> z", ROWS[1]["query"]]


def cost_of(lengths: list[int], ends: list[int], overhead: float) -> float:
    ordered, start, cost = sorted(lengths), 0, 0.0
    for end in ends:
        cost += ordered[end - 1] * (end - start) + overhead
        start = end
    return cost


@pytest.mark.parametrize("overhead", [0, 3, 20, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_the_split_is_the_cheapest_of_all(seed: int, overhead: float) -> None:
    lengths = np.random.default_rng(seed).integers(1, 40, 9).tolist()
    order, ends = length_groups(lengths, overhead)
    assert [lengths[row] for row in order] == sorted(lengths)
    assert sorted(order) == list(range(9))
    assert ends[-1] == 9
    every = [
        [*cuts, 9] for count in range(9) for cuts in itertools.combinations(range(1, 9), count)
    ]
    least = min(cost_of(lengths, each, overhead) for each in every)
    assert cost_of(lengths, ends, overhead) == pytest.approx(least)


def test_rows_of_one_length_stay_together() -> None:
    assert length_groups([7] * 5, 0) == ([0, 1, 2, 3, 4], [5])
    assert length_groups([3], 10) == ([0], [1])


def test_vectors_come_back_in_order_whatever_is_masked() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 1, 1], [1, 1, 0, 0]])
    seen = []

    def encode(rows: torch.Tensor, length: int) -> torch.Tensor:
        seen.append((rows.tolist(), length))
        return rows[:, None].float()

    assert encode_by_length(mask, encode, 0.0)[:, 0].tolist() == [0, 1, 2, 3]
    assert seen == [([1], 1), ([3], 2), ([0], 3), ([2], 4)]


@pytest.mark.parametrize("kind", ["codebert", "unixcoder"])
def test_vectors_and_gradients_equal_the_plainly_padded_ones(tmp_path: Path, kind: str) -> None:
    save_tiny_backbone(tmp_path, TEXTS, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)
    results = []
    for remove_padding in (False, True):
        model = build_backbone(kind, tmp_path, remove_padding=remove_padding, device="cpu")
        model.train()
        shapes = []
        model[0].encoder.embeddings.register_forward_hook(
            lambda module, args, kwargs, out, shapes=shapes: shapes.append(tuple(out.shape[:2])),
            with_kwargs=True,
        )
        vectors = model(model.preprocess(TEXTS))["sentence_embedding"]
        direction = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
        (vectors * direction).sum().backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append((vectors.detach(), grads, shapes))
    (plain, plain_grads, plain_shapes), (split, split_grads, split_shapes) = results
    assert len(plain_shapes) == 1
    assert len(split_shapes) > 1
    assert sum(n * t for n, t in split_shapes) < 0.6 * sum(n * t for n, t in plain_shapes)
    torch.testing.assert_close(split, plain, rtol=0, atol=1e-5)
    for name, grad in plain_grads.items():
        assert grad is not None, name
        scale = float(grad.abs().max())
        torch.testing.assert_close(split_grads[name], grad, rtol=0, atol=1e-5 * max(scale, 1.0))
