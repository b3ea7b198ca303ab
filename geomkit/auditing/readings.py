"""How each statistic of an audit is read off the passes: adding one is a line here and a row in `statistics`."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.auditing import influences
from geomkit.auditing.passes import Passes
from geomkit.core.intervals import wilson
from geomkit.errors import InvalidInputError
from geomkit.stats.cosine import mean_by_row
from geomkit.stats.dimension import lid_of, logs_of, mle_of, twonn_of
from geomkit.stats.hubness import duplicates_of, graph_of, outliers_of
from geomkit.stats.neighbors import neighbors
from geomkit.stats.squared_distance import mean_square_by_row

__all__ = ["INTERVAL", "NEAR", "READINGS", "Value"]

INTERVAL = 1.959964
"""Standard errors on either side of a value in its 95 % interval."""

NEAR = 0.01
"""Distance of near-duplicates, as `duplicates` of `hubness`."""

QUANTILES = {"cosine_q01": 0.01, "cosine_q50": 0.5, "cosine_q99": 0.99}


class Value(NamedTuple):
    """One statistic, and what is known of it."""

    value: float
    se: float = math.nan
    """Standard error over rows."""
    note: str = ""
    """Why the value is NaN, or what it is of where that is not all rows."""
    ends: tuple[float, float] | None = None
    """Of the 95 % interval, where that is not value ± 1.96 se."""
    influence: NDArray[np.float64] | None = None
    """Of each row measured, (n,); None where it is not known."""

    def difference_se(self, other: "Value", *, paired: bool) -> float:
        """Return the standard error of the difference from another value: of the same rows where `paired`."""
        if not paired:
            return math.hypot(self.se, other.se)
        if self.influence is None or other.influence is None:
            return math.nan
        # A standard error that allows for more than influences do keeps its allowance.
        plain = ((v.se, influences.standard_error(i)) for v, i in ((self, self.influence), (other, other.influence)))
        allowance = max([1.0, *(se / least for se, least in plain if least > 0 and math.isfinite(se))])
        return allowance * influences.standard_error(self.influence - other.influence)


def _influenced(value: float, influence: NDArray[np.float64]) -> Value:
    return Value(value, influences.standard_error(influence), influence=influence)


def _share(rows: NDArray[np.bool_]) -> Value:
    """Return a share of the rows, with Wilson's interval, as if rows were independent."""
    n, share = len(rows), float(rows.mean())
    return Value(
        share,
        math.sqrt(share * (1 - share) / n),
        ends=wilson(share, n, INTERVAL),
        influence=np.asarray(rows - share, np.float64),
    )


def _cosine(found: Passes) -> Iterable[Value]:
    moments = found.moments
    by_row = None if found.cosines is None else 2 * (mean_by_row(found.scores) - moments.cosine_mean)
    yield Value(moments.cosine_mean, moments.cosine_mean_se, influence=by_row)
    yield Value(math.sqrt(moments.cosine_variance))


def _quantiles(found: Passes) -> Iterable[Value]:
    if found.cosines is None:
        msg = f"metric {found.neighbors.metric!r} counts no cosines"
        raise InvalidInputError(msg)
    for share in QUANTILES.values():
        yield Value(float(found.cosines.quantile(share)))


def _contrast(found: Passes) -> Iterable[Value]:
    """E d / E d_min, as He, Kumar and Chang (ICML 2012) average; Euclidean distances by their root mean squares."""
    nearest = found.neighbors.distances[:, 0]
    if found.neighbors.metric == "dot":
        msg = "an inner product is no distance, and has no contrast"
        raise InvalidInputError(msg)
    if duplicates_of(found.neighbors, 0.0).all():
        msg = "every row has an equal one: the nearest is at distance 0"
        raise InvalidInputError(msg)
    if found.cosines is not None:
        by_row = 1 - mean_by_row(found.scores)
        # Every pair has two rows, each of which moves its distance.
        influence = influences.ratio(by_row, nearest) + (by_row - by_row.mean()) / nearest.mean()
        yield _influenced(float(by_row.mean() / nearest.mean()), influence)
        return
    by_row, squares = mean_square_by_row(found.scores) * found.scores.unit, nearest**2
    influence = influences.ratio(by_row, squares) + (by_row - by_row.mean()) / squares.mean()
    value = math.sqrt(float(by_row.mean() / squares.mean()))
    yield _influenced(value, influence / (2 * value))


def _hubness(found: Passes) -> Iterable[Value]:
    hubs = found.hubness
    if math.isnan(hubs.skewness):
        yield Value(hubs.skewness, note="all rows are found equally often")
    else:
        yield Value(hubs.skewness, hubs.skewness_se, influence=influences.skewness(hubs.occurrence))
    apart = np.abs(hubs.occurrence - hubs.k) / (2 * hubs.k)
    yield _influenced(hubs.robin_hood, apart - apart.mean())
    yield _influenced(hubs.gini, influences.gini(hubs.occurrence))
    yield _share(hubs.occurrence == 0)
    yield _share(hubs.occurrence > 2 * hubs.k)


def _graph(found: Passes) -> Iterable[Value]:
    mutual, label = graph_of(found.neighbors)
    shares = mutual / found.neighbors.k
    yield _influenced(float(shares.mean()), shares - shares.mean())
    yield _share(label != np.bincount(label).argmax())
    if found.neighbors.metric == "dot":
        yield Value(math.nan, note="an inner product is no distance, and has no outliers")
    else:
        yield _share(outliers_of(found.neighbors))


def _duplicates(found: Passes) -> Iterable[Value]:
    if found.neighbors.metric == "dot":
        msg = "an inner product does not tell equal rows from long ones"
        raise InvalidInputError(msg)
    yield _share(duplicates_of(found.neighbors, found.hubness.duplicate_tolerance))
    yield _share(duplicates_of(found.neighbors, NEAR))


def _twonn(found: Passes) -> Iterable[Value]:
    estimate = twonn_of(found.neighbors)
    influence = influences.twonn(logs_of(found.neighbors)) if math.isfinite(estimate.dimension) else None
    yield Value(estimate.dimension, estimate.dimension_se, influence=influence)


def _mle(found: Passes) -> Iterable[Value]:
    estimate = mle_of(found.neighbors)
    local = np.asarray(estimate.local)
    influence = influences.mle(local) if math.isfinite(estimate.dimension) else None
    yield Value(estimate.dimension, estimate.dimension_se, influence=influence)


def _lid(found: Passes) -> Iterable[Value]:
    yield Value(lid_of(found.neighbors).dimension)


def _spectrum(found: Passes) -> Iterable[Value]:
    shape = found.spectrum
    for name in ("participation_ratio", "effective_rank", "stable_rank", "isoscore"):
        yield Value(getattr(shape, name), getattr(shape, f"{name}_se"))
    yield Value(shape.partition_isotropy)
    yield Value(shape.largest_variance_ratio)
    yield Value(shape.n_dominant)


def _norms(found: Passes) -> Iterable[Value]:
    if found.neighbors.metric != "cosine":
        yield Value(found.spectrum.norm_cv, found.spectrum.norm_cv_se)
        return
    norms = found.scores.divisors
    yield _influenced(float(norms.std() / norms.mean()), influences.variation(norms))


def _overlap(found: Passes) -> Iterable[Value]:
    """Share of the k nearest by cosine that are also among those of the largest inner product."""
    if found.neighbors.metric != "cosine":
        msg = f"compares cosine with the inner product; the metric is {found.neighbors.metric!r}"
        raise InvalidInputError(msg)
    n, k, most = found.neighbors.n, found.neighbors.k, found.options.compared
    if most == 0:
        msg = "not compared"
        raise InvalidInputError(msg)
    drawn = np.arange(n)
    if n > most:
        drawn = np.sort(np.random.default_rng([found.options.seed, 2]).choice(n, most, replace=False))
    numbers = found.neighbors.rows[drawn]
    by_product = _others_by_product(found, numbers)
    # A number in both lists of a row stands twice in a row once they are sorted together.
    together = np.sort(np.hstack([found.neighbors.indices[drawn], by_product]), axis=1)
    shares = (together[:, 1:] == together[:, :-1]).sum(axis=1) / k
    note = f"over {most:,} rows drawn with seed {found.options.seed}" if n > most else ""
    yield _influenced(float(shares.mean()), shares - shares.mean())._replace(note=note, influence=None)


def _others_by_product(found: Passes, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the k rows, other than itself, that have the largest inner products with each of these, (m, k)."""
    options = found.options
    nearest = neighbors(
        found.x, options.k + 1, queries=found.x[numbers], metric="dot", backend=options.backend, device=options.device,
        on_invalid=found.on_invalid, threads=options.threads,
    ).indices  # fmt: skip
    others = nearest != numbers[:, None]
    # Where a row is not among its own, the last of the list goes instead.
    others[others.all(axis=1), -1] = False
    return np.asarray(nearest[others].reshape(len(numbers), options.k))


READINGS: dict[tuple[str, ...], Callable[[Passes], Iterable[Value]]] = {
    ("cosine_mean", "cosine_std"): _cosine,
    tuple(QUANTILES): _quantiles,
    ("relative_contrast",): _contrast,
    (
        "hubness_skewness", "robin_hood", "gini", "antihub_fraction", "hub_fraction",
    ): _hubness,
    ("mutual_fraction", "island_fraction", "outlier_fraction"): _graph,
    ("duplicate_fraction", "near_duplicate_fraction"): _duplicates,
    ("twonn",): _twonn,
    ("mle",): _mle,
    ("lid",): _lid,
    (
        "participation_ratio", "effective_rank", "stable_rank", "isoscore", "partition_isotropy",
        "largest_variance_ratio", "n_dominant",
    ): _spectrum,
    ("norm_cv",): _norms,
    ("metric_overlap",): _overlap,
}  # fmt: skip
"""Which statistics are read together, and how."""
