"""Commands that measure one statistic: `cosine`, `orthogonality`, `concentration`, `moments`, `survey`, `warm`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geomkit.cli.options import (
    AsJson,
    DeviceName,
    Input,
    Rows,
    Seed,
    Threads,
    devices,
    read_of,
    show,
    takes_parts,
)
from geomkit.cli.sample import Blocks, Confidence, NoMoments, Sample, check, show_sampled
from geomkit.cli.scale import MaxMemory, Run, Scheduler, Workers, at_hand
from geomkit.core.atomic import written
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from geomkit.core.validation import BackendName, OnInvalid, Precision
    from geomkit.stats.survey import Survey
else:
    # Options are read as text, with their help; functions refuse what is not one of their choices.
    from geomkit.cli.options import BackendName, OnInvalid, Precision

app = typer.Typer()


@app.command()
@takes_parts
def cosine(
    source: Input,
    parts: dict[str, Any],
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    run: Run = None,
    max_memory: MaxMemory = None,
    sample: Sample = None,
    blocks: Blocks = None,
    confidence: Confidence = None,
    no_moments: NoMoments = False,
    as_json: AsJson = False,
) -> None:
    """Distribution of cosine similarity over all distinct pairs of rows."""
    from geomkit.stats.cosine import cosine_stats

    check(sample, blocks=blocks, confidence=confidence, no_moments=no_moments, backend=backend, device=device)
    with at_hand(
        source, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts
    ) as given:  # fmt: skip
        if sample is not None:
            show_sampled(
                given.vectors,
                sample,
                metric="cosine",
                source=source,
                seed=seed,
                blocks=blocks,
                confidence=confidence,
                no_moments=no_moments,
                precision=precision,
                on_invalid=on_invalid,
                threads=threads,
                as_json=as_json,
                read=read_of(given),
            )
            return
        found = cosine_stats(
            given.vectors,
            backend=backend,
            device=devices(device),
            precision=precision,
            on_invalid=on_invalid,
            threads=threads,
        )
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    quantiles = {f"q{100 * share:g}": found.quantile(share) for share in shares}
    show(found.to_dict() | quantiles, as_json, read_of(given))


@app.command()
@takes_parts
def orthogonality(
    source: Input,
    parts: dict[str, Any],
    eps: Annotated[float, typer.Option(help="Pairs with |cosine| up to this count as nearly orthogonal.")] = 0.1,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    run: Run = None,
    max_memory: MaxMemory = None,
    as_json: AsJson = False,
) -> None:
    """How nearly orthogonal the rows are, beside the uniform sphere."""
    from geomkit.stats.orthogonality import orthogonality as measure

    with at_hand(
        source, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts
    ) as given:  # fmt: skip
        found = measure(
            given.vectors,
            eps=eps,
            backend=backend,
            device=devices(device),
            precision=precision,
            on_invalid=on_invalid,
            threads=threads,
        )
    show(found.to_dict(), as_json, read_of(given))


@app.command()
@takes_parts
def concentration(
    source: Input,
    parts: dict[str, Any],
    p: Annotated[float, typer.Option(help="Order of the Minkowski distance: any number above 0, or inf.")] = 2.0,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    run: Run = None,
    max_memory: MaxMemory = None,
    sample: Sample = None,
    blocks: Blocks = None,
    confidence: Confidence = None,
    no_moments: NoMoments = False,
    as_json: AsJson = False,
) -> None:
    """How far distances between rows concentrate around their mean."""
    from geomkit.stats.concentration import concentration as measure

    check(sample, blocks=blocks, confidence=confidence, no_moments=no_moments, backend=backend, device=device)
    if sample is not None and p != 2:
        msg = f"--p must be 2 with --n-sample, which measures squared Euclidean distance; got {p:g}"
        raise InvalidInputError(msg)
    with at_hand(
        source, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts
    ) as given:  # fmt: skip
        if sample is not None:
            show_sampled(
                given.vectors,
                sample,
                metric="sqeuclidean",
                source=source,
                seed=seed,
                blocks=blocks,
                confidence=confidence,
                no_moments=no_moments,
                precision=precision,
                on_invalid=on_invalid,
                threads=threads,
                as_json=as_json,
                read=read_of(given),
            )
            return
        found = measure(
            given.vectors,
            p=p,
            backend=backend,
            device=devices(device),
            precision=precision,
            on_invalid=on_invalid,
            threads=threads,
        )
    show(found.to_dict(), as_json, read_of(given))


@app.command()
@takes_parts
def moments(
    source: Input,
    parts: dict[str, Any],
    variance_se: Annotated[bool, typer.Option(help="Standard errors of the variances too: a second pass.")] = False,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    run: Run = None,
    max_memory: MaxMemory = None,
    as_json: AsJson = False,
) -> None:
    """Exact mean and variance of all cosines and squared distances, without forming the pairs."""
    from geomkit.stats.moments import moments as measure

    with at_hand(
        source, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts
    ) as given:  # fmt: skip
        found = measure(
            given.vectors,
            backend=backend,
            device=devices(device),
            on_invalid=on_invalid,
            standard_errors=variance_se,
            threads=threads,
        )
    show(found.to_dict(), as_json, read_of(given))


@app.command()
@takes_parts
def survey(
    source: Input,
    parts: dict[str, Any],
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
    workers: Workers = None,
    scheduler: Scheduler = None,
    run: Run = None,
    max_memory: MaxMemory = None,
    as_json: AsJson = False,
) -> None:
    """Cosines, extremes of each row, nearest neighbours and duplicates from one sweep over all pairs."""
    from geomkit.stats.survey import survey as measure

    if out is not None and (out.suffix != ".npz" or not out.parent.is_dir()):
        msg = f"--out must be a .npz file in a folder that exists; got {out}"
        raise InvalidInputError(msg)
    with at_hand(
        source, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts
    ) as given:  # fmt: skip
        found = measure(
            given.vectors,
            k=k,
            duplicate_tolerance=duplicates,
            backend=backend,
            device=devices(device),
            precision=precision,
            on_invalid=on_invalid,
            threads=threads,
        )
    if out is not None:
        _write(out, found)
    show(found.to_dict(), as_json, read_of(given))


@app.command()
def warm(
    precision: Annotated[str, typer.Option(help="all, bfloat16, float32 or float64.")] = "all",
    as_json: AsJson = False,
) -> None:
    """Compile the CPU kernels for this processor ahead of time; later runs find them."""
    from geomkit.stats.warmup import warm as compile_ahead

    found = compile_ahead(precision, progress=lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(asdict(found), indent=2) if as_json else str(found))


def _write(out: Path, found: "Survey") -> None:
    """Write the arrays of a survey, complete or not at all."""
    import numpy as np

    with written(out) as part, part.open("wb") as file:
        np.savez(
            file,
            rows=found.neighbors.rows,
            indices=found.neighbors.indices,
            distances=found.neighbors.distances,
            least=found.least,
            largest=found.largest,
            duplicates=found.duplicates,
        )
