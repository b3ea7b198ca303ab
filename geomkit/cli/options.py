"""Options that commands share, and how they read INPUT and print results."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from geomkit.datasets import Vectors
    from geomkit.io.files import Opened

Input = Annotated[str, typer.Argument(help="A file of vectors, or the name of a source.", metavar="INPUT")]
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


def vectors(source: str, n: int | None, seed: int) -> Any:
    """Vectors behind the INPUT argument: a file, or a source."""
    return opened(source, n, seed).vectors


def opened(
    source: str, n: int | None, seed: int, *, key: str | None = None, labels: str | None = None
) -> "Opened | Vectors":
    """Open what an argument names: vectors, and labels where a column of a file, or a source, has them.

    Raises
    ------
    InvalidInputError
        The file cannot be read, or `n` is given for one, or `key` or `labels` for a source.
    """
    path = Path(source)
    # No source has a dot in its name.
    if path.suffix or path.exists():
        from geomkit.io import files

        if n is not None:
            msg = f"--n is for sources; all rows of the file {source} are measured"
            raise InvalidInputError(msg)
        found = files.read(path, key=key, labels=labels)
        if found.note:
            typer.echo(f"geomkit: {path.name}: {found.note}", err=True)
        return found
    for name, value in (("--key", key), ("--labels", labels)):
        if value is not None:
            msg = f"{name} names a part of a file; {source} is a source, or a file that does not exist; got {value}"
            raise InvalidInputError(msg)
    from geomkit.datasets import load

    return load(source, n=n, seed=seed)


def devices(device: str | None) -> str | list[str] | None:
    """Read what the --device option names."""
    return device.split(",") if device and "," in device else device


def show(scalars: dict[str, Any], as_json: bool) -> None:
    """Print scalars as a table, or as JSON."""
    if as_json:
        # JSON has no NaN or infinity: null says that there is no value.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in scalars.items()}
        typer.echo(json.dumps(plain, indent=2))
        return
    width = max(len(name) for name in scalars)
    for name, value in scalars.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        typer.echo(f"{name:<{width}}  {shown}")
