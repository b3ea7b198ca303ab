"""Who measures rows that lie elsewhere: several processes, or one that writes down how far it has come.

A measurement asks three things of a crew: to look at every block of rows, to sum up all rows, and to feed every pair
to reducers. Everything else it does itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geomkit.kernels import Backend

__all__ = ["Crew", "Guided", "Portable"]


class Portable(Protocol):
    """A reducer that can be made elsewhere, and whose state can travel and be written down."""

    def recipe(self) -> Callable[[int], "Portable"]:
        """Return what makes an empty one for any number of rows; it can be pickled."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Return everything that was seen, as arrays."""

    def absorb(self, state: dict[str, NDArray[Any]], spans: Sequence[tuple[int, int]]) -> None:
        """Take in a state, whose rows are those of these spans, one after the other."""


@runtime_checkable
class Guided(Portable, Protocol):
    """One whose work elsewhere is less for knowing what was found so far."""

    def guide(self, spans: Sequence[tuple[int, int]]) -> dict[str, NDArray[Any]]:
        """Return what to know of the rows of these spans, one after the other."""

    def follow(self, guide: dict[str, NDArray[Any]]) -> None:
        """Know it from now on; asked of one that has seen nothing yet."""


class Crew(Protocol):
    """Works on the rows of one matrix; what it is given must survive pickling."""

    def each_block(
        self, blocks: Sequence[tuple[int, int]], work: Callable[..., Any], by_row: Sequence[Any]
    ) -> list[Any]:
        """Call ``work(start, stop, *parts)`` for each block, with its part of each array, and return all in order."""

    def gather(
        self, matrix: Any, backend: Backend, *, drop: bool, directed: bool
    ) -> tuple[Any, list[int], list[int], NDArray[np.float64]]:
        """Pour all valid rows into a pair of scatters.

        Returns
        -------
        pair : Pair
        infinite, zero : list of int
            Numbers of rows that cannot be measured.
        norms : (n,)
        """

    def sweep(self, tiles: Any, reducers: Sequence[Any], size: int) -> None:
        """Feed every tile at or above the diagonal to every reducer."""
