"""`atlas`: a table that viewers of embeddings open: vectors, a map in two dimensions, exact neighbours, labels."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.atomic import written
from geomkit.core.matrix import as_matrix
from geomkit.core.validation import check_choice, check_length, check_whole
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.stats.neighbors import Neighbors, neighbors

__all__ = ["Atlas", "atlas"]

PROJECTIONS = ("umap", "pca")


@dataclass(frozen=True)
class Atlas:
    """Rows, where they lie on a map, and who is near whom."""

    vectors: NDArray[np.float32] = field(repr=False)
    """As given, (n, d)."""
    places: NDArray[np.float32] = field(repr=False)
    """On the map, (n, 2). Distances on it are not those of the space: `kept` says how far to believe it."""
    neighbors: Neighbors = field(repr=False)
    """Exact, in the space itself."""
    labels: tuple[str, ...] | None = field(repr=False)
    projection: str
    kept: float
    """Share of each row's k nearest in the space that are among its k nearest on the map, mean over rows; in [0, 1]."""
    seed: int

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write parquet with the columns row, vector, projection_x, projection_y, neighbors and, where known, label.

        Neighbours are ``{"ids": [...], "distances": [...]}``, as embedding-atlas reads them: places of rows in the
        file, nearest first, while ``row`` is the number of a row in the input, of which some may have been dropped.
        Settings are in the file's metadata under ``geomkit``.

        Raises
        ------
        InvalidInputError
            `path` is no .parquet file in a folder that exists.
        BackendUnavailableError
            pyarrow is not installed.
        StorageError
            It cannot be written.
        """
        out = check_atlas(path)
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as why:
            msg = f"atlas needs pyarrow, which cannot be imported ({why}): pip install 'geomkit[atlas]'"
            raise BackendUnavailableError(msg) from why
        n, d = self.vectors.shape
        near = pa.StructArray.from_arrays(
            [
                _lists(pa, self.neighbors.positions),
                _lists(pa, self.neighbors.distances.astype(np.float32)),
            ],
            ["ids", "distances"],
        )
        columns = {
            "row": pa.array(self.neighbors.rows),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(self.vectors.reshape(-1)), d),
            "projection_x": pa.array(self.places[:, 0]),
            "projection_y": pa.array(self.places[:, 1]),
            "neighbors": near,
        }
        if self.labels is not None:
            columns["label"] = pa.array(self.labels, pa.large_string())
        about = {
            "n": n, "d": d, "k": self.neighbors.k, "metric": self.neighbors.metric, "projection": self.projection,
            "kept": self.kept, "seed": self.seed,
        }  # fmt: skip
        table = pa.table(columns).replace_schema_metadata({"geomkit": json.dumps(about)})
        with written(out) as part:
            parquet.write_table(table, part)


def _lists(pa: Any, values: NDArray[Any]) -> Any:
    n, k = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(0, n * k + 1, k, dtype=np.int32)), pa.array(values.reshape(-1)))


def check_atlas(path: str | os.PathLike[str]) -> Path:
    """Return where an atlas will be written.

    Raises
    ------
    InvalidInputError
        It is no .parquet file in a folder that exists.
    """
    out = Path(path)
    if out.suffix != ".parquet" or not out.parent.is_dir() or out.is_dir():
        msg = f"out must be a .parquet file in a folder that exists; got {out}"
        raise InvalidInputError(msg)
    return out


def atlas(
    x: Any,
    *,
    k: int = 15,
    metric: str = "cosine",
    labels: Sequence[Any] | None = None,
    projection: str = "umap",
    seed: int = 0,
    precision: str = "float32",
    backend: str = "auto",
    device: Any = None,
    on_invalid: str = "raise",
    threads: int | None = None,
) -> Atlas:
    """Lay rows out on a map, beside their exact neighbours.

    Parameters
    ----------
    x : array_like (n, d)
        As for `neighbors`; n > k + 1 rows.
    k : int
        Nearest of each row; at least 2.
    metric : {"cosine", "euclidean"}
        Of the neighbours, and of the map.
    labels : sequence of n, optional
        What to call each row.
    projection : {"umap", "pca"}
        How the map is made: UMAP (McInnes et al. 2018) of the exact neighbours, or the two directions of most variance.
    seed : int
        Draws the map.
    precision, backend, device, on_invalid, threads
        As for `neighbors`.

    Returns
    -------
    Atlas

    Raises
    ------
    InvalidInputError
        The data cannot be measured, or an argument is out of range.
    BackendUnavailableError
        umap-learn is not installed.

    Notes
    -----
    O(n² d) for the neighbours, O(n k) for UMAP. What lies close on a map need not be close in the space: `kept` says
    how many neighbours the map keeps.
    """
    check_choice(projection, "projection", PROJECTIONS)
    check_choice(metric, "metric", ("cosine", "euclidean"))
    check_whole(seed, "seed", 0)
    matrix = as_matrix(x, min_rows=4)
    if labels is not None:
        check_length(labels, "labels", matrix.n)
    check_whole(k, "k", 2, matrix.n - 2, high_is="n - 2")
    found = neighbors(
        x, k, metric=metric, precision=precision, backend=backend, device=device, on_invalid=on_invalid,
        threads=threads,
    )  # fmt: skip
    rows = np.asarray(matrix.take(found.rows), np.float32)
    places = _umap(rows, found, metric, int(seed)) if projection == "umap" else _pca(rows, metric)
    again = neighbors(places, k, metric="euclidean", threads=threads)
    kept = np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found.positions, again.indices, strict=True)])
    named = None if labels is None else tuple(str(labels[row]) for row in found.rows.tolist())
    return Atlas(rows, places, found, named, projection, float(kept), int(seed))


def _umap(rows: NDArray[np.float32], found: Neighbors, metric: str, seed: int) -> NDArray[np.float32]:
    try:
        import umap
    except ImportError as why:
        msg = f"projection 'umap' needs umap-learn, which cannot be imported ({why}): pip install 'geomkit[atlas]'"
        raise BackendUnavailableError(msg) from why
    n = len(rows)
    # UMAP counts a row as its own first neighbour.
    indices = np.concatenate([np.arange(n)[:, None], found.positions], axis=1)
    distances = np.concatenate([np.zeros((n, 1)), found.distances], axis=1).astype(np.float32)
    mapping = umap.UMAP(
        n_neighbors=indices.shape[1], metric=metric, random_state=seed, n_jobs=1,
        precomputed_knn=(indices, distances, None),
    )  # fmt: skip
    return np.asarray(mapping.fit_transform(rows), np.float32)


def _pca(rows: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    if metric == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    wide -= wide.mean(axis=0)
    _, axes = np.linalg.eigh(wide.T @ wide)
    return np.asarray(wide @ axes[:, :-3:-1], np.float32)
