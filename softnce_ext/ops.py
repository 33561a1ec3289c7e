"""The native ops as torch sees them: fake kernels and autograd. The only file that says torch.ops.

The schemas are in csrc/ops.cpp. An op that finishes its gradients in the forward pass returns them
beside the loss; its backward only multiplies by the incoming gradient.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import torch
from torch import Tensor

from . import native

_QUERY, _CODE = 0, 1


_LOADING = threading.Lock()


@functools.cache
def _load(cuda: bool) -> str | None:
    """Load the libraries and register what Python adds; None, or why it cannot be."""
    with _LOADING:  # another thread must not meet an op before its autograd
        return _load_once(cuda)


def _load_once(cuda: bool) -> str | None:
    try:
        path = native.library("_C")
        if not hasattr(torch.ops.softnce_ext, "soft_info_nce"):
            torch.ops.load_library(str(path))  # type: ignore[no-untyped-call]
            _register()
        if cuda:
            torch.ops.load_library(str(native.library("_C_cuda")))  # type: ignore[no-untyped-call]
    except (native.NativeUnavailable, OSError) as error:
        return str(error)
    return None


def unavailable(device_type: str) -> str | None:
    """Return None where the native ops run on this kind of device, else the reason they do not.

    The first call finds or builds the library. Never traced: a compiled function keeps the answer.
    """
    if device_type not in ("cpu", "cuda"):
        return f"the native ops run on cpu and cuda, not on {device_type}"
    return _load(device_type == "cuda")


# What torch.compiler.assume_constant_result sets; calling it here would import torch._dynamo, over
# a second, into every program.
unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def soft_info_nce(*shared: Any, mean: bool, need_grad_query: bool, need_grad_code: bool) -> Tensor:
    """Return the mean or sum of the losses, 0-d; `shared` are csrc/ops.cpp's shared arguments."""
    arguments = (*shared, mean, need_grad_query, need_grad_code)
    if torch.compiler.is_compiling():
        return torch.ops.softnce_ext.soft_info_nce.default(*arguments)[0]  # type: ignore[no-any-return]
    if need_grad_query or need_grad_code:
        return _Step.apply(*arguments[:2], arguments[2:])  # type: ignore[no-any-return, no-untyped-call]
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.softnce_ext.soft_info_nce.default(*arguments)[0]  # type: ignore[no-any-return]


def soft_info_nce_rows(*shared: Any) -> Tensor:
    """Return the loss of each row, [N]."""
    return torch.ops.softnce_ext.soft_info_nce_rows.default(*shared)  # type: ignore[no-any-return]


def _loss_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fake_gradients(
    query: Tensor, code: Tensor, need_grad_query: bool, need_grad_code: bool
) -> tuple[Tensor, Tensor]:
    # fp16 gradients come in fp32 (csrc/arguments.h says why).
    dtype = torch.float32 if query.dtype == torch.float16 else query.dtype
    return (
        query.new_empty(query.shape if need_grad_query else (0, query.shape[1]), dtype=dtype),
        code.new_empty(code.shape if need_grad_code else (0, code.shape[1]), dtype=dtype),
    )


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, code, (need_query, need_code) = args[_QUERY], args[_CODE], args[-2:]
    loss = query.new_empty((), dtype=_loss_type(query.dtype))
    return loss, *_fake_gradients(query, code, need_query, need_code)


def _fake_rows(*args: Any) -> Tensor:
    query: Tensor = args[_QUERY]
    return query.new_empty(query.shape[0], dtype=_loss_type(query.dtype))


def _fake_rows_backward(*args: Any) -> tuple[Tensor, Tensor]:
    return _fake_gradients(args[_QUERY], args[_CODE], *args[-2:])


def _refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "softnce_ext's native loss has no second derivative: call it with impl='torch' to "
            "differentiate twice"
        )


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, grad_query, grad_code = output
    ctx.mark_non_differentiable(grad_query, grad_code)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*_needed(grad_query, grad_code, *inputs[-2:]))
    ctx.others = (None,) * (len(inputs) - 2)


def _needed(
    grad_query: Tensor, grad_code: Tensor, need_grad_query: bool, need_grad_code: bool
) -> tuple[Tensor | None, Tensor | None]:
    return grad_query if need_grad_query else None, grad_code if need_grad_code else None


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if grad_loss is None:
        return (None, None, *ctx.others)
    return (*_scaled(ctx.saved_tensors, grad_loss), *ctx.others)


def _keeps_graph() -> bool:
    """Say whether the graph being walked may be walked again; True where torch does not tell."""
    told = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return told is None or bool(told())


def _scaled(grads: tuple[Tensor | None, ...], grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients times the loss's own; autograd casts them to the inputs' types."""
    _refuse_double_backward()
    # loss.backward() brings exactly 1: on the CPU, where looking is free, no copy is made. A
    # traced gradient, no plain Tensor or under a mode that records, cannot be looked at; and where
    # the graph is kept (retain_graph) the caller may change what is returned, but not what is kept.
    plain = type(grad_loss) is Tensor and torch._C._len_torch_dispatch_stack() == 0
    if plain and grad_loss.is_cpu and not _keeps_graph() and grad_loss.item() == 1:
        return grads
    # The 0-d fp32 factor is not rounded to a half type first: that would bias the whole gradient.
    return tuple(None if grad is None else grad * grad_loss for grad in grads)


class _Step(torch.autograd.Function):
    """The op in eager mode: the same as its registered autograd, at a third of the cost.

    Where the batch is small the step is no longer than torch.library's way into Python. Compiled
    code takes the registered way, which a compiler can look into.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, code: Tensor, others: tuple[Any, ...]) -> Tensor:
        with torch._C._AutoDispatchBelowAutograd():
            loss, *grads = torch.ops.softnce_ext.soft_info_nce.default(query, code, *others)
        ctx.save_for_backward(*_needed(*grads, *others[-2:]))
        return loss  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return (*_scaled(ctx.saved_tensors, grad_loss), None)


def _rows_setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    is_tensor = [isinstance(value, Tensor) for value in inputs]
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.is_tensor = is_tensor
    ctx.others = [
        None if tensor else value for value, tensor in zip(inputs, is_tensor, strict=True)
    ]


def _rows_backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_double_backward()
    saved = iter(ctx.saved_tensors)
    shared = [
        next(saved) if tensor else other
        for tensor, other in zip(ctx.is_tensor, ctx.others, strict=True)
    ]
    needs = ctx.needs_input_grad[:2]
    grad_query, grad_code = torch.ops.softnce_ext.soft_info_nce_rows_backward.default(
        *shared, grad_loss, *needs
    )
    return (*_needed(grad_query, grad_code, *needs), *(None,) * (len(shared) - 2))


def _no_backward(ctx: Any, *_: Any) -> None:
    raise RuntimeError("softnce_ext's native loss has no second derivative: use impl='torch'")


def _register() -> None:
    library = torch.library
    library.register_fake("softnce_ext::soft_info_nce", _fake)
    library.register_autograd("softnce_ext::soft_info_nce", _backward, setup_context=_setup_context)
    library.register_fake("softnce_ext::soft_info_nce_rows", _fake_rows)
    library.register_autograd(
        "softnce_ext::soft_info_nce_rows", _rows_backward, setup_context=_rows_setup_context
    )
    library.register_fake("softnce_ext::soft_info_nce_rows_backward", _fake_rows_backward)
    library.register_autograd("softnce_ext::soft_info_nce_rows_backward", _no_backward)
