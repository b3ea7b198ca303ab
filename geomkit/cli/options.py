"""Options that commands share, and how they read INPUT and print results."""

import atexit
import functools
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomkit.core.result import json_safe
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from geomkit.datasets import Vectors
    from geomkit.io.files import Opened

Input = Annotated[
    str, typer.Argument(help="A file of vectors, - for standard input, or the name of a source.", metavar="INPUT")
]
Rows = Annotated[int | None, typer.Option("--n", help="Rows of a source; random sources need it.", metavar="N")]
Seed = Annotated[int, typer.Option(help="Draws a random source, or the rows of a sample.")]
BackendName = Annotated[str, typer.Option(help="auto, cpu, torch, triton or reference.")]
DeviceName = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:1; several, with commas, share the tiles.", metavar="NAME")
]
Precision = Annotated[
    str, typer.Option(help="bfloat16, float32 or float64 (concentration: no bfloat16); triton: float16, tf32.")
]
OnInvalid = Annotated[str, typer.Option(help="raise, or drop rows that are not finite or have no direction.")]
Threads = Annotated[int | None, typer.Option(help="Worker threads of the cpu backend.", metavar="N")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NO_PARTS: Mapping[str, Any] = MappingProxyType({})


_PARTS: dict[str, tuple[Any, Any]] = {
    "key": (
        Annotated[str | None, typer.Option(help="Which array, column or data set holds the vectors.", metavar="NAME")],
        None,
    ),
    "columns": (
        Annotated[
            str | None,
            typer.Option(
                help="Which columns of numbers are the coordinates: dim_*, or names with commas.", metavar="NAMES"
            ),
        ],
        None,
    ),
    "exclude": (
        Annotated[str | None, typer.Option(help="Which columns are no vectors, with commas.", metavar="NAMES")],
        None,
    ),
    "id": (Annotated[str | None, typer.Option(help="Which column names the rows.", metavar="COLUMN")], None),
    "dtype": (Annotated[str | None, typer.Option(help="What columns of bytes hold: float32, …", metavar="NAME")], None),
    "encoding": (
        Annotated[str | None, typer.Option(help="Of text that is not UTF-8, such as latin-1.", metavar="NAME")],
        None,
    ),
    "bits": (Annotated[bool, typer.Option("--bits", help="Values are bits: booleans, or eight a byte.")], False),
}
"""Options that say which part of a file is read, and how."""


def takes_parts(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_PARTS`; it gets them as one argument, `parts`, as keywords of `files.read`."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def with_parts(**given: Any) -> None:
        parts = {name: given.pop(name) for name in _PARTS}
        for name in ("columns", "exclude"):
            # A name may have a comma in it only where a pattern stands for it.
            parts[name] = tuple(parts[name].split(",")) if parts[name] else ()
        command(**given, parts={name: value for name, value in parts.items() if value})

    own = [parameter for name, parameter in signature.parameters.items() if name != "parts"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _PARTS.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
    with_parts.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_parts.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_parts


def opened(
    source: str, n: int | None, seed: int, *, parts: Mapping[str, Any] = NO_PARTS, labels: str | None = None
) -> "Opened | Vectors":
    """Open what an argument names: vectors, and labels where a column of a file, or a source, has them.

    Raises
    ------
    InvalidInputError
        The file cannot be read, or `n` is given for one, or parts of a file or `labels` for a source.
    """
    path = _from_standard_input() if source == "-" else Path(source)
    # No source has a dot in its name.
    if path.suffix or path.exists():
        from geomkit.io import files

        if n is not None:
            msg = f"--n is for sources; all rows of the file {source} are measured"
            raise InvalidInputError(msg)
        file = files.read(path, labels=labels, **parts)
        say_read(path.name, file.note)
        return file
    for name, value in (*parts.items(), ("labels", labels)):
        if value is not None and name != "queries":
            msg = f"--{name} names a part of a file; {source} is a source, or a file that does not exist; got {value}"
            raise InvalidInputError(msg)
    from geomkit.datasets import load

    return load(source, n=n, seed=seed)


def _from_standard_input() -> Path:
    """Keep standard input in a file that is removed at exit, with the suffix of what it starts like."""
    from geomkit.io import files

    handle, name = tempfile.mkstemp(prefix="geomkit-stdin-")
    atexit.register(Path(name).unlink, missing_ok=True)
    with open(handle, "wb") as file:  # noqa: PTH123 - of a handle
        shutil.copyfileobj(sys.stdin.buffer, file)
    with Path(name).open("rb") as file:
        head = file.read(4096)
    marked = (row for row in files.FORMATS.values() if row.magic is not None and row.magic.match(head))
    first = head.partition(b"\n")[0]
    suffix = next((row.suffixes[0] for row in marked), None) or (
        ".jsonl"
        if head.lstrip()[:1] in {b"{", b"["}
        else ".tsv"
        if b"\t" in first
        else ".csv"
        if b"," in first
        else ".txt"
    )
    path = Path(name).rename(f"{name}{suffix}")
    atexit.register(path.unlink, missing_ok=True)
    say_read("standard input", f"read as {suffix}")
    return path


def say_read(name: str, note: str) -> None:
    """Say on standard error what of a file was taken for the vectors and what was left out."""
    if note:
        typer.echo(f"geomkit: {name}: {note}", err=True)


def read_of(given: "Opened | Vectors") -> dict[str, Any]:
    """Return what JSON says of how a file was read; nothing of a source."""
    return {"read": given.read} if hasattr(given, "read") else {}


def lines_of(path: Path, option: str) -> list[str]:
    """Return the lines of a text file; only ends of lines end one, not other signs that Unicode counts as such.

    Raises
    ------
    InvalidInputError
        It cannot be read as UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as why:
        msg = f"{option} {path} could not be read as UTF-8 text: {why}"
        raise InvalidInputError(msg) from why
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def devices(device: str | None) -> str | list[str] | None:
    """Read what the --device option names."""
    return device.split(",") if device and "," in device else device


def show(scalars: dict[str, Any], as_json: bool, read: Mapping[str, Any] = NO_PARTS) -> None:
    """Print scalars as a table, or as JSON with how the file was read."""
    if as_json:
        typer.echo(json.dumps(json_safe(scalars) | dict(read), indent=2))
        return
    width = max(len(name) for name in scalars)
    for name, value in scalars.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        typer.echo(f"{name:<{width}}  {shown}")
