"""Where vectors come from: random, TF-IDF, word2vec and language models, by name.

Nothing heavy is imported until a source that needs it is loaded, and nothing is fetched until then either.
"""

import difflib

from geomkit.datasets import layers, random_, sentence, tfidf, unembedding, word2vec
from geomkit.datasets.record import GRID, Family, Source, Vectors
from geomkit.errors import UnknownSourceError

__all__ = ["GRID", "SOURCES", "Family", "Source", "Vectors", "get", "load", "names"]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        *random_.SOURCES,
        *tfidf.SOURCES,
        *word2vec.SOURCES,
        *layers.SOURCES,
        *sentence.SOURCES,
        *unembedding.SOURCES,
    )
}
"""Every source by name."""


def names(*, family: Family | None = None, optional: bool | None = None) -> list[str]:
    """Return the names of sources.

    Parameters
    ----------
    family : {"random", "tfidf", "word2vec", "llm"}, optional
        Only this family.
    optional : bool, optional
        Only those that are, or are not, outside the core download.

    Returns
    -------
    list of str
        In the order of the catalogue.
    """
    return [
        source.name
        for source in SOURCES.values()
        if family in {None, source.family} and optional in {None, source.optional}
    ]


def get(name: str) -> Source:
    """Return the record of one source.

    Raises
    ------
    UnknownSourceError
        There is none of that name; the message has names that come close.
    """
    try:
        return SOURCES[name]
    except KeyError:
        close = difflib.get_close_matches(name, SOURCES, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {len(SOURCES)}, such as sphere-768"
        msg = f"no source is called {name!r}; {hint}"
        raise UnknownSourceError(msg) from None


def load(name: str, *, n: int | None = None, seed: int = 0) -> Vectors:
    """Return vectors of one source, fetching or computing what is not cached.

    Parameters
    ----------
    name : str
        Such as "sphere-768" or "googlenews-300".
    n : int, optional
        Rows. Random sources need it. Real sources give all rows without it, and with it a sample without replacement
        in the original order.
    seed : int, default 0
        Draws random vectors, or chooses the rows of a sample; the same seed gives the same rows.

    Returns
    -------
    Vectors
        float32, (n, dim): a NumPy array, or a SciPy CSR array for TF-IDF.

    Raises
    ------
    UnknownSourceError
        There is no such source.
    InvalidInputError
        n is missing, below 1, or more rows than there are.
    SourceUnavailableError
        No network, a missing library, a full disk.
    IntegrityError
        What was fetched is not what the catalogue says.
    """
    return get(name).load(n, seed)
