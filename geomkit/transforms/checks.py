"""Refusals that more than one transform needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError

__all__ = ["check_components", "check_orthonormal"]


def check_components(n_components: Any, least: int, most: int) -> None:
    """Refuse what is neither None nor an integer from `least` to `most`."""
    if n_components is not None:
        check_whole(n_components, "n_components", least, most, suffix=", or None")


def check_orthonormal(components: NDArray[np.float64]) -> None:
    """Refuse rows whose inner products are off from 0 and 1 by more than eigenvectors in float64 can be."""
    k, d = components.shape
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(components @ components.T - np.eye(k)).max(initial=0.0)
    if not off <= 64 * d * 2.0**-52:
        msg = f"components_ must have orthonormal rows; their inner products are off by up to {off:.1e}"
        raise InvalidInputError(msg)
