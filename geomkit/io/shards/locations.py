"""Where shards lie: a local disk, or anything that fsspec reaches. Names, sizes, times and ranges of bytes."""

import glob
import importlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

from geomkit.errors import BackendUnavailableError, GeomkitError, InvalidInputError

__all__ = ["LocalStore", "Place", "RemoteStore", "Stamp", "Store", "children", "natural", "place_of", "reached"]

Stamp = tuple[int, str]
"""Bytes of a file, and what changes when it is written anew: its modification time, or its ETag."""

_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "mtime", "LastModified", "last_modified", "updated",
         "modified", "created")  # fmt: skip
"""How filesystems of fsspec call what tells two versions of a file apart, the surest first."""
_BESIDE = re.compile(r"\..*|.*\.crc|_SUCCESS|_metadata|_common_metadata|_(?:committed|started)_.*")
"""What writers of shards leave beside them: hidden files, checksums, marks of Spark and its kin."""


@contextmanager
def reached(label: str, library: str = "the file system") -> Iterator[None]:
    """Turn whatever goes wrong on the way to a file into an error that names it."""
    try:
        yield
    except GeomkitError:
        raise
    except FileNotFoundError as why:
        msg = f"{label}: there is no such file or folder; it must be one that can be read"
        raise InvalidInputError(msg) from why
    except ImportError as why:
        msg = f"{label} needs a library that cannot be imported ({why}); install it"
        raise BackendUnavailableError(msg) from why
    except Exception as why:
        reason = " ".join(str(getattr(why, "strerror", None) or why).split())[:300] or "it does not say why"
        msg = f"{label}: {library} cannot read it ({type(why).__name__}: {reason})"
        raise InvalidInputError(msg) from why


class Store(ABC):
    """One file system: what there is, how large, how new, and its bytes."""

    local: bool

    @abstractmethod
    def kind(self, path: str) -> str:
        """``"file"``, ``"folder"``, or an empty text where there is nothing."""

    @abstractmethod
    def names(self, path: str) -> list[str]:
        """Paths of what lies in a folder, in any order."""

    @abstractmethod
    def glob(self, pattern: str) -> list[str]:
        """Paths that match, in any order."""

    @abstractmethod
    def stamp(self, path: str) -> Stamp:
        """Size and version of a file now."""

    @abstractmethod
    def stamps(self, path: str) -> dict[str, Stamp]:
        """Sizes and versions of all files below a folder, by their paths within it."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes]:
        """Open a file to read from anywhere."""

    @abstractmethod
    def ranges(self, path: str, ends: Sequence[tuple[int, int]]) -> list[Any]:
        """Bytes start:stop of each range, fewer where the file ends."""

    @abstractmethod
    def resolved(self, path: str) -> str:
        """Return one name for all the ways to write a path."""

    @abstractmethod
    def label(self, path: str) -> str:
        """Return what messages call it."""


class LocalStore(Store):
    """The file system of this machine."""

    local = True

    def kind(self, path: str) -> str:
        """As in `Store`."""
        try:
            mode = Path(path).stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "neither a file nor a folder"

    def names(self, path: str) -> list[str]:
        """As in `Store`."""
        return [str(each) for each in Path(path).iterdir()]

    def glob(self, pattern: str) -> list[str]:
        """As in `Store`."""
        return glob.glob(pattern, recursive=True)  # noqa: PTH207 - a pattern need not be relative to a folder

    def stamp(self, path: str) -> Stamp:
        """As in `Store`."""
        found = os.stat(path)  # noqa: PTH116 - at each read of each shard: a Path costs more than the call
        return found.st_size, str(found.st_mtime_ns)

    def stamps(self, path: str) -> dict[str, Stamp]:
        """As in `Store`."""
        top = Path(path)
        return {each.relative_to(top).as_posix(): self.stamp(str(each)) for each in top.rglob("*") if each.is_file()}

    def open(self, path: str) -> IO[bytes]:
        """As in `Store`."""
        return Path(path).open("rb")

    def ranges(self, path: str, ends: Sequence[tuple[int, int]]) -> list[Any]:
        """As in `Store`."""
        with self.open(path) as file:
            return [_part(file, start, stop) for start, stop in ends]

    def resolved(self, path: str) -> str:
        """As in `Store`."""
        return os.path.realpath(path)

    def label(self, path: str) -> str:
        """As in `Store`."""
        return path


def _part(file: IO[bytes], start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


class RemoteStore(Store):
    """A file system of fsspec.

    Parameters
    ----------
    filesystem : fsspec.AbstractFileSystem
    """

    local = False

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def kind(self, path: str) -> str:
        """As in `Store`."""
        try:
            found = str(self.filesystem.info(path)["type"])
        except FileNotFoundError:
            return ""
        return "folder" if found == "directory" else found

    def names(self, path: str) -> list[str]:
        """As in `Store`."""
        found = [str(each) for each in self.filesystem.ls(path, detail=False)]
        # A bucket may hold an empty object that stands for the folder itself.
        return [each for each in found if each.rstrip("/") != path.rstrip("/")]

    def glob(self, pattern: str) -> list[str]:
        """As in `Store`."""
        return [str(each) for each in self.filesystem.glob(pattern)]

    def stamp(self, path: str) -> Stamp:
        """As in `Store`."""
        self.filesystem.invalidate_cache(path)  # a listing that was kept would hide the change
        return _stamp(self.filesystem.info(path))

    def stamps(self, path: str) -> dict[str, Stamp]:
        """As in `Store`."""
        found = self.filesystem.find(path, detail=True)
        top = len(self.filesystem._strip_protocol(path).rstrip("/")) + 1  # noqa: SLF001 - fsspec has no other way
        return {str(each)[top:]: _stamp(info) for each, info in found.items()}

    def open(self, path: str) -> IO[bytes]:
        """As in `Store`."""
        return cast("IO[bytes]", self.filesystem.open(path, "rb"))

    def ranges(self, path: str, ends: Sequence[tuple[int, int]]) -> list[Any]:
        """As in `Store`."""
        if len(ends) == 1:
            return [self.filesystem.cat_file(path, start=ends[0][0], end=ends[0][1])]
        starts, stops = zip(*ends, strict=True)
        return list(self.filesystem.cat_ranges([path] * len(ends), list(starts), list(stops)))

    def resolved(self, path: str) -> str:
        """As in `Store`."""
        return self.label(path)

    def label(self, path: str) -> str:
        """As in `Store`."""
        return str(self.filesystem.unstrip_protocol(path))


def _stamp(info: Mapping[str, Any]) -> Stamp:
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), "")
    # A time may come as such from one call and as seconds from another.
    return int(info["size"] or 0), str(tag.timestamp() if isinstance(tag, datetime) else tag)


@dataclass(frozen=True)
class Place:
    """A file or folder somewhere."""

    store: Store
    path: str

    @property
    def label(self) -> str:
        """What messages call it."""
        return self.store.label(self.path)

    @property
    def shown(self) -> Path:
        """The label where a path is asked for that is only shown: an address would not survive as one."""
        return cast("Path", self.label)

    @property
    def last(self) -> str:
        """The last part of its path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def suffix(self) -> str:
        """The suffix of its name, in lower case."""
        return os.path.splitext(self.last)[1].lower()  # noqa: PTH122 - an address is no path

    def kind(self) -> str:
        """``"file"``, ``"folder"``, or an empty text where there is nothing."""
        with reached(self.label):
            return self.store.kind(self.path)

    def stamp(self) -> Stamp:
        """Size and version of the file now."""
        with reached(self.label):
            return self.store.stamp(self.path)

    def check(self, stamp: Stamp) -> None:
        """Refuse a file that is not what it was when it was opened.

        Raises
        ------
        InvalidInputError
            It is gone, or its size or time differ.
        """
        if (now := self.stamp()) != stamp:
            has = f"had {stamp[0]:,} bytes, now it has {now[0]:,}" if now[0] != stamp[0] else "was written anew"
            msg = f"{self.label}: it changed since it was opened ({has}); shards must stay as they are while in use"
            raise InvalidInputError(msg)

    def ranges(self, ends: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes start:stop of each range.

        Raises
        ------
        InvalidInputError
            The file ends before, or cannot be read.
        """
        with reached(self.label):
            found = self.store.ranges(self.path, ends)
        for (start, stop), piece in zip(ends, found, strict=True):
            if isinstance(piece, BaseException) or len(piece) != stop - start:
                held = piece if isinstance(piece, BaseException) else f"{len(piece):,} bytes"
                msg = f"{self.label}: bytes {start:,} to {stop:,} should be there, but reading gave {held}"
                raise InvalidInputError(msg)
        return found


def place_of(where: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Place:
    """Return where an address leads.

    Parameters
    ----------
    where : str or path
        A path of this machine, or an address of fsspec: with ``://`` or ``::`` in it.
    options : mapping, optional
        What the file system of fsspec takes, such as credentials.

    Raises
    ------
    InvalidInputError
        The address is of a kind that fsspec does not know, or `options` are given for a local path.
    BackendUnavailableError
        fsspec, or what it needs for such an address, is not installed.
    """
    text = os.fspath(where)
    if not isinstance(text, str) or not text:
        msg = f"where must be addresses as text; got {where!r}"
        raise InvalidInputError(msg)
    if "://" not in text and "::" not in text:
        if options:
            msg = f"storage_options are given ({sorted(options)}), but {text} is a local path, which takes none"
            raise InvalidInputError(msg)
        return Place(LocalStore(), text)
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError as why:
        msg = f"{text} needs fsspec, which cannot be imported ({why}); pip install 'geomkit[scale]'"
        raise BackendUnavailableError(msg) from why
    with reached(text, "fsspec"):
        filesystem, path = fsspec.url_to_fs(text, **(options or {}))
    protocol = filesystem.protocol
    if "file" in (protocol if isinstance(protocol, (tuple, list)) else (protocol,)):
        return Place(LocalStore(), path)
    return Place(RemoteStore(filesystem), path)


def natural(name: str) -> tuple[tuple[tuple[int, int | str], ...], str]:
    """Return a key that sorts names as people count: part-2 before part-10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(each)) if at % 2 else (1, each) for at, each in enumerate(parts)), name


def children(place: Place) -> list[Place]:
    """Return what lies in a folder, in natural order, less what writers leave beside shards."""
    with reached(place.label):
        found = [Place(place.store, path.rstrip("/")) for path in place.store.names(place.path)]
    kept = [each for each in found if not _BESIDE.fullmatch(each.last)]
    return sorted(kept, key=lambda each: natural(each.last))
