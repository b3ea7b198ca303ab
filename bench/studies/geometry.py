"""The geometry of every source at its dimension, beside random vectors of the same number and dimension."""

import math
from functools import cache

import numpy as np
import pandas as pd
from tqdm import tqdm

import geomkit
from bench import inputs
from bench.runner import Context, Study
from bench.tidy import NOT_MEASURED, Row, frame
from geomkit import nulls, sources
from geomkit.report import figures
from geomkit.stats.concentration import Concentration
from geomkit.stats.cosine import CosineStats
from geomkit.stats.orthogonality import orthogonality_of

WHOLE = 5000
"""Real sources with at least this many rows are measured whole too, for cosine."""

EPS = 0.1
ORDERS = (0.5, 1.0, 2.0, math.inf)
REPLICATES = 5
"""Gaussian sets behind a simulated null."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 400

FEATURED = (
    "sphere-50", "sphere-300", "sphere-768", "sphere-4096",
    "tfidf-documents-30925", "tfidf-terms-11293", "tfidf-bbc-12597", "lsa-50", "lsa-300", "projection-4096",
    "glove-50", "googlenews-300", "skipgram-50", "skipgram-300",
    "minilm-384", "use-512", "smollm2-input-576", "smollm2-documents-layer00-576",
    "smollm2-documents-layer16-576", "smollm2-documents-layer30-576",
)  # fmt: skip
"""Sources whose whole distribution is written out for a figure."""

_CONCENTRATION = ("relative_variance", "relative_variance_squared", "relative_contrast", "nearest_to_mean")


def run(context: Context) -> None:
    """Measure all sources and write results/geometry.csv and results/cosine_histograms.csv."""
    rows: list[Row] = []
    histograms: list[pd.DataFrame] = []
    for name in tqdm(inputs.names(context), desc="geometry", unit="source", disable=None):
        found = inputs.load(name, context)
        if isinstance(found, inputs.Missing):
            source = found.source
            rows.append(Row(name, source.family, None, source.dim, "", NOT_MEASURED, math.nan, note=found.why))
            continue
        cosines = geomkit.cosine_stats(found.vectors)
        rows += _cosine_rows(found, cosines, context.seed)
        for p in ORDERS:
            rows += _distance_rows(found, geomkit.concentration(found.vectors, p=p), context.seed)
        if name in FEATURED:
            histograms.append(_histogram(found, cosines))
        if not context.quick and found.family != "random":
            rows += _whole(name, context)
    context.table("geometry.csv", frame(rows))
    context.table("cosine_histograms.csv", pd.concat(histograms, ignore_index=True))


def draw(context: Context) -> None:
    """Draw cosine_distribution, orthogonality, concentration and layers."""
    table, n = context.read("geometry.csv"), inputs.rows(context)
    context.figure("cosine_distribution", figures.cosine_distribution(context.read("cosine_histograms.csv")))
    context.figure("orthogonality", figures.orthogonality(table, EPS, n))
    context.figure("concentration", figures.concentration(table, n))
    context.figure("layers", figures.layers(table, n))


def _cosine_rows(found: sources.Vectors, cosines: CosineStats, seed: int) -> list[Row]:
    beside = orthogonality_of(cosines, EPS)
    sphere = nulls.sphere(found.dim)
    statistics = {
        "mean": (cosines.mean, cosines.mean_se),
        "std": (cosines.std, math.nan),
        "skewness": (cosines.skewness, math.nan),
        "kurtosis": (cosines.kurtosis, math.nan),
        "min": (cosines.min, math.nan),
        "max": (cosines.max, math.nan),
        "coherence": (beside.coherence, math.nan),
        "mean_abs": (beside.mean_abs, math.nan),
        "rms": (beside.rms, math.nan),
        "fraction_within": (beside.fraction_within, math.nan),
        "error_bound": (cosines.error_bound, math.nan),
    }
    statistics |= {f"q{100 * share:g}": (cosines.quantile(share), math.nan) for share in QUANTILES}
    # Where the null is a single number, it has no spread to measure z in.
    plain = {"std": sphere.std, "skewness": 0.0, "kurtosis": sphere.kurtosis}
    rows = []
    for name, (value, se) in statistics.items():
        null = beside.nulls.get(name)
        mean, sd, z = (null.mean, null.sd, null.z) if null else (plain.get(name, math.nan), math.nan, math.nan)
        rows.append(
            Row(
                found.name,
                found.family,
                cosines.n,
                found.dim,
                "cosine",
                name,
                value,
                se,
                mean,
                sd,
                z,
                cosines.backend,
                cosines.precision,
                seed,
                found.note,
            )
        )
    return rows


def _distance_rows(found: sources.Vectors, distances: Concentration, seed: int) -> list[Row]:
    expected = _simulated(distances.n, distances.d, distances.p, seed)
    rows = []
    for name in ("mean", "std", *_CONCENTRATION, "n_skipped"):
        se = getattr(distances, f"{name}_se", math.nan)
        mean, sd = expected.get(name, (math.nan, math.nan))
        value = float(getattr(distances, name))
        rows.append(
            Row(
                found.name,
                found.family,
                distances.n,
                found.dim,
                f"minkowski-{distances.p:g}",
                name,
                value,
                se,
                mean,
                sd,
                nulls.z(value, mean, sd),
                distances.backend,
                distances.precision,
                seed,
                found.note,
            )
        )
    return rows


@cache
def _simulated(n: int, d: int, p: float, seed: int) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of each scale-free statistic over Gaussian sets of the same n, d and p."""
    drawn = []
    for replicate in range(REPLICATES):
        rng = np.random.default_rng([seed, n, d, replicate])
        drawn.append(geomkit.concentration(rng.standard_normal((n, d), dtype=np.float32), p=p))
    values = {name: np.array([getattr(one, name) for one in drawn]) for name in _CONCENTRATION}
    return {name: (float(each.mean()), float(each.std(ddof=1))) for name, each in values.items()}


def _histogram(found: sources.Vectors, cosines: CosineStats) -> pd.DataFrame:
    counts, edges = cosines.histogram(BINS, (-1.0, 1.0))
    width = edges[1] - edges[0]
    null = np.diff(nulls.sphere(found.dim).cdf(edges)) / width
    return pd.DataFrame(
        {
            "source": found.name,
            "family": found.family,
            "d": found.dim,
            "n": cosines.n,
            "left": edges[:-1],
            "density": counts / cosines.n_pairs / width,
            "null_density": null,
        }
    )


def _whole(name: str, context: Context) -> list[Row]:
    """Cosine statistics of all rows of a large real source."""
    found = inputs.load(name, context, whole=True)
    if isinstance(found, inputs.Missing) or found.vectors.shape[0] < WHOLE:
        return []
    return _cosine_rows(found, geomkit.cosine_stats(found.vectors), context.seed)


STUDY = Study("geometry", "every source at its dimension, beside random vectors", run, draw=draw)
