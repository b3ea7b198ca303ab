"""Cosine similarity: the matrix, and its distribution over all distinct pairs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomkit.core.devices import Device, check_one_place, place
from geomkit.core.matrix import Matrix, as_matrix, check_same_width
from geomkit.core.result import Result
from geomkit.core.threads import ieee, processors
from geomkit.core.validation import BackendName, OnInvalid, Precision, check_choice, check_number, check_threads
from geomkit.errors import InvalidInputError
from geomkit.kernels import PRECISIONS, Backend, load, module
from geomkit.pairwise.normalization import Rows, unit_rows
from geomkit.pairwise.reducers import Tally, Whole
from geomkit.pairwise.scores import COARSE, Form, Scores, cosine_scores
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.distribution import Distribution

__all__ = ["CosineStats", "cosine_similarity", "cosine_stats"]


@dataclass(frozen=True)
class CosineStats(Result):
    """The distribution of cosine similarity over all n(n-1)/2 distinct pairs of rows. Everything is dimensionless."""

    n: int
    """Rows measured."""
    d: int
    """Coordinates of a row."""
    n_pairs: int
    """Distinct pairs: n(n-1)/2."""
    mean: float
    """In [-1, 1], from the closed form in float64."""
    mean_se: float
    """Standard error of the mean over rows, not pairs, which share rows; NaN for n = 2."""
    std: float
    """In [0, 1]; over all pairs."""
    skewness: float
    """NaN where all cosines are equal within rounding."""
    kurtosis: float
    """Excess: 0 for a normal distribution. NaN where all cosines are equal within rounding, and where their spread is
    below 2**-35 and its fourth power left float32; ``precision="float64"`` holds it."""
    min: float
    max: float
    error_bound: float
    """Proven bound on the absolute error of any single cosine at this precision on this data."""
    backend: str
    """The backend that ran."""
    precision: str
    """The precision that the products ran in."""
    matmul: str
    """The library whose matrix product ran."""
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``."""
    distribution: Distribution = field(repr=False)

    def quantile(self, q: ArrayLike) -> Any:
        """Cosine at or below which a share `q` of the pairs lies.

        Within `error_bound` plus the rounding of the counter, ``2**-8 |value - mean|``; 0 and 1 give `min` and `max`.
        See `Distribution.quantile`.
        """
        return self.distribution.quantile(q)

    def histogram(
        self,
        bins: int = 100,
        range: tuple[float, float] = (-1.0, 1.0),  # noqa: A002
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pairs per bin of equal width, and the bins' edges. No pair inside [-1, 1] is lost to rounding.

        Counters that straddle an edge are divided in proportion, so counts need not be whole.
        """
        return self.distribution.histogram(bins, range)

    def within_fraction(self, eps: float) -> float:
        """Share of pairs with ``|cosine| <= eps``; a counter that straddles an end is divided in proportion."""
        check_number(eps, "eps", 0, finite=False)
        if eps >= max(abs(self.min), abs(self.max)):
            return 1.0
        upto = self.distribution.cumulative(np.array([eps, np.nextafter(-eps, -1.0)]))
        return float(upto[0] - upto[1]) / self.n_pairs

    @property
    def mean_abs(self) -> float:
        """Mean |cosine|, from the counts."""
        return self.distribution.mean_abs

    @property
    def rms(self) -> float:
        """Root mean square cosine."""
        return math.hypot(self.mean, self.std)


def cosine_stats(
    x: Any,
    *,
    backend: BackendName = "auto",
    device: Device = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> CosineStats:
    """Distribution of cosine similarity over all distinct pairs of rows.

    Parameters
    ----------
    x : array_like (n, d)
        float16, bfloat16, float32, float64 or integers; dense or scipy sparse. n >= 2, finite, no zero row. Read where
        it lies, block by block.
    backend : {"auto", "cpu", "torch", "triton", "reference"}
        ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise. ``"triton"`` multiplies rows and
        counts the products in one kernel, on an NVIDIA GPU, its first unless `device` says which.
    device : str, torch.device or a list of these, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``: where the data lies unless given. Several
        devices share out the tiles of pairs, and each has a copy of the prepared rows.
    precision : {"float32", "bfloat16", "float64"}; of Triton {"float32", "bfloat16", "float16", "tf32"}
        Of the products. ``"bfloat16"`` rounds the rows, less their mean, to 8 significant bits, sums in float32 and
        holds an `error_bound` that says what it cost; it is fast where the processor has matrix units or bfloat16
        instructions. ``"float16"`` rounds to 11 bits at the same speed, ``"tf32"`` to about as many; float32 products
        are never rounded so unasked. ``"reference"`` always computes, and says that it computed, in float64.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or zero.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    CosineStats

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.
    DeviceMemoryError
        A device has no room for the smallest tile of pairs.

    Notes
    -----
    O(n² d) time. Beyond the input: the unit rows up to 256 MiB, and a few MiB a thread; on a GPU the unit rows up to
    half of its free memory, and tiles of up to 8192 x 8192 pairs, halved with a warning where they do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> found = geomkit.cosine_stats(x)
    >>> print(f"{found.mean:.4f} {found.std:.3f} {found.quantile(0.5):.2f}")
    -0.0015 0.352 -0.01
    """
    scores = prepare(as_matrix(x), backend, precision, on_invalid, threads, cosine_scores, device=device)
    return stats_of(scores, threads=threads)


def prepare(
    matrix: Matrix,
    backend: str,
    precision: str,
    on_invalid: str,
    threads: int | None,
    scores: Callable[..., Scores],
    *,
    device: Device = None,
) -> Scores:
    """Check the arguments that all pair statistics share, and make the rows ready with `scores`."""
    check_threads(threads)
    matrix, which = place(matrix, backend, device, scores=True)
    check_precision(matrix, which, precision)
    ran = "float64" if which is Backend.REFERENCE else precision
    dtype = module(which).storage(ran, float(matrix.n) ** 2 * matrix.longest_row)
    return scores(matrix, which, ran, on_invalid, dtype=dtype, threads=threads or processors())


def check_precision(matrix: Matrix, backend: Backend, precision: str) -> None:
    """Refuse a precision that the backend does not have, or that is not for sparse rows."""
    check_choice(precision, "precision", PRECISIONS[backend])
    if precision in COARSE and matrix.kind == "sparse":
        msg = f"precision {precision!r} is for dense rows; {matrix.name} is sparse: use 'float32'"
        raise InvalidInputError(msg)


def stats_of(scores: Scores, *, threads: int | None = None, size: int | None = None) -> CosineStats:
    """Statistics of rows that are prepared already; `size` sets the tile."""
    tally = cosine_tally(scores)
    sweep(Tiles(scores, "gram"), [tally], threads=threads, size=size)
    return read(scores, tally)


def cosine_tally(scores: Scores) -> Tally:
    """Return an empty tally of the cosines, centred at their mean where tiles allow that."""
    return Tally(scores.backend, mean_cosine(scores), scores.device, origin=scores.origin, rounded=scores.rounded)


def mean_cosine(scores: Scores) -> float:
    """Mean over all distinct pairs: with m the mean of the unit rows, |m|² - (1 - |m|²) / (n - 1)."""
    middle = float(scores.mean @ scores.mean)
    return min(max(middle - (1 - middle) / (scores.n - 1), -1.0), 1.0)


def mean_by_row(scores: Scores) -> NDArray[np.float64]:
    """Mean cosine of each row with all others: (n x̂_i · m - 1) / (n - 1)."""
    onto_mean = scores.facts[2] - scores.offset
    if scores.form is Form.RESIDUAL:
        onto_mean = onto_mean + float(scores.mean @ scores.mean)
    return np.asarray((scores.n * onto_mean - 1) / (scores.n - 1))


def read(scores: Scores, tally: Tally) -> CosineStats:
    """Statistics from a tally of all pairs."""
    matrix, n = scores.matrix, scores.n
    found = Distribution.of(tally).within(-1.0, 1.0)
    skewness, kurtosis = found.shape(scores.bound, single=scores.dtype != "float64")
    return CosineStats(
        n=n,
        d=matrix.d,
        n_pairs=n * (n - 1) // 2,
        mean=mean_cosine(scores),
        mean_se=2 * float(np.std(mean_by_row(scores), ddof=1)) / math.sqrt(n) if n > 2 else math.nan,
        std=found.std,
        skewness=skewness,
        kurtosis=kurtosis,
        min=found.minimum,
        max=found.maximum,
        error_bound=scores.bound + (found.counter_bound if tally.rounded else 0.0),
        backend=scores.backend.value,
        precision=scores.precision,
        matmul=scores.matmul,
        n_dropped=matrix.n_dropped,
        distribution=found,
    )


_OF_MATRIX = ("float32", "float64")

_TILE_OF_MATRIX = 384
"""Rows of a tile that is written twice: its mirror image reads it against the grain, from the second-level cache."""


def cosine_similarity(
    x: Any, y: Any = None, *, backend: BackendName = "auto", device: Device = None, precision: Precision = "float32"
) -> Any:
    """Cosine similarity of every row of `x` with every row of `y` (or of `x` itself), as a matrix.

    Parameters
    ----------
    x, y : array_like (n, d), (m, d)
        Rows to compare, at least one: float16, bfloat16, float32, float64 or integers; dense or scipy sparse; finite,
        and no zero row.
    precision : {"float32", "float64"}
        Of the products and the matrix.
    backend : {"auto", "cpu", "torch", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str or torch.device, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``; where the data lies unless given.

    Returns
    -------
    (n, m) array
        In `precision`: a torch tensor on the device of `x` where `x` is a tensor, else a NumPy array. Entries are
        projected onto [-1, 1], where every cosine lies, which can only bring a rounded value nearer to the truth.

    Raises
    ------
    InvalidInputError
        An input cannot be measured, has a row without direction, or the widths differ; or the two lie on different
        devices and none is named.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.

    Notes
    -----
    O(n m d) time and O(n m) memory: for statistics of many rows use `cosine_stats`, which never holds the matrix.

    Examples
    --------
    >>> import geomkit
    >>> geomkit.cosine_similarity([[3.0, 4.0], [4.0, 3.0]], [[1.0, 0.0]]).round(3).tolist()
    [[0.6000000238418579], [0.800000011920929]]
    """
    check_choice(precision, "precision", _OF_MATRIX)
    left = as_matrix(x, min_rows=1)
    right = left if y is None else as_matrix(y, name="y", min_rows=1)
    check_same_width(left, right)
    check_one_place(left, right, device)
    left, which = place(left, backend, device, several=False)
    right = left if y is None else right.placed(left.places)
    dtype = "float64" if which is Backend.REFERENCE else precision
    a = unit_rows(left, which, dtype, "raise")
    b = a if y is None else unit_rows(right, which, dtype, "raise")
    return _as_given(left, _matrix(a, b))


def _matrix(a: Rows, b: Rows) -> Any:
    memory = module(a.backend)
    memory.product(a.dtype, 2.0 * a.n * b.n * a.matrix.longest_row)
    if a is b:
        whole = Whole(memory.zeros((a.n, a.n), a.dtype, a.device), -1.0, 1.0)
        sweep(Tiles(a, "gram"), [whole], size=None if a.matrix.on_accelerator else _TILE_OF_MATRIX)
        return whole.out
    kernel = load("sparse_gram" if a.sparse and b.sparse else "gram", a.backend)
    out = memory.zeros((a.n, b.n), a.dtype, a.device)
    step = max(1, 2**26 // max(a.matrix.d, b.matrix.d))
    for i in range(0, a.n, step):
        left = _dense(a, i, min(i + step, a.n), keep=b.sparse)
        for j in range(0, b.n, step):
            part = out[i : i + step, j : j + step]
            with ieee():
                kernel(left, _dense(b, j, min(j + step, b.n), keep=a.sparse), part)
    return np.clip(out, -1, 1, out=out) if isinstance(out, np.ndarray) else out.clamp_(-1, 1)


def _dense(rows: Rows, start: int, stop: int, *, keep: bool) -> Any:
    """Return a block of rows, CSR only where both sides are."""
    block = rows.block(start, stop)
    return block.toarray() if rows.sparse and not keep else block


def _as_given(matrix: Matrix, out: Any) -> Any:
    """NumPy in, NumPy out; torch in, torch out, on the same device."""
    if matrix.kind != "torch":
        return out if isinstance(out, np.ndarray) else out.cpu().numpy()
    import torch

    return torch.as_tensor(out, device=matrix.data.device)
