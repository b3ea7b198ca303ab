"""The records of this room: `Format` says what a file is, `Selection` what to read, `Opened` what was in it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Format", "Opened", "Selection"]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller asks of a file, in the words of `read`; nothing unless given."""

    key: str | None = None
    labels: str | None = None
    columns: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    id: str | None = None
    dtype: str | None = None
    encoding: str | None = None
    bits: bool = False
    queries: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """What a file held. Values are not checked: NaN and infinities are as they were written."""

    vectors: Any = field(repr=False)
    """(n, d), n and d at least 1: ndarray, memory map, SciPy CSR array, or for bfloat16 a torch tensor."""
    labels: tuple[str, ...] | None = field(repr=False)
    """One a row, where labels were asked for."""
    names: tuple[str, ...] | None = field(repr=False)
    """What rows are called where the format says so, such as words; they need not be unique."""
    format: str
    """The name of the format in `FORMATS`."""
    note: str
    """What was chosen and what was left out, such as ``dataset 'train'``; empty where there was nothing to choose."""
    columns: Sequence[str] = field(default=(), repr=False)
    """The columns of a table that are the vectors, where they have names."""
    left_out: Sequence[str] = field(default=(), repr=False)
    """The columns of a table that were neither vectors nor asked for."""

    @property
    def read(self) -> dict[str, Any]:
        """What was taken for the vectors and what was left out, as ``--json`` prints it."""
        return {"note": self.note, "columns": list(self.columns), "left_out": list(self.left_out)}


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file, and where the function is that reads it."""

    name: str
    suffixes: tuple[str, ...]
    """In lower case. Two formats may share one where the magic of the first tells them apart."""
    about: str
    """What such a file holds and how it is read, in one sentence."""
    target: str
    """"module:function", imported when such a file is read; called with the path and a `Selection`."""
    magic: re.Pattern[bytes] | None = None
    """Matches the first bytes of such a file; None where nothing marks them."""
    library: str | None = None
    """What has to be installed beside geomkit: torch with ``geomkit[torch]``, others with ``geomkit[files]``."""
    key: str = ""
    """What `key` names; empty where there is nothing to choose."""
    labels: str = ""
    """What `labels` and `id` name; empty where such files have no labels."""
    options: tuple[str, ...] = ()
    """What else of a `Selection` it takes."""
    gzip: bool = False
    """Whether it may be compressed, with .gz after the suffix."""
