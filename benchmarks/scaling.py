"""What a step of many ranks costs beside the encoder: memory, communication and time, by a model.

    python benchmarks/scaling.py

Prints docs/scaling.md's tables (benchmarks/tables.py writes them there). No GPU was measured. The
bytes are counted by python_tests/test_scaling.py on 2 and 3 processes, and the memory is held
there against what torch's allocator had; the times are arithmetic on the constants below.

N rows of all ranks, W ranks, n = N / W rows a rank, D and Dt the widths of student and teacher.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Measured with torch on an H200 (floor.py): a bf16 product of 8192.
PRODUCTS_PER_S = 790e12
# NVIDIA's data sheets, bytes per second and direction. H200 SXM: NVLink 900 GB/s both ways.
NVLINK = 450e9
# A 400 Gb/s adapter; DGX H200 has 8 for its GPUs, smaller clusters 1 a node.
ADAPTER = 50e9
GPUS_A_NODE = 8
# What a cluster of 8 thread blocks has of shared memory on an H200, for a row (csrc/cuda/plan.h):
# the blocks' reductions take 1,280 bytes each.
CLUSTER_BYTES = 8 * (227 * 1024 - 1280)
# Assumptions: how much of a link a collective reaches, and what starting one takes.
LINK_SHARE, LATENCY_S = 0.8, 50e-6
# What the loss is set beside: CodeBERT's size, the tokens of GraphCodeBERT's and UniXcoder's
# presets, and an assumed rate of training.
ENCODER_PARAMETERS, TOKENS, ENCODER_SHARE = 125e6, 128 + 256, 0.4
# Matrices [n, N] of fp32 that eager torch held at most: results/loss_cpu.json at N = 8192.
EAGER_MATRICES = {"bm25": 7.2, "teacher": 7.2, "none": 2.9}

KINDS = ("none", "bm25", "teacher", "simcse")


@dataclass(frozen=True)
class Batch:
    """A step of SoftInfoNCELoss(gather_across_devices=True) on pairs.

    Attributes:
        rows: Of all ranks, N.
        ranks: W.
        width: D.
        kind: The estimator: "none", "bm25", "teacher" (tables of both sides) or "simcse".
        teacher_width: Dt.
        element: Bytes of an embedding's number: 4, also under autocast, whose pooling gives fp32.
        tokens: Token ids of a rank's queries, the most of any rank, which BM25 reads.
        row_numbers: Whether the batch carries them.
        mask_duplicates: Whether texts are compared.
    """

    rows: int
    ranks: int
    width: int = 768
    kind: str = "bm25"
    teacher_width: int = 768
    element: int = 4
    tokens: int | None = None
    row_numbers: bool = False
    mask_duplicates: bool = True

    @property
    def own(self) -> int:
        """Rows of the rank that has most; the others are padded to it."""
        return math.ceil(self.rows / self.ranks)


def received(batch: Batch) -> dict[str, int]:
    """Return the bytes each rank receives in a step, by what they are."""
    n, tokens = batch.own, batch.tokens
    if tokens is None:
        tokens = 20 * n  # of a docstring
    sides = {"teacher": 2, "simcse": 1}.get(batch.kind, 0)
    sent = {
        "numbers of rows": 2 * 8,
        "fingerprints of texts": 2 * 16 * n * batch.mask_duplicates,
        "token ids": (4 * tokens + 8 * n + 8 * n * batch.row_numbers) * (batch.kind == "bm25"),
        "teacher's vectors": 4 * sides * n * batch.teacher_width,
        "codes": batch.element * n * batch.width,
        "gradients of codes": 4 * n * batch.width,
    }
    return {name: (batch.ranks - 1) * size for name, size in sent.items()}


def cpu_memory(batch: Batch) -> int:
    """Return what a rank holds at most in fp32 on the CPU, beside the embeddings.

    While the native op runs: both sides' cosines, all ranks' codes and their gradient, a block.
    """
    n, rows, width = batch.own, batch.rows, batch.width
    block = min(1024 if rows <= 2048 else 2048, n)  # csrc/cpu/soft_info_nce.cpp
    matrices = 1 if batch.kind == "none" and not batch.mask_duplicates else 2
    teacher = {"teacher": 2, "simcse": 1}.get(batch.kind, 0) * rows * batch.teacher_width
    vectors = 2 * n * width + n * width + 2 * rows * width
    return 4 * (matrices * block * rows + vectors + teacher)


def gpu_memory(batch: Batch) -> int:
    """Return the same of CUDA under bf16 autocast, from the code: not measured."""
    n, rows, width = batch.own, batch.rows, batch.width
    most = min(max((1 << 30) // rows, 128), 4096)  # csrc/cuda/soft_info_nce.cpp
    block = min(math.ceil(math.ceil(n / math.ceil(n / most)) / 128) * 128, n)
    sides = {"teacher": 2, "simcse": 1}.get(batch.kind, 0)
    on_chip = rows * 4 <= CLUSTER_BYTES
    matrices = 2 if sides or (batch.kind != "none" and not on_chip) else 1
    # All codes in fp32, and in bf16; their gradient in fp32, and in bf16. The rank's own: cosines
    # in fp32 and bf16, queries' gradient.
    vectors = (4 + 2 + 4 + 2) * rows * width + (8 + 2 + 2) * n * width
    return 4 * matrices * block * rows + vectors + 6 * sides * rows * batch.teacher_width


def eager_memory(batch: Batch) -> float:
    """Return what whole matrices [n, N] take."""
    return 4 * EAGER_MATRICES.get(batch.kind, 7.2) * batch.own * batch.rows


def products_s(batch: Batch) -> float:
    """Return the seconds of the loss's matrix products at the measured peak: a floor."""
    sides = {"teacher": 1, "simcse": 1}.get(batch.kind, 0)
    each = 6 * batch.width + 2 * batch.teacher_width * sides
    return each * batch.rows * batch.own / PRODUCTS_PER_S


def communication_s(batch: Batch, adapters: int) -> float:
    """Return the seconds of the collectives, one after the other, nothing hidden behind work.

    Across nodes all ranks' rows come in over the node's adapters, and go to each of its GPUs.
    """
    nodes = math.ceil(batch.ranks / GPUS_A_NODE)
    bytes_in = received(batch)
    total = sum(bytes_in.values())
    seconds = LATENCY_S * sum(size > 0 for size in bytes_in.values()) + total / NVLINK / LINK_SHARE
    if nodes > 1:
        other_nodes = total * (batch.ranks - GPUS_A_NODE) / (batch.ranks - 1)
        seconds += other_nodes / (adapters * ADAPTER * LINK_SHARE)
    return seconds


def encoder_s(batch: Batch) -> float:
    """Return the seconds of the encoder's forward and backward pass over a rank's pairs."""
    flops = 6 * ENCODER_PARAMETERS * TOKENS * batch.own
    return flops / (ENCODER_SHARE * PRODUCTS_PER_S)


SIZES = {4096: (1, 8), 32768: (1, 8, 64), 262144: (8, 16, 64), 1048576: (8, 16, 64)}


def table() -> str:
    """Return the table of docs/scaling.md."""
    head = ["N", "GPUs", "memory", "eager's", "received", "products", "communication"]
    head += ["encoder", "the loss's share"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for rows, worlds in SIZES.items():
        for ranks in worlds:
            batch = Batch(rows, ranks)
            ways = [communication_s(batch, adapters) for adapters in (8, 1)]
            if ranks == 1:
                ways, told = [0.0], "none"
            elif ranks <= GPUS_A_NODE:
                ways, told = ways[:1], duration(ways[0])
            else:
                told = " to ".join(map(duration, ways))
            products, encoder = products_s(batch), encoder_s(batch)
            beside = [products + way for way in ways]
            shares = [f"{100 * each / (each + encoder):.2f} %" for each in beside]
            cells = [f"{rows:,}", str(ranks), size(gpu_memory(batch)), size(eager_memory(batch))]
            cells += [size(sum(received(batch).values())), duration(products), told]
            cells += [duration(encoder), " to ".join(dict.fromkeys(shares))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def sent_table() -> str:
    """Return the bytes of each row of the batch by estimator, as another rank receives them."""
    names = list(received(Batch(2, 2)))[1:]
    head = ["estimator", *names, "in all"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for kind in KINDS:
        bytes_in = received(Batch(2, 2, kind=kind))
        cells = [f"{bytes_in[name]:,}" for name in names]
        lines.append(f"| {kind} | {' | '.join(cells)} | {sum(bytes_in[n] for n in names):,} |")
    return "\n".join(lines)


def size(number: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number / 1e3:.3g} KB"


def duration(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} us"


if __name__ == "__main__":
    print(table(), sent_table(), sep="\n\n")
