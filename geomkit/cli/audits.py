"""Commands about whole spaces: `geomkit audit` and `geomkit compare`."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from geomkit.cli.findings import shown_audit, shown_comparison
from geomkit.cli.matching import match_rows
from geomkit.cli.options import (
    AsJson,
    BackendName,
    DeviceName,
    OnInvalid,
    Rows,
    Threads,
    devices,
    lines_of,
    opened,
    read_of,
    takes_parts,
)
from geomkit.cli.scale import MaxMemory, Run, Scheduler, Workers, at_hand
from geomkit.core.atomic import written
from geomkit.errors import InvalidInputError

app = typer.Typer()

Files = Annotated[str, typer.Argument(help="A file of vectors, or the name of a source.", metavar="FILE")]
K = Annotated[int, typer.Option("--k", "-k", help="Nearest neighbours of each row.", metavar="K")]
Metric = Annotated[str, typer.Option(help="cosine, euclidean or dot.")]
NullKind = Annotated[
    str, typer.Option("--null", help="gaussian, spectrum (same covariance) or permuted (each column shuffled).")
]
NullDraws = Annotated[int | None, typer.Option(help="Random sets to compare with, at least 2.", metavar="N")]
Labels = Annotated[
    str | None, typer.Option(help="Column of FILE with a label for each row, or a text file with one a line.")
]
Sample = Annotated[
    int | None, typer.Option("--n-sample", "--sample", help="Measure so many rows, drawn with --seed.", metavar="N")
]
Out = Annotated[Path | None, typer.Option("--csv", help="Write tidy rows there.", metavar="OUT.csv")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write a page that opens from disk there.", metavar="OUT.html")
]
FailOn = Annotated[str | None, typer.Option(help="Exit with 1 where the verdict is at least this: warn or fail.")]
Effects = Annotated[
    Path | None,
    typer.Option("--thresholds", help='JSON: {"hubness_skewness": [2, 5]} sets warn and fail.', metavar="FILE.json"),
]
Z = Annotated[float, typer.Option("--z", help="Least |z| of a finding.")]
Seed = Annotated[int, typer.Option(help="Draws random sets, the sample, and a random source.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float64: how neighbours are screened.")]


@app.command()
@takes_parts
def audit(
    file: Files,
    parts: dict[str, Any],
    queries: Annotated[str | None, typer.Option(help="A file of vectors that will be searched for.")] = None,
    queries_key: Annotated[
        str | None, typer.Option(help="Which part of --queries; `test` of ann-benchmarks unless given.", metavar="NAME")
    ] = None,
    labels: Labels = None,
    k: K = 10,
    metric: Metric = "cosine",
    null: NullKind = "gaussian",
    null_draws: NullDraws = None,
    sample: Sample = None,
    fail_on: FailOn = None,
    thresholds: Effects = None,
    z: Z = 4.0,
    try_transforms: Annotated[
        bool, typer.Option("--try/--no-try", help="Try transforms that may mend what is wrong, on held-out rows.")
    ] = True,
    all_suggestions: Annotated[
        bool, typer.Option("--all-suggestions", help="Show transforms that did not help or did harm, too.")
    ] = False,
    csv: Out = None,
    html: Html = None,
    as_json: AsJson = False,
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
) -> None:
    """Say what a space is like, beside what random vectors would give; exit code 1 by --fail-on."""
    from geomkit.auditing.audit import audit as measure

    _check_out(csv)
    _check_html(html)
    _check_fail_on(fail_on)
    if queries_key is not None and queries is None:
        msg = f"--queries-key names a part of --queries, which is not given; got {queries_key}"
        raise InvalidInputError(msg)
    of_queries = {"queries": True} | ({} if queries_key is None else {"key": queries_key})
    asked = None if queries is None else opened(queries, None, seed, parts=of_queries).vectors
    with at_hand(
        file, n, seed, workers=workers, scheduler=scheduler, run=run, max_memory=max_memory, parts=parts,
        labels=column_of(labels),
    ) as found:  # fmt: skip
        named = labels_of(labels, found.labels)
        read = read_of(found)
        result = measure(
            found.vectors, k=k, metric=metric, null=null, null_draws=null_draws, queries=asked,
            labels=named, names=getattr(found, "names", None), n_sample=sample, thresholds=_thresholds(thresholds), z=z,
            try_transforms=try_transforms, source=Path(file).name, seed=seed, precision=precision, backend=backend,
            device=devices(device), on_invalid=on_invalid, threads=threads, progress=_say,
        )  # fmt: skip
    if csv is not None:
        _write(csv, result.to_rows())
    if html is not None:
        from geomkit.reporting.audit import audit_page
        from geomkit.reporting.page import write

        page = audit_page(result, named)
        if read and read["read"]["note"]:
            page = replace(page, facts=[*page.facts, ("read", read["read"]["note"])])
        write(page, html)
    typer.echo(
        json.dumps(result.to_dict() | read, indent=2)
        if as_json
        else shown_audit(result, all_suggestions=all_suggestions)
    )
    _gate(result.verdict, fail_on)


@app.command()
@takes_parts
def compare(
    files: Annotated[list[str], typer.Argument(help="Two files of vectors or more.", metavar="A B …")],
    parts: dict[str, Any],
    paired: Annotated[
        bool | None,
        typer.Option("--paired/--independent", help="Whether row i is the same item in each; by their number of rows."),
    ] = None,
    labels: Labels = None,
    k: K = 10,
    metric: Metric = "cosine",
    null: NullKind = "gaussian",
    null_draws: NullDraws = None,
    sample: Sample = None,
    fail_on: FailOn = None,
    csv: Out = None,
    html: Html = None,
    as_json: AsJson = False,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
) -> None:
    """Audit several spaces side by side, and say where they differ."""
    from geomkit.auditing.compare import compare as measure

    _check_out(csv)
    _check_html(html)
    _check_fail_on(fail_on)
    names = _names(files)
    spaces = {name: opened(file, n, seed, parts=parts, labels=column_of(labels)) for name, file in names.items()}
    matched = match_rows(spaces, paired=paired)
    if matched.note:
        _say(matched.note)
    result = measure(
        matched.vectors, paired=paired or matched.is_paired, progress=_say, k=k, metric=metric, null=null,
        null_draws=null_draws, labels=labels_of(labels, matched.labels), n_sample=sample, seed=seed,
        precision=precision, backend=backend, device=devices(device), on_invalid=on_invalid, threads=threads,
        try_transforms=False,
    )  # fmt: skip
    if matched.note:
        result = replace(result, notes=(*result.notes, matched.note))
    if csv is not None:
        _write(csv, [row for each in result.audits.values() for row in each.to_rows()])
    if html is not None:
        from geomkit.reporting.comparison import comparison_page
        from geomkit.reporting.page import write

        page = comparison_page(result)
        notes = [(f"read of {name}", space.note) for name, space in spaces.items() if space.note]
        write(replace(page, facts=[*page.facts, *notes]), html)
    read = {"read": {name: read_of(space).get("read") for name, space in spaces.items()}}
    typer.echo(json.dumps(result.to_dict() | read, indent=2) if as_json else shown_comparison(result))
    _gate(result.verdict, fail_on)


def _names(files: list[str]) -> dict[str, str]:
    """Name spaces by their files, in full where two are of one name."""
    short = [Path(file).name for file in files]
    names = [file if short.count(Path(file).name) > 1 else Path(file).name for file in files]
    if len(set(names)) < len(names):
        msg = f"each space must be named once; got {', '.join(files)}"
        raise InvalidInputError(msg)
    return dict(zip(names, files, strict=True))


def _say(line: str) -> None:
    typer.echo(f"geomkit: {line}", err=True)


def column_of(labels: str | None) -> str | None:
    """Return what --labels names if it is a column, not a file of its own.

    Raises
    ------
    InvalidInputError
        It is called like a file, and there is no such file.
    """
    if labels is None or Path(labels).is_file():
        return None
    if Path(labels).suffix in {".txt", ".csv", ".tsv", ".labels", ".lst"} or (
        os.sep in labels and Path(labels).parent.is_dir()
    ):
        msg = f"--labels {labels}: there is no such file; it must be a text file with a label a line, or a column"
        raise InvalidInputError(msg)
    return labels


def labels_of(asked: str | None, column: Any) -> Any:
    """Return the labels in the file that --labels names, or those of the column that was read with the vectors."""
    if asked is None or not Path(asked).is_file():
        return column
    return lines_of(Path(asked), "--labels")


def _thresholds(file: Path | None) -> Any:
    if file is None:
        return None
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as why:
        msg = f"--thresholds {file} could not be read as JSON: {why}"
        raise InvalidInputError(msg) from why
    if not isinstance(given, dict) or not all(isinstance(each, list) for each in given.values()):
        msg = f'--thresholds {file} must hold an object of pairs such as {{"hubness_skewness": [2, 5]}}'
        raise InvalidInputError(msg)
    return given


def _check_fail_on(fail_on: str | None) -> None:
    if fail_on not in {None, "warn", "fail"}:
        msg = f"--fail-on must be warn or fail; got {fail_on}"
        raise InvalidInputError(msg)


def _check_out(out: Path | None) -> None:
    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        msg = f"--csv must be a .csv file in a folder that exists; got {out}"
        raise InvalidInputError(msg)


def _check_html(out: Path | None) -> None:
    """Refuse at once what could not be written after a long measurement."""
    if out is not None:
        from geomkit.reporting.page import check_out

        check_out(out)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as CSV, complete or not at all."""
    import csv

    with written(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _gate(verdict: str, fail_on: str | None) -> None:
    levels = ("ok", "warn", "fail")
    if fail_on is not None and levels.index(verdict) >= levels.index(fail_on):
        sys.stdout.flush()
        raise typer.Exit(1)
