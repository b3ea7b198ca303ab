"""How many directions a space uses: its spectrum, isotropy, the coordinates behind its mean cosine, and its norms."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.devices import Device, place
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.result import Result
from geomkit.core.threads import processors
from geomkit.core.validation import BackendName, OnInvalid, check_on_invalid, check_threads
from geomkit.covariance.accumulate import WIDEST, accumulate, by_columns, in_threads, valid_rows
from geomkit.covariance.gram import gram_pair_sums
from geomkit.covariance.projections import Axes, Partition, project_rows
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, module
from geomkit.stats.moments import Moments, moments_of_pair, moments_of_wide

__all__ = ["Spectrum", "spectrum", "spectrum_of"]

Vector = NDArray[np.float64]

RANKS = ("participation_ratio", "effective_rank", "stable_rank")
"""Functions of the eigenvalues, whatever their unit. An IsoScore is (participation ratio - 1) / (d - 1)."""

LONGEST_UNIT = 1 + 2.0**-40
"""Largest norm, after rounding, of a row over its norm."""

FAINT = 2.0**-40
"""Share of the variance below which a direction is left out of standard errors: float32 does not see it."""


@dataclass(frozen=True)
class Spectrum(Result):
    """Eigenvalues of the covariance of the rows, what they come to, and how the rows lie about the origin.

    Standard errors are over rows, by their influence (the infinitesimal jackknife): how far another sample of n rows
    would lie from this one, to first order in 1/n. Ranks of n rows are below those of the population by a share of
    about rank/n, which is no part of the error, and where n is not several times the rank the error is rough. NaN for
    fewer than three rows, where the value is NaN, and unless asked for with ``standard_errors=True``.
    """

    n: int
    d: int
    participation_ratio: float
    """(Σλ)² / Σλ², from 1 to min(n - 1, d): directions that share the variance. NaN where all rows are equal."""
    participation_ratio_se: float
    effective_rank: float
    """Exponential of the entropy of the singular values √λ over their sum (Roy & Vetterli 2007), from 1 to
    min(n - 1, d). NaN where all rows are equal."""
    effective_rank_se: float
    stable_rank: float
    """Σλ / λ_max, from 1 to min(n - 1, d). NaN where all rows are equal."""
    stable_rank_se: float
    """Where the two largest eigenvalues are further apart than sampling moves them."""
    isoscore: float
    """From 0, one direction, to 1, the same variance in all d (Rudman et al. 2022); it is (participation ratio - 1) /
    (d - 1). NaN where all rows are equal, or d = 1."""
    isoscore_se: float
    largest_variance_ratio: float
    """Largest variance of a coordinate over the mean of all d, from 1 to d. NaN where all rows are equal."""
    partition_isotropy: float
    """min Z / max Z in [0, 1], Z(c) = Σ exp(c · x_i) over the eigenvectors c of XᵀX, each in both directions, for its
    sign has no meaning (Mu & Viswanath 2018). Of the rows as given: it depends on their scale."""
    mean_cosine: float
    """Over all distinct pairs, in [-1/(n-1), 1]: the sum of `shares`."""
    n_dominant: int
    """Fewest coordinates whose shares add up to at least half of the mean cosine; 0 where that is not above 0."""
    norm_mean: float
    """Of the rows, in units of the data."""
    norm_std: float
    """Over the n rows, in units of the data."""
    norm_cv: float
    """`norm_std` over `norm_mean`, at least 0."""
    norm_cv_se: float
    """Whether asked for or not; NaN where all norms are equal, or for fewer than three rows."""
    norm_min: float
    norm_max: float
    backend: str
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``."""
    eigenvalues: Vector = field(repr=False, compare=False)
    """Of the covariance (divided by n - 1), largest first, (min(n, d),), in squared units of the data; 0 where they are
    below max(n, d) 2⁻⁵² of the largest, which is rounding; infinite where float64 cannot say them."""
    shares: Vector = field(repr=False, compare=False)
    """Share of each coordinate in the mean cosine, (d,), exact; may be negative (Timkey & van Schijndel 2021)."""


def spectrum(
    x: Any,
    *,
    backend: BackendName = "auto",
    device: Device = None,
    on_invalid: OnInvalid = "raise",
    standard_errors: bool = False,
    threads: int | None = None,
) -> Spectrum:
    """How many directions the rows use, and how evenly.

    Parameters
    ----------
    x : array_like (n, d)
        Rows to measure: float16, bfloat16, float32, float64 or integers; dense or scipy sparse; n >= 2, no zero
        row, and the smaller of n and d at most 8192. They are read where they lie, block by block.
    backend : {"auto", "cpu", "torch", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str or torch.device, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``; where the data lies unless given.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or zero.
    standard_errors : bool
        Whether to give those of the ranks and of the IsoScore, too: another product in the second pass over the rows,
        about a third more time.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    Spectrum
        `participation_ratio`, `effective_rank` and `stable_rank` say how many directions the rows use, `isoscore` how
        evenly; `eigenvalues` are those of the covariance, largest first.

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.

    Notes
    -----
    O(n d min(n, d)) time in two passes over the rows, and O(min(n, d)³) for the eigenvectors; 16 min(n, d)² bytes a
    worker and a few blocks. Everything is float64, save that the CPU backend makes the projections behind standard
    errors in float32, and looks in float32, within a proven bound, for the directions of which partition isotropy is
    then computed.

    A row's influence on a function g of the eigenvalues is Σ_j ∂g/∂λ_j (p_ij² - λ_j), p_ij its coordinate, about the
    mean, along the j-th eigenvector. Directions with less than 2⁻⁴⁰ of the variance are left out.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> found = geomkit.spectrum(x)
    >>> print(f"{found.participation_ratio:.2f} of {len(found.eigenvalues)}")
    7.70 of 8
    """
    return spectrum_and_moments(
        x, backend=backend, device=device, on_invalid=on_invalid, standard_errors=standard_errors, threads=threads
    )[0]


def spectrum_and_moments(
    x: Any,
    *,
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    standard_errors: bool = False,
    threads: int | None = None,
) -> tuple[Spectrum, Moments]:
    """Return `spectrum` and, without the standard errors of the variances, `moments` of the same rows and sums."""
    check_on_invalid(on_invalid)
    check_threads(threads)
    matrix, which = place(as_matrix(x), backend, device, several=False)
    return spectrum_of(matrix, which, on_invalid, threads, errors=standard_errors)


def spectrum_of(
    matrix: Matrix, backend: Backend, on_invalid: str, threads: int | None, *, errors: bool, normalized: bool = False
) -> tuple[Spectrum, Moments]:
    """Spectrum and moments of rows that are placed already.

    Parameters
    ----------
    errors : bool
        Whether to give standard errors of the ranks.
    normalized : bool
        Whether the spectrum is that of the rows over their norms; its norms are then 1.
    """
    route = _by_columns if by_columns(matrix) else _by_rows
    return route(matrix, backend, on_invalid, threads, errors, int(normalized))


def _by_columns(
    matrix: Matrix, backend: Backend, on_invalid: str, threads: int | None, errors: bool, form: int
) -> tuple[Spectrum, Moments]:
    """Everything from the products of the columns."""
    pair, matrix, norms = accumulate(matrix, backend, threads, on_invalid)
    moments, scatter = moments_of_pair(pair, matrix.n_dropped), pair.both[form]
    # Of both matrices the lower triangle counts.
    centred = np.asarray(module(backend).to_numpy(scatter.products))
    about_zero = centred + np.multiply.outer(scatter.n * scatter.mean, scatter.mean)
    workers = min(2, threads or processors()) if backend is Backend.CPU else 1
    (values, own), (squares, directions) = in_threads(
        _decomposed, [centred, about_zero], [errors, True], workers=workers
    )
    eigen = _Eigenvalues.of(values, matrix, scatter.exponent, scatter.diagonal())
    # The first two cumulants of the rows along each direction.
    onto_mean = scatter.mean @ directions
    second = (squares / scatter.n - onto_mean**2) / 2
    isotropy, influence = project_rows(
        matrix,
        backend,
        threads or processors(),
        directions,
        np.stack([second + onto_mean, second - onto_mean]),
        exponent=scatter.exponent,
        longest=LONGEST_UNIT if form else float(norms.max()),
        axes=eigen.axes(scatter.mean, own, scatter.n),
        norms=norms if form else None,
    )
    return _spectrum(eigen, np.ones(scatter.n) if form else norms, isotropy, influence, moments), moments


def _by_rows(
    matrix: Matrix, backend: Backend, on_invalid: str, threads: int | None, errors: bool, form: int
) -> tuple[Spectrum, Moments]:
    """Everything from the products of the rows, XXᵀ = UΣ²Uᵀ: the rows along the eigenvectors of XᵀX are UΣ."""
    matrix, norms = valid_rows(matrix, backend, on_invalid)
    if min(matrix.n, matrix.d) > WIDEST:
        msg = f"{matrix.name} has {matrix.n} rows and {matrix.d} columns; the fewer of them must be at most {WIDEST}"
        raise InvalidInputError(msg)
    wide = gram_pair_sums(matrix, backend, threads or processors(), norms, hold=form)
    moments, centred, mean, along = moments_of_wide(wide, backend), wide.gram, wide.means[form], wide.along[form]
    about_zero = centred + (along[:, None] + along + mean @ mean)
    workers = min(2, threads or processors()) if backend is Backend.CPU else 1
    (values, own), (squares, left) = in_threads(_decomposed, [centred, about_zero], [errors, True], workers=workers)
    eigen = _Eigenvalues.of(values, matrix, wide.sums[form].exponent, wide.diagonal[form])
    partition = Partition(matrix.n, eigen.exponent)
    partition.add(left * np.sqrt(np.maximum(squares, 0.0)))
    # All other directions see the rows at 0.
    isotropy, influence = partition.ratio(math.log(matrix.n)), None
    if own is not None and eigen.values[0] > 0:
        influence = matrix.n * (own[:, ::-1] ** 2 @ (eigen.shares[:, None] * eigen.derivatives()))
    return _spectrum(eigen, np.ones(matrix.n) if form else norms, isotropy, influence, moments), moments


def _decomposed(symmetric: Vector, vectors: bool) -> tuple[Vector, Vector | None]:
    """Eigenvalues of a symmetric matrix, the least first, and its eigenvectors if wanted; its lower triangle counts."""
    if vectors:
        values, columns = np.linalg.eigh(symmetric)
        return values, columns
    return np.asarray(np.linalg.eigvalsh(symmetric)), None


class _Eigenvalues(NamedTuple):
    """What the products of the rows about their mean say, over a power of two."""

    values: Vector
    """Eigenvalues of the products, largest first, (r,)."""
    exponent: int
    diagonal: Vector
    """Sum of the squares of each coordinate, (d,)."""

    @classmethod
    def of(cls, values: Vector, matrix: Matrix, exponent: int, diagonal: Vector) -> "_Eigenvalues":
        """Set aside what is rounding in eigenvalues, given least first."""
        values = values[::-1][: min(matrix.n, matrix.d)]
        # The entropy would see rounding at its square root.
        kept = np.where(values > max(matrix.n, matrix.d) * 2.0**-52 * values[0], values, 0.0)
        return cls(kept, exponent, diagonal)

    @property
    def shares(self) -> Vector:
        """Eigenvalues over the largest, (r,)."""
        return np.asarray(self.values / self.values[0])

    def ranks(self) -> list[float]:
        """Return what `RANKS` names; NaN where all rows are equal."""
        if self.values[0] == 0:
            return [math.nan] * len(RANKS)
        shares = self.shares
        total = float(shares.sum())
        return [total**2 / float(shares @ shares), math.exp(self._entropy()), total]

    def derivatives(self) -> Vector:
        """Of the ranks, by the shares, (r, 3); 0 for directions that are too faint."""
        shares, (participation, effective, stable) = self.shares, self.ranks()
        out = np.zeros((len(shares), len(RANKS)))
        out[:, 0] = 2 * participation * (1 / stable - shares / float(shares @ shares))
        # Of the directions themselves, and of the largest, to which they are compared.
        out[:, 2] = 1
        out[0, 2] -= stable
        seen = shares > FAINT * stable
        roots = np.sqrt(shares[seen])
        total = float(np.sqrt(shares).sum())
        out[seen, 1] = -effective * (np.log(roots / total) + self._entropy()) / (2 * total * roots)
        out[~seen] = 0
        return out

    def _entropy(self) -> float:
        roots = np.sqrt(self.shares)
        parts = roots[roots > 0] / roots.sum()
        return -float(parts @ np.log(parts))

    def axes(self, mean: Vector, vectors: Vector | None, n: int) -> Axes | None:
        """Axes along which the mean square of the rows is a share; None where there are none."""
        if vectors is None or self.values[0] == 0:
            return None
        columns = vectors[:, ::-1][:, : len(self.values)]
        return Axes(mean, columns * math.sqrt(n / self.values[0]), self.derivatives())


def _spectrum(
    eigen: _Eigenvalues, norms: Vector, isotropy: float, influence: Vector | None, moments: Moments
) -> Spectrum:
    n, d = moments.n, moments.d
    participation, effective, stable = eigen.ranks()
    errors = np.full(len(RANKS), math.nan)
    if influence is not None and n > 2:
        errors = np.std(influence, axis=0, ddof=1) / math.sqrt(n)
    mean_variance = float(eigen.diagonal.mean())
    with np.errstate(over="ignore"):
        eigenvalues = np.ldexp(eigen.values / (n - 1), 2 * eigen.exponent)
    return Spectrum(
        n=n,
        d=d,
        participation_ratio=participation,
        participation_ratio_se=float(errors[0]),
        effective_rank=effective,
        effective_rank_se=float(errors[1]),
        stable_rank=stable,
        stable_rank_se=float(errors[2]),
        isoscore=(participation - 1) / (d - 1) if d > 1 else math.nan,
        isoscore_se=float(errors[0]) / (d - 1) if d > 1 else math.nan,
        largest_variance_ratio=float(eigen.diagonal.max()) / mean_variance if eigen.values[0] > 0 else math.nan,
        partition_isotropy=isotropy,
        mean_cosine=moments.cosine_mean,
        n_dominant=_dominant(moments.cosine_shares, moments.cosine_mean),
        **_norms(norms),
        backend=moments.backend,
        n_dropped=moments.n_dropped,
        eigenvalues=eigenvalues,
        shares=moments.cosine_shares,
    )


def _norms(norms: Vector) -> dict[str, float]:
    """Return what the norms come to; those that float64 cannot say have no spread."""
    least, largest, n = float(norms.min()), float(norms.max()), len(norms)
    if math.isinf(largest):
        mean, std, cv, se = math.inf, math.nan, math.nan, math.nan
    else:
        # About the least, so that equal norms have no spread; over a power of two, so that squares stay in the range.
        exponent = math.frexp(largest)[1]
        apart = np.ldexp(norms - least, -exponent)
        middle, spread = float(apart.mean()), float(apart.std())
        scaled = math.ldexp(least, -exponent) + middle
        cv, se = spread / scaled, math.nan
        if spread > 0 and n > 2:
            away = (apart - middle) / spread
            se = cv * float(np.std(away * away / 2 - cv * away, ddof=1)) / math.sqrt(n)
        mean, std = math.ldexp(scaled, exponent), math.ldexp(spread, exponent)
    return {
        "norm_mean": mean, "norm_std": std, "norm_cv": cv, "norm_cv_se": se, "norm_min": least, "norm_max": largest,
    }  # fmt: skip


def _dominant(shares: Vector, mean: float) -> int:
    if mean <= 0:
        return 0
    return int(np.searchsorted(np.cumsum(np.sort(shares)[::-1]), mean / 2)) + 1
