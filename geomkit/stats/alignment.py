"""How alike two spaces are that hold the same points: debiased CKA, shared neighbours, Procrustes, imbalance."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.blocks import block_rows, each_block
from geomkit.core.devices import Device, check_one_place, place
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.threads import processors
from geomkit.core.validation import check_choice, check_threads, name_rows
from geomkit.errors import InvalidInputError
from geomkit.kernels import PRECISIONS, Backend, load, module
from geomkit.pairwise.normalization import as_given, direction_norms
from geomkit.pairwise.rescoring import exact_scores
from geomkit.pairwise.scores import UNIT_ROUNDOFF
from geomkit.stats.cosine import prepare
from geomkit.stats.moments import WIDEST
from geomkit.stats.neighbors import METRICS, Neighbors, check_among_rows, check_k, neighbors_among, scores_among

__all__ = ["METHODS", "Alignment", "alignment", "overlap_of"]

METHODS = ("cka", "neighbors", "procrustes", "imbalance")
"""Ways to compare two spaces."""

_OF_COLUMNS = ("cka", "procrustes")
"""Those that see products of columns alone, in float64, and neither metric nor neighbours."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """How alike two spaces of the same n points are. Everything is dimensionless."""

    value: float
    """``"cka"``: in [-1, 1] up to rounding, 1 where the spaces are equal up to rotation, scale and translation.
    ``"neighbors"``: share of the k nearest neighbours in common, in [0, 1]. ``"procrustes"``: 1 - disparity, in
    [0, 1]. ``"imbalance"``: Δ(x → y), from 2/n, where nearest neighbours in x are nearest in y, to 2(n-1)/n: the one
    method where less is more alike."""
    value_se: float
    """Standard error over points, as if those were independent; NaN for ``"cka"`` and ``"procrustes"``, for which
    there is no simple form."""
    chance: float
    """What spaces that have nothing to do with each other give on average: 0 for ``"cka"`` (of its numerator, exactly),
    k/(n-1) for ``"neighbors"``, 1 for ``"imbalance"``; NaN for ``"procrustes"``, where it depends on both spectra."""
    method: str
    n: int
    """Points: rows of both matrices."""
    d_x: int
    d_y: int
    k: int
    """Neighbours of each point: as asked for ``"neighbors"``, 1 for ``"imbalance"``, 0 where there are none."""
    metric: str
    """Empty where the method has none."""
    x_to_y: float
    """Δ(x → y): the smaller, the more x says about y; NaN unless the method is ``"imbalance"``, as for the next two."""
    y_to_x: float
    """Δ(y → x)."""
    y_to_x_se: float
    """Standard error of `y_to_x`, as `value_se` is that of `x_to_y`."""
    backend: str
    precision: str
    """That of screening for ``"neighbors"``, which decides speed alone; ``"float64"`` for the others."""

    def to_dict(self) -> dict[str, float | int | str]:
        """Every field by name."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def __str__(self) -> str:
        return "\n".join(f"{name:<9} {value}" for name, value in self.to_dict().items())


def alignment(
    x: Any,
    y: Any,
    *,
    method: str = "cka",
    k: int = 10,
    metric: str = "cosine",
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    threads: int | None = None,
) -> Alignment:
    """Compare two spaces in which the same points lie: row i of `x` and row i of `y` are one point.

    Parameters
    ----------
    x : array_like (n, d_x)
        As for `cosine_stats`. Rows are paired with those of `y`, so none is ever dropped: those that are not finite
        are refused, and zero rows where a cosine is taken of them.
    y : array_like (n, d_y)
        As many rows as `x`, of any width.
    method : {"cka", "neighbors", "procrustes", "imbalance"}
        ``"cka"``: debiased linear centred kernel alignment (Song et al. 2012; Nguyen et al. 2021). ``"neighbors"``:
        mutual k-nearest-neighbour overlap, the mean over points of ``|N_x(i) ∩ N_y(i)| / k`` (Huh et al. 2024).
        ``"procrustes"``: with both spaces centred and scaled to a Frobenius norm of 1, and the narrower one padded
        with zeros, the squared sum of the singular values of ``XᵀY``, which is 1 less the disparity left after the
        best rotation and scale (Schönemann 1966). ``"imbalance"``: information imbalance, ``2/n`` times the mean rank
        in y of the nearest neighbour in x (Glielmo et al. 2022).
    k : int
        Neighbours of each point, itself left out; 1 <= k <= n - 1. Read by ``"neighbors"`` alone.
    metric : {"cosine", "euclidean", "dot"}
        Read by ``"neighbors"`` and ``"imbalance"``.
    precision
        Of the screening of ``"neighbors"``, as for `neighbors`. All else is float64.
    backend, device
        As for `cosine_stats`; one device for both matrices.
    threads
        As for `cosine_stats`; products of columns run on the threads of their library.

    Returns
    -------
    Alignment

    Raises
    ------
    InvalidInputError
        A matrix cannot be measured; the two differ in rows, or lie on different devices and none is named; rows are
        not finite, or zero where the metric is cosine; `k` is out of range, or an argument is not one of its choices.
        For ``"cka"`` and ``"procrustes"``: there are more than 8192 columns, or a space has no spread. For
        ``"cka"``: there are fewer than 4 rows.
    BackendUnavailableError, DeviceMemoryError
        As for `cosine_stats`.

    Notes
    -----
    ``"cka"`` and ``"procrustes"``: O(n d²) time and O(d²) memory, d the larger width; sparse rows are centred in dense
    blocks. With C = XᵀY of centred rows, k_i = |x_i|² and l_i = |y_i|², n(n-3) times the unbiased HSIC is

        |C|²_F - n/(n-2) Σ k_i l_i + Σ k_i Σ l_i / ((n-1)(n-2)),

    and CKA is that of x with y over the root of those of x and of y with themselves. A space whose own HSIC is not
    above its rounding has no spread: identical rows, or rows all equally far apart. ``"procrustes"`` is biased: above 0
    for independent spaces, and near 1 where n < d.

    ``"neighbors"``: two sweeps of `neighbors`, O(n² d); equal neighbours are taken by number.

    ``"imbalance"``: O(n² d) float64 operations, in blocks of about 2²⁰ pairs. Ranks start at 1, a point itself left
    out; equally near points share the mean of their ranks, and where several are nearest, the mean of their ranks
    counts.
    """
    check_choice(method, "method", METHODS)
    check_choice(metric, "metric", tuple(METRICS))
    check_threads(threads)
    left, right = as_matrix(x), as_matrix(y, name="y")
    if left.n != right.n:
        msg = f"x and y must have the same number of rows, which are paired; got {left.n} and {right.n}"
        raise InvalidInputError(msg)
    if method == "cka" and left.n < 4:
        msg = f"x and y have {left.n} rows; debiased CKA must have at least 4"
        raise InvalidInputError(msg)
    if method == "neighbors":
        check_k(k, left.n)
    check_one_place(left, right, device)
    of_columns = method in _OF_COLUMNS
    left, which = place(left, backend, device, several=method == "neighbors", scores=not of_columns)
    right, _ = place(right, which.value, device, several=method == "neighbors", scores=not of_columns)
    check_choice(precision, "precision", PRECISIONS[which])
    workers, both = threads or processors(), (left, right)
    norms = [_norms(each, which, workers, directions=not of_columns and metric == "cosine") for each in both]
    empty = _empty(method, left.n, (left.d, right.d), "" if of_columns else metric, which.value)
    if of_columns:
        spaces = [_Space.of(each, which, float(norm.max())) for each, norm in zip(both, norms, strict=True)]
        return _cka(empty, *spaces) if method == "cka" else _procrustes(empty, *spaces)
    if method == "neighbors":
        settings = (k, metric, precision, which.value, device, "raise", threads)
        lists = [neighbors_among(scores_among(matrix, *settings), k, metric, threads=threads) for matrix in both]
        return overlap_of(*lists)
    return _imbalance(both, which, metric, device, workers, empty)


def _norms(matrix: Matrix, backend: Backend, threads: int, *, directions: bool) -> NDArray[np.float64]:
    """Norms of the rows, all of them finite rows, and none of them zero where each must have a direction."""
    norms, _ = direction_norms(matrix, backend, threads)
    bad = {"are not finite": np.isnan(norms), "are zero and have no direction": directions & (norms == 0)}
    for what, flags in bad.items():
        rows = np.flatnonzero(flags)
        if len(rows):
            msg = (
                f"{matrix.name} has {name_rows(rows)} that {what}; rows are paired, so none is dropped here: "
                "take them out of both x and y"
            )
            raise InvalidInputError(msg)
    return norms


class _Space(NamedTuple):
    """Rows to be read in dense blocks, less their mean and over a power of two."""

    matrix: Matrix
    backend: Backend
    first: NDArray[np.float64]
    """Taken out before the rest of the mean, so that a far-away origin costs no digits."""
    shift: NDArray[np.float64]
    """The mean less the first row, over `scale`."""
    scale: float

    @classmethod
    def of(cls, matrix: Matrix, backend: Backend, longest: float) -> "_Space":
        """Find the mean relative to the first row; identical rows become exactly zero."""
        if matrix.d > WIDEST:
            msg = f'{matrix.name} has {matrix.d} columns; it must have at most {WIDEST}, or method must be "neighbors"'
            raise InvalidInputError(msg)
        # Twice the longest row, so that differences stay in the range.
        exponent = math.frexp(longest)[1] + 1 if math.isfinite(longest) else 1023
        scale = math.ldexp(1.0, max(-1022, min(exponent, 1023)))
        memory, total = module(backend), np.zeros(matrix.d)
        first = memory.to_numpy(as_given(matrix, backend, 0, 1))[0].astype(np.float64)
        raw = cls(matrix, backend, first, total.copy(), scale)
        for start, stop in matrix.blocks(block_rows(matrix)):
            total += memory.to_numpy(raw.block(start, stop)[0].sum(0))
        return raw._replace(shift=total / matrix.n)

    def block(self, start: int, stop: int) -> tuple[Any, NDArray[np.float64]]:
        """Rows ``start:stop`` in the backend's memory, and their squared norms."""
        memory, device = module(self.backend), self.matrix.device if self.backend.on_device else None
        out = memory.zeros((stop - start, self.matrix.d), "float64", device)
        x = as_given(self.matrix, self.backend, start, stop)
        load("centred_rows", self.backend)(x, self.first, self.scale, out)
        out -= memory.as_working(self.shift, "float64", device)
        squares = memory.to_numpy((out * out).sum(1))
        far = np.flatnonzero(~np.isfinite(squares))
        if len(far):
            msg = f"{self.matrix.name} has {name_rows(start + far)} that lie further from others than float64 can say"
            raise InvalidInputError(msg)
        return out, squares


class _Products(NamedTuple):
    """Products of columns, summed over the rows, and squared norms of the rows, (n,) each."""

    cross: NDArray[np.float64]
    own_x: NDArray[np.float64]
    own_y: NDArray[np.float64]
    squares_x: NDArray[np.float64]
    squares_y: NDArray[np.float64]


def _products(x: _Space, y: _Space, *, own: bool) -> _Products:
    """One pass over both; ``own=False`` leaves the products of a space with itself out."""
    squares = np.empty((2, x.matrix.n))
    d_x, d_y = x.matrix.d, y.matrix.d
    cross, own_x, own_y = np.zeros((d_x, d_y)), np.zeros((d_x, d_x) if own else 0), np.zeros((d_y, d_y) if own else 0)
    host = module(x.backend).to_numpy
    for start, stop in x.matrix.blocks(min(block_rows(x.matrix), block_rows(y.matrix))):
        a, squares[0, start:stop] = x.block(start, stop)
        b, squares[1, start:stop] = y.block(start, stop)
        cross += host(a.T @ b)
        if own:
            own_x += host(a.T @ a)
            own_y += host(b.T @ b)
    for space, each in zip((x, y), squares, strict=True):
        if not each.any():
            raise InvalidInputError(_no_spread(space.matrix.name, "all of its rows are equal"))
    return _Products(cross, own_x, own_y, squares[0], squares[1])


def _no_spread(name: str, why: str) -> str:
    return f"{name} has no spread, {why}; it must have some to be aligned with anything"


def _cka(empty: Alignment, x: _Space, y: _Space) -> Alignment:
    found = _products(x, y, own=True)
    mixed = _hsic(found.cross, found.squares_x, found.squares_y)
    spread = []
    sides = [(x, found.own_x, found.squares_x), (y, found.own_y, found.squares_y)]
    for space, own, squares in sides:
        spread.append(_hsic(own, squares, squares))
        # Entries of the product err by gamma_n |X|²_F in norm, and the norms of the rows by gamma_d.
        terms = (len(squares) + space.matrix.d + 16) * UNIT_ROUNDOFF["float64"]
        if spread[-1] <= 4 * terms * float(squares.sum()) ** 2:
            raise InvalidInputError(_no_spread(space.matrix.name, "all of its rows are equally far apart"))
    # Roots first, for the products of two may be too small.
    return replace(empty, value=mixed / math.sqrt(spread[0]) / math.sqrt(spread[1]), chance=0.0)


def _hsic(product: NDArray[np.float64], k: NDArray[np.float64], m: NDArray[np.float64]) -> float:
    """n(n-3) times the unbiased HSIC of two spaces of centred rows, from their product and their squared norms."""
    n = len(k)
    trace = n / (n - 2) * float(k @ m)
    return float(np.vdot(product, product)) - trace + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))


def _procrustes(empty: Alignment, x: _Space, y: _Space) -> Alignment:
    from scipy.linalg import svdvals

    found = _products(x, y, own=False)
    length_x, length_y = (math.sqrt(float(each.sum())) for each in (found.squares_x, found.squares_y))
    # Columns of zeros would add singular values of zero. The sum is at most 1, but for rounding.
    total = float(svdvals(found.cross / length_x / length_y).sum())
    return replace(empty, value=min(total, 1.0) ** 2)


def overlap_of(x: Neighbors, y: Neighbors) -> Alignment:
    """Overlap of neighbours that are there already, of the same rows, as method ``"neighbors"`` finds it. O(n k log k).

    Raises
    ------
    InvalidInputError
        The two are not of the same rows, k or metric, or one is of queries.
    """
    check_among_rows(x, "x")
    check_among_rows(y, "y")
    for name in ("n", "k", "metric"):
        if getattr(x, name) != getattr(y, name):
            msg = f"x and y must have the same {name}; got {getattr(x, name)!r} and {getattr(y, name)!r}"
            raise InvalidInputError(msg)
    if not np.array_equal(x.rows, y.rows):
        msg = "x and y must be neighbours of the same rows; different ones were dropped"
        raise InvalidInputError(msg)
    # A number in both lists of a row stands twice in a row once they are sorted together.
    together = np.sort(np.hstack([x.indices, y.indices]), axis=1)
    value, error = _mean((together[:, 1:] == together[:, :-1]).sum(axis=1) / x.k)
    empty = _empty("neighbors", x.n, (x.d, y.d), x.metric, x.backend)
    return replace(empty, value=value, value_se=error, chance=x.k / (x.n - 1), k=x.k, precision=x.precision)


def _empty(method: str, n: int, widths: tuple[int, int], metric: str, backend: str) -> Alignment:
    return Alignment(
        value=math.nan, value_se=math.nan, chance=math.nan, method=method, n=n, d_x=widths[0], d_y=widths[1], k=0,
        metric=metric, x_to_y=math.nan, y_to_x=math.nan, y_to_x_se=math.nan, backend=backend, precision="float64",
    )  # fmt: skip


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))


def _imbalance(
    both: tuple[Matrix, Matrix], backend: Backend, metric: str, device: Device, threads: int, empty: Alignment
) -> Alignment:
    # Prepared rows are not read: scores are of the rows as given, whatever the precision.
    score, name = METRICS[metric], backend.value
    scores = [prepare(each, name, "float32", "raise", threads, score, device=device) for each in both]
    n = empty.n
    ranks = np.empty((2, n))

    def fill(start: int, stop: int) -> None:
        rows = np.arange(start, stop)
        others = np.tile(np.arange(n), (len(rows), 1))
        others[rows - start, rows] = -1
        x, y = (exact_scores(each, rows, others, 1) for each in scores)
        ranks[:, start:stop] = _ranks(x, y), _ranks(y, x)

    # Blocks of pairs: as many rows as if they were n wide.
    pairs = Matrix("pairs", np.empty((n, 1)), "numpy", n, n, "float64", places=both[0].places)
    each_block(pairs, backend, threads, fill)
    (x_to_y, x_se), (y_to_x, y_se) = (_mean(2 / n * each) for each in ranks)
    return replace(empty, value=x_to_y, value_se=x_se, chance=1.0, k=1, x_to_y=x_to_y, y_to_x=y_to_x, y_to_x_se=y_se)


def _ranks(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rank in y of what is nearest in x, for each row of scores, -inf for the point itself."""
    from scipy.stats import rankdata

    nearest = x == x.max(axis=1, keepdims=True)
    at = y[np.arange(len(y)), nearest.argmax(axis=1)][:, None]
    ranks = 1 + (y > at).sum(axis=1) + ((y == at).sum(axis=1) - 1) / 2
    for row in np.flatnonzero(nearest.sum(axis=1) > 1):
        ranks[row] = rankdata(-y[row])[nearest[row]].mean()
    return np.asarray(ranks)
