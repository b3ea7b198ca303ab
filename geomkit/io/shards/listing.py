"""Which shards an address, a folder, a glob or a list stands for, and whether they go together."""

import importlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from geomkit.errors import InvalidInputError
from geomkit.io.files.columnar import Choice
from geomkit.io.files.record import Selection
from geomkit.io.files.refusals import shorten
from geomkit.io.shards.locations import Place, children, natural, place_of, reached
from geomkit.io.shards.numpy_ import array_part
from geomkit.io.shards.shard import UNKNOWN, Part, check_unnamed

__all__ = ["SUFFIXES", "check_together", "parts_of"]

_READERS = {
    ".npy": "geomkit.io.shards.numpy_:open_npy",
    ".parquet": "geomkit.io.shards.parquet:open_parquet",
    ".pq": "geomkit.io.shards.parquet:open_parquet",
    ".arrow": "geomkit.io.shards.arrow:open_arrow",
    ".feather": "geomkit.io.shards.arrow:open_arrow",
    ".ipc": "geomkit.io.shards.arrow:open_arrow",
    ".zarr": "geomkit.io.shards.zarr_:open_zarr",
    ".csv": "geomkit.io.shards.text:open_text",
    ".tsv": "geomkit.io.shards.text:open_text",
    ".jsonl": "geomkit.io.shards.text:open_text",
    ".ndjson": "geomkit.io.shards.text:open_text",
}
SUFFIXES = ", ".join(_READERS)
"""What the names of shards may end in."""
_PARTITION = re.compile(r"[^=/]+=[^=/]*")
_ZARR_MARKS = {"zarr.json", ".zarray", ".zgroup"}
_AT_ONCE = 16
"""Remote shards whose headers are read at once."""


def parts_of(where: Any, selection: Selection, options: Mapping[str, Any] | None, unit: int) -> list[Part]:
    """Open the headers of all shards that `where` stands for, as in `open_shards`.

    Parameters
    ----------
    where, options
        As `where` and `storage_options` of `open_shards`; no iterator.
    selection : Selection
    unit : int
        Bytes to read or decode at a time.
    """
    given: object = options
    if not isinstance(given, Mapping | None):
        msg = f"storage_options must be a mapping, as fsspec takes it, or None; got {options!r}"
        raise InvalidInputError(msg)
    items = list(where) if isinstance(where, (list, tuple)) else [where]
    if not items:
        msg = "where is an empty list; it must name at least 1 shard"
        raise InvalidInputError(msg)
    found: list[Part | tuple[Place, str]] = []
    for number, item in enumerate(items):
        if isinstance(item, (str, os.PathLike)):
            found += _readers(place_of(item, options))
        elif isinstance(item, np.ndarray):
            name = f"array {number}" if len(items) > 1 else "the array"
            check_unnamed(name, selection, "arrays have")
            found.append(array_part(item, name))
        else:
            raise _not_a_shard(item, number, alone=item is where)
    if options and not any(isinstance(item, (str, os.PathLike)) for item in items):
        msg = f"storage_options are given ({sorted(options)}), but where has no address; they must be None"
        raise InvalidInputError(msg)
    parts = _open_all(found, selection, unit)
    _check_once(parts)
    return parts


def _open_all(listed: list[Part | tuple[Place, str]], selection: Selection, unit: int) -> list[Part]:
    """Open all shards; the first with rows decides which columns of those like it are the vectors."""
    parts: dict[int, Part] = {}
    like: Choice | None = None
    for number, item in enumerate(listed):
        parts[number] = part = _open(item, selection, unit, None)
        like = getattr(part, "choice", None)
        if part.rows or like is None:
            break
    rest = {number: item for number, item in enumerate(listed) if number not in parts or not parts[number].rows}
    open_one = partial(_open, selection=selection, unit=unit, like=like)
    if any(not isinstance(item, Part) and not item[0].store.local for item in rest.values()):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts |= zip(rest, pool.map(open_one, rest.values()), strict=True)
    else:
        parts |= {number: open_one(item) for number, item in rest.items()}
    _check_choices([parts[number] for number in range(len(listed))])
    return [parts[number] for number in range(len(listed))]


def _check_choices(parts: Sequence[Part]) -> None:
    """Refuse tables of which different columns would be taken."""
    choices = [(part, part.choice) for part in parts if hasattr(part, "choice")]
    for part, choice in choices[1:]:
        first = choices[0]
        if part.d == first[0].d and (choice.vectors, choice.path) != (first[1].vectors, first[1].path):
            taken = f"its vectors are in {shorten(choice.vectors, 200)}, those of {first[0].label} in"
            msg = f"{part.label}: {taken} {shorten(first[1].vectors, 200)}; key or columns must say which"
            raise InvalidInputError(msg)


def _not_a_shard(item: Any, number: int, *, alone: bool) -> InvalidInputError:
    what = "where" if alone else f"item {number} of where"
    kind = type(item).__name__
    if type(item).__module__.split(".")[0] == "scipy":
        return InvalidInputError(f"{what} is sparse ({kind}), which shards cannot be; pass the matrix as it is")
    if alone and hasattr(item, "__iter__") and not hasattr(item, "__array__"):
        msg = f"{what} is {kind}, which can be drawn from again and again; pass iter(x), which is drawn once"
        return InvalidInputError(msg)
    return InvalidInputError(f"{what} is {kind}; it must be an address, a NumPy array, or a list of these")


def _readers(place: Place) -> list[Part | tuple[Place, str]]:
    """Return the shards at one address, each with its reader."""
    text, kind = place.path, place.kind()
    if kind == "" and any(mark in text for mark in "*?["):
        with reached(place.label):
            matched = [Place(place.store, path) for path in place.store.glob(text)]
        if not matched:
            msg = f"{place.label}: nothing matches; it must match at least 1 shard"
            raise InvalidInputError(msg)
        return [_reader(each) for each in sorted(matched, key=lambda each: natural(each.path))]
    if kind == "":
        msg = f"{place.label}: there is no such file or folder; it must be a shard, a folder of shards or a glob"
        raise InvalidInputError(msg)
    if kind != "folder" or place.suffix == ".zarr":
        return [_reader(place)]
    with reached(place.label):
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in place.store.names(place.path)}
    if names & _ZARR_MARKS:
        return [(place, _READERS[".zarr"])]
    inside = [_reader(shard) for shard in _shards_in(place)]
    if not inside:
        msg = f"{place.label}: the folder has no shards; it must have at least 1 file that ends in {SUFFIXES}"
        raise InvalidInputError(msg)
    first, reader = inside[0]
    for each, its in inside:
        if its != reader:
            msg = f"{place.label}: {first.last} and {each.last} are of two formats; a folder's shards must be of one"
            raise InvalidInputError(msg)
    return list(inside)


def _shards_in(folder: Place) -> Iterator[Place]:
    """Give what lies in a folder, and in folders of partitions such as ``lang=en``, as Spark and Hive write them."""
    for place in children(folder):
        if _PARTITION.fullmatch(place.last) and place.kind() == "folder":
            yield from _shards_in(place)
        else:
            yield place


def _reader(place: Place) -> tuple[Place, str]:
    kind = place.kind()
    if kind == "":
        msg = f"{place.label}: there is no such file; it must be a shard that can be read"
        raise InvalidInputError(msg)
    if place.suffix not in _READERS or kind != ("folder" if place.suffix == ".zarr" else "file"):
        what = "a folder" if kind == "folder" else "a file" if kind == "file" else kind
        msg = f"{place.label}: it is {what}, not a shard; a shard is a file that ends in {SUFFIXES} (zarr: a folder)"
        if kind == "folder":
            msg += f". Files in folders within a folder are named by a glob, such as {place.label}/*.parquet"
        raise InvalidInputError(msg)
    return place, _READERS[place.suffix]


def _open(item: Part | tuple[Place, str], selection: Selection, unit: int, like: Choice | None) -> Part:
    if isinstance(item, Part):
        return item
    place, reader = item
    module, function = reader.split(":")
    opened: Part = getattr(importlib.import_module(module), function)(place, selection, unit, like)
    return opened


def _check_once(parts: Sequence[Part]) -> None:
    """Refuse a shard that comes twice."""
    seen: dict[str, int] = {}
    for number, part in enumerate(parts):
        if part.resolved in seen:
            twice = f"as shards {seen[part.resolved]} and {number}"
            msg = f"{part.label}: it is given twice, {twice}; each must be given once"
            raise InvalidInputError(msg)
        seen[part.resolved] = number


def check_together(parts: Sequence[Part], max_memory: int | None) -> None:
    """Refuse shards that do not make one matrix, or whose pieces do not fit into memory.

    Raises
    ------
    InvalidInputError
        Another width or dtype than the first, no rows at all, or a piece that cannot be divided is beyond `max_memory`.
    """
    first = next((part for part in parts if part.d), parts[0])
    for part in parts:
        if part.d not in {first.d, UNKNOWN}:
            msg = f"{part.label}: it has {part.d} columns, {first.label} has {first.d}; all shards must have as many"
            raise InvalidInputError(msg)
        if part.dtype.name != first.dtype.name:
            msg = f"{part.label}: it holds {part.dtype}, {first.label} holds {first.dtype}; all must hold the same"
            raise InvalidInputError(msg)
    if not any(part.rows for part in parts):
        msg = f"{first.label}: the shards have no rows; all together must have at least 1"
        raise InvalidInputError(msg)
    for part in parts:
        if max_memory is not None and part.piece_bytes > max_memory:
            msg = (
                f"{part.label}: {part.piece_bytes:,} bytes of it can only be decoded at once, and max_memory is "
                f"{max_memory:,}; raise it, or write the shard in smaller chunks or batches"
            )
            raise InvalidInputError(msg)
