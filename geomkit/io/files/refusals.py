"""How files are refused: one line that says which file, what it has and what it must have."""

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geomkit.errors import BackendUnavailableError, GeomkitError, InvalidInputError

__all__ = ["EXPANSION", "FREE", "allowed", "check_claim", "library_errors", "pick", "refusal", "require", "shorten"]

FREE = 64 * 2**20
"""Bytes that the content of a file may come to, however small the file is."""
EXPANSION = 200
"""How many times its size in the file compressed content may come to, beyond `FREE`."""


def refusal(path: Path, has: str) -> InvalidInputError:
    """Return the error to raise: the file, and what it has and must have, in one line."""
    return InvalidInputError(f"{path}: {' '.join(has.split())}")


def shorten(value: object, length: int = 60) -> str:
    """Show a value from a file, cut where it is long."""
    text = repr(value)
    return text if len(text) <= length else f"{text[:length]}..."


def allowed(stored: int) -> int:
    """How many bytes may come of `stored` bytes of compressed content."""
    return max(FREE, EXPANSION * stored)


def check_claim(path: Path, what: str, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """Refuse a shape that does not fit what is stored, before anything of that size is allocated.

    Parameters
    ----------
    path : Path
    what : str
        What has that shape, for the message.
    shape : sequence of int
    itemsize, stored : int
        Bytes of a number, and of the content in the file, which may be compressed.

    Raises
    ------
    InvalidInputError
        More than `allowed` would come of it.
    """
    claimed = math.prod(shape) * itemsize
    if claimed > allowed(stored):
        msg = (
            f"{what} has shape {tuple(shape)}, {claimed:,} bytes, of {stored:,} bytes in the file; it may be at most "
            f"{EXPANSION} times that, or {FREE:,} bytes. Store larger ones without compression, as .npy"
        )
        raise refusal(path, msg)


def pick(
    path: Path,
    candidates: Sequence[str],
    key: str | None,
    what: str,
    *,
    others: Sequence[str] | Mapping[str, str] = (),
    by: str = "key",
) -> str:
    """Return the one candidate, or the one that `key` names.

    Parameters
    ----------
    path : Path
    candidates : sequence of str
        What could be the vectors.
    key : str or None
    what : str
        What candidates are, such as "a two-dimensional array of numbers".
    others : sequence or mapping of str
        All that is there, and what each is, such as "float32 (7, 5)".
    by : str
        The argument that names one.

    Raises
    ------
    InvalidInputError
        None, several without a key, or none that the key names.
    """
    kinds = others if isinstance(others, Mapping) else {}
    if key is not None:
        if key not in candidates:
            there = f"{key!r} is not {what}" if key in others else f"it has no {key!r}"
            there += f", but {kinds[key]}" if key in kinds else ""
            raise refusal(path, f"{there}; {by} must name {what}: {shorten(list(candidates), 300)}")
        return key
    if not candidates:
        beside = f"; it has {shorten(list(others), 300)}" if others else ""
        beside += f" ({', '.join(f'{name}: {kind}' for name, kind in kinds.items())[:300]})" if kinds else ""
        raise refusal(path, f"nothing in it is {what}{beside}")
    if len(candidates) > 1:
        msg = f"{len(candidates)} things in it are {what}; {by} must be one of {shorten(list(candidates), 300)}"
        raise refusal(path, msg)
    return candidates[0]


@contextmanager
def library_errors(path: Path, library: str) -> Iterator[None]:
    """Turn whatever a library raises about a file into an `InvalidInputError` with the library's reason."""
    try:
        yield
    except GeomkitError:
        raise
    except Exception as why:
        # Damaged files reach corners of these libraries where they raise anything at all.
        reason = str(why)[:300] or "it does not say why"
        raise refusal(path, f"{library} cannot read it ({type(why).__name__}: {reason})") from why


def require(module: str, path: Path, extra: str = "files") -> Any:
    """Import a library of an extra.

    Raises
    ------
    BackendUnavailableError
        It is not installed, or does not load; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as why:
        msg = f"{path} needs {module}, which cannot be imported ({why}); pip install 'geomkit[{extra}]'"
        raise BackendUnavailableError(msg) from why
