"""The vectors that studies measure: all sources at one number of rows, and what of it a quick run can have."""

from dataclasses import dataclass, replace

from bench.runner import Context
from geomkit import sources
from geomkit.errors import SourceUnavailableError
from geomkit.sources import corpora, layers
from geomkit.sources.catalogue import HUB
from geomkit.sources.fetch import is_cached
from geomkit.sources.language_model import from_language_model

N, N_QUICK = 2000, 150
"""Rows of every source. BBC News has 2,127 distinct articles, so all sources can give the first number."""

QUICK = (
    "sphere-50", "sphere-300", "sphere-512", "sphere-768", "sphere-4096", "gaussian-768", "cube-768",
    "tfidf-bbc-12597", "glove-50", "googlenews-300", "smollm2-input-576", "smollm2-documents-layer00-576",
    "smollm2-documents-layer16-576", "smollm2-documents-layer30-576",
)  # fmt: skip
"""What a quick run measures: sources that need no minutes of preparation, layers from a few texts."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A source that is not measured, and why."""

    source: sources.Source
    why: str


def rows(context: Context) -> int:
    """Rows of every source in this run."""
    return N_QUICK if context.quick else N


def names(context: Context) -> list[str]:
    """List the sources that this run measures, in the order of the catalogue."""
    listed = sources.names()
    if not context.quick:
        return listed
    context.say(f"--quick measures {len(QUICK)} of {len(listed)} sources, {N_QUICK} rows of each")
    return [name for name in listed if name in QUICK]


def load(name: str, context: Context, *, whole: bool = False) -> sources.Vectors | Missing:
    """Return a source's vectors, or why they cannot be had, having said so.

    Parameters
    ----------
    name : str
        Of a source.
    context : Context
    whole : bool
        All rows instead of the study's number of them.
    """
    source = sources.get(name)
    why = _left_out(source, context)
    if not why:
        try:
            if context.quick and "-layer" in name:
                return _few_texts(name, context)
            return sources.load(name, n=None if whole else rows(context), seed=context.seed)
        except SourceUnavailableError as missing:
            why = str(missing)
    context.say(f"{name} is not measured: {why}")
    return Missing(source, why)


def _left_out(source: sources.Source, context: Context) -> str:
    """Why a source is not attempted; empty where it is."""
    if context.quick and source.name not in QUICK:
        return "left out by --quick"
    if not source.optional or context.everything:
        return ""
    if any(source.origin.startswith(repository) for repository in HUB):
        return "from a model hub; attempted with --all"
    return "" if all(is_cached(name) for name in source.packages) else "optional and not fetched; attempted with --all"


def _few_texts(name: str, context: Context) -> sources.Vectors:
    """Return the same layer, of the first texts only: the whole corpus takes the model minutes."""
    texts = corpora.bbc().texts[: rows(context)]
    layer = int(name.partition("-layer")[2][:2])
    found = from_language_model(layers.smollm2(), layer=layer, texts=texts)
    return replace(found, name=name)
