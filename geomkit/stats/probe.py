"""A linear probe: how well a regularised linear classifier reads labels off rows it has not seen."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import renamed_keywords
from geomkit.core.matrix import Matrix, as_matrix, reject_rows
from geomkit.core.result import Result
from geomkit.core.validation import check_positive, check_whole
from geomkit.errors import InvalidInputError
from geomkit.stats.labels import Labels, as_labels

__all__ = ["Probe", "probe"]

Array = NDArray[np.float64]

WIDEST = 4096
"""Most columns: the products of columns of each fold take 128 MiB there."""

_BLOCK_ENTRIES = 2**21
"""Entries of rows that are brought to float64 at a time (16 MiB)."""

_INDICATED = 2**25
"""Sums of rows by fold, shuffle and class that are kept at a time (256 MiB)."""


@dataclass(frozen=True)
class Probe(Result):
    """Accuracy of a linear probe on rows that it was not fitted to, beside shuffled labels.

    All but counts is dimensionless.
    """

    accuracy: float
    """Share of rows whose label was right when their fold was left out; in [0, 1]."""
    accuracy_se: float
    """Standard error over rows, as if hits were independent; folds share most of what they are fitted to."""
    null_mean: float
    """Mean accuracy of the same probe, folds included, over the shuffles."""
    null_std: float
    """Standard deviation over the shuffles (n - 1 in the denominator)."""
    z: float
    """(accuracy - null mean)/null std; NaN where all shuffles gave the same."""
    p_value: float
    """(1 + shuffles at least as accurate)/(1 + shuffles): never below 1/(1 + shuffles)."""
    majority_fraction: float
    """Accuracy of always saying the largest class."""
    n_classes: int
    n: int
    """Rows used."""
    n_given: int
    """Rows that could be used: n, or more where `n_sample` says how many."""
    d: int
    folds: int
    shuffles: int
    ridge: float
    seed: int
    n_dropped: int


@renamed_keywords(sample="n_sample")
def probe(
    x: Any,
    labels: Any,
    *,
    seed: int = 0,
    folds: int = 5,
    shuffles: int = 20,
    ridge: float = 0.1,
    n_sample: int | None = None,
    on_invalid: str = "raise",
) -> Probe:
    """Cross-validated accuracy of a linear probe for labels, beside that for shuffled labels.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`; at most 4096 columns. Rows of zeros are welcome.
    labels : array_like (n,)
        As for `as_labels`; each class must have at least `folds` rows.
    seed : int, default 0
        Of the folds, the shuffles, and the sample where there is one.
    folds : int
        Parts of the rows, each left out once, with classes shared out evenly; at least 2.
    shuffles : int
        How often labels are shuffled; at least 2.
    ridge : float
        Penalty on squared weights as a share of the rows fitted to; above 0.
    n_sample : int, optional
        Use so many rows, drawn at random without replacement, instead of all.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite.

    Returns
    -------
    Probe

    Raises
    ------
    InvalidInputError
        `x` cannot be measured or has too many columns, labels are not as `as_labels` wants them, a class has fewer rows
        than there are folds, or an argument is out of range.

    Notes
    -----
    Ridge regression onto class indicators, largest value wins, with an intercept, on columns standardised by the rows
    fitted to: what scikit-learn's ``RidgeClassifier(alpha=ridge * rows)`` after a ``StandardScaler`` predicts. Unlike
    logistic regression it has a closed form: one product of columns serves every shuffle, nothing depends on when an
    iteration stops, and the null costs little, for labels alone move.

    Labels are shuffled within each fold, so that classes stay shared out evenly: folds of labels that were shuffled
    freely would be uneven, and their probe a little worse than chance.

    O(n d² + folds d³ + shuffles n d c) time in float64, c being the number of classes; memory beyond the input: at most
    ``16 folds d²`` bytes, and some 256 MiB.
    """
    _check(seed, folds, shuffles, n_sample)
    check_positive(ridge, "ridge")
    matrix = as_matrix(x)
    if matrix.d > WIDEST:
        msg = f"x has {matrix.d} columns; a probe takes at most {WIDEST}, whose products it keeps: project them first"
        raise InvalidInputError(msg)
    given = matrix.n
    rows = _measured(matrix, on_invalid)
    matrix = rows.matrix
    draw, share_out, shuffle = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(3))
    known = as_labels(labels, given, matrix.keep)
    numbers = np.arange(matrix.n)
    if n_sample is not None:
        if n_sample > matrix.n:
            msg = f"n_sample must be at most the {matrix.n} rows that x has; got {n_sample!r}"
            raise InvalidInputError(msg)
        numbers = np.sort(draw.choice(matrix.n, n_sample, replace=False))
        known = as_labels(labels, given, numbers if matrix.keep is None else matrix.keep[numbers])
    fold = _folds(known, folds, share_out)
    # Column 0 holds the labels, the others their shuffles.
    told = np.repeat(known.codes[:, None], 1 + shuffles, axis=1)
    for part in range(folds):
        members = np.flatnonzero(fold == part)
        for column in range(1, 1 + shuffles):
            told[members, column] = known.codes[shuffle.permutation(members)]
    hits = _hits(rows._replace(numbers=numbers), told, fold, len(known.names), float(ridge))
    rates = hits.mean(axis=0)
    null = rates[1:]
    spread = float(np.std(null, ddof=1))
    accuracy = float(rates[0])
    return Probe(
        accuracy=accuracy,
        accuracy_se=math.sqrt(accuracy * (1 - accuracy) / (len(numbers) - 1)),
        null_mean=float(null.mean()),
        null_std=spread,
        z=(accuracy - float(null.mean())) / spread if spread else math.nan,
        p_value=(1 + int(np.sum(null >= accuracy))) / (1 + shuffles),
        majority_fraction=known.majority_fraction,
        n_classes=len(known.names),
        n=len(numbers),
        n_given=matrix.n,
        d=matrix.d,
        folds=int(folds),
        shuffles=int(shuffles),
        ridge=float(ridge),
        seed=int(seed),
        n_dropped=matrix.n_dropped,
    )


def _check(seed: int, folds: int, shuffles: int, n_sample: int | None) -> None:
    check_whole(seed, "seed", 0)
    check_whole(folds, "folds", 2)
    check_whole(shuffles, "shuffles", 2)
    if n_sample is not None:
        check_whole(n_sample, "n_sample", 2)


def _folds(known: Labels, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which fold each row is in: folds differ by at most one row, and by at most one of each class."""
    counts = known.counts
    least = int(counts.argmin())
    if counts[least] < folds:
        rows = "1 row" if counts[least] == 1 else f"{counts[least]} rows"
        msg = f"labels must have at least folds = {folds} rows of each class; {known.names[least]!r} has {rows}"
        raise InvalidInputError(msg)
    out = np.empty(len(known.codes), np.int64)
    out[np.lexsort((rng.permutation(len(out)), known.codes))] = np.arange(len(out)) % folds
    return out


class _Rows(NamedTuple):
    """Rows of a matrix less a vector near their middle, over a power of two near the largest, in float64."""

    matrix: Matrix
    mean: Array
    scale: float
    numbers: NDArray[np.int64]

    def blocks(self, members: NDArray[np.int64], width: int = 1) -> Iterator[tuple[NDArray[np.int64], Array]]:
        """Yield some of them block by block, beside which they are; `width` numbers are made from each."""
        step = max(1, _BLOCK_ENTRIES // max(self.matrix.d, width))
        for at in range(0, len(members), step):
            some = members[at : at + step]
            yield some, (_on_host(self.matrix.take(self.numbers[some])) - self.mean) / self.scale


def _on_host(block: Any) -> Array:
    return np.asarray(block if isinstance(block, np.ndarray) else block.cpu().numpy(), np.float64)


def _measured(matrix: Matrix, on_invalid: str) -> _Rows:
    """Rows that are finite; a far-away origin costs no digits, and squares stay in the range."""
    bad = np.zeros(matrix.n, bool)
    mean, largest, seen = np.zeros(matrix.d), 0.0, 0
    for start, stop in matrix.blocks(max(1, _BLOCK_ENTRIES // matrix.d)):
        block = _on_host(matrix.block(start, stop))
        bad[start:stop] = ~np.isfinite(block).all(axis=1)
        usable = block[~bad[start:stop]]
        if len(usable):
            seen += len(usable)
            # Halves, whose differences stay in the range.
            middle = usable[0] / 2 + (usable / 2 - usable[0] / 2).mean(axis=0)
            mean += (middle - mean) * (len(usable) / seen)
            largest = max(largest, float(np.abs(usable).max()))
    kept = reject_rows(matrix, bad, "are not finite", on_invalid, 2)
    return _Rows(kept, 2 * mean, math.ldexp(1.0, max(-1022, min(math.frexp(largest)[1], 1023))), np.arange(kept.n))


def _hits(rows: _Rows, told: NDArray[np.int64], fold: NDArray[np.int64], c: int, ridge: float) -> NDArray[np.bool_]:
    """Whether each row's label was right when its fold was left out, for each column of labels."""
    members = [np.flatnonzero(fold == part) for part in range(int(fold.max()) + 1)]
    fits = _fits(rows, members, ridge)
    hits = np.empty(told.shape, bool)
    step = max(1, _INDICATED // (len(members) * c * rows.matrix.d))
    for first in range(0, told.shape[1], step):
        columns = slice(first, first + step)
        hits[:, columns] = _hits_of(rows, told[:, columns], members, fits, c)
    return hits


class _Fit(NamedTuple):
    """What the rows of all folds but one have to say, whatever their labels."""

    mean: Array
    factors: Array
    """One over the spread of each column; 0 for a constant one."""
    factor: tuple[Array, bool]
    """Cholesky factor of the correlations, with the penalty on their diagonal."""


def _fits(rows: _Rows, members: list[NDArray[np.int64]], ridge: float) -> list[_Fit]:
    from scipy.linalg import cho_factor

    folds, d = len(members), rows.matrix.d
    products, sums = np.zeros((folds, d, d)), np.zeros((folds, d))
    for part in range(folds):
        for _, block in rows.blocks(members[part]):
            products[part] += block.T @ block
            sums[part] += block.sum(axis=0)
    scale = np.sqrt(np.einsum("fii->i", products) / sum(map(len, members)))
    fits = []
    for part in range(folds):
        others = [each for each in range(folds) if each != part]
        fitted = sum(len(members[each]) for each in others)
        mean = sums[others].sum(axis=0) / fitted
        correlation = products[others].sum(axis=0) / fitted - np.outer(mean, mean)
        spread = np.sqrt(np.maximum(np.diagonal(correlation), 0.0))
        # What varies by rounding alone among the rows fitted to says nothing.
        constant = spread <= 1e-7 * scale
        factors = np.where(constant, 0.0, 1 / np.where(constant, 1.0, spread))
        correlation *= factors[:, None]
        correlation *= factors
        correlation[np.diag_indices(d)] += ridge
        fits.append(_Fit(mean, factors, cho_factor(correlation, overwrite_a=True)))
    return fits


def _hits_of(
    rows: _Rows, told: NDArray[np.int64], members: list[NDArray[np.int64]], fits: list[_Fit], c: int
) -> NDArray[np.bool_]:
    from scipy.linalg import cho_solve

    columns, n = told.shape[1], len(told)
    by_class = np.zeros((len(members), columns * c, rows.matrix.d))
    sizes = np.zeros((len(members), columns * c))
    for part, own in enumerate(members):
        for some, block in rows.blocks(own, columns * c):
            indicators = _indicators(told[some], c)
            by_class[part] += indicators.T @ block
            sizes[part] += np.asarray(indicators.sum(axis=0)).ravel()
    total, all_sizes = by_class.sum(axis=0), sizes.sum(axis=0)
    hits = np.empty(told.shape, bool)
    for part, (own, fit) in enumerate(zip(members, fits, strict=True)):
        fitted = n - len(own)
        shares = (all_sizes - sizes[part]) / fitted
        # Products of standardised columns with centred indicators, over the rows fitted to.
        aims = ((total - by_class[part]) / fitted - shares[:, None] * fit.mean) * fit.factors
        weights = cho_solve(fit.factor, aims.T, overwrite_b=True) * fit.factors[:, None]
        for some, block in rows.blocks(own, columns * c):
            values = (block - fit.mean) @ weights + shares
            hits[some] = values.reshape(len(some), columns, c).argmax(axis=2) == told[some]
    return hits


def _indicators(told: NDArray[np.int64], c: int) -> Any:
    """Sparse ones at the class of each row, for each column of labels, (rows, columns * c)."""
    from scipy.sparse import csr_array

    n, columns = told.shape
    places = told + c * np.arange(columns)
    return csr_array((np.ones(n * columns), places.ravel(), np.arange(0, n * columns + 1, columns)),
                     shape=(n, columns * c))  # fmt: skip
