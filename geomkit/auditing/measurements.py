"""What an audit measures: every statistic, read off one sweep over the pairs and two passes over the rows."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.auditing.passes import Options, Passes, pass_over
from geomkit.auditing.readings import READINGS, Value
from geomkit.errors import GeomkitError
from geomkit.stats.cosine import CosineStats
from geomkit.stats.hubness import Hubness
from geomkit.stats.neighbors import Neighbors

__all__ = ["Measurements", "measure"]


@dataclass(frozen=True)
class Measurements:
    """All values, and what they were read from."""

    values: dict[str, Value]
    n: int
    d: int
    n_dropped: int
    backend: str
    precision: str
    matmul: str
    rows: NDArray[np.int64] = field(repr=False)
    """Row numbers of the input that were measured, (n,)."""
    neighbors: Neighbors = field(repr=False)
    hubness: Hubness = field(repr=False)
    cosines: CosineStats | None = field(repr=False)
    """Of all pairs; None where the metric is another."""


def measure(x: Any, options: Options, on_invalid: str = "raise") -> Measurements:
    """Measure every statistic that is read from the rows alone.

    Raises
    ------
    InvalidInputError
        The rows cannot be measured at all. A statistic that they do not have is NaN and says why.
    """
    found = pass_over(x, options, on_invalid)
    values: dict[str, Value] = {}
    for names, read_off in READINGS.items():
        values |= _read(names, read_off, found)
    neighbors = found.neighbors
    return Measurements(
        values=values,
        n=neighbors.n,
        d=neighbors.d,
        n_dropped=neighbors.n_dropped,
        backend=neighbors.backend,
        precision=neighbors.precision,
        matmul=neighbors.matmul,
        rows=neighbors.rows,
        neighbors=neighbors,
        hubness=found.hubness,
        cosines=found.cosines,
    )


def _read(names: tuple[str, ...], read_off: Callable[[Passes], Iterable[Value]], found: Passes) -> dict[str, Value]:
    """Read some statistics; what cannot be had is NaN with the reason, and the rest goes on."""
    try:
        values = list(read_off(found))
    except (GeomkitError, ArithmeticError) as why:
        return dict.fromkeys(names, Value(math.nan, note=str(why)))
    return {
        name: each._replace(note=each.note or "not defined for these rows") if math.isnan(each.value) else each
        for name, each in zip(names, values, strict=True)
    }
