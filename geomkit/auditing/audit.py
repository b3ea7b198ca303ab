"""`audit`: measure a space, compare it with random vectors, say what that means, and what to try first."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.auditing.extras import Extra, of_labels, of_queries
from geomkit.auditing.measurements import Measurements, measure
from geomkit.auditing.null import NULLS, Null, null_of
from geomkit.auditing.passes import Options
from geomkit.auditing.readings import Value
from geomkit.auditing.result import LEVELS, Audit, Finding, Thresholds, is_like_random
from geomkit.auditing.statistics import STATISTICS
from geomkit.auditing.suggestions import suggest
from geomkit.core.deprecated import field_today, renamed_keywords
from geomkit.core.devices import Device
from geomkit.core.frames import by_position, row_names
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.validation import check_choice, check_length, check_positive, check_whole, is_number
from geomkit.errors import InvalidInputError
from geomkit.stats.hubness import duplicates_of, outliers_of
from geomkit.stats.neighbors import METRICS

__all__ = ["audit"]

SHOWN = 100
"""Rows to look at, of each kind."""


@renamed_keywords(say="progress", sample="n_sample")
def audit(
    x: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    null: str = "gaussian",
    null_draws: int | None = None,
    queries: Any = None,
    labels: Any = None,
    names: Any = None,
    n_sample: int | None = None,
    thresholds: Mapping[str, tuple[float, float]] | None = None,
    z: float = 4.0,
    try_transforms: bool = True,
    source: str = "x",
    seed: int = 0,
    precision: str = "float32",
    backend: str = "auto",
    device: Device = None,
    on_invalid: str = "raise",
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Say what a space is like, beside what random vectors would give.

    Parameters
    ----------
    x : array_like (n, d)
        Rows to measure, n >= 3: float16, bfloat16, float32, float64 or integers; dense or scipy sparse.
    k : int
        Neighbours of each row; 2 <= k <= n - 1.
    metric : {"cosine", "euclidean", "dot"}
        Of the neighbours. Under ``"cosine"`` everything but `norm_cv` and `metric_overlap` sees directions alone.
    null : {"gaussian", "spectrum", "permuted"}
        What to compare with, at the same n, d, k and metric: independent Gaussian coordinates; the same with the
        covariance of the rows; each column of the rows shuffled on its own.
    null_draws : int, optional
        Random sets, at least 2; unless given as many as some 1.5e12 products of coordinates allow, from 4 to 32.
    queries : array_like (m, d), optional
        Rows that will be searched for: how many lie outside the corpus, and how unevenly they find it.
    labels : sequence of n, optional
        A label of each row: whether neighbours share it, and whether a linear probe finds it.
    names : sequence of n, optional
        What to call each row where rows are shown; unless given, what the index of a pandas frame, or vectors of words
        of gensim or spaCy, call it.
    n_sample : int, optional
        Measure so many rows, drawn with `seed`; all of them unless given. The result says so.
    thresholds : mapping, optional
        Effects that are warn and fail, by statistic: ``{"hubness_skewness": (2, 5)}``.
    z : float
        Least |z| of a finding, above 0.
    try_transforms : bool
        Try transforms that may mend what is wrong: fitted on half of the rows, measured on the other half. One is
        suggested where a flagged number gets better and neither neighbours, contrast nor labels are lost.
    source : str
        What to call the data.
    seed : int
        Draws random sets, the sample, folds and shuffled labels; at least 0.
    precision : {"float32", "bfloat16", "float64"}; of Triton {"float32", "bfloat16", "float16", "tf32"}
        Precision in which neighbours are looked for; it decides how long that takes, not which are found.
    backend : {"auto", "cpu", "torch", "triton", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str, torch.device or a list of these, optional
        Where the rows and the random sets are measured; where the data lies unless given.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or, under ``"cosine"``, zero.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.
    progress : callable, optional
        Told about progress, a line at a time.

    Returns
    -------
    Audit

    Raises
    ------
    InvalidInputError
        The data cannot be measured at all, or an argument is out of range. A statistic that these rows do not have is
        NaN with a reason, and the rest goes on.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.
    DeviceMemoryError
        A device has no room for the smallest tile of pairs.

    Notes
    -----
    O(n² d) time for the data and for each random set, which the cache keeps by n, d, k, metric and kind. A verdict is
    warn or fail where z is beyond its threshold on the side that hurts, and the effect is large enough to matter.
    Statistics without a null, or without a side that hurts, have none. Verdicts do not forecast the recall of an index:
    in the study `validity`, of those with one only `relative_contrast` went with it as one would suppose.
    """
    thresholds_ = _thresholds(thresholds, z)
    check_choice(metric, "metric", tuple(METRICS))
    check_choice(null, "null", NULLS)
    check_whole(seed, "seed", 0)
    matrix = as_matrix(x, min_rows=3)
    check_whole(k, "k", 2, matrix.n - 1, high_is="n - 1")
    if labels is not None:
        check_length(labels, "labels", matrix.n)
    names = row_names(x) if names is None else names
    if names is not None:
        check_length(names, "names", matrix.n)
    labels, names = by_position(labels), by_position(names)
    drawn = _sample(matrix, n_sample, k, seed)
    data = matrix.data if drawn is None else matrix.data[drawn]
    options = Options(
        k=int(k), metric=metric, precision=precision, backend=backend, device=device, threads=threads, seed=int(seed)
    )
    tell = progress or (lambda _: None)
    tell(f"measuring {len(drawn) if drawn is not None else matrix.n:,} rows of {matrix.d:,}")
    found = measure(data, options, on_invalid)
    expected = null_of(
        data,
        null,
        options,
        n_draws=null_draws,
        seed=int(seed),
        rows=found.rows if found.n_dropped else None,
        progress=progress,
    )
    findings = judged(found.values, expected, thresholds_)
    if queries is not None:
        tell("finding the nearest rows of queries")
        findings += tuple(_judged(each, thresholds_) for each in of_queries(data, queries, found, options, on_invalid))
    named = labels if labels is None or drawn is None else [labels[row] for row in drawn.tolist()]
    if named is not None:
        extras = of_labels(data, named, found, int(seed), on_invalid, tell)
        findings += tuple(_judged(each, thresholds_) for each in extras)
    flagged = sorted((each for each in findings if each.flagged), key=lambda each: -LEVELS.index(each.verdict))
    helpful, rejected = (
        suggest(data, found, flagged, options, labels=named, progress=tell) if try_transforms else ((), ())
    )
    if drawn is not None:
        found = replace(found, rows=drawn[found.rows])
    from geomkit._version import __version__

    return Audit(
        findings=findings,
        source=source,
        n=found.n,
        d=found.d,
        k=int(k),
        metric=metric,
        null=null,
        null_draws=expected.n_draws,
        seed=int(seed),
        verdict=max((each.verdict or "ok" for each in findings), key=LEVELS.index),
        like_random=is_like_random(findings, z),
        suggestions=helpful,
        rejected=rejected,
        sampled_from=None if drawn is None else matrix.n,
        n_dropped=found.n_dropped,
        backend=found.backend,
        precision=found.precision,
        matmul=found.matmul,
        version=__version__,
        rows=_to_look_at(found),
        names=names,
        measurements=found,
    )


def judged(values: Mapping[str, Value], expected: Null, thresholds: Thresholds) -> tuple[Finding, ...]:
    """Judge every value, in the order of the table."""
    return tuple(
        Finding.of(name, values[name], expected.expected(name, values[name].value), thresholds)
        for name in STATISTICS
        if name in values
    )


def _judged(extra: Extra, thresholds: Thresholds) -> Finding:
    return Finding.of(extra.name, extra.value, extra.null, thresholds)


def _thresholds(given: Mapping[str, tuple[float, float]] | None, z: float) -> Thresholds:
    check_positive(z, "z")
    judgeable = {name for name, each in STATISTICS.items() if each.worse}
    effects = {field_today(name): pair for name, pair in (given or {}).items()}
    for name, pair in effects.items():
        if name not in judgeable:
            msg = f"thresholds names {name!r}, which is never judged; it must be one of {sorted(judgeable)}"
            raise InvalidInputError(msg)
        numbers = [value for value in pair if is_number(value)]
        low = STATISTICS[name].worse == "low"
        if len(numbers) != 2 or len(pair) != 2 or not (numbers[0] >= numbers[1] if low else numbers[0] <= numbers[1]):
            order = "warn >= fail" if low else "warn <= fail"
            msg = f"thresholds[{name!r}] must be two numbers, {order}; got {pair!r}"
            raise InvalidInputError(msg)
    return Thresholds(float(z), effects)


def _sample(matrix: Matrix, n_sample: int | None, k: int, seed: int) -> NDArray[np.int64] | None:
    if n_sample is None:
        return None
    check_whole(n_sample, "n_sample", k + 1, matrix.n, low_is="k + 1", high_is="n")
    if n_sample == matrix.n:
        return None
    return np.sort(np.random.default_rng([seed, 1]).choice(matrix.n, n_sample, replace=False))


def _to_look_at(found: Measurements) -> dict[str, NDArray[np.int64]]:
    """Row numbers of the input that belong to findings."""
    hubs = found.hubness
    order = np.argsort(-hubs.occurrence, kind="stable")
    nearest = found.neighbors.distances[:, 0]
    farthest = np.argsort(-nearest, kind="stable")
    places = {
        "hubs": order[hubs.occurrence[order] > 2 * hubs.k],
        "antihubs": np.flatnonzero(hubs.occurrence == 0),
        "outliers": farthest[outliers_of(found.neighbors)[farthest]],
        "duplicates": np.flatnonzero(duplicates_of(found.neighbors, hubs.duplicate_tolerance)),
    }
    return {name: found.rows[each[:SHOWN]] for name, each in places.items()}
