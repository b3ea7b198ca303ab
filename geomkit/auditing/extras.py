"""What queries and labels add to an audit, each beside a null of its own."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from geomkit import nulls
from geomkit.auditing.measurements import Measurements
from geomkit.auditing.null import Expected
from geomkit.auditing.passes import Options
from geomkit.auditing.readings import Value
from geomkit.errors import InvalidInputError
from geomkit.stats.labels import same_label_rate
from geomkit.stats.neighbors import neighbors
from geomkit.stats.probe import probe
from geomkit.stats.query_fit import query_fit_of

__all__ = ["Extra", "of_labels", "of_queries"]

NONE = Expected(math.nan, math.nan, math.nan)


class Extra(NamedTuple):
    """One statistic with its null."""

    name: str
    value: Value
    null: Expected


def of_queries(x: Any, queries: Any, found: Measurements, options: Options, on_invalid: str) -> Iterator[Extra]:
    """How queries fit the corpus: beside queries drawn as the rows were, and beside retrieval at random.

    Raises
    ------
    InvalidInputError
        The queries cannot be measured, or are of another dimension.
    """
    nearest = neighbors(
        x, options.k, queries=queries, metric=options.metric, precision=options.precision,
        backend="torch" if options.backend == "triton" else options.backend, device=options.device,
        on_invalid=on_invalid, threads=options.threads,
    )  # fmt: skip
    fit = query_fit_of(nearest, found.neighbors)
    note = f"{fit.m:,} queries"
    outside = Expected(fit.outside_null_mean, fit.outside_null_std, fit.outside_z)
    yield Extra("out_of_distribution_fraction", Value(fit.outside_fraction, fit.outside_fraction_se, note), outside)
    spread = _spread_of_skewness(fit.m, fit.k / fit.n) / math.sqrt(fit.n)
    uneven = Expected(fit.skewness_null, spread, nulls.z(fit.skewness, fit.skewness_null, spread))
    why = note if not math.isnan(fit.skewness) else "all rows are found by equally many queries"
    yield Extra("query_hubness_skewness", Value(fit.skewness, fit.skewness_se, why), uneven)
    never = Expected(
        fit.never_null_mean, fit.never_null_std, nulls.z(fit.never_fraction, fit.never_null_mean, fit.never_null_std)
    )
    yield Extra("unreached_fraction", Value(fit.never_fraction, note=note), never)


def _spread_of_skewness(m: int, p: float) -> float:
    """Return the standard deviation of a row's influence on the skewness, where its occurrence is binomial."""
    mean = m * p
    counts = np.arange(min(m, math.ceil(mean + 40 * math.sqrt(mean) + 60)) + 1)
    ways = special.gammaln(m + 1) - special.gammaln(counts + 1) - special.gammaln(m - counts + 1)
    weights = np.exp(ways + special.xlogy(counts, p) + special.xlog1py(m - counts, -p))
    z = (counts - mean) / math.sqrt(mean * (1 - p)) if p < 1 else np.zeros(len(counts))
    third = float(weights @ z**3)
    return math.sqrt(float(weights @ (z**3 - third - 3 * z - 1.5 * third * (z**2 - 1)) ** 2))


def of_labels(
    x: Any, labels: Any, found: Measurements, seed: int, on_invalid: str, progress: Callable[[str], None]
) -> Iterator[Extra]:
    """Whether labels can be seen in the space, beside the same labels shuffled.

    Raises
    ------
    InvalidInputError
        Labels are not one for each row, some are missing, or there is one class.
    """
    rate = same_label_rate(found.neighbors, labels)
    yield Extra(
        "same_label_rate",
        Value(rate.rate, rate.rate_se, f"{rate.n_classes} labels"),
        Expected(rate.null_mean, rate.null_std, rate.z),
    )
    progress("probing for labels")
    try:
        seen = probe(x, labels, seed=seed, on_invalid=on_invalid)
    except InvalidInputError as why:
        yield Extra("probe_accuracy", Value(math.nan, note=str(why)), NONE)
        return
    yield Extra(
        "probe_accuracy",
        Value(seen.accuracy, seen.accuracy_se, f"{seen.n_classes} labels, {seen.folds} folds"),
        Expected(seen.null_mean, seen.null_std, seen.z),
    )
