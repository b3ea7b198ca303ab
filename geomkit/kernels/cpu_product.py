"""The matrix product of the CPU kernels: the fastest that this machine was measured to have, once and for all."""

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from geomkit.kernels.cpu_timings import recall, remember

Array = NDArray[Any]


def _numpy_product(a: Array, b: Array, out: Array) -> None:
    # The same memory twice would make NumPy call syrk and mirror its result, several times slower than the product.
    np.matmul(a, (b.copy() if a.ctypes.data == b.ctypes.data else b).T, out=out)


def _torch_product(a: Array, b: Array, out: Array) -> None:
    import torch

    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))


def bfloat16_product(a: Array, b: Array, out: Array) -> None:
    """Products of bfloat16 rows, kept as uint16, summed in float32 and rounded to bfloat16: torch's alone."""
    import torch

    left, right, into = (torch.from_numpy(each).view(torch.bfloat16) for each in (a, b, out))
    torch.mm(left, right.T, out=into)


PRODUCTS: dict[str, Callable[[Array, Array, Array], None]] = {"numpy": _numpy_product, "torch": _torch_product}
"""The matrix products of float32 and float64 rows that this backend may use."""

IN_FLOAT32 = " in float32"
"""Ends the name of a product that multiplies bfloat16 rows widened to float32."""

_WORTH_IMPORTING = 1e11
"""Operations from which the choice of a product repays importing torch and timing all there are."""

_WORTH_MEASURING = 5e9
"""Operations from which it repays the timing, where torch is imported already."""

_IMPORT = 2.0
"""Seconds that importing torch takes, give or take a factor of two."""

_TIMED = 2, 512, 384
"""Blocks, and rows and columns of each, of the product that is timed."""

_ROUNDS = 9

_chosen: dict[str, str] = {}


def product(precision: str, operations: float) -> str:
    """Choose the matrix product for this much work and say its name.

    NumPy's and torch's BLAS differ by up to a factor of two, either way round, between processors, and bfloat16 is
    several times faster than float32 with matrix units (AMX), twice with bfloat16 instructions, and slower without.
    The first large job on a machine times what there is on one tile, single-threaded as the sweep runs them, and keeps
    what it found for later processes (`geomkit.kernels.cpu_timings`); smaller ones use NumPy, in float32 for bfloat16
    rows, whose products are exact there. So do those for which torch, not imported yet, would save less than its
    import takes.
    """
    if precision not in _chosen:
        worth = _WORTH_MEASURING if "torch" in sys.modules else _WORTH_IMPORTING
        if operations < worth or importlib.util.find_spec("torch") is None:
            return _without_torch(precision)
        seconds = recall(precision, _names(precision))
        if seconds is None:
            seconds = _timed(precision)
            remember(precision, seconds)
        name = min(seconds, key=lambda each: seconds[each])
        if name.startswith("torch"):
            least = min(took for each, took in seconds.items() if each.startswith("numpy"))
            if "torch" not in sys.modules and _spread(least - seconds[name], operations) < _IMPORT:
                return _without_torch(precision)
            # Now, while settings of libraries are still to be made, and not in the threads of a sweep.
            importlib.import_module("torch")
        _chosen[precision] = name
    name = _chosen[precision]
    if not name.endswith(IN_FLOAT32):
        return name
    # Widened rows go through the product of float32, whichever that is.
    return _chosen.setdefault("float32", name.removesuffix(IN_FLOAT32)) + IN_FLOAT32


def _without_torch(precision: str) -> str:
    return _chosen.get("float32", "numpy") + IN_FLOAT32 if precision == "bfloat16" else "numpy"


def _spread(seconds: float, operations: float) -> float:
    """Return what so many seconds on the timed product come to on all processors, for this much work."""
    blocks, rows, columns = _TIMED
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return seconds * operations / (blocks * rows * rows * columns) / processors


def _names(precision: str) -> list[str]:
    """Names of the products that rows of this precision may go through."""
    return [*(name + IN_FLOAT32 for name in PRODUCTS), "torch"] if precision == "bfloat16" else list(PRODUCTS)


def storage(precision: str, operations: float) -> str:
    """Dtype in which rows of this precision are stored for the product that `product` chooses."""
    return "float32" if product(precision, operations).endswith(IN_FLOAT32) else precision


def _timed(precision: str) -> dict[str, float]:
    """Least seconds of each product of two blocks of rows, in one thread: what others do here at the time only adds."""
    import torch

    rng = np.random.default_rng(0)
    dtype = "float32" if precision == "bfloat16" else precision
    rows = rng.standard_normal(_TIMED).astype(dtype)
    calls = {}
    for name in _names(precision):
        if precision == "bfloat16" and name == "torch":
            calls[name] = _call(bfloat16_product, (rows.view(np.uint32) >> 16).astype(np.uint16), "uint16")
        else:
            calls[name] = _call(PRODUCTS[name.removesuffix(IN_FLOAT32)], rows, dtype)
    took = dict.fromkeys(calls, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            for _ in range(_ROUNDS):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    took[name] = min(took[name], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return took


def _call(multiply: Callable[[Array, Array, Array], None], rows: Array, dtype: str) -> Callable[[], None]:
    out = np.empty((rows.shape[1], rows.shape[1]), dtype)
    return lambda: multiply(rows[0], rows[1], out)


def gram(a: Array, b: Array, out: Array) -> None:
    """All inner products of the rows of `a` with the rows of `b`; uint16 holds bfloat16."""
    if out.dtype == np.uint16:
        bfloat16_product(a, b, out)
        return
    name = _chosen.get(out.dtype.name, "numpy")
    PRODUCTS[name](a, b, out)
