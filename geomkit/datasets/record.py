"""The two records of this house: `Source`, which says what vectors are, and `Vectors`, which are them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geomkit.core.validation import check_whole
from geomkit.errors import IntegrityError, InvalidInputError

Family = Literal["random", "tfidf", "word2vec", "llm"]
Matrix = NDArray[np.float32] | sparse.csr_array

GRID = (50, 100, 128, 200, 256, 300, 384, 512, 576, 768, 1024, 1536, 2048, 3072, 4096)
"""Dimensions at which random vectors are offered: those of common embedding models and the powers of two between."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors with the labels of their rows and where they come from."""

    vectors: Matrix  # float32, (n, dim)
    labels: Sequence[str]  # one a row: word, token, document id, or the row's number
    categories: NDArray[np.str_] | None  # topic of each row for document sources, else None
    name: str
    family: Family
    dim: int
    origin: str
    licence: str
    seed: int | None  # what made or sampled the rows; None where all rows were taken as they are
    note: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where vectors come from, and the function that fetches or makes them."""

    name: str  # "<what>-<dim>"
    family: Family
    dim: int
    licence: str
    origin: str  # package and version, or formula
    about: str  # one sentence for people
    packages: tuple[str, ...]  # entries of the catalogue that it needs
    optional: bool  # not part of the core download
    load: Callable[[int | None, int], Vectors]  # (n, seed)


class RowNumbers(Sequence[str]):
    """The labels "0" to "n-1" without storing them."""

    def __init__(self, n: int) -> None:
        self._range = range(n)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [str(i) for i in self._range[at]]
        return str(self._range[at])


def chosen_rows(rows: int, n: int | None, seed: int, *, name: str) -> NDArray[np.intp] | None:
    """Draw n of `rows` row numbers without replacement, sorted; None where all are wanted.

    Raises
    ------
    InvalidInputError
        n is below 1 or above the number of rows.
    """
    if n is None:
        return None
    count = check_whole(n, f"n for {name}", 1)
    if count > rows:
        msg = f"n for {name} is {count:,}, but it has only {rows:,} rows"
        raise InvalidInputError(msg)
    return np.sort(np.random.default_rng(seed).choice(rows, size=count, replace=False)).astype(np.intp)


def taken(whole: Vectors, n: int | None, seed: int) -> Vectors:
    """Return all rows of `whole`, or a seeded sample of n, in memory and of float32.

    Parameters
    ----------
    whole : Vectors
        Every row of a source; its array may be memory-mapped.
    n : int or None
        Rows to keep; None keeps all.
    seed : int
        Chooses the rows.

    Returns
    -------
    Vectors
        Rows in their original order; `note` says that they were sampled and of how many.
    """
    keep = chosen_rows(whole.vectors.shape[0], n, seed, name=whole.name)
    if keep is None:
        return replace(whole, vectors=in_memory(whole.vectors))
    sampled = f"{len(keep):,} of {whole.vectors.shape[0]:,} rows sampled without replacement with seed {seed}"
    return replace(
        whole,
        vectors=in_memory(whole.vectors[keep]),
        labels=[whole.labels[i] for i in keep.tolist()],
        categories=None if whole.categories is None else whole.categories[keep],
        seed=seed,
        note=f"{whole.note}; {sampled}" if whole.note else sampled,
    )


def in_memory(x: Matrix) -> Matrix:
    """Return a writable float32 copy, rows contiguous: a memory map must not outlive the file behind it."""
    if isinstance(x, np.ndarray):
        return np.array(x, dtype=np.float32, order="C")
    return x.astype(np.float32)


def expect_dim(name: str, got: int, want: int) -> None:
    """Refuse vectors whose dimension is not the one that the source's name promises.

    Raises
    ------
    IntegrityError
        The data, or the library that made vectors of it, is not the one that was catalogued.
    """
    if got != want:
        msg = f"{name} came out with dimension {got:,}, not {want:,}: the data or a library differs from the catalogue"
        raise IntegrityError(msg)
