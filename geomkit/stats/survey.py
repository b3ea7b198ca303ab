"""Everything about pairs that one sweep can tell: cosines, extremes of each row, neighbours and duplicates."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import renamed_keywords
from geomkit.core.devices import Device
from geomkit.core.matrix import as_matrix
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import BackendName, OnInvalid, Precision, check_number
from geomkit.kernels import module
from geomkit.pairwise.candidates import ROUNDING
from geomkit.pairwise.reducers import Above, RowExtremes
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import Scores
from geomkit.stats.cosine import CosineStats, cosine_tally, read
from geomkit.stats.neighbors import Neighbors, neighbors_among, scores_among

__all__ = ["Survey", "survey"]

MOST_DUPLICATES = 2**24
"""Pairs of duplicates that are collected (256 MiB)."""


@dataclass(frozen=True)
class Survey(Result):
    """What one sweep over all pairs told."""

    cosine: CosineStats
    """Distribution of the cosine over all pairs."""
    least: NDArray[np.float64] = field(repr=False)
    """Least cosine of each row with any other, within ``cosine.error_bound``, (n,)."""
    largest: NDArray[np.float64] = field(repr=False)
    """Largest cosine of each row with any other, within ``cosine.error_bound``, (n,)."""
    neighbors: Neighbors
    """The k nearest of each row by cosine."""
    duplicates: NDArray[np.int64] = field(repr=False)
    """Pairs of rows of the input whose cosine in float64 is at least 1 - `duplicate_tolerance`, (m, 2), the
    smaller first."""
    duplicate_tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Return the scalars of the cosine, how many rows were redone for neighbours, and the number of duplicates."""
        return self.cosine.to_dict() | {
            "k": self.neighbors.k,
            "n_recomputed": self.neighbors.n_recomputed,
            "n_duplicate_pairs": len(self.duplicates),
            "duplicate_tolerance": self.duplicate_tolerance,
        }


@renamed_keywords(duplicates="duplicate_tolerance")
def survey(
    x: Any,
    *,
    k: int = 10,
    duplicate_tolerance: float = 1e-6,
    precision: Precision = "float32",
    backend: BackendName = "auto",
    device: Device = None,
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> Survey:
    """Cosine statistics, extremes of each row, nearest neighbours and duplicates, from one sweep over all pairs.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`.
    k : int
        Neighbours of each row; 1 <= k <= n - 1.
    duplicate_tolerance : float
        Pairs whose cosine is at least 1 less this are duplicates; in [0, 1].
    precision, backend, device, on_invalid, threads
        As for `cosine_stats`.

    Returns
    -------
    Survey

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, an argument is not one of its choices, or there are more than 2²⁴ pairs of duplicates.
    BackendUnavailableError, DeviceMemoryError
        As for `cosine_stats`.

    Notes
    -----
    O(n² d) time: the product of each tile is made once for all four answers. Duplicates are settled in float64, whose
    rounding they are allowed: ``4 (d + 16) 2⁻⁵³``.
    """
    check_number(duplicate_tolerance, "duplicate_tolerance", 0, 1)
    scores = scores_among(as_matrix(x), k, "cosine", precision, backend, device, on_invalid, threads)
    tally, extremes = cosine_tally(scores), RowExtremes(scores.backend, scores.n, scores.device)
    alike = Above(scores.backend, _threshold(scores, duplicate_tolerance), MOST_DUPLICATES)
    nearest = neighbors_among(scores, k, "cosine", tally, extremes, alike, threads=threads)
    found = read(scores, tally)
    least, largest = np.clip(extremes.extremes + scores.origin, -1.0, 1.0)
    return Survey(
        cosine=found,
        least=least,
        largest=largest,
        neighbors=nearest,
        duplicates=_settled(scores, alike.pairs, duplicate_tolerance, threads or processors()),
        duplicate_tolerance=float(duplicate_tolerance),
    )


def _threshold(scores: Scores, tolerance: float) -> float:
    """Return the least that the entry of a duplicate can have been computed as."""
    rounding = ROUNDING[module(scores.backend).entries(scores.dtype)]
    entry = 1 - tolerance - scores.origin
    return entry - rounding * abs(entry) - scores.bound - 2 * scores.slack


def _settled(scores: Scores, pairs: NDArray[np.int64], tolerance: float, threads: int) -> NDArray[np.int64]:
    """Keep the pairs whose cosine in float64 says so, by the row numbers of the input."""
    first, second = pairs.T
    exact = exact_scores(scores, first, second[:, None], threads)[:, 0]
    return scores.matrix.in_input(pairs[exact >= 1 - tolerance - scores.slack])
