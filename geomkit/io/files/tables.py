"""Which columns of a table are the vectors: one decision for CSV, Parquet, Arrow, JSON lines, and shards of them.

A reader describes every column from its type and from enough rows (`Column`), and `choose_columns` decides. What looks
like vectors but is not read, or could be one of several things, is refused: a column that is left over is never taken
for the vectors because the right one was not understood.
"""

import fnmatch
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.io.files.record import Selection
from geomkit.io.files.refusals import pick, refusal, shorten

__all__ = ["SAMPLE_ROWS", "Column", "Decision", "Form", "choose_columns", "describe_numbers"]

SAMPLE_ROWS = 1000
"""Rows that a decision is made from, where there are as many."""
_CHANCE_ROWS = 8
"""From so many rows on, whole numbers do not rise or fall in each row by chance."""
_FEW_ROWS = 3
_ID_NAME = re.compile(
    r"(?:.*[_. -])?(?:id|idx|index|key|pk|uid|uuid|guid|no|nr|num|number|row|rownum|rowid|docid|seq)|unnamed: ?\d+|"
    r".*[a-z](?:Id|ID|Idx)|__index_level_\d+__"
)
_MEMBER = re.compile(r"(.*?)[_.\[ -]?\d+\]?")
"""The name of one column of several that are numbered: its stem."""

Form = Literal["vector", "text", "bytes", "unread", "number", "other"]


@dataclass(frozen=True)
class Column:
    """What is known of one column of a table."""

    name: str
    form: Form
    """`vector` and `text` are vectors as they stand, `bytes` once `dtype` says of what, `unread` looks like vectors."""
    about: str = ""
    """What an unread column is, for messages."""
    hint: str = ""
    """What to do about an unread column, for messages."""
    weak: bool = False
    """Whether an unread column may as well be something else, so that it is no rival of vectors."""
    width: int = 0
    """Numbers of the first vector; 0 where it is not known."""
    whole: bool = False
    """Whether numbers, or those of vectors, are whole ones."""
    is_integer: bool = False
    """Whether whole numbers are what its type holds."""
    counts: bool = False
    """Whether numbers are whole and rise, or fall, from row to row, in more rows than they do by chance."""
    unique: bool = False
    rows: int = 0
    """Rows that the last of these were learned from."""


@dataclass(frozen=True)
class Decision:
    """Which columns are the vectors."""

    columns: list[str]
    is_flat: bool
    """Whether each column is a coordinate; else there is one column of vectors."""
    left_out: list[str]
    note: str


def describe_numbers(name: str, values: NDArray[Any], *, whole: bool | None = None) -> Column:
    """Describe a column of numbers from some of its rows.

    Parameters
    ----------
    name : str
    values : ndarray (m,)
        Without missing ones.
    whole : bool, optional
        Whether they are written as whole numbers, where text says so.
    """
    finite = values[np.isfinite(values)]
    integral = values.dtype.kind in "iu" or bool((finite == np.round(finite)).all())
    steps = np.diff(values.astype(np.float64)) if integral and len(finite) == len(values) >= _FEW_ROWS else np.zeros(1)
    # Few whole numbers rise by chance; one by one they hardly do.
    counts = bool((steps == steps[0]).all() and abs(steps[0]) == 1)
    counts |= len(values) >= _CHANCE_ROWS and bool((steps > 0).all() or (steps < 0).all())
    counts |= not len(finite)  # such a column is no evidence that others are not coordinates
    return Column(
        name,
        "number",
        whole=integral if whole is None else whole and integral,
        is_integer=values.dtype.kind in "iu",
        counts=counts,
        unique=integral and len(np.unique(values)) == len(values),
        rows=len(values),
    )


def choose_columns(
    path: Path,
    columns: Sequence[Column],
    selection: Selection,
    *,
    what: str,
    index: Collection[str] = (),
    flat: bool = True,
    note: str = "column",
) -> Decision:
    """Decide which columns are the vectors.

    Parameters
    ----------
    path : Path
        For messages.
    columns : sequence of Column
        All that the table has, in its order.
    selection : Selection
        What the caller asks for.
    what : str
        What one column of vectors is called, such as "a column of lists of numbers".
    index : collection of str
        Columns of which the file itself says that they number or name the rows.
    flat : bool
        Whether columns of single numbers may together be the vectors.
    note : str
        What a column is called in such a file.

    Raises
    ------
    InvalidInputError
        Nothing, or more than one thing, could be the vectors; or what could be is in a form that is not read.
    """
    names = [column.name for column in columns]
    for name in (selection.key, selection.labels, selection.id):
        if name is not None and names.count(name) > 1:
            raise refusal(path, f"it has {names.count(name)} columns {name!r}; names must be unique")
    excluded = {name for asked in selection.exclude for name in _matching(path, names, asked, "exclude")}
    told = {*(name for name in (selection.labels, selection.id) if name is not None)}
    candidates = [column for column in columns if column.name not in told | excluded]
    if selection.columns:
        if selection.key is not None:
            raise refusal(path, f"key is {selection.key!r} and columns are {list(selection.columns)}; give one of them")
        return _named(path, columns, selection, names, told)
    candidates = [column for column in candidates if column.name not in index]
    vectors = [column for column in candidates if column.form in {"vector", "text", "bytes"}]
    numbers = [column for column in candidates if column.form == "number"]
    if selection.key is None:
        _check_rivals(path, candidates, vectors, numbers if flat else [], names)
    if vectors or selection.key is not None or not numbers or not flat:
        by_name = {column.name: column for column in columns}
        asked = by_name.get(selection.key or "")
        if asked is not None and asked.form == "unread":
            raise refusal(path, f"{note} {asked.name!r} is {asked.about}, which is not read as vectors; {asked.hint}")
        name = pick(path, [column.name for column in vectors], selection.key, what, others=names)
        if names.count(name) > 1:
            raise refusal(path, f"it has {names.count(name)} columns {name!r}; names must be unique")
        taken, text, is_flat = [name], f"{note} {name!r}", False
    else:
        taken, text = _coordinates(path, numbers, candidates)
        is_flat = True
    used = {*taken, *told}
    left = [name for name in names if name not in used]
    return Decision(taken, is_flat, left, text + (f"; left out {shorten(left, 200)}" if left else ""))


def _matching(path: Path, names: list[str], asked: str, by: str) -> list[str]:
    """Return the columns that a name, or a pattern such as ``dim_*``, means."""
    matched = [name for name in names if name == asked] or [name for name in names if fnmatch.fnmatchcase(name, asked)]
    if not matched:
        raise refusal(path, f"it has no column {asked!r}; {by} must name columns among {shorten(names, 300)}")
    return matched


def _named(
    path: Path, columns: Sequence[Column], selection: Selection, names: list[str], told: Collection[str]
) -> Decision:
    """Take the columns that the caller named."""
    taken = list(
        dict.fromkeys(name for asked in selection.columns for name in _matching(path, names, asked, "columns"))
    )
    times = Counter(names)
    if twice := [name for name in taken if times[name] > 1]:
        raise refusal(path, f"its columns {shorten(twice, 200)} are not unique; names must be")
    wanted = set(taken)
    if other := [column.name for column in columns if column.name in wanted and column.form != "number"]:
        msg = (
            f"columns {shorten(other, 200)} do not hold a number a row; columns must name such, and key one of vectors"
        )
        raise refusal(path, msg)
    used = {*taken, *told}
    left = [name for name in names if name not in used]
    text = f"{len(taken)} columns that were named"
    return Decision(taken, True, left, text + (f"; left out {shorten(left, 200)}" if left else ""))


def _check_rivals(
    path: Path, candidates: list[Column], vectors: list[Column], numbers: list[Column], names: list[str]
) -> None:
    """Refuse a table in which something that is not read, or not alone, could be the vectors."""
    for column in candidates:
        if column.form == "unread" and not (column.weak and vectors):
            beside = f", beside {shorten([other for other in names if other != column.name], 200)}"
            raise refusal(path, f"column {column.name!r} is {column.about}, which is not read as it stands{beside}; "
                          f"{column.hint}, or leave it out with exclude={column.name!r}")  # fmt: skip
    if len(vectors) == 1 and vectors[0].width:
        rest = [column for column in numbers if not _is_id(column) and not column.counts]
        if len(rest) > vectors[0].width:
            msg = f"column {vectors[0].name!r} has {vectors[0].width} numbers a row, and {len(rest)} columns one each"
            msg += f", {shorten([column.name for column in rest], 200)}; key must name the one, or columns the others"
            raise refusal(path, msg)


def _is_id(column: Column) -> bool:
    """Whether a column of numbers is called an identifier and may be one."""
    name = column.name.strip()
    named = _ID_NAME.fullmatch(name) or _ID_NAME.fullmatch(name.lower())
    return bool(named) and column.unique


def _coordinates(path: Path, numbers: list[Column], candidates: list[Column]) -> tuple[list[str], str]:
    """Choose among columns of single numbers, and say what was left out because it counts rows."""
    kept = [column for column in numbers if not _is_id(column)]
    if not all(column.counts for column in kept):
        kept = [column for column in kept if not column.counts]
    names = [column.name for column in kept]
    chosen = set(names)
    dropped = [column.name for column in numbers if column.name not in chosen]
    if not kept:
        msg = f"its only columns of numbers, {shorten(dropped, 200)}, look like numbers of rows; columns must name them"
        raise refusal(path, f"{msg} if they are the vectors all the same")
    if len(chosen) < len(names):
        raise refusal(path, f"its numeric columns {shorten(names, 200)} are not unique; names must be")
    hint = "columns must name the coordinates, such as columns='dim_*', or exclude what is none"
    if len(kept) == 1 and len(candidates) > 1:
        beside = shorten([column.name for column in candidates if column is not kept[0]], 200)
        msg = f"its only column of numbers, {names[0]!r}, stands beside {beside}, and is hardly a vector"
        raise refusal(path, f"{msg}; columns must name it if it is")
    ints = [column.name for column in kept if column.whole and (column.is_integer or column.rows >= _FEW_ROWS)]
    if ints and not all(column.whole for column in kept):
        msg = f"its columns {shorten(ints, 200)} hold whole numbers alone, and others do not"
        raise refusal(path, f"{msg}, so that it is not clear which are coordinates; {hint}")
    stems = [matched[1] if (matched := _MEMBER.fullmatch(name)) else None for name in names]
    families = [stem for stem, times in Counter(stems).items() if stem is not None and times > 1]
    if families and (strays := [name for name, stem in zip(names, stems, strict=True) if stem != families[0]]):
        members = shorten([name for name, stem in zip(names, stems, strict=True) if stem == families[0]], 100)
        raise refusal(path, f"its columns {members} are numbered alike, and {shorten(strays, 200)} are not; {hint}")
    text = f"{len(kept)} numeric columns"
    if dropped:
        text += f"; {shorten(dropped, 200)} count or name the rows (columns takes them all the same)"
    return names, text
