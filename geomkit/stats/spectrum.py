"""How many directions a space uses: its spectrum, isotropy, the coordinates behind its mean cosine, and its norms."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import logsumexp

from geomkit.arrays import Matrix, as_matrix, check_choice
from geomkit.devices import Device, place
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, module
from geomkit.rows import as_given, block_rows, directed, direction_norms
from geomkit.stats.cosine import check_threads
from geomkit.stats.moments import WIDEST
from geomkit.threads import processors

__all__ = ["Spectrum", "spectrum"]

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of the covariance of the rows, what they come to, and how the rows lie about the origin."""

    n: int
    d: int
    participation_ratio: float
    """(Σλ)² / Σλ², from 1 to min(n - 1, d): directions that share the variance. NaN where all rows are equal."""
    effective_rank: float
    """Exponential of the entropy of the singular values √λ over their sum (Roy & Vetterli 2007), from 1 to
    min(n - 1, d). NaN where all rows are equal."""
    stable_rank: float
    """Σλ / λ_max, from 1 to min(n - 1, d). NaN where all rows are equal."""
    isoscore: float
    """From 0, one direction, to 1, the same variance in all d (Rudman et al. 2022). NaN where all rows are equal, or
    d = 1."""
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
    norm_min: float
    norm_max: float
    backend: str
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``."""
    eigenvalues: Vector = field(repr=False, compare=False)
    """Of the covariance (divided by n - 1), largest first, (min(n, d),), in squared units of the data; 0 where they are
    below max(n, d) 2⁻⁵² of the largest, which is rounding."""
    shares: Vector = field(repr=False, compare=False)
    """Share of each coordinate in the mean cosine, (d,), exact; may be negative (Timkey & van Schijndel 2021)."""

    def to_dict(self) -> dict[str, float | int | str]:
        """Every scalar field by name."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in {"eigenvalues", "shares"}
        }

    def __str__(self) -> str:
        return "\n".join(f"{name:<20} {value}" for name, value in self.to_dict().items())


def spectrum(
    x: Any,
    *,
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> Spectrum:
    """How many directions the rows use, and how evenly.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`; the smaller of n and d at most 8192.
    backend, device, on_invalid, threads
        As for `moments`.

    Returns
    -------
    Spectrum

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.

    Notes
    -----
    O(n d min(n, d)) time in three passes over the rows, and O(min(n, d)³) for the eigenvectors; 16 min(n, d)² bytes and
    a few blocks. Everything is float64.
    """
    check_choice(on_invalid, "on_invalid", ("raise", "drop"))
    check_threads(threads)
    matrix = as_matrix(x)
    matrix, which = place(matrix, backend, device, several=False)
    norms, total = direction_norms(matrix, which, threads or processors())
    kept, had = directed(matrix, norms, on_invalid)
    norms = norms[had]
    if min(kept.n, kept.d) > WIDEST:
        msg = f"{kept.name} has {kept.n} rows and {kept.d} columns; the fewer of them must be at most {WIDEST}"
        raise InvalidInputError(msg)
    rows = _Rows.of(kept, which, norms)
    by_columns = kept.d <= kept.n
    centred = rows.products() if by_columns else rows.gram(centred=True)
    found: Vector = np.asarray(scipy.linalg.eigvalsh(centred), np.float64)[::-1]
    # The entropy would see rounding at its square root.
    found = np.where(found > max(kept.n, kept.d) * 2.0**-52 * found[0], found, 0.0)
    shares = (total**2 - rows.unit_squares) / (kept.n * (kept.n - 1))
    mean = min(float(shares.sum()), 1.0)
    return Spectrum(
        n=kept.n,
        d=kept.d,
        **_ranks(found, kept.d),
        partition_isotropy=_by_columns(rows, centred) if by_columns else _by_rows(rows),
        mean_cosine=mean,
        n_dominant=_dominant(shares, mean),
        norm_mean=float(norms.mean()),
        norm_std=float(norms.std()),
        norm_min=float(norms.min()),
        norm_max=float(norms.max()),
        backend=which.value,
        n_dropped=kept.n_dropped,
        eigenvalues=found / (kept.n - 1) * rows.scale * rows.scale,
        shares=shares,
    )


@dataclass(frozen=True)
class _Rows:
    """Dense blocks of rows in float64, over a power of two that brings the longest to a norm of at most 1."""

    matrix: Matrix
    backend: Backend
    scale: float
    mean: Vector
    """Of the rows over `scale`, (d,)."""
    unit_squares: Vector
    """Sum of the squares of the unit rows, by coordinate, (d,)."""

    @classmethod
    def of(cls, matrix: Matrix, backend: Backend, norms: Vector) -> "_Rows":
        """Read the rows once for their mean."""
        scale = math.ldexp(1.0, min(max(math.frexp(float(norms.max()))[1], -1021), 1023))
        rows = cls(matrix, backend, scale, np.zeros(matrix.d), np.zeros(matrix.d))
        memory = module(backend)
        first = np.asarray(memory.to_numpy(rows.block(0, 1)))[0]
        away, squares = np.zeros(matrix.d), np.zeros(matrix.d)
        for start, stop in matrix.blocks(block_rows(matrix)):
            x = rows.block(start, stop)
            lengths = memory.as_working(norms[start:stop] / scale, "float64", matrix.device)
            # About the first row, so that a far-away origin costs no digits.
            away += np.asarray(memory.to_numpy((x - rows.there(first)).sum(0)))
            squares += np.asarray(memory.to_numpy(((x / lengths[:, None]) ** 2).sum(0)))
        return replace(rows, mean=first + away / matrix.n, unit_squares=squares)

    def there(self, vector: Vector) -> Any:
        """Return a vector in the memory of the backend."""
        return module(self.backend).as_working(vector, "float64", self.matrix.device)

    def block(self, start: int, stop: int) -> Any:
        """Return rows ``start:stop``."""
        given = as_given(self.matrix, self.backend, start, stop)
        return module(self.backend).as_working(given, "float64", self.matrix.device) / self.scale

    def products(self) -> Vector:
        """Sum of the products of the coordinates about the mean, (d, d)."""
        middle, total = self.there(self.mean), 0.0
        for start, stop in self.matrix.blocks(block_rows(self.matrix)):
            y = self.block(start, stop) - middle
            total = total + y.T @ y
        return np.asarray(module(self.backend).to_numpy(total))

    def gram(self, *, centred: bool) -> Vector:
        """All inner products of the rows, about the mean or the origin, (n, n)."""
        memory, middle = module(self.backend), self.there(self.mean if centred else np.zeros(self.matrix.d))
        out, blocks = np.empty((self.matrix.n, self.matrix.n)), list(self.matrix.blocks(block_rows(self.matrix)))
        for at, (start, stop) in enumerate(blocks):
            y = self.block(start, stop) - middle
            for first, last in blocks[at:]:
                out[start:stop, first:last] = memory.to_numpy(y @ (self.block(first, last) - middle).T)
                out[first:last, start:stop] = out[start:stop, first:last].T
        return out


def _ranks(eigenvalues: Vector, d: int) -> dict[str, float]:
    """Return what the eigenvalues of the covariance come to, whatever their unit."""
    names = ("participation_ratio", "effective_rank", "stable_rank", "isoscore")
    largest = float(eigenvalues[0])
    if largest == 0:
        return dict.fromkeys(names, math.nan)
    shares = eigenvalues / largest
    total, square = float(shares.sum()), float(np.square(shares).sum())
    roots = np.sqrt(shares)
    parts = roots[roots > 0] / roots.sum()
    values = (total**2 / square, math.exp(-float((parts * np.log(parts)).sum())), total, _isoscore(total, square, d))
    return dict(zip(names, values, strict=True))


def _isoscore(total: float, square: float, d: int) -> float:
    """Return the IsoScore of variances with this sum and sum of squares, of which d - len may be 0."""
    if d == 1:
        return math.nan
    # |√d λ/|λ| - 1|² = 2 d - 2 √d Σλ/|λ|.
    defect = (2 * d - 2 * math.sqrt(d) * total / math.sqrt(square)) / (2 * (d - math.sqrt(d)))
    occupied = (d - defect * (d - math.sqrt(d))) ** 2 / d**2
    return (d * occupied - 1) / (d - 1)


def _by_columns(rows: _Rows, centred: Vector) -> float:
    """Partition isotropy from the products of the coordinates, in one more pass over the rows."""
    n, memory = rows.matrix.n, module(rows.backend)
    _, directions = scipy.linalg.eigh(centred + n * np.outer(rows.mean, rows.mean))
    there = rows.there(np.ascontiguousarray(directions))
    logs = np.full((2, rows.matrix.d), -np.inf)
    for start, stop in rows.matrix.blocks(block_rows(rows.matrix)):
        onto = np.asarray(memory.to_numpy(rows.block(start, stop) @ there)) * rows.scale
        for sign, each in zip((1, -1), logs, strict=True):
            np.logaddexp(each, logsumexp(sign * onto, axis=0), out=each)
    return _least_over_most(logs)


def _by_rows(rows: _Rows) -> float:
    """Partition isotropy from the products of the rows: XV = UΣ, and all other directions see rows at 0."""
    squares, left = scipy.linalg.eigh(rows.gram(centred=False))
    onto = left * np.sqrt(np.maximum(squares, 0.0)) * rows.scale
    logs = np.stack([logsumexp(sign * onto, axis=0) for sign in (1, -1)])
    return _least_over_most(np.append(logs, math.log(rows.matrix.n)))


def _least_over_most(logs: Vector) -> float:
    return math.exp(float(logs.min()) - float(logs.max()))


def _dominant(shares: Vector, mean: float) -> int:
    if mean <= 0:
        return 0
    return int(np.searchsorted(np.cumsum(np.sort(shares)[::-1]), mean / 2)) + 1
