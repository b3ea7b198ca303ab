"""Shards of text, CSV and JSON lines: a file is one piece, parsed as `geomkit.io.read` parses it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError
from geomkit.io.files import Opened, read
from geomkit.io.files.columnar import Choice
from geomkit.io.files.record import Selection
from geomkit.io.shards.locations import Place
from geomkit.io.shards.shard import Kept, Part

__all__ = ["open_text"]


@dataclass(kw_only=True)
class _Text(Part):
    place: Place
    choice: Choice
    selection: Selection

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:  # noqa: ARG002 - every shard takes it
        """As in `Part`: the whole file."""
        found: NDArray[Any] = _parsed(self.place, self.selection).vectors
        self.check()
        return found


def _parsed(place: Place, selection: Selection) -> Opened:
    return read(place.path, **asdict(selection))


def open_text(place: Place, selection: Selection, unit: int, like: Choice | None) -> Part:  # noqa: ARG001
    """Parse a file of text for its columns and the number of its rows, which nothing else in it says.

    Parameters
    ----------
    place : Place
        Here: what lies elsewhere is refused.
    selection : Selection
        Which columns are the vectors.
    unit : int
        Not used: a file is one piece.
    like : Choice or None
        Not used: each file is chosen from anew, and must come to the same as the first.
    """
    if not place.store.local:
        msg = f"{place.label}: text is read from local files alone; copy it here, or write it as Parquet there"
        raise InvalidInputError(msg)
    stamp = place.stamp()
    opened = _parsed(place, selection)
    rows, d = opened.vectors.shape
    return _Text(
        label=place.label,
        last=place.last,
        resolved=place.store.resolved(place.path),
        rows=rows,
        d=d,
        dtype=opened.vectors.dtype,
        bytes=stamp[0],
        bounds=np.array([0, rows]),
        mapped=False,
        place=place,
        stamp=stamp,
        choice=Choice(
            list(opened.columns), False, opened.vectors.dtype, None, opened.note, left_out=list(opened.left_out)
        ),
        selection=selection,
    )
