"""Random vectors: the null hypothesis in the flesh."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomkit.core.validation import check_whole
from geomkit.datasets.record import GRID, RowNumbers, Source, Vectors
from geomkit.errors import InvalidInputError

_Draw = Callable[[np.random.Generator, int, int], NDArray[np.float32]]
_LICENCE = "none needed: computed"


def gaussian(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    """Draw rows of independent standard normal coordinates.

    Parameters
    ----------
    rng : numpy.random.Generator
    n, dim : int
        Rows and columns, at least 1.

    Returns
    -------
    (n, dim) float32
        Cosines between rows have mean 0 and variance 1/dim, as on the sphere.
    """
    return rng.standard_normal((n, dim), dtype=np.float32)


def sphere(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    """Draw rows uniformly from the unit sphere, by normalising Gaussian rows (Muller, 1959).

    Parameters
    ----------
    rng : numpy.random.Generator
    n, dim : int
        Rows and columns, at least 1.

    Returns
    -------
    (n, dim) float32
        Norms are 1 within float32 rounding; cosines have mean 0 and variance 1/dim.
    """
    x = gaussian(rng, n, dim)
    # float64 norms: in float32 the sum of dim squares would itself be off by more than the rounding of the quotient.
    x /= np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))[:, np.newaxis].astype(np.float32)
    return x


def cube(rng: np.random.Generator, n: int, dim: int) -> NDArray[np.float32]:
    """Draw rows uniformly from the cube [0, 1]^dim, the setting of Beyer et al. (1999).

    Parameters
    ----------
    rng : numpy.random.Generator
    n, dim : int
        Rows and columns, at least 1.

    Returns
    -------
    (n, dim) float32
        Coordinates in [0, 1); cosines gather at 3/4 and squared distances at dim/6.
    """
    return rng.random((n, dim), dtype=np.float32)


_KINDS: tuple[tuple[str, _Draw, str, str], ...] = (
    ("sphere", sphere, "uniform on the unit sphere: normalised Gaussian rows", "Uniform on the unit sphere in {} d."),
    ("gaussian", gaussian, "independent standard normal coordinates", "Independent standard normal in {} d."),
    ("cube", cube, "independent uniform coordinates in [0, 1)", "Uniform in the unit cube in {} d."),
)


def _load(what: str, draw: _Draw, origin: str, dim: int, n: int | None, seed: int) -> Vectors:
    name = f"{what}-{dim}"
    if n is None:
        msg = f"{name} is random and has as many rows as you ask for: give n, such as n=2000"
        raise InvalidInputError(msg)
    count = check_whole(n, f"n for {name}", 1)
    return Vectors(
        vectors=draw(np.random.default_rng(seed), count, dim),
        labels=RowNumbers(count),
        categories=None,
        name=name,
        family="random",
        dim=dim,
        origin=origin,
        licence=_LICENCE,
        seed=seed,
        note=f"drawn with seed {seed}",
    )


SOURCES: tuple[Source, ...] = tuple(
    Source(
        name=f"{what}-{dim}",
        family="random",
        dim=dim,
        licence=_LICENCE,
        origin=origin,
        about=about.format(dim),
        packages=(),
        optional=False,
        load=partial(_load, what, draw, origin, dim),
    )
    for what, draw, origin, about in _KINDS
    for dim in GRID
)
