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

from geomkit.kernels import cpu_bfloat16
from geomkit.kernels.cpu_timings import recall, remember

Array = NDArray[Any]


def _numpy_product(a: Array, b: Array, out: Array) -> None:
    # The same memory twice would make NumPy call syrk and mirror its result, several times slower than the product.
    np.matmul(a, (b.copy() if a.ctypes.data == b.ctypes.data else b).T, out=out)


def _torch_product(a: Array, b: Array, out: Array) -> None:
    import torch

    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))


def bfloat16_product(a: Array, b: Array, out: Array) -> None:
    """Products of bfloat16 rows, kept as uint16, summed in float32 and rounded to bfloat16, by torch."""
    import torch

    left, right, into = (torch.from_numpy(each).view(torch.bfloat16) for each in (a, b, out))
    torch.mm(left, right.T, out=into)


PRODUCTS: dict[str, Callable[[Array, Array, Array], None]] = {"numpy": _numpy_product, "torch": _torch_product}
"""The matrix products of float32 and float64 rows that this backend may use."""

OWN = "numba"
"""Name of our own product of bfloat16 rows, for processors with bfloat16 instructions."""

IN_FLOAT32 = " in float32"
"""Ends the name of a product that multiplies bfloat16 rows widened to float32."""

_WORTH_IMPORTING = 1e11
"""Operations from which the choice of a product repays importing torch and timing all there are."""

_WORTH_MEASURING = 5e9
"""Operations from which it repays the timing, where torch is imported already or need not be."""

_IMPORT = 2.0
"""Seconds that importing torch takes, give or take a factor of two."""

_TIMED = 2, 512, 384
"""Blocks, and rows and columns of each, of the product that is timed."""

_ROUNDS = 9

_WITHOUT_TORCH = " without torch"
"""Ends the name under which the timings of all but torch are kept."""

_chosen: dict[str, str] = {}

_without_torch: dict[str, dict[str, float]] = {}
"""Timings of all but torch that this process has recalled or taken."""


def product(precision: str, operations: float) -> str:
    """Choose the matrix product for this much work and say its name.

    NumPy's and torch's BLAS differ by up to a factor of two, either way round, between processors, and bfloat16 is
    several times faster than float32 with matrix units (AMX), twice with bfloat16 instructions, and slower without.
    The first large job on a machine times what there is on one tile, single-threaded as the sweep runs them, and keeps
    what it found for later processes (`geomkit.kernels.cpu_timings`); smaller ones use NumPy, in float32 for bfloat16
    rows, whose products are exact there. Where torch is not imported yet and would save less than its import takes,
    it is left out: so is its timing where our own product of bfloat16 rows takes less than that import.
    """
    if precision not in _chosen:
        seconds = _timings(precision, operations)
        if not seconds:
            return _by_numpy(precision)
        name = min(seconds, key=lambda each: seconds[each])
        if name.startswith("torch"):
            others = {each: took for each, took in seconds.items() if not each.startswith("torch")}
            best = min(others, key=lambda each: others[each])
            if "torch" not in sys.modules and _spread(others[best] - seconds[name], operations) < _IMPORT:
                return best if best == OWN else _by_numpy(precision)
            # Now, while settings of libraries are still to be made, and not in the threads of a sweep.
            importlib.import_module("torch")
        elif set(seconds) != set(_names(precision)) and _torch_is_there():
            # Larger work may choose otherwise.
            return name if name == OWN else _by_numpy(precision)
        _chosen[precision] = name
    name = _chosen[precision]
    if not name.endswith(IN_FLOAT32):
        return name
    # Widened rows go through the product of float32, whichever that is.
    return _chosen.setdefault("float32", name.removesuffix(IN_FLOAT32)) + IN_FLOAT32


def choices() -> dict[str, str]:
    """Return the products that were chosen so far, by precision."""
    return dict(_chosen)


def adopt(chosen: dict[str, str]) -> None:
    """Use the products that another process chose, so that results are the same to the bit.

    Raises
    ------
    RuntimeError
        One of them cannot run here.
    """
    for precision, name in chosen.items():
        if name not in _names(precision):
            msg = f"the product {name!r} of {precision} rows does not run on this processor, as it does elsewhere"
            raise RuntimeError(msg)
        if name.startswith("torch"):
            importlib.import_module("torch")
    _chosen.update(chosen)


def _torch_is_there() -> bool:
    return importlib.util.find_spec("torch") is not None


def _by_numpy(precision: str) -> str:
    return _chosen.get("float32", "numpy") + IN_FLOAT32 if precision == "bfloat16" else "numpy"


def _timings(precision: str, operations: float) -> dict[str, float]:
    """Return seconds of the products in question for this much work: all of them, all but torch, or none."""
    imported, there = "torch" in sys.modules, _torch_is_there()
    own = OWN in _names(precision)
    if operations < (_WORTH_MEASURING if own or imported else _WORTH_IMPORTING) or not (own or there):
        return {}
    if there:
        seconds = recall(precision, _names(precision))
        if seconds is not None:
            return seconds
    if own and not (there and imported):
        without = _all_but_torch(precision)
        # Torch can save no more than all of the time of the fastest.
        if not there or operations < _WORTH_IMPORTING or _spread(min(without.values()), operations) < _IMPORT:
            return without
    seconds = _timed(precision)
    remember(precision, seconds)
    return seconds


def _all_but_torch(precision: str) -> dict[str, float]:
    if precision not in _without_torch:
        what = precision + _WITHOUT_TORCH
        seconds = recall(what, _names(what))
        if seconds is None:
            seconds = _timed(what)
            remember(what, seconds)
        _without_torch[precision] = seconds
    return _without_torch[precision]


def _spread(seconds: float, operations: float) -> float:
    """Return what so many seconds on the timed product come to on all processors, for this much work."""
    blocks, rows, columns = _TIMED
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return seconds * operations / (blocks * rows * rows * columns) / processors


def _names(what: str) -> list[str]:
    """Names of the products that rows of a precision may go through, or of all of them but torch."""
    precision = what.removesuffix(_WITHOUT_TORCH)
    if precision != "bfloat16":
        names = list(PRODUCTS)
    else:
        names = [*(name + IN_FLOAT32 for name in PRODUCTS), "torch", *([OWN] if cpu_bfloat16.available() else [])]
    return names if precision == what else [name for name in names if not name.startswith("torch")]


def storage(precision: str, operations: float) -> str:
    """Dtype in which rows of this precision are stored for the product that `product` chooses."""
    return "float32" if product(precision, operations).endswith(IN_FLOAT32) else precision


def _timed(what: str) -> dict[str, float]:
    """Least seconds of each product of two blocks of rows, in one thread: what others do here at the time only adds."""
    names, precision = _names(what), what.removesuffix(_WITHOUT_TORCH)
    torch = importlib.import_module("torch") if any(name.startswith("torch") for name in names) else None
    rng = np.random.default_rng(0)
    dtype = "float32" if precision == "bfloat16" else precision
    rows = rng.standard_normal(_TIMED).astype(dtype)
    calls = {}
    for name in names:
        if precision == "bfloat16" and not name.endswith(IN_FLOAT32):
            multiply = cpu_bfloat16.multiply if name == OWN else bfloat16_product
            calls[name] = _call(multiply, (rows.view(np.uint32) >> 16).astype(np.uint16), "uint16")
        else:
            calls[name] = _call(PRODUCTS[name.removesuffix(IN_FLOAT32)], rows, dtype)
    took = dict.fromkeys(calls, math.inf)
    threads = torch.get_num_threads() if torch else 1
    if torch:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(1, "blas"):
            for _ in range(_ROUNDS):
                for name, call in calls.items():
                    start = time.perf_counter()
                    call()
                    took[name] = min(took[name], time.perf_counter() - start)
    finally:
        if torch:
            torch.set_num_threads(threads)
    return took


def _call(multiply: Callable[[Array, Array, Array], None], rows: Array, dtype: str) -> Callable[[], None]:
    out = np.empty((rows.shape[1], rows.shape[1]), dtype)
    return lambda: multiply(rows[0], rows[1], out)


def gram(a: Array, b: Array, out: Array) -> None:
    """All inner products of the rows of `a` with the rows of `b`; uint16 holds bfloat16."""
    if out.dtype == np.uint16:
        # Rows were stored as bfloat16 for a product that was chosen; where that is not torch, it is our own.
        own = _chosen.get("bfloat16") != "torch" and cpu_bfloat16.available()
        (cpu_bfloat16.multiply if own else bfloat16_product)(a, b, out)
        return
    name = _chosen.get(out.dtype.name, "numpy")
    PRODUCTS[name](a, b, out)
