"""The passes behind every statistic of an audit: one sweep over the pairs, two over the rows."""

from dataclasses import dataclass, field
from typing import Any

from geomkit.core.devices import Device, place
from geomkit.core.matrix import as_matrix
from geomkit.errors import GeomkitError, InvalidInputError
from geomkit.pairwise.scores import Scores
from geomkit.stats.cosine import CosineStats, cosine_tally, read
from geomkit.stats.hubness import Hubness, hubness_of
from geomkit.stats.moments import Moments
from geomkit.stats.neighbors import Neighbors, neighbors_among, scores_among
from geomkit.stats.spectrum import Spectrum, spectrum_of

__all__ = ["Options", "Passes", "pass_over"]


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
        """Of the rows."""
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
    """Spectrum and moments of the rows; where the metric is cosine, the spectrum of their directions."""
    try:
        backend = "torch" if options.backend == "triton" else options.backend
        matrix, which = place(scores.matrix, backend, scores.device, several=False)
        normalized = options.metric == "cosine"
        return spectrum_of(matrix, which, "raise", options.threads, errors=True, normalized=normalized)
    except InvalidInputError as why:
        return why
