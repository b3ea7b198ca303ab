"""The vectors that studies measure: all sources at one number of rows, and what of it a quick run can have."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

from bench.harness.study import Context, Unit
from geomkit import datasets
from geomkit.core.optional import require
from geomkit.datasets import corpora, layers
from geomkit.datasets.catalogue import HUB
from geomkit.datasets.fetch import is_cached
from geomkit.datasets.language_model import from_language_model
from geomkit.datasets.record import taken

N, N_QUICK = 2000, 150
"""Rows of every source. BBC News has 2,127 distinct articles, so all sources can give the first number."""

QUICK = (
    "sphere-50", "sphere-300", "sphere-512", "sphere-768", "sphere-4096", "gaussian-768", "cube-768",
    "tfidf-bbc-12597", "glove-50", "googlenews-300", "smollm2-input-576", "smollm2-documents-layer00-576",
    "smollm2-documents-layer16-576", "smollm2-documents-layer30-576",
)  # fmt: skip
"""What a quick run measures: sources that need no minutes of preparation, layers from a few texts."""


def rows(context: Context) -> int:
    """Rows of every source in this run."""
    return N_QUICK if context.quick else N


def names(context: Context) -> list[str]:
    """List the sources that this run measures, in the order of the catalogue."""
    return [name for name in datasets.names() if not context.quick or name in QUICK]


def units(
    context: Context, listed: Iterable[str], given: Callable[[datasets.Source, Context], str] | None = None
) -> tuple[Unit, ...]:
    """Return a unit for each source: those that are not attempted say why.

    Parameters
    ----------
    context : Context
    listed : iterable of str
        Names of sources.
    given : callable, optional
        Says what else the numbers of a source depend on.
    """
    return tuple(
        Unit(
            name, (name,), left_out(name, context), given(datasets.get(name), context) if given is not None else "",
            shares=_shared(name),
        )
        for name in listed
    )  # fmt: skip


def _shared(name: str) -> str:
    """Name what a source is cut from that takes minutes to make: a pass of a language model, or a decomposition."""
    if "-layer" in name:
        return f"states of {name.partition('-')[0]}"
    return "lsa" if name.startswith("lsa-") else ""


def load(name: str, context: Context) -> datasets.Vectors:
    """Return all rows of a source; of a random one, and in a quick run of a layer, as many as the study takes.

    Raises
    ------
    SourceUnavailableError, IntegrityError
        As `geomkit.datasets.load`.
    """
    if context.quick and "-layer" in name:
        return _few_texts(name, context)
    random = datasets.get(name).family == "random"
    return datasets.load(name, n=rows(context) if random else None, seed=context.seed)


def load_rows(name: str, context: Context) -> datasets.Vectors:
    """Return as many rows of a source as the study takes."""
    found = load(name, context)
    return found if found.family == "random" else taken(found, rows(context), context.seed)


def left_out(name: str, context: Context) -> str:
    """Say why a source is not attempted; empty where it is."""
    source = datasets.get(name)
    if context.quick and name not in QUICK:
        return "left out by --quick"
    if not source.optional:
        return ""
    hub = next((repository for repository in HUB if source.origin.startswith(repository)), None)
    if hub is not None:
        return _hub_trouble(hub) if context.everything else "from a model hub; attempted with --all"
    if context.everything or all(is_cached(package) for package in source.packages):
        return ""
    return "optional and not fetched; attempted with --all"


@cache
def _hub_trouble(repository: str) -> str:
    """Say why a model of a hub cannot be had; empty where its settings are here or come."""
    try:
        require("transformers").AutoConfig.from_pretrained(repository)
    except (OSError, ValueError) as why:
        return f"{repository} cannot be loaded from its hub: {next(iter(str(why).splitlines()), type(why).__name__)}"
    return ""


def _few_texts(name: str, context: Context) -> datasets.Vectors:
    """Return a layer of the first texts only: the whole corpus takes the model minutes."""
    texts = corpora.bbc().texts[: rows(context)]
    layer = int(name.partition("-layer")[2][:2])
    found = from_language_model(layers.smollm2(), layer=layer, texts=texts)
    return replace(found, name=name)
