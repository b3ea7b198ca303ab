"""Options for statistics of a sample of points, where all pairs are out of reach, and how they are printed."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from geomkit.cli.options import show
from geomkit.core.validation import OnInvalid, Precision
from geomkit.errors import InvalidInputError

Sample = Annotated[
    int | None,
    typer.Option(
        "--n-sample",
        "--sample",
        help="Draw so many rows with --seed, and say how sure what their pairs tell is.",
        metavar="POINTS",
    ),
]
Blocks = Annotated[int | None, typer.Option(help="With --n-sample: draw blocks of so many rows.", metavar="ROWS")]
Confidence = Annotated[
    float | None, typer.Option(help="With --n-sample: of the intervals; 0.95 unless given.", metavar="SHARE")
]
NoMoments = Annotated[
    bool, typer.Option("--no-moments", help="With --n-sample: read the drawn rows alone; wider intervals.")
]


def check(
    points: int | None,
    *,
    blocks: int | None,
    confidence: float | None,
    no_moments: bool,
    backend: str,
    device: str | None,
) -> None:
    """Refuse options that do not go with `--n-sample`, or without it.

    Raises
    ------
    InvalidInputError
        There is such an option.
    """
    if points is None:
        for name, given in (
            ("--blocks", blocks is not None),
            ("--confidence", confidence is not None),
            ("--no-moments", no_moments),
        ):
            if given:
                msg = f"{name} is for a sample of points; give --n-sample POINTS, too"
                raise InvalidInputError(msg)
        return
    for name, value, fit in (("--backend", backend, {"auto", "cpu"}), ("--device", device, {None, "cpu"})):
        if value not in fit:
            msg = f"{name} must be left out, or be cpu, with --n-sample: points are measured on the CPU; got {value}"
            raise InvalidInputError(msg)


def show_sampled(
    x: Any,
    points: int,
    *,
    metric: str,
    source: str,
    seed: int,
    blocks: int | None,
    confidence: float | None,
    no_moments: bool,
    precision: Precision,
    on_invalid: OnInvalid,
    threads: int | None,
    as_json: bool,
    read: Mapping[str, Any],
) -> None:
    """Measure a sample, and print a table or, as JSON, scalars, estimates by name, and how the file was read."""
    from geomkit.sampling.estimator import sampled

    found = sampled(
        x,
        points,
        seed=seed,
        metric=metric,
        blocks=blocks,
        confidence=0.95 if confidence is None else confidence,
        moments=False if no_moments else None,
        precision=precision,
        on_invalid=on_invalid,
        threads=threads,
        source=source,
    )
    if as_json:
        show(found.to_dict(), as_json, read)
    else:
        typer.echo(str(found))
