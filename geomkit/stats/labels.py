"""What a space says about labels of its rows: labels of nearest neighbours, and a linear probe beside shuffled ones."""

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.result import Result
from geomkit.core.validation import name_rows
from geomkit.errors import InvalidInputError
from geomkit.stats.neighbors import Neighbors, check_among_rows

__all__ = ["Labels", "SameLabelRate", "as_labels", "same_label_rate"]


@dataclass(frozen=True)
class Labels:
    """One label of each row, as whole numbers."""

    codes: NDArray[np.int64] = field(repr=False)
    """Which class each row is of, (n,), in [0, c - 1]."""
    names: tuple[Any, ...]
    """The classes: numbers and strings of an array in ascending order, others in order of their first rows."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each class, (c,)."""
        return np.bincount(self.codes, minlength=len(self.names)).astype(np.int64)

    @property
    def majority_fraction(self) -> float:
        """Share of the rows that are of the largest class."""
        return int(self.counts.max()) / len(self.codes)


def as_labels(labels: Any, n: int, rows: NDArray[np.int64] | None = None) -> Labels:
    """Check the labels of n rows.

    Parameters
    ----------
    labels : array_like (n,)
        Whole numbers, strings or anything hashable: an array, a column of a data frame, a tensor or a sequence. Never
        converted: ``1`` and ``"1"`` in a list are two classes.
    n : int
        Rows of the matrix as it was given.
    rows : (r,), optional
        Row numbers that are left after dropping others, whose labels are not looked at.

    Returns
    -------
    Labels
        Of the rows that are left.

    Raises
    ------
    InvalidInputError
        Labels are not one for each row, some are missing (None, NaN, NA or an empty string), or there is one class.
    """
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ma.MaskedArray):
        labels = labels.tolist()  # masked ones become None
    if isinstance(labels, (str, bytes)) or not hasattr(labels, "__len__") or getattr(labels, "shape", None) == ():
        msg = f"labels must be one label for each row of x; got {labels!r}"
        raise InvalidInputError(msg)
    shape = getattr(labels, "shape", (len(labels),))
    if tuple(shape) != (n,):
        got = len(labels) if len(shape) == 1 else f"an array of shape {tuple(shape)}"
        msg = f"labels must be one label for each of the {n} rows of x; got {got}"
        raise InvalidInputError(msg)
    if isinstance(labels, np.ndarray) and labels.dtype.kind in "biuf":
        values = labels if rows is None else labels[rows]
        _reject(np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool), rows)
        names, codes = np.unique(values, return_inverse=True)
        return _with_classes(codes.astype(np.int64), tuple(names.tolist()))
    everyone = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    chosen = everyone if rows is None else [everyone[row] for row in rows.tolist()]
    _reject(np.array([_is_missing(each) for each in chosen]), rows)
    numbers: dict[Any, int] = {}
    try:
        codes = np.array([numbers.setdefault(each, len(numbers)) for each in chosen], np.int64)
    except TypeError as why:
        msg = f"labels must be numbers, strings or the like, one for each row of x; {why}"
        raise InvalidInputError(msg) from why
    return _with_classes(codes, tuple(numbers))


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ in {"NAType", "NaTType"}:
        return True
    if isinstance(label, (str, bytes)):
        return not label.strip()
    return isinstance(label, (float, np.floating)) and math.isnan(label)


def _reject(missing: NDArray[np.bool_], rows: NDArray[np.int64] | None) -> None:
    at = np.flatnonzero(missing)
    if len(at):
        msg = f"labels are missing for {name_rows(at if rows is None else rows[at])}; drop those rows, or label them"
        raise InvalidInputError(msg)


def _with_classes(codes: NDArray[np.int64], names: tuple[Any, ...]) -> Labels:
    if len(names) < 2:
        msg = f"labels must be of at least two classes; all {len(codes)} are {names[0]!r}"
        raise InvalidInputError(msg)
    return Labels(codes, names)


@dataclass(frozen=True)
class SameLabelRate(Result):
    """How many of the k nearest neighbours of a row have its label. All but counts is dimensionless."""

    rate: float
    """Share of the k nearest neighbours that have the row's own label, mean over rows; in [0, 1]."""
    rate_se: float
    """Standard error over rows, as if their shares were independent."""
    null_mean: float
    """Expectation where labels are shuffled among the rows, Σ_c n_c (n_c - 1)/(n (n - 1)), exact."""
    null_std: float
    """Standard deviation of the rate where labels are shuffled, the neighbours staying as they are: exact."""
    z: float
    """(rate - null mean)/null std; NaN where no shuffling changes the rate."""
    majority_fraction: float
    """Share of the rows that are of the largest class."""
    n_classes: int
    n: int
    d: int
    k: int
    metric: str
    backend: str
    precision: str
    """The precision that screening for neighbours ran in."""
    n_dropped: int


def same_label_rate(found: Neighbors, labels: Any) -> SameLabelRate:
    """Share of nearest neighbours that have the row's own label, beside shuffled labels.

    Parameters
    ----------
    found : Neighbors
    labels : array_like
        As for `as_labels`: one for each row of the matrix that `found` is of, those included that were dropped.

    Returns
    -------
    SameLabelRate

    Raises
    ------
    InvalidInputError
        As for `as_labels`, or `found` is of queries.

    Notes
    -----
    O(n k log(n k)). With w the symmetrised graph of neighbours and b the matrix of equal labels, the rate is a sum
    ``Σ w_ij b_ij / (n k)``, whose first two moments under all n! permutations of the labels follow from sums of w and b
    over pairs that share two rows, one or none (Mantel 1967); they are added up in whole numbers.

    References
    ----------
    N. Mantel: The detection of disease clustering and a generalized regression approach. Cancer Research 27, 1967.
    """
    check_among_rows(found)
    n, k = found.n, found.k
    known = as_labels(labels, n + found.n_dropped, found.rows if found.n_dropped else None)
    places = found.positions
    same = (known.codes[places] == known.codes[:, None]).sum(axis=1)
    rate = int(same.sum()) / (n * k)
    mean, variance = _shuffled(places, known.counts)
    sd = math.sqrt(variance) / (n * k)
    return SameLabelRate(
        rate=rate,
        rate_se=float(np.std(same / k, ddof=1)) / math.sqrt(n),
        null_mean=float(mean / (n * k)),
        null_std=sd,
        z=float(int(same.sum()) - mean) / (sd * n * k) if variance else math.nan,
        majority_fraction=known.majority_fraction,
        n_classes=len(known.names),
        n=n,
        d=found.d,
        k=k,
        metric=found.metric,
        backend=found.backend,
        precision=found.precision,
        n_dropped=found.n_dropped,
    )


def _shuffled(places: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[Fraction, Fraction]:
    """Mean and variance, over all permutations of the labels, of the number of edges between rows of one label."""
    n, k = places.shape
    edges = np.repeat(np.arange(n), k) * n + places.ravel()
    reverse = places.ravel() * n + np.repeat(np.arange(n), k)
    mutual = len(np.intersect1d(edges, reverse, assume_unique=True))
    # Sums over ordered pairs of w_ij = (a_ij + a_ji)/2 and its square, and over rows of its squared sums.
    total, squares = n * k, Fraction(n * k + mutual, 2)
    degrees = k + np.bincount(places.ravel(), minlength=n).astype(np.int64)
    by_row = Fraction(sum(each * each for each in degrees.tolist()), 4)
    sizes = counts.tolist()
    same = sum(size * (size - 1) for size in sizes)
    same_by_row = sum(size * (size - 1) ** 2 for size in sizes)
    mean = Fraction(total * same, n * (n - 1))
    # Products of two entries by how many rows their pairs share: both, one, or none.
    second = 2 * squares * Fraction(same, n * (n - 1))
    if n > 2:
        second += 4 * (by_row - squares) * Fraction(same_by_row - same, n * (n - 1) * (n - 2))
    if n > 3:
        apart = same * same + 2 * same - 4 * same_by_row
        none = total * total + 2 * squares - 4 * by_row
        second += none * Fraction(apart, n * (n - 1) * (n - 2) * (n - 3))
    return mean, second - mean * mean
