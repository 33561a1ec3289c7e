"""The decorator of the numba kernels: serial, free of the GIL and of bounds checks.

Numba's own parallel loops do not survive a fork (a data loader's workers would be killed), so
that threads share the work outside of a kernel. Callers check what a kernel gets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def kernel(function: Kernel) -> Kernel:
    """Compile a function when it is first called, and keep it on disk where that is possible."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither this folder nor the user's cache folder can be written
        return numba.njit(**options)(function)  # type: ignore[no-any-return]
    save = compiled._cache.save_overload

    def save_if_possible(*overload: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk is no reason not to compute
            save(*overload)

    compiled._cache.save_overload = save_if_possible
    return compiled  # type: ignore[no-any-return]
