"""Versions of one space: as it is, through each transform, and made worse in ways that are known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from geomkit.transforms import AllButTheTop, Centering, Standardizing, Transform, Whitening

Rows = NDArray[np.float32]
Apply = Callable[[Rows], Rows]
Learn = Callable[[Rows, np.random.Generator], Apply]

WIDEST = 1536
"""Most columns of a version that needs all eigenvectors of a covariance: at 4096 one takes half a minute."""

SHIFT = 2.0
"""Length of the vector added by `shifted`, in root mean square lengths of rows."""

REPEATED = 1 / 3
"""Share of the corpus that `repeated` replaces with copies of other rows."""

KEPT = 16
"""Principal directions that `pca_16` keeps."""


@dataclass(frozen=True, slots=True)
class Version:
    """One way to change a space."""

    name: str
    learn: Learn
    spectral: bool = False
    """Needs eigenvectors, and is left out above `WIDEST` columns."""
    copies: float = 0.0
    """Share of the corpus that becomes copies of the rest."""


@dataclass(frozen=True, slots=True)
class Space:
    """One version of a source."""

    version: str
    corpus: Any
    """(n, d) float32, dense or CSR: what is measured and indexed."""
    others: tuple[Any, ...]
    """Rows that went through the same change, but from which nothing was learned: queries, words."""
    rows: NDArray[np.int64]
    """Which row of the corpus as given each row is, (n,): not 0, 1, 2 ... where some are copies."""


def _fitted(transform: Callable[[], Transform]) -> Learn:
    def learn(corpus: Rows, rng: np.random.Generator) -> Apply:
        del rng
        fitted = transform().fit(corpus)
        return lambda rows: np.asarray(fitted.transform(rows), np.float32)

    return learn


def _same(corpus: Rows, rng: np.random.Generator) -> Apply:
    del corpus, rng
    return lambda rows: rows


def _shifted(corpus: Rows, rng: np.random.Generator) -> Apply:
    """Add one vector to all rows: no distance changes, and every cosine does."""
    direction = rng.standard_normal(corpus.shape[1])
    length = SHIFT * np.sqrt(np.square(corpus, dtype=np.float64).sum(axis=1).mean())
    shift = direction * (length / np.linalg.norm(direction))
    return lambda rows: (rows + shift).astype(np.float32)


def _noisy(corpus: Rows, rng: np.random.Generator) -> Apply:
    """Add Gaussian noise of as much variance as the corpus has, equally along all coordinates."""
    spread = float(np.sqrt(np.var(corpus, axis=0, dtype=np.float64).mean()))
    return lambda rows: (rows + spread * rng.standard_normal(rows.shape)).astype(np.float32)


def _signs(corpus: Rows, rng: np.random.Generator) -> Apply:
    """Keep one bit a coordinate: on which side of the corpus mean it is."""
    del rng
    mean = corpus.mean(axis=0, dtype=np.float64)
    return lambda rows: np.where(rows >= mean, 1, -1).astype(np.float32)


def _few_directions(corpus: Rows, rng: np.random.Generator) -> Apply:
    """Keep the coordinates along the principal directions of largest variance."""
    del rng
    mean = corpus.mean(axis=0, dtype=np.float64)
    centred = corpus - mean
    d = corpus.shape[1]
    top = eigh(centred.T @ centred, subset_by_index=[max(d - KEPT, 0), d - 1])[1]
    return lambda rows: ((rows - mean) @ top).astype(np.float32)


VERSIONS = (
    Version("as it is", _same),
    Version("centering", _fitted(Centering)),
    Version("all_but_the_top", _fitted(AllButTheTop), spectral=True),
    Version("whitening", _fitted(Whitening), spectral=True),
    Version("standardizing", _fitted(Standardizing)),
    Version("shifted", _shifted),
    Version("noisy", _noisy),
    Version("signs", _signs),
    Version("pca_16", _few_directions, spectral=True),
    Version("repeated", _same, copies=REPEATED),
)
"""Every version, the source as it is first."""


def left_out(corpus: Any) -> tuple[str, ...]:
    """Names of the versions that a corpus is not made into: all but the first of a sparse one, spectral of a wide."""
    return tuple(each.name for each in VERSIONS if not _possible(each, corpus))


def spaces(corpus: Any, others: tuple[Any, ...], seed: int) -> Iterator[Space]:
    """Make every version of a space: changes are learned from the corpus, and applied to all.

    Parameters
    ----------
    corpus : (n, d) float32, dense or CSR
    others : tuple of (m, d) float32
        May have no rows.
    seed : int
        Draws shifts, noise and copies.

    Yields
    ------
    Space
    """
    for at, version in enumerate(VERSIONS):
        if not _possible(version, corpus):
            continue
        rng = np.random.default_rng([seed, at])
        rows = _copied(corpus.shape[0], version.copies, rng)
        mine = corpus if version.learn is _same and not version.copies else corpus[rows]
        apply = version.learn(mine, rng)
        yield Space(version.name, apply(mine), tuple(apply(each) if each.shape[0] else each for each in others), rows)


def _possible(version: Version, corpus: Any) -> bool:
    if not isinstance(corpus, np.ndarray):
        return version is VERSIONS[0]
    return not version.spectral or corpus.shape[1] <= WIDEST


def _copied(n: int, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Row numbers, a share of them replaced by numbers of others that stay."""
    rows = np.arange(n)
    replaced = rng.permutation(n)[: round(share * n)]
    rows[replaced] = rng.choice(np.setdiff1d(rows, replaced), len(replaced))
    return rows
