"""The loss's and BM25's share of a whole training step: forward, loss, backward, optimizer.

    python benchmarks/bench_share.py [--device cuda] [--encoders static six twelve] [--json OUT]

Encoders: the static one as `softnce train` builds it, and transformers of 6 layers (384 wide) and
12 layers (768 wide) with random weights; token ids are drawn at random. The step is that of
`SoftInfoNCELoss` with in-batch BM25. Timed in turn, round after round, in one process:

  step       all of it
  loss side  all of SoftInfoNCELoss but the encoder: BM25, duplicates, statistics, loss, gradients
  loss       soft_info_nce and its gradients, the similarities given
  bm25       the similarities from the batch's token ids, on the device

A share is the median over rounds of a part's time by the step's of the same round; wall time, the
GPU waited for. On CUDA transformers run under bf16 autocast.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import clocks
import machine
import numpy as np
import torch
from torch import Tensor, nn

import softnce_ext as sx
from softnce_ext.estimators.bm25 import InBatchBM25
from softnce_ext.sentence_transformers import SoftInfoNCELoss

SCALE = 20.0
VOCABULARY = 4000  # of the static encoder: `softnce train`'s
BUDGET_S = 60.0
# Layers, width, heads.
SHAPES = {"static": (0, 1024, 0), "six": (6, 384, 12), "twelve": (12, 768, 12)}
BATCH = {
    "cpu": {"static": 1024, "six": 32, "twelve": 16},
    "cuda": {"static": 4096, "six": 1024, "twelve": 256},
}
LENGTH = {"static": (16, 64), "six": (32, 256), "twelve": (32, 256)}  # tokens of query and code

Features = dict[str, Tensor]


class Transformer(nn.Module):
    """A transformer of random weights whose mean over the tokens is the text's vector."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
        self.bert = BertModel(config, add_pooling_layer=False)

    def forward(self, features: Features) -> Features:
        ids, mask = features["input_ids"], features["attention_mask"]
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].to(hidden.dtype)
        return {"sentence_embedding": (hidden * weight).sum(1) / weight.sum(1)}


class Given(nn.Module):
    """Gives vectors at hand in place of an encoder's: first the queries', then the codes'."""

    def __init__(self, vectors: list[Tensor]) -> None:
        super().__init__()
        self.vectors, self.calls = vectors, 0

    def forward(self, features: Features) -> Features:
        self.calls += 1
        return {"sentence_embedding": self.vectors[(self.calls - 1) % len(self.vectors)]}


def static_encoder(width: int) -> nn.Module:
    from softnce_ext.encoders.static import build_static_encoder, build_tokenizer

    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(random.choice(letters, random.integers(3, 9))) for _ in range(20_000)]
    tokenizer = build_tokenizer(words, VOCABULARY)
    idf = np.ones(tokenizer.get_vocab_size(), dtype=np.float32)
    return build_static_encoder(tokenizer, idf, width)


def draw_batch(name: str, rows: int, vocabulary: int, device: str) -> list[Features]:
    """Draw token ids, few of them frequent and many rare, in the encoder's own form."""
    random = np.random.default_rng(0)
    columns = []
    for length in LENGTH[name]:
        ids = random.zipf(1.3, (rows, length)) % vocabulary
        used = random.integers(length // 2, length + 1, rows)
        mask = np.arange(length) < used[:, None]  # [N, L]
        if name == "static":
            features = {"input_ids": ids[mask], "offsets": np.append(0, np.cumsum(used)[:-1])}
        else:
            features = {"input_ids": ids * mask, "attention_mask": mask.astype(np.int64)}
        columns.append({key: torch.from_numpy(x).to(device) for key, x in features.items()})
    return columns


def make_loss(model: nn.Module) -> SoftInfoNCELoss:
    rule = sx.PRESETS["bm25"]._asdict()
    return SoftInfoNCELoss(model, InBatchBM25(), scale=SCALE, impl="native", **rule)


def parts(name: str, rows: int, device: str) -> tuple[dict[str, Callable[[], Any]], int]:
    """Return what is timed, and how many parameters the encoder has."""
    torch.manual_seed(0)
    layers, width, heads = SHAPES[name]
    if name == "static":
        model = static_encoder(width)
        vocabulary = model[0].embedding.num_embeddings
    else:
        model = Transformer(layers, width, heads)
        vocabulary = model.bert.config.vocab_size
    model = model.to(device).train()
    features = draw_batch(name, rows, vocabulary, device)
    loss = make_loss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def autocast() -> torch.autocast:
        """As a trainer with bf16=True: around encoder and loss, not around the backward pass."""
        half = device == "cuda" and name != "static"
        return torch.autocast(device, dtype=torch.bfloat16, enabled=half)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            value = loss(features)
        value.backward()
        optimizer.step()

    step()
    with torch.no_grad(), autocast():
        vectors = [model(dict(column))["sentence_embedding"] for column in features]
    leaves = [vector.clone().requires_grad_() for vector in vectors]
    alone = make_loss(Given(leaves))
    query, code = (nn.functional.normalize(vector).requires_grad_() for vector in vectors)
    estimator = InBatchBM25()
    similarity = estimator(features)
    rule = sx.PRESETS["bm25"]._asdict()

    def loss_side() -> None:
        with autocast():
            value = alone(features)
        torch.autograd.grad(value, leaves)

    def loss_alone() -> None:
        with autocast():
            value = sx.soft_info_nce(query, code, similarity, scale=SCALE, impl="native", **rule)
        torch.autograd.grad(value, (query, code))

    found = {
        "step": step,
        "loss side": loss_side,
        "loss": loss_alone,
        "bm25": lambda: estimator(features),
    }
    return found, sum(parameter.numel() for parameter in model.parameters())


def measure(name: str, rows: int, device: str, repeats: int) -> dict[str, Any]:
    calls, parameters = parts(name, rows, device)
    samples = {}
    for part, call in calls.items():
        one = min(clocks.once(call, device) for _ in range(2))
        inner = max(1, int(clocks.ROUND_S / one))
        samples[part] = clocks.Clock(clocks.wall_sample(call, inner, device), "wall")
    times, failed = clocks.take_turns(samples, repeats, BUDGET_S)
    if failed:
        raise RuntimeError("; ".join(f"{part}: {reason}" for part, reason in failed.items()))
    layers, width, _ = SHAPES[name]
    query_tokens, code_tokens = LENGTH[name]
    figures = {}
    for part, found in times.items():
        share, quartiles = clocks.ratio(found.seconds, times["step"].seconds)
        median = statistics.median(found.seconds)
        figures[part] = {"time_ms": 1e3 * median, "share": share, "share_quartiles": quartiles}
    return {
        "encoder": name,
        "layers": layers,
        "width": width,
        "parameters": parameters,
        "rows": rows,
        "query_tokens": query_tokens,
        "code_tokens": code_tokens,
        "dtype": "bf16 autocast" if device == "cuda" and layers else "fp32",
        "device": device,
        "threads": torch.get_num_threads(),
        "rounds": len(times["step"].seconds),
        "parts": figures,
    }


def fitting(name: str, rows: int, device: str, repeats: int) -> dict[str, Any]:
    """Measure at `rows`, or half as many until they fit; a failure is recorded as one."""
    while True:
        try:
            return measure(name, rows, device, repeats)
        except RuntimeError as error:
            reason = clocks.first_line(error)
        clocks.free()
        if reason != "out of memory" or rows <= 8:
            return {"encoder": name, "rows": rows, "failed": reason}
        print(f"{name}: {rows} rows do not fit, half of them tried")
        rows //= 2


def show(entry: dict[str, Any]) -> None:
    if "failed" in entry:
        print(f"{entry['encoder']}, {entry['rows']} rows, not measured: {entry['failed']}")
        return
    print(
        f"{entry['encoder']}: {entry['layers']} layers of {entry['width']}, "
        f"{entry['parameters'] / 1e6:.1f} M parameters, {entry['rows']} rows of up to "
        f"{entry['query_tokens']} and {entry['code_tokens']} tokens, {entry['dtype']}"
    )
    for part, facts in entry["parts"].items():
        low, high = facts["share_quartiles"]
        print(
            f"  {part:10s} {facts['time_ms']:10.3f} ms  {100 * facts['share']:6.2f} % of the step "
            f"({100 * low:.2f} to {100 * high:.2f})"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--encoders", choices=list(SHAPES), nargs="+", default=list(SHAPES))
    parser.add_argument("--batch", type=int, help="rows, for every encoder")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="default: benchmarks/results/loss_share_DEVICE.json")
    args = parser.parse_args()
    machine.need(args.device)
    file = f"loss_share_{args.device}"
    entries: list[dict[str, Any]] = []
    for name in args.encoders:
        rows = args.batch or BATCH[args.device][name]
        entries.append(fitting(name, rows, args.device, args.repeats))
        show(entries[-1])
        sys.stdout.flush()
        machine.write(args.json, file, {"steps": entries}, quiet=name != args.encoders[-1])
        clocks.free()
    return int(any("failed" in entry for entry in entries))


if __name__ == "__main__":
    sys.exit(main())
