"""Compile ahead of time: every public function is called once on a few small rows of every kind."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from geomkit.core.deprecated import renamed_keywords
from geomkit.core.validation import Precision, check_choice
from geomkit.kernels import Backend, module

__all__ = ["PRECISIONS", "Warmed", "warm"]

_PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32", "float64")

PRECISIONS = ("all", *_PRECISIONS)

_ORDERS = (0.1, 1.0, 1.7, 2.0, 3.0, np.inf)
"""One order for each way in which distances are computed."""


@dataclass(frozen=True)
class Warmed:
    """What `warm` did."""

    n_compiled: int
    """Functions that were compiled."""
    n_found: int
    """Functions that an earlier process had compiled."""
    seconds: float
    folders: tuple[str, ...]
    """Where compiled code is kept."""

    def __str__(self) -> str:
        seconds, where = f"{self.seconds:.1f} s", ", ".join(self.folders)
        if self.n_compiled == 0:
            return f"all {self.n_found} kernels were there; looked up in {seconds}, in {where}"
        return f"{self.n_compiled} kernels compiled in {seconds}, {self.n_found} were there; cached in {where}"


@renamed_keywords(say="progress")
def warm(precision: str = "all", *, progress: Callable[[str], None] | None = None) -> Warmed:
    """Compile the CPU kernels for this processor, once; later processes read them from the disk.

    Parameters
    ----------
    precision : {"all", "bfloat16", "float32", "float64"}
        Only what runs in this precision.
    progress : callable, optional
        Told what comes next, a line each.

    Returns
    -------
    Warmed

    Raises
    ------
    InvalidInputError
        The precision is not one of the choices.
    BackendUnavailableError
        Numba is missing, or has nowhere to keep what it compiles.

    Notes
    -----
    Compiled code is kept beside the package where that folder can be written, else in the user's cache
    (``~/.cache/numba`` on Linux), and below ``NUMBA_CACHE_DIR`` where that is set. It belongs to this processor and
    this version of the package: it is compiled again where either changes.
    """
    check_choice(precision, "precision", PRECISIONS)
    start = time.perf_counter()
    module(Backend.CPU)
    from geomkit.kernels import cpu_cache

    before = cpu_cache.kept()
    uses = list(_uses(precision))
    with cpu_cache.unannounced():
        for at, (label, use) in enumerate(uses, 1):
            if progress is not None:
                progress(f"[{at}/{len(uses)}] {label}")
            use()
    after = cpu_cache.kept()
    return Warmed(
        n_compiled=after.compiled - before.compiled,
        n_found=after.found - before.found,
        seconds=time.perf_counter() - start,
        folders=tuple(cpu_cache.place(folder) for folder in after.folders),
    )


def _inputs() -> dict[str, Any]:
    """Rows of every kind that kernels tell apart: width of the numbers, whether they may be written, sparse or not."""
    import scipy.sparse

    x = np.random.default_rng(0).standard_normal((24, 10))
    found: dict[str, Any] = {}
    for dtype in ("float32", "float64"):
        found[dtype] = x.astype(dtype)
        # As a memory map is.
        fixed = x.astype(dtype)
        fixed.flags.writeable = False
        found[f"read-only {dtype}"] = fixed
        found[f"sparse {dtype}"] = scipy.sparse.csr_array(np.where(x > 0, x, 0).astype(dtype))
    return found


def _uses(precision: str) -> Iterator[tuple[str, Callable[[], object]]]:
    names = [name for name in _PRECISIONS if precision in {"all", name}]
    for name in names:
        # Kept for later processes; and bfloat16 rows are kept as they are in a job that is worth the choice.
        yield f"which product is the fastest for {name}", partial(module(Backend.CPU).product, name, np.inf)
    for label, x in _inputs().items():
        for name in names:
            if not (name == "bfloat16" and "sparse" in label):
                yield f"{label} rows in {name}", partial(_use, x, name)


def _use(x: Any, precision: Precision) -> None:
    """Call every function that has kernels."""
    from geomkit.stats.concentration import concentration
    from geomkit.stats.cosine import cosine_similarity, cosine_stats
    from geomkit.stats.moments import moments
    from geomkit.stats.neighbors import METRICS, neighbors
    from geomkit.stats.squared_distance import squared_distance_stats
    from geomkit.stats.survey import survey

    cosine_stats(x, precision=precision)
    squared_distance_stats(x, precision=precision)
    for metric in METRICS:
        neighbors(x, 3, metric=metric, precision=precision)
    survey(x, k=3, precision=precision)
    if precision == "bfloat16":
        return
    cosine_similarity(x, precision=precision)
    for p in _ORDERS:
        concentration(x, p=p, precision=precision)
    for rows in (x, x[:7]):
        # By columns and by rows.
        moments(rows, standard_errors=True)
