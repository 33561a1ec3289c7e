"""What the tests on a GPU share; FAIL_WITHOUT_CUDA=1 forbids to skip them.

Importing this skips the module where there is no GPU, and fails where there is one and the native
library does not build or load: that is no reason to run something else.
"""

from __future__ import annotations

import os
import warnings

import problems
import pytest
import torch
from problems import RULE, loss_and_gradients
from torch.nn.functional import normalize

import softnce_ext as sx
from softnce_ext import ops, reference, rows

DEVICE = "cuda"
HALVES = [torch.bfloat16, torch.float16]

if not torch.cuda.is_available():
    message = "no CUDA GPU here (FAIL_WITHOUT_CUDA=1 makes this a failure)"
    if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message, allow_module_level=True)

if (reason := ops.unavailable(DEVICE)) is not None:
    pytest.fail(reason, pytrace=False)


def on_device(value):
    if isinstance(value, sx.BM25Factors):
        return value.to(DEVICE)
    if isinstance(value, tuple):
        return tuple(on_device(part) for part in value)
    if isinstance(value, torch.Tensor):
        return value.detach().to(DEVICE).requires_grad_(value.requires_grad)
    return value


def inputs(n, m, d, dtype, kind, similarity_type=torch.float64):
    query, code = problems.embeddings(n, m, d)
    query, code = (normalize(x.detach()).to(dtype).requires_grad_() for x in (query, code))
    similarity = problems.similarity(kind, n, m, similarity_type)
    return on_device(query), on_device(code), on_device(similarity)


def native(query, code, similarity, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="beta")  # small shapes, asked for
        loss = sx.soft_info_nce(query, code, similarity, impl="native", **{**RULE, **options})
    return loss_and_gradients(loss, query, code)


def truth(query, code, similarity, **options):
    query, code = problems.as_double(query), problems.as_double(code)
    z = problems.as_double(similarity)
    loss = reference.soft_info_nce(query, code, z, **{**RULE, **options})
    return loss_and_gradients(loss, query, code)


def eager(query, code, similarity, **options):
    """The loss as plain torch computes it in the inputs' own type."""
    if isinstance(similarity, torch.Tensor):
        similarity = similarity.to(query.dtype)
    loss = reference.soft_info_nce(query, code, similarity, **{**RULE, **options})
    return loss_and_gradients(loss.float(), query, code)


def op_arguments(query, code, similarity, block_rows, positive_offset=2, scale=20.0, groups=None):
    """The arguments the ops share (csrc/ops.cpp), of Soft-InfoNCE; block_rows = 0 chooses."""
    matrix, teacher, factors = None, (None, None), (None,) * 7
    if isinstance(similarity, sx.BM25Factors):
        factors = tuple(similarity)
    elif isinstance(similarity, tuple):
        teacher = similarity
    else:
        matrix = similarity
    tensors = (query.detach(), code.detach(), matrix, *teacher, *factors, *(groups or (None, None)))
    rule = (RULE["alpha"], RULE["beta"], RULE["temperature"], 0.1, 0.0, scale, 0.0)
    return (*tensors, rows.SOFT_INFO_NCE, *rule, positive_offset, block_rows)


def small_inputs(n, m, d, dtype, kind):
    """As `inputs`, but teachers of a width that the small batch's kernel takes."""
    query, code, similarity = inputs(n, m, d, dtype, kind, torch.float32)
    if kind == "teacher":
        similarity = tuple(
            normalize(torch.randn(rows_, 40, device=DEVICE)).to(dtype) for rows_ in (n, m)
        )
    return query, code, similarity
