"""Refusals that more than one transform needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError

__all__ = ["check_components", "check_orthonormal", "check_ridge"]


def check_components(n_components: Any, least: int, most: int) -> None:
    """Refuse what is neither None nor an integer from `least` to `most`."""
    if n_components is None:
        return
    is_integer = isinstance(n_components, (int, np.integer)) and not isinstance(n_components, bool)
    if not is_integer or not least <= n_components <= most:
        msg = f"n_components must be None or an integer from {least} to {most}; got {n_components!r}"
        raise InvalidInputError(msg)


def check_ridge(ridge: Any) -> None:
    """Refuse what is not a number from 0 to 1e12; more would only shrink all rows."""
    is_number = isinstance(ridge, (int, float, np.integer, np.floating)) and not isinstance(ridge, bool)
    if not is_number or not 0 <= ridge <= 1e12:
        msg = f"ridge must be a number from 0 to 1e12; got {ridge!r}"
        raise InvalidInputError(msg)


def check_orthonormal(components: NDArray[np.float64]) -> None:
    """Refuse rows whose inner products are off from 0 and 1 by more than eigenvectors in float64 can be."""
    k, d = components.shape
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(components @ components.T - np.eye(k)).max(initial=0.0)
    if not off <= 64 * d * 2.0**-52:
        msg = f"components_ must have orthonormal rows; their inner products are off by up to {off:.1e}"
        raise InvalidInputError(msg)
