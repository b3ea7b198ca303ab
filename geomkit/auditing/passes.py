"""The passes behind every statistic of an audit: one sweep over the pairs, two over the rows."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import diags_array

from geomkit.core.devices import Device
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.row_source import Divided, Subset
from geomkit.errors import GeomkitError, InvalidInputError
from geomkit.pairwise.scores import Scores
from geomkit.stats.cosine import CosineStats, cosine_tally, read
from geomkit.stats.hubness import Hubness, hubness_of
from geomkit.stats.moments import Moments
from geomkit.stats.neighbors import Neighbors, neighbors_among, scores_among
from geomkit.stats.spectrum import Spectrum, spectrum_and_moments

__all__ = ["Options", "Passes", "pass_over"]

_ROWS = 4096
"""Rows that are divided at a time."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure: what every part of an audit has in common."""

    k: int = 10
    metric: str = "cosine"
    precision: str = "float32"
    backend: str = "auto"
    device: Device = None
    threads: int | None = None
    compared: int = 500
    """Rows on which cosine and inner product are compared; 0 for none."""
    seed: int = 0
    """Draws those rows."""


@dataclass(frozen=True)
class Passes:
    """What the passes left behind."""

    x: Any = field(repr=False)
    """The rows as they were given."""
    options: Options
    on_invalid: str
    scores: Scores
    neighbors: Neighbors
    hubness: Hubness
    cosines: CosineStats | None
    shape: tuple[Spectrum, Moments] | GeomkitError

    @property
    def spectrum(self) -> Spectrum:
        """Of the directions where the metric is cosine."""
        return self._shape[0]

    @property
    def moments(self) -> Moments:
        """Of the directions where the metric is cosine."""
        return self._shape[1]

    @property
    def _shape(self) -> tuple[Spectrum, Moments]:
        # Whoever reads what could not be had is told why.
        if isinstance(self.shape, GeomkitError):
            raise self.shape
        return self.shape


def pass_over(x: Any, options: Options, on_invalid: str = "raise") -> Passes:
    """Read the rows, and sweep over their pairs once.

    Raises
    ------
    InvalidInputError
        The rows cannot be measured at all.
    """
    scores = scores_among(
        as_matrix(x), options.k, options.metric, options.precision, options.backend, options.device, on_invalid,
        options.threads,
    )  # fmt: skip
    tallies = [cosine_tally(scores)] if scores.directed else []
    neighbors = neighbors_among(scores, options.k, options.metric, *tallies, threads=options.threads)
    return Passes(
        x=x,
        options=options,
        on_invalid=on_invalid,
        scores=scores,
        neighbors=neighbors,
        hubness=hubness_of(neighbors),
        cosines=read(scores, *tallies) if tallies else None,
        shape=_shape(scores, options),
    )


def _shape(scores: Scores, options: Options) -> tuple[Spectrum, Moments] | GeomkitError:
    """Spectrum and moments of the rows, or of their directions where the metric is cosine."""
    try:
        return spectrum_and_moments(
            _directions(scores) if scores.directed else _kept(scores.matrix),
            backend="torch" if options.backend == "triton" else options.backend,
            device=scores.device,
            standard_errors=True,
            threads=options.threads,
        )
    except InvalidInputError as why:
        return why


def _kept(matrix: Matrix) -> Any:
    """Rows of the input that are measured."""
    if matrix.kind == "stored" and matrix.keep is not None:
        return Subset(matrix.data, matrix.keep)
    return matrix.data if matrix.keep is None else matrix.rows(0, matrix.n)


def _directions(scores: Scores) -> Any:
    """Return unit rows, in float32 where the rows are no wider: spectrum and moments are then of directions."""
    matrix, norms = scores.matrix, scores.divisors
    if matrix.kind == "stored":
        return Divided(_kept(matrix), norms)
    if matrix.kind == "sparse":
        rows = _kept(matrix).astype(np.float64)
        return diags_array(1 / norms) @ rows
    wide = matrix.dtype in {"float64", "int32", "int64", "uint32", "uint64"}
    if matrix.kind == "torch":
        import torch

        rows = _kept(matrix)
        lengths = torch.from_numpy(norms).to(rows.device)
        return (rows / lengths[:, None]).to(torch.float64 if wide else torch.float32)
    out = np.empty((matrix.n, matrix.d), np.float64 if wide else np.float32)
    for start, stop in matrix.blocks(_ROWS):
        np.divide(matrix.rows(start, stop), norms[start:stop, None], out=out[start:stop], casting="unsafe")
    return out
