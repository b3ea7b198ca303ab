"""Mean and variance of cosine and of squared distance over all distinct pairs, without forming a pair."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import renamed_keywords
from geomkit.core.devices import Device, named, place
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import BackendName, OnInvalid, check_on_invalid, check_threads
from geomkit.covariance.accumulate import WIDEST, accumulate, by_columns, extend, valid_rows
from geomkit.covariance.batches import ScatterPair
from geomkit.covariance.gram import Wide, gram_pair_sums
from geomkit.covariance.influence import influences
from geomkit.covariance.scatter import PairSums, Scatter
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend

__all__ = ["WIDEST", "Moments", "MomentsAccumulator", "moments", "moments_of_pair", "moments_of_wide"]


@dataclass(frozen=True)
class Moments(Result):
    """Moments of cosine and of squared Euclidean distance over all n(n-1)/2 distinct pairs of rows.

    Exact up to float64 rounding, whatever the dtype of the rows. Variances are those of the pairs themselves: divided
    by their number. Standard errors are over rows, not pairs, which share rows: what another sample of n rows would
    give. They are NaN for n = 2.
    """

    n: int
    """Rows measured."""
    d: int
    """Coordinates of a row."""
    n_pairs: int
    """Distinct pairs: n(n-1)/2."""
    cosine_mean: float
    """In [-1/(n-1), 1]; dimensionless."""
    cosine_mean_se: float
    """At least 0."""
    cosine_variance: float
    """In [0, 1]."""
    cosine_variance_se: float
    """At least 0; NaN unless asked for with ``standard_errors=True``."""
    squared_distance_mean: float
    """At least 0, in squared units of the data; infinite where float64 cannot say it."""
    squared_distance_mean_se: float
    """At least 0, in squared units of the data."""
    squared_distance_variance: float
    """At least 0, in the fourth power of units of the data; infinite where float64 cannot say it."""
    squared_distance_variance_se: float
    """At least 0, in the fourth power of units of the data; NaN unless asked for with ``standard_errors=True``."""
    squared_distance_relative_variance: float
    """Var(D²)/E(D²)², at least 0: how far from concentrated the distances are. NaN where all rows are equal."""
    backend: str
    """The backend that ran."""
    side: str
    """``"columns"``: from the products of the columns, d × d. ``"rows"``: from those of the rows, n × n, in tiles."""
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``."""
    cosine_shares: NDArray[np.float64] = field(repr=False, compare=False)
    """Share of each coordinate in the mean cosine, (d,); they add up to it, and may be negative.

    The "rogue dimensions" of Timkey & van Schijndel (2021).
    """


class MomentsAccumulator:
    """Moments of a stream of blocks of rows, which need not fit into memory together.

    Blocks may be dense or sparse, of any dtype that `moments` takes, and of any length from one row. Accumulators
    merge: each thread, process or machine can fill its own. The order of blocks and of merging, and the number of
    threads, change results by float64 rounding alone.

    Parameters
    ----------
    backend : {"auto", "cpu", "torch", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str or torch.device, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``; where the data lies unless given.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or zero.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Raises
    ------
    InvalidInputError
        An argument is not one of its choices.
    BackendUnavailableError
        The device is missing.

    Notes
    -----
    Holds 16 d² bytes; an update in several blocks holds as much again for each worker while it runs (256 MiB in all
    or one worker). `update` is O(m d²) for m rows, `merge` and `result` are O(d²). Rows of more than 8192 coordinates
    are refused: see `moments`.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> stream = geomkit.MomentsAccumulator()
    >>> for block in np.split(x, 4):
    ...     stream = stream.update(block)
    >>> stream.n
    200
    >>> bool(np.isclose(stream.result().squared_distance_mean, geomkit.moments(x).squared_distance_mean))
    True
    """

    def __init__(
        self,
        *,
        backend: BackendName = "auto",
        device: Device = None,
        on_invalid: OnInvalid = "raise",
        threads: int | None = None,
    ) -> None:
        check_on_invalid(on_invalid)
        check_threads(threads)
        # Refused before there are rows.
        place(as_matrix(np.empty((1, 1)), min_rows=1), backend, device, several=False)
        self._asked, self._on_invalid, self._threads = backend, on_invalid, threads
        self._places = named(device)
        self._pair: ScatterPair | None = None
        self._seen = 0

    @property
    def n(self) -> int:
        """Rows measured so far."""
        return self._pair.raw.n if self._pair else 0

    @property
    def n_dropped(self) -> int:
        """Rows left out so far."""
        return self._seen - self.n

    def update(self, block: Any) -> Self:
        """Take in more rows.

        Parameters
        ----------
        block : array_like (m, d)
            As `x` of `moments`, of one row or more, and as wide as the blocks before.

        Returns
        -------
        MomentsAccumulator
            Itself.

        Raises
        ------
        InvalidInputError
            The block cannot be measured, is wider than 8192, is not as wide as the blocks before or does not lie
            where they did, or has rows that are not finite or zero and ``on_invalid="raise"``. Rows are numbered from
            the first row of the stream. The accumulator is then as it was.
        """
        matrix = as_matrix(block, name="block", min_rows=1)
        if matrix.d > WIDEST:
            msg = (
                f"block has {matrix.d} columns; a stream must have at most {WIDEST}, whose products take 1 GiB: "
                f"pass all rows at once to moments(x), which needs no such products"
            )
            raise InvalidInputError(msg)
        matrix, backend = place(matrix, self._asked, self._places or None)
        device = matrix.device if matrix.on_accelerator else None
        pair = self._pair or ScatterPair.empty(matrix.d, backend, device)
        _check_same(matrix, pair, backend, device)
        self._pair = extend(pair, matrix, self._threads, self._on_invalid, self._seen)
        self._seen += matrix.n
        return self

    def merge(self, other: Self) -> Self:
        """Take in all rows of another accumulator, which stays as it is.

        Returns
        -------
        MomentsAccumulator
            Itself.

        Raises
        ------
        InvalidInputError
            `other` is not an accumulator, is this one, or has rows of another width.
        """
        if not isinstance(other, MomentsAccumulator) or other is self:
            what = "itself" if other is self else type(other).__name__
            msg = f"other must be another MomentsAccumulator; got {what}"
            raise InvalidInputError(msg)
        theirs = other._pair
        if theirs is None:
            return self
        if self._pair is None:
            self._pair = ScatterPair.empty(theirs.d, *self._home(theirs.raw))
        if self._pair.d != theirs.d:
            msg = f"other has rows of {theirs.d} columns; it must have {self._pair.d}"
            raise InvalidInputError(msg)
        self._pair.merge(theirs)
        self._seen += other._seen
        return self

    def _home(self, theirs: Scatter) -> tuple[Backend, Any]:
        """Backend and device of the first rows, which come from another scatter."""
        if not self._places and self._asked in {"auto", theirs.backend.value}:
            return theirs.backend, theirs.device
        mine, backend = place(as_matrix(np.empty((1, 1)), min_rows=1), self._asked, self._places or None)
        return backend, mine.device if mine.on_accelerator else None

    def result(self) -> Moments:
        """Moments of all rows so far. The accumulator can go on.

        Raises
        ------
        InvalidInputError
            There are fewer than two rows.
        """
        if self._pair is None or self.n < 2:
            left = f" left after dropping {self.n_dropped}" if self.n_dropped else ""
            msg = f"the stream has {self.n} {'row' if self.n == 1 else 'rows'}{left}; it must have at least 2"
            raise InvalidInputError(msg)
        return moments_of_pair(self._pair, self.n_dropped)


@renamed_keywords(variance_se="standard_errors")
def moments(
    x: Any,
    *,
    backend: BackendName = "auto",
    device: Device = None,
    on_invalid: OnInvalid = "raise",
    standard_errors: bool = False,
    threads: int | None = None,
) -> Moments:
    """Mean and variance of cosine and of squared Euclidean distance over all distinct pairs, exactly, without pairs.

    Parameters
    ----------
    x : array_like (n, d)
        float16, bfloat16, float32, float64 or integers; dense or scipy sparse. n >= 2, finite, no zero row. Read where
        it lies, block by block.
    backend : {"auto", "cpu", "torch", "reference"}
        ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str or torch.device, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``: where the data lies unless given. One alone;
        for several fill a `MomentsAccumulator` on each and merge them.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or zero.
    standard_errors : bool
        Whether to give the standard errors of the two variances, too: by columns, another pass over `x`, about
        three times the time in all.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given. A single worker leaves products
        to BLAS's own threads.

    Returns
    -------
    Moments

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.

    See Also
    --------
    MomentsAccumulator : the same from a stream of blocks.

    Notes
    -----
    A cosine is 1 - |x̂ - ŷ|²/2 of the rows over their norms, so one formula serves both statistics. With S, V and M as
    in `geomkit.covariance.scatter`,

        E D² = 2 S / (n - 1),   Var D² = 2 V / (n - 1) + 4 (‖M‖² - S²/(n - 1)) / (n (n - 1)),

    both terms of which are at least 0. Standard errors are those of a mean over pairs (Hoeffding 1948).

    By columns, O(n d²) time in one pass, 16 d² bytes for each worker (256 MiB in all, or one worker) and a few blocks.
    By rows, where n < d or d > 8192: O(n² d), for sparse rows O(n²) and the terms that they share, with each pair
    counted once, and a few blocks. Errors are float64 roundings of sums: means come out to about 1e-15 of ``E D²`` (of
    1, for cosines), variances to about 1e-15 of its square.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> found = geomkit.moments(x)
    >>> found.n_pairs
    19900
    >>> print(f"{found.cosine_mean:.4f} {found.squared_distance_mean:.2f}")
    -0.0015 15.59
    """
    check_on_invalid(on_invalid)
    check_threads(threads)
    matrix = as_matrix(x)
    matrix, which = place(matrix, backend, device, several=False)
    if not by_columns(matrix):
        matrix, norms = valid_rows(matrix, which, on_invalid)
        wide = gram_pair_sums(matrix, which, threads or processors(), norms, by_row=standard_errors)
        return moments_of_wide(wide, which)
    pair, matrix, _ = accumulate(matrix, which, threads, on_invalid)
    influence = influences(matrix, which, threads or processors(), pair) if standard_errors else None
    return moments_of_pair(pair, matrix.n_dropped, influence)


def moments_of_pair(pair: ScatterPair, n_dropped: int, influence: list[float] | None = None) -> Moments:
    """Moments of rows that are accumulated already; `influence` is that of `influences`."""
    sums = [scatter.sums() for scatter in pair.both]
    if influence is not None:
        sums = [replace(each, influence=one) for each, one in zip(sums, influence, strict=True)]
    unit = pair.normalized
    # Share of each coordinate in the mean cosine, (s_k² - Σ x̂_ik²) / (n(n-1)), written about the mean.
    shares = unit.mean**2 - unit.diagonal() / (unit.n * (unit.n - 1))
    return _moments(sums, shares, pair.raw.backend, "columns", n_dropped)


def moments_of_wide(wide: Wide, backend: Backend) -> Moments:
    """Moments of rows whose pairs were summed up already."""
    return _moments(wide.sums, wide.shares, backend, wide.side, wide.n_dropped)


def _check_same(matrix: Matrix, pair: ScatterPair, backend: Backend, device: Any) -> None:
    if matrix.d != pair.d:
        msg = f"{matrix.name} has {matrix.d} columns; it must have {pair.d}, like the blocks before"
        raise InvalidInputError(msg)
    held = pair.raw
    if (backend, device) != (held.backend, held.device):
        msg = (
            f"{matrix.name} is for backend {backend.value!r} on {device or 'cpu'}; it must be for "
            f"{held.backend.value!r} on {held.device or 'cpu'}, like the blocks before"
        )
        raise InvalidInputError(msg)


def _moments(both: list[PairSums], shares: NDArray[np.float64], backend: Backend, side: str, n_dropped: int) -> Moments:
    raw, normalized = (sums.distance_moments() for sums in both)
    n, exponent = both[0].n, both[0].exponent
    # Unlike Python's, NumPy's ldexp says infinity where float64 ends.
    with np.errstate(over="ignore"):
        mean, mean_se = (float(np.ldexp(value, 2 * exponent)) for value in raw[:2])
        variance, variance_se = (float(np.ldexp(value, 4 * exponent)) for value in raw[2:])
    return Moments(
        n=n,
        d=len(shares),
        n_pairs=n * (n - 1) // 2,
        cosine_mean=min(max(1 - normalized.mean / 2, -1.0), 1.0),
        cosine_mean_se=normalized.mean_se / 2,
        cosine_variance=normalized.variance / 4,
        cosine_variance_se=normalized.variance_se / 4,
        squared_distance_mean=mean,
        squared_distance_mean_se=mean_se,
        squared_distance_variance=variance,
        squared_distance_variance_se=variance_se,
        squared_distance_relative_variance=raw.variance / raw.mean**2 if raw.mean > 0 else math.nan,
        backend=backend.value,
        side=side,
        n_dropped=n_dropped,
        cosine_shares=shares,
    )
