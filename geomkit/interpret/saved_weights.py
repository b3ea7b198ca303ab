"""Trained weights in safetensors files: complete or not there, and refused where they are not what they say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from geomkit._version import __version__
from geomkit.core.atomic import written
from geomkit.core.optional import require
from geomkit.errors import InvalidInputError, SourceUnavailableError

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(
    path: Path, kind: str, version: str, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Write tensors and what they are of, under a temporary name beside the final one, and rename the complete file.

    Parameters
    ----------
    path : Path
    kind, version : str
        What the file is and the format that it is in; `read_checkpoint` refuses others.
    facts : mapping
        As JSON can hold it: model, layers, settings.
    tensors : mapping of str to array

    Raises
    ------
    SourceUnavailableError
        The disk is full, or the folder cannot be written; what was at `path` is still there.
    """
    torch, files = require("torch"), require("safetensors.numpy")
    metadata = {
        "kind": kind,
        "format": version,
        "facts": json.dumps(dict(facts), allow_nan=False, sort_keys=True),
        "versions": json.dumps({"geomkit": __version__, "numpy": np.__version__, "torch": str(torch.__version__)}),
    }
    data = files.save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, metadata)
    with written(path, SourceUnavailableError) as part:
        part.write_bytes(data)


def read_checkpoint(path: Path, kind: str, version: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_checkpoint` wrote: the facts, and the tensors.

    Raises
    ------
    InvalidInputError
        There is no such file, it is not whole, of another kind or format, or a number in it is not finite.
    """
    library = require("safetensors")
    if not path.is_file():
        _refuse(path, "is not a file")
    try:
        with library.safe_open(path, framework="np") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("kind") != kind:
                _refuse(path, f"is of kind {metadata.get('kind')!r}, not {kind!r}")
            if metadata.get("format") != version:
                _refuse(path, f"has format {metadata.get('format')!r}; this version of geomkit reads {version!r}")
            facts = json.loads(metadata.get("facts", ""))
            tensors = {name: np.array(stored.get_tensor(name)) for name in stored.keys()}  # noqa: SIM118
    except (library.SafetensorError, OSError, ValueError) as why:
        if isinstance(why, InvalidInputError):
            raise
        _refuse(path, f"cannot be read: {why}", why)
    if not isinstance(facts, dict):
        _refuse(path, "does not say what it is of")
    for name, value in tensors.items():
        if not np.isfinite(value).all():
            _refuse(path, f"has NaN or infinity in {name}")
    return facts, tensors


def _refuse(path: Path, what: str, why: Exception | None = None) -> NoReturn:
    msg = " ".join(f"{path} {what}".split())
    raise InvalidInputError(msg) from why
