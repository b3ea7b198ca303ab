"""The kernel table: the only place that knows which backends exist and what they implement.

Kernels trust their arguments; `geomkit.core.matrix` has checked them. Signatures are the same in every backend:

===================  ==============================================================  =================================
kernel               call                                                            meaning
===================  ==============================================================  =================================
unit_rows            ``(x, out) -> norms``                                           rows over their Euclidean norms
centred_rows         ``(x, mean, scale, out) -> squares``                            ``(x - mean) / scale``, and |row|²
unit_sums            ``(x, total) -> norms``                                         sum of the rows over their norms
residual_rows        ``(x, divisors, mean, form, offset, left, right) -> ...``       factors of scores; lengths, lifts
gram                 ``(a, b, out)``                                                 ``a @ b.T``
euclidean            ``(a, b, out, a_squares, b_squares)``                           distances through the product
minkowski            ``(a, b, out, p)``                                              power mean ``(mean |a-b|^p)^(1/p)``
sparse_gram          ``(a, b, out)``                                                 ``a @ b.T`` of CSR blocks
sparse_euclidean     ``(a, b, out, a_squares, b_squares)``                           distances of CSR blocks
sparse_minkowski     ``(a, b, out, p)``                                              the same power mean of CSR blocks
tally                ``(tile, diagonal, centre, counts, sums, extremes)``            value counts, power sums, extremes
count                ``(tile, diagonal, counts)``                                    value counts of a bfloat16 tile
row_ranges           ``(tile, diagonal, rows, cols)``                                least, largest and sum, each row
row_extremes         ``(tile, diagonal, rows, cols)``                                least and largest, each row
above                ``(tile, diagonal, threshold) -> pairs``                        where entries reach a threshold
screen               ``(tile, diagonal, i0, j0, lists, dropped, floor)``             best candidates of each row
shortlist            ``(values, ids, errors, share, k) -> ids``                      those that may be the k best
exact_scores         ``(left, right, ids, euclidean, factors, factors, out)``        their scores in float64
best                 ``(scores, ids, k) -> (scores, ids)``                           the k best of each row, in order
===================  ==============================================================  =================================

Beside its kernels each backend module has ``zeros``, ``to_numpy`` and ``as_working`` (its own memory), ``product``
(which matrix product it uses), ``storage`` (in which dtype that wants its rows), ``COLUMNS`` (to what multiple it
wants them padded), ``entries`` (the dtype of what a tile holds), ``places`` (how long a list of candidates is) and
``FUSED``: whether a tile is computed before the kernels that reduce it see it, or is a ``Product`` of two blocks of
rows that they compute themselves; and, where it takes more than its library, ``missing``, which says what it lacks
here. ``diagonal`` says that the tile lies on the diagonal of the matrix of pairs: only its part above the diagonal
counts.

Adding a kernel: a row here, a function in each backend module that has it, and its inputs in
``tests/kernels/cases.py``.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import ModuleType
from typing import Any, cast

from geomkit.errors import BackendUnavailableError, InvalidInputError

__all__ = ["BACKENDS", "KERNELS", "PRECISIONS", "Backend", "Impl", "choose", "load", "module"]


class Backend(StrEnum):
    """Where the arithmetic runs."""

    REFERENCE = "reference"
    CPU = "cpu"
    TORCH = "torch"
    TRITON = "triton"

    @property
    def on_device(self) -> bool:
        """Whether it keeps its memory in torch tensors, on any device."""
        return self in {Backend.TORCH, Backend.TRITON}


@dataclass(frozen=True, slots=True)
class Impl:
    """One implementation of one kernel."""

    target: str
    """``module:function``, imported only when it is chosen."""
    dtypes: tuple[str, ...]
    """Tile and row dtypes accepted; also the grid of the generated tests."""
    accumulate: str | None = None
    """Dtype of its running sums, which sets its tolerance; None where that is the dtype of its input."""


BACKENDS: dict[Backend, str] = {
    Backend.REFERENCE: "geomkit.kernels.reference",
    Backend.CPU: "geomkit.kernels.cpu",
    Backend.TORCH: "geomkit.kernels.torch_",
    Backend.TRITON: "geomkit.kernels.triton_",
}

_COMMON = ("bfloat16", "float32", "float64")

PRECISIONS: dict[Backend, tuple[str, ...]] = dict.fromkeys(Backend, _COMMON) | {
    Backend.TRITON: ("bfloat16", "float16", "tf32", "float32"),
}
"""In which precisions a backend multiplies rows; the reference takes the others' names and computes in float64."""

_BOTH = ("float32", "float64")
_ALL = ("bfloat16", *_BOTH)
_FUSED = ("bfloat16", "float16", "float32")


def _row(
    name: str, *, accumulate: str | None = None, room: str = "cpu", dtypes: tuple[str, ...] = _BOTH
) -> dict[Backend, Impl]:
    return {
        Backend.REFERENCE: Impl(f"{BACKENDS[Backend.REFERENCE]}:{name}", ("float64",), "float64"),
        Backend.CPU: Impl(f"geomkit.kernels.{room}:{name}", dtypes, accumulate),
        Backend.TORCH: Impl(f"{BACKENDS[Backend.TORCH]}:{name}", dtypes, accumulate),
    }


def _on_device(row: dict[Backend, Impl]) -> dict[Backend, Impl]:
    # What is done to rows, or to a few pairs, is done by torch's kernels beside Triton's.
    return row | {Backend.TRITON: row[Backend.TORCH]}


def _also(dtype: str, row: dict[Backend, Impl]) -> dict[Backend, Impl]:
    # Torch has more dtypes than Numba.
    return {each: replace(impl, dtypes=(*impl.dtypes, dtype)) if each.on_device else impl for each, impl in row.items()}


def _fused(name: str, row: dict[Backend, Impl]) -> dict[Backend, Impl]:
    # A tile of Triton's is the two blocks of rows; sums of their products are float32 whatever they are.
    return row | {Backend.TRITON: Impl(f"{BACKENDS[Backend.TRITON]}:{name}", _FUSED, "float32")}


def _host(name: str) -> dict[Backend, Impl]:
    # Small, and on the host whatever the backend.
    row = _row(name, room="cpu_nearest", dtypes=("float64",))
    return row | {Backend.TORCH: row[Backend.CPU], Backend.TRITON: row[Backend.CPU]}


def _sparse(name: str, dense: str, *, accumulate: str | None = None) -> dict[Backend, Impl]:
    # The reference defines a sparse kernel by its dense twin; torch reads dense blocks instead.
    return {
        Backend.REFERENCE: Impl(f"{BACKENDS[Backend.REFERENCE]}:{dense}", ("float64",), "float64"),
        Backend.CPU: Impl(f"geomkit.kernels.cpu_sparse:{name}", _BOTH, accumulate),
    }


KERNELS: dict[str, dict[Backend, Impl]] = {
    "unit_rows": _on_device(_row("unit_rows", accumulate="float64")),
    "centred_rows": _on_device(_row("centred_rows", accumulate="float64")),
    "unit_sums": _on_device(_row("unit_sums", accumulate="float64", room="cpu_scores")),
    "residual_rows": _also(
        "float16", _on_device(_row("residual_rows", accumulate="float64", room="cpu_scores", dtypes=_ALL))
    ),
    "gram": _on_device(_row("gram", dtypes=_ALL)),
    "euclidean": _row("euclidean"),
    "minkowski": _row("minkowski", room="cpu_minkowski"),
    "sparse_gram": _sparse("sparse_gram", "gram"),
    "sparse_euclidean": _sparse("sparse_euclidean", "euclidean"),
    "sparse_minkowski": _sparse("sparse_minkowski", "minkowski", accumulate="float64"),
    "tally": _fused("tally", _row("tally")),
    "count": _fused("count", _row("count", dtypes=("bfloat16",))),
    "row_ranges": _row("row_ranges"),
    "row_extremes": _fused("row_extremes", _row("row_extremes", room="cpu_nearest", dtypes=_ALL)),
    "above": _fused("above", _row("above", room="cpu_nearest", dtypes=_ALL)),
    "screen": _fused("screen", _row("screen", room="cpu_nearest", dtypes=_ALL)),
    "exact_scores": _on_device(_row("exact_scores", room="cpu_nearest", accumulate="float64")),
    "shortlist": _host("shortlist"),
    "best": _host("best"),
}


def module(backend: Backend) -> ModuleType:
    """Import a backend's module; never quietly substitute another.

    Raises
    ------
    BackendUnavailableError
        The library behind the backend cannot be imported, or has nowhere to keep what it compiles.
    """
    try:
        found = importlib.import_module(BACKENDS[backend])
    except ImportError as why:
        msg = (
            f"backend {backend.value!r} needs a library that is missing: {why}; install geomkit[all] or choose another"
        )
        raise BackendUnavailableError(msg) from why
    except RuntimeError as why:
        if "no locator" not in str(why):
            raise
        msg = (
            f"backend {backend.value!r} has nowhere to keep compiled kernels: neither the package's folder nor the "
            "user's cache can be written; set NUMBA_CACHE_DIR to a folder that can"
        )
        raise BackendUnavailableError(msg) from why
    lacking = found.missing() if hasattr(found, "missing") else None
    if lacking is not None:
        others = [each.value for each in Backend if each is not backend]
        msg = f"backend {backend.value!r} needs {lacking}; here run {others}"
        raise BackendUnavailableError(msg)
    return found


def load(kernel: str, backend: Backend) -> Callable[..., Any]:
    """Return one implementation of one kernel.

    Raises
    ------
    BackendUnavailableError
        The backend does not have the kernel, or its library cannot be imported.
    """
    row = KERNELS[kernel]
    if backend not in row:
        msg = f"kernel {kernel!r} has no {backend.value!r} implementation; registered: {[b.value for b in row]}"
        raise BackendUnavailableError(msg)
    module(backend)
    target, function = row[backend].target.split(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(target), function))


def choose(backend: str, *, on_accelerator: bool) -> Backend:
    """Resolve a caller's ``backend`` argument.

    ``"auto"`` is torch for work on an accelerator, where data lies or where it was asked to go, and the CPU kernels for
    everything else.

    Raises
    ------
    InvalidInputError
        The name is not a backend, or the CPU was asked to read an accelerator's memory.
    """
    if backend == "auto":
        return Backend.TORCH if on_accelerator else Backend.CPU
    if backend not in tuple(Backend):
        msg = f"backend must be 'auto' or one of {[b.value for b in Backend]}; got {backend!r}"
        raise InvalidInputError(msg)
    chosen = Backend(backend)
    if on_accelerator and not chosen.on_device:
        msg = (
            f"backend {backend!r} cannot work on an accelerator; use backend='torch' or 'triton', or keep x and device "
            "on the CPU"
        )
        raise InvalidInputError(msg)
    return chosen
