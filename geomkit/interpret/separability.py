"""Linear separability: how well a linear classifier tells categories apart, and in how few principal directions."""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from geomkit.core.intervals import wilson
from geomkit.core.matrix import as_matrix
from geomkit.core.optional import require
from geomkit.core.result import Result
from geomkit.core.threads import one_thread_each
from geomkit.core.validation import check_choice, check_number, check_positive, check_whole, name_rows
from geomkit.errors import InvalidInputError
from geomkit.interpret.directions import coordinates, grid
from geomkit.stats.labels import Labels, as_labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Separability", "grouped_split", "groups_of", "row_keys", "separability"]

Rows = NDArray[np.float64] | sparse.csr_array

_ITERATIONS = 1000


@dataclass(frozen=True)
class Separability(Result):
    """Accuracy of a multinomial logistic regression on rows that it was not fitted to, beside what chance gives.

    All but counts is dimensionless.
    """

    accuracy: float
    """Share of the test rows whose label was right; in [0, 1]."""
    ci_low: float
    """Wilson's 95 % interval of it, over test rows."""
    ci_high: float
    majority: float
    """Accuracy on the test rows of always saying the most frequent label of the training rows."""
    shuffled: float
    """Mean accuracy where labels are shuffled, those of training and test rows among themselves."""
    shuffled_std: float
    """Standard deviation over the shuffles (n - 1 in the denominator)."""
    shuffled_max: float
    random: float
    """Accuracy on random rows with the same labels: Gaussian, or for sparse rows as many Gaussian entries a row."""
    random_ci_low: float
    """Wilson's 95 % interval of it, over test rows."""
    random_ci_high: float
    p_value: float
    """(1 + shuffles at least as accurate)/(1 + shuffles): never below 1/(1 + shuffles)."""
    keep: float
    fewest: float
    """Fewest principal directions of the training rows, of those tried, with at least `keep` of the accuracy above
    `majority`; infinite where none of those tried has it, NaN where nothing was tried or accuracy is not above it."""
    fewest_ci_low: float
    """95 % interval by bootstrap over test rows: percentiles, on the grid of what was tried."""
    fewest_ci_high: float
    fewest_random: float
    """The same for directions drawn at random, nested; a floor for how much of `fewest` is the classifier's thrift."""
    n_train: int
    n_test: int
    n_copies: int
    """Test rows left out since they equal a training row; 0 unless asked for by ``on_copies="drop"``."""
    n_classes: int
    d: int
    ridge: float
    shuffles: int
    seed: int
    unconverged: int
    """Fits, of all, that stopped at 1,000 iterations before they had converged."""
    curve: tuple[tuple[str, int, float, float, float], ...] = field(repr=False)
    """What was tried: ("principal" or "random", directions, accuracy, ci_low, ci_high), with Wilson's intervals over
    test rows."""

    def to_frame(self) -> "pd.DataFrame":
        """Return the curve, a row a number of directions: kind, directions, accuracy, ci_low, ci_high."""
        import pandas as pd

        return pd.DataFrame(list(self.curve), columns=["kind", "directions", "accuracy", "ci_low", "ci_high"])


def separability(
    x: Any,
    labels: Any,
    *,
    train: Any,
    test: Any,
    seed: int,
    shuffles: int = 5,
    directions: Sequence[int] | None = None,
    keep: float = 0.95,
    ridge: float = 0.01,
    resamples: int = 1000,
    on_copies: str = "raise",
) -> Separability:
    """How well a linear classifier tells labels apart, in all directions and in the leading principal ones.

    Parameters
    ----------
    x : array_like or sparse (n, d)
        Finite rows.
    labels : array_like (n,)
        As for `as_labels`.
    train, test : (rows,) int
        Row numbers of both parts. No row of one may equal a row of the other; see `grouped_split`.
    seed : int
        Of the shuffles, the random rows and directions, and the resamples.
    shuffles : int
        How often labels are shuffled; at least 2.
    directions : sequence of int, optional
        Numbers of principal directions to try. By default powers of two and all there are; of sparse rows more than
        4,096, up to 256. Empty: none are tried.
    keep : float
        Share of the accuracy above `majority` that the fewest directions must keep; in (0, 1].
    ridge : float
        Penalty on squared weights as a share of the training rows; above 0.
    resamples : int
        Of the bootstrap; at least 100.
    on_copies : {"raise", "drop"}
        What to do with test rows that equal a training row: a classifier would only have to remember them.

    Returns
    -------
    Separability

    Raises
    ------
    InvalidInputError
        Rows are not finite, the parts overlap, are empty or out of range, share equal rows, a label is in the test part
        alone, or an argument is out of range.
    SourceUnavailableError
        scikit-learn is missing.

    Notes
    -----
    scikit-learn's ``LogisticRegression(C=1 / (ridge * rows))`` by L-BFGS in float64. Columns are standardised by the
    training rows alone (sparse ones are only scaled); principal directions are those of the training rows as given,
    centred, and coordinates along them are standardised in turn, so that the same instrument reads each number of
    directions. O(fits · iterations · n d c) time, c being the number of classes.

    References
    ----------
    G. Alain, Y. Bengio: Understanding intermediate layers using linear classifier probes. ICLR workshop 2017.
    E. B. Wilson: Probable inference, the law of succession, and statistical inference. JASA 22, 1927.
    """
    for name, value, least in (("seed", seed, 0), ("shuffles", shuffles, 2), ("resamples", resamples, 100)):
        check_whole(value, name, least)
    check_positive(ridge, "ridge")
    check_number(keep, "keep", 0, 1, open_low=True)
    rows = _rows(x)
    known = as_labels(labels, rows.shape[0])
    first, second, copies = _parts(rows, train, test, on_copies)
    _check_classes(known, first, second)
    a, b = rows[first], rows[second]
    told, asked = known.codes[first], known.codes[second]
    shuffle, draw, turn, again = (np.random.default_rng(each) for each in np.random.SeedSequence(seed).spawn(4))
    fits = _Fits(float(ridge))
    with one_thread_each():  # iterations are short, and threads would wait for each other longer than they compute
        hits = fits.hits(a, told, b, asked)
        null = np.array([
            fits.hits(a, shuffle.permutation(told), b, shuffle.permutation(asked)).mean() for _ in range(shuffles)
        ])  # fmt: skip
        stranger = fits.hits(_random_like(a, draw), told, _random_like(b, draw), asked)
        tried = grid(a, directions)
        curves = {}
        for kind in ("principal", "random") if tried else ():
            along, over = coordinates(a, b, max(tried), turn if kind == "random" else None, seed)
            curves[kind] = np.array([fits.hits(along[:, :k], told, over[:, :k], asked) for k in tried])
    majority = asked == np.bincount(told).argmax()
    fewest, spans = math.nan, (math.nan, math.nan)
    if tried:
        fewest = float(_fewest(tried, curves["principal"], hits, majority, keep)[0])
        spans = _span(tried, curves["principal"], hits, majority, keep, resamples, again)
    low, high = wilson(float(hits.mean()), len(hits))
    random_low, random_high = wilson(float(stranger.mean()), len(hits))
    return Separability(
        accuracy=float(hits.mean()), ci_low=low, ci_high=high, majority=float(majority.mean()),
        shuffled=float(null.mean()), shuffled_std=float(null.std(ddof=1)), shuffled_max=float(null.max()),
        random=float(stranger.mean()), random_ci_low=random_low, random_ci_high=random_high,
        p_value=(1 + int(np.sum(null >= hits.mean()))) / (1 + shuffles), keep=float(keep), fewest=fewest,
        fewest_ci_low=spans[0], fewest_ci_high=spans[1],
        fewest_random=float(_fewest(tried, curves["random"], hits, majority, keep)[0]) if tried else math.nan,
        n_train=len(first), n_test=len(second), n_copies=copies, n_classes=len(known.names), d=rows.shape[1],
        ridge=float(ridge), shuffles=int(shuffles), seed=int(seed), unconverged=fits.unconverged,
        curve=tuple(
            (kind, k, float(row.mean()), *wilson(float(row.mean()), len(row)))
            for kind, found in curves.items()
            for k, row in zip(tried, found, strict=True)
        ),
    )  # fmt: skip


def row_keys(x: Any) -> list[bytes]:
    """Return a key of each row: equal for rows whose numbers are equal, and for no others. -0 equals 0."""
    rows = _rows(x)
    if isinstance(rows, np.ndarray):
        return [row.tobytes() for row in rows + 0.0]
    rows.eliminate_zeros()
    spans = [slice(*pair) for pair in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist(), strict=True)]
    return [rows.indices[span].astype(np.int64).tobytes() + rows.data[span].tobytes() for span in spans]


def groups_of(*keys: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return numbers of groups of rows that must stay together: rows with an equal key in any of the sequences.

    Parameters
    ----------
    *keys : sequence of hashable, (n,) each
        Such as `row_keys` of several spaces, texts, authors.

    Returns
    -------
    (n,) int64
        From 0: connected parts, so that a row whose text equals one row's and whose vector equals another's joins them.

    Raises
    ------
    InvalidInputError
        No keys, or of different lengths.
    """
    lengths = {len(each) for each in keys}
    if len(lengths) != 1:
        msg = f"keys must be sequences of one length; got lengths {sorted(lengths)}"
        raise InvalidInputError(msg)
    n, pairs = lengths.pop(), []
    for each in keys:
        seen: dict[Hashable, int] = {}
        pairs += [(row, seen.setdefault(key, row)) for row, key in enumerate(each)]
    left, right = np.array(pairs).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(left), np.int8), (left, right)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def grouped_split(
    labels: Any, groups: NDArray[np.int64], *, seed: int, parts: int = 4
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal whole groups of rows into training and test rows, labels shared out as evenly as groups allow.

    Parameters
    ----------
    labels : array_like (n,)
    groups : (n,) int
        See `groups_of`.
    seed : int
    parts : int
        One in so many rows is a test row; at least 2.

    Returns
    -------
    train, test : (rows,) int64
        Ascending. No group is in both. scikit-learn's ``StratifiedGroupKFold`` deals them.

    Raises
    ------
    InvalidInputError
        There are fewer groups than parts, groups are not one for each label, or an argument is out of range.
    """
    check_whole(seed, "seed", 0)
    check_whole(parts, "parts", 2)
    known = as_labels(labels, len(groups))
    if len(np.unique(groups)) < parts:
        msg = f"groups must be at least parts = {parts}; there are {len(np.unique(groups))}"
        raise InvalidInputError(msg)
    dealer = require("sklearn.model_selection").StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer rows than parts, which is no matter here
        train, test = next(dealer.split(np.zeros((len(groups), 1)), known.codes, groups))
    return train.astype(np.int64), test.astype(np.int64)


class _Fits:
    """Fits classifiers, and counts those that did not converge."""

    def __init__(self, ridge: float) -> None:
        self._ridge = ridge
        self.unconverged = 0

    def hits(self, a: Rows, told: NDArray[np.int64], b: Rows, asked: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each row of `b` is given its label by what is fitted to `a`."""
        scaler = require("sklearn.preprocessing").StandardScaler(with_mean=isinstance(a, np.ndarray)).fit(a)
        model = require("sklearn.linear_model").LogisticRegression(
            C=1 / (self._ridge * a.shape[0]), max_iter=_ITERATIONS, tol=1e-3
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", require("sklearn.exceptions").ConvergenceWarning)
            model.fit(scaler.transform(a), told)
        self.unconverged += int(model.n_iter_.max() >= _ITERATIONS)
        return np.asarray(model.predict(scaler.transform(b)) == asked)


def _fewest(
    tried: Sequence[int], curve: NDArray[Any], hits: NDArray[Any], majority: NDArray[Any], keep: float,
    weights: NDArray[Any] | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Fewest directions that keep enough, for each way of weighing the test rows (one: all alike)."""
    weights = np.ones((1, len(hits))) if weights is None else weights
    chance, whole = weights @ majority, weights @ hits
    enough = weights @ curve.T - chance[:, None] >= keep * (whole - chance)[:, None] - 1e-9
    first = np.where(enough.any(axis=1), np.array(tried, float)[enough.argmax(axis=1)], math.inf)
    return np.asarray(np.where(whole > chance, first, math.nan))


def _span(
    tried: Sequence[int], curve: NDArray[Any], hits: NDArray[Any], majority: NDArray[Any], keep: float,
    resamples: int, rng: np.random.Generator,
) -> tuple[float, float]:  # fmt: skip
    n = len(hits)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    found = np.sort(_fewest(tried, curve, hits, majority, keep, weights))  # NaN last: it is beyond all that was tried
    return float(found[int(0.025 * resamples)]), float(found[math.ceil(0.975 * resamples) - 1])


def _random_like(x: Rows, rng: np.random.Generator) -> Rows:
    if isinstance(x, np.ndarray):
        return rng.standard_normal(x.shape)
    places = [np.sort(rng.choice(x.shape[1], count, replace=False)) for count in np.diff(x.indptr).tolist()]
    indices = np.concatenate([*places, np.empty(0, np.int64)]).astype(np.int64)
    return sparse.csr_array((rng.standard_normal(len(indices)), indices, x.indptr.copy()), shape=x.shape)


def _rows(x: Any) -> Rows:
    matrix = as_matrix(x)
    stored: Any = matrix.rows(0, matrix.n)
    dense = matrix.kind != "sparse"
    rows: Any = np.array(matrix.block(0, matrix.n), np.float64) if dense else stored.astype(np.float64)
    if not np.isfinite(rows if dense else rows.data).all():
        msg = f"x has {name_rows(np.flatnonzero(~np.isfinite(rows.sum(axis=1))))} that are not finite"
        raise InvalidInputError(msg)
    return rows if isinstance(rows, np.ndarray) else sparse.csr_array(rows)


def _parts(rows: Rows, train: Any, test: Any, on_copies: str) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    check_choice(on_copies, "on_copies", ("raise", "drop"))
    first, second = (_numbers(each, name, rows.shape[0]) for each, name in ((train, "train"), (test, "test")))
    if len(both := np.intersect1d(first, second)):
        msg = f"train and test must share no row; they share {name_rows(both)}"
        raise InvalidInputError(msg)
    keys = row_keys(rows)
    seen = {keys[row] for row in first.tolist()}
    copies = np.array([keys[row] in seen for row in second.tolist()])
    if copies.any() and on_copies == "raise":
        msg = (
            f"test has {name_rows(second[copies])} equal to a training row, which a classifier would only have to "
            "remember; split by groups_of, or leave them out with on_copies='drop'"
        )
        raise InvalidInputError(msg)
    if copies.all():
        msg = "test has no row that does not equal a training row"
        raise InvalidInputError(msg)
    return first, second[~copies], int(copies.sum())


def _numbers(given: Any, name: str, n: int) -> NDArray[np.int64]:
    numbers = np.asarray(given)
    if numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu":
        msg = f"{name} must be row numbers, at least one; got {numbers.dtype} of shape {numbers.shape}"
        raise InvalidInputError(msg)
    if numbers.min() < 0 or numbers.max() >= n or len(np.unique(numbers)) < len(numbers):
        msg = f"{name} must be different row numbers from 0 to {n - 1}; got {numbers.min()} to {numbers.max()}"
        raise InvalidInputError(msg)
    return numbers.astype(np.int64)


def _check_classes(known: Labels, first: NDArray[np.int64], second: NDArray[np.int64]) -> None:
    lacking = np.setdiff1d(known.codes[second], known.codes[first])
    if len(lacking) or len(np.unique(known.codes[first])) < 2:
        which = ", ".join(repr(known.names[each]) for each in lacking[:3].tolist()) or "all but one class"
        msg = f"train must have rows of two classes, and of each class that test has; it has none of {which}"
        raise InvalidInputError(msg)
