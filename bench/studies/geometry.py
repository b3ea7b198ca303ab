"""The geometry of every source at its dimension, beside random vectors of the same number and dimension."""

import math

import numpy as np
import pandas as pd

import geomkit
from bench.figures import geometry
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from bench.measures.recall import unit as unit_rows
from bench.measures.tidy import NOT_MEASURED, Row, frame
from bench.studies import distance_nulls
from bench.studies.distance_nulls import ORDERS, STATISTICS, Expected
from geomkit import datasets, nulls
from geomkit.datasets.record import Matrix, taken
from geomkit.stats.concentration import Concentration
from geomkit.stats.cosine import CosineStats
from geomkit.stats.orthogonality import orthogonality_of

WHOLE = 5000
"""Real sources with at least this many rows are measured whole too, for cosine."""

EPS = 0.1
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


def units(context: Context) -> tuple[Unit, ...]:
    """Every source is a unit; its key holds the rows of the table of nulls that it is compared with."""
    return spaces.units(context, spaces.names(context), given=_nulls_of)


def _nulls_of(source: datasets.Source, context: Context) -> str:
    return repr(distance_nulls.expected(spaces.rows(context), source.dim))


def measure(context: Context, unit: Unit) -> Tables:
    """Measure a source: geometry.csv, and cosine_histograms.csv of sources that a figure shows."""
    if unit.absent:
        source = datasets.get(unit.name)
        why = Row(unit.name, source.family, None, source.dim, "", NOT_MEASURED, math.nan, note=unit.absent)
        return {"geometry.csv": frame([why])}
    whole = spaces.load(unit.name, context)
    found = taken(whole, spaces.rows(context), context.seed) if whole.family != "random" else whole
    cosines = geomkit.cosine_stats(found.vectors)
    rows = _cosine_rows(found, cosines, context.seed, within_se(found.vectors, EPS))
    expected = distance_nulls.expected(cosines.n, found.dim)
    for p in ORDERS:
        rows += _distance_rows(found, geomkit.concentration(found.vectors, p=p), expected, context.seed)
    if not context.quick and found.family != "random" and whole.vectors.shape[0] >= WHOLE:
        rows += _cosine_rows(whole, geomkit.cosine_stats(whole.vectors), context.seed)
    tables = {"geometry.csv": frame(rows)}
    if unit.name in FEATURED:
        tables["cosine_histograms.csv"] = _histogram(found, cosines)
    return tables


def within_se(x: Matrix, eps: float) -> float:
    """Return the standard error over rows of the share of pairs with |cosine| at most `eps`.

    Parameters
    ----------
    x : (n, d) array or CSR
        Few rows: all n x n cosines are held.

    Notes
    -----
    With h_i the share of row i's pairs, 2 sd(h)/√n: the share is a mean over pairs, and each row is in n - 1 of them
    (Hoeffding 1948).
    """
    rows = unit_rows(x)
    n = len(rows)
    near = np.abs(rows @ rows.T) <= eps
    share = (near.sum(axis=1) - near.diagonal()) / (n - 1)
    return 2 * float(share.std(ddof=1)) / math.sqrt(n)


def draw(context: Context) -> None:
    """Draw cosine_distribution, orthogonality, concentration and layers."""
    table, n = context.read("geometry.csv"), spaces.rows(context)
    context.figure("cosine_distribution", geometry.cosine_distribution(context.read("cosine_histograms.csv")))
    context.figure("orthogonality", geometry.orthogonality(table, EPS, n))
    context.figure("concentration", geometry.concentration(table, n))
    context.figure("layers", geometry.layers(table, n))


def _cosine_rows(found: datasets.Vectors, cosines: CosineStats, seed: int, within: float = math.nan) -> list[Row]:
    beside = orthogonality_of(cosines, EPS)
    sphere = nulls.sphere(found.dim)
    statistics = {name: getattr(cosines, name) for name in ("mean", "std", "skewness", "kurtosis", "min", "max")}
    statistics |= {name: getattr(beside, name) for name in ("coherence", "mean_abs", "rms", "within_fraction")}
    statistics["error_bound"] = cosines.error_bound
    statistics |= {f"q{100 * share:g}": cosines.quantile(share) for share in QUANTILES}
    errors = {"mean": cosines.mean_se, "within_fraction": within}
    # Where the null is a single number, it has no spread to measure z in.
    known = {"std": sphere.std, "skewness": 0.0, "kurtosis": sphere.kurtosis}
    rows = []
    for name, value in statistics.items():
        null = beside.nulls.get(name)
        expected = (null.mean, null.std, null.z) if null else (known.get(name, math.nan), math.nan, math.nan)
        rows.append(_row(found, cosines, "cosine", name, (value, errors.get(name, math.nan), *expected), seed))
    return rows


def _distance_rows(found: datasets.Vectors, distances: Concentration, expected: Expected, seed: int) -> list[Row]:
    rows = []
    for name in ("mean", "std", *STATISTICS, "n_skipped"):
        value, se = float(getattr(distances, name)), getattr(distances, f"{name}_se", math.nan)
        mean, sd = expected.get((distances.p, name), (math.nan, math.nan))
        numbers = (value, se, mean, sd, nulls.z(value, mean, sd))
        rows.append(_row(found, distances, f"minkowski-{distances.p:g}", name, numbers, seed))
    return rows


def _row(
    found: datasets.Vectors, result: CosineStats | Concentration, metric: str, statistic: str,
    numbers: tuple[float, float, float, float, float], seed: int,
) -> Row:  # fmt: skip
    """Make a row of a value, its standard error, and mean, deviation and z of its null."""
    return Row(
        found.name, found.family, result.n, found.dim, metric, statistic, *numbers, result.backend, result.precision,
        seed, found.note,
    )  # fmt: skip


def _histogram(found: datasets.Vectors, cosines: CosineStats) -> pd.DataFrame:
    counts, edges = cosines.histogram(BINS, (-1.0, 1.0))
    width = edges[1] - edges[0]
    null = np.diff(nulls.sphere(found.dim).cdf(edges)) / width
    return pd.DataFrame(
        {"source": found.name, "family": found.family, "d": found.dim, "n": cosines.n, "left": edges[:-1],
         "density": counts / cosines.n_pairs / width, "null_density": null}
    )  # fmt: skip


STUDY = Study(
    "geometry", "every source at its dimension, beside random vectors", measure, units, draw=draw,
    reads=("distance-nulls",),
)  # fmt: skip
