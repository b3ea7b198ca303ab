"""`geomkit atlas`: a map of a space, for viewers of embeddings."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from geomkit.cli.audits import Labels, Seed, column_of, labels_of
from geomkit.cli.options import (
    AsJson,
    BackendName,
    DeviceName,
    Input,
    OnInvalid,
    Rows,
    Threads,
    devices,
    opened,
    read_of,
    show,
    takes_parts,
)

app = typer.Typer()


@app.command()
@takes_parts
def atlas(
    source: Input,
    parts: dict[str, Any],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.", metavar="OUT.parquet")] = Path(
        "atlas.parquet"
    ),
    labels: Labels = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Nearest neighbours of each row.", metavar="K")] = 15,
    metric: Annotated[str, typer.Option(help="cosine or euclidean.")] = "cosine",
    projection: Annotated[str, typer.Option(help="umap or pca.")] = "umap",
    as_json: AsJson = False,
    n: Rows = None,
    seed: Seed = 0,
    backend: BackendName = "auto",
    device: DeviceName = None,
    on_invalid: OnInvalid = "raise",
    threads: Threads = None,
) -> None:
    """Write vectors, a map in two dimensions, exact neighbours and labels as parquet, and say how to view them."""
    from geomkit.atlas import atlas as lay_out
    from geomkit.atlas import check_atlas

    check_atlas(out)
    found = opened(source, n, seed, parts=parts, labels=column_of(labels))
    named = labels_of(labels, found.labels)
    result = lay_out(
        found.vectors, k=k, metric=metric, labels=named, projection=projection, seed=seed, backend=backend,
        device=devices(device), on_invalid=on_invalid, threads=threads,
    )  # fmt: skip
    result.write(out)
    text = " --text label" if named is not None else ""
    view = f"embedding-atlas {shlex.quote(str(out))} --x projection_x --y projection_y --neighbors neighbors{text}"
    near = result.neighbors
    show(
        {
            "file": str(out), "rows": near.n, "dimensions": near.d, "k": near.k, "metric": near.metric,
            "projection": projection, "neighbours kept on the map": result.kept, "rows dropped": near.n_dropped,
            "view": view,
        },
        as_json,
        read_of(found),
    )  # fmt: skip
    if not as_json:
        typer.echo("embedding-atlas is installed by: pip install embedding-atlas", err=True)
