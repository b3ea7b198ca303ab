"""Shares and quantiles of all pairs from a sample of points, where all pairs are out of reach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import field_today, renamed_keywords, warn_renamed
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.core.result import Result
from geomkit.core.validation import OnInvalid, Precision, check_choice, check_on_invalid, check_threads, check_whole
from geomkit.covariance.accumulate import accumulate, by_columns
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.sampling.draws import Drawn, Known, known_from
from geomkit.sampling.estimates import FIGURES, Estimate, Question, estimates
from geomkit.stats.moments import Moments, moments_of_pair
from geomkit.stats.moments import moments as moments_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FEWEST_POINTS", "Sampled", "sampled"]

FEWEST_POINTS = 20
"""Points, or blocks of them, that are drawn at least: intervals rest on how these differ."""


@dataclass(frozen=True)
class Sampled(Result):
    """Statistics of all pairs of rows, estimated from the pairs of some, with intervals over points."""

    estimates: tuple[Estimate, ...]
    """In the order asked: mean, std, shares within, shares above, quantiles."""
    n: int
    """Rows that were drawn from, and that the statistics are of."""
    d: int
    n_sample: int
    """Rows drawn and measured."""
    n_blocks: int | None
    """Blocks of consecutive rows that were drawn; None where rows were drawn one by one."""
    block_rows: int | None
    """The most rows of a block that were asked for; blocks are as long as one another, but for one row."""
    n_pairs: int
    """Pairs measured."""
    metric: str
    confidence: float
    control: str
    """``"mean, variance"`` of all pairs, known exactly, or ``"none"``."""
    control_z: float
    """How many standard errors the sample is off in its controls, at most; 0 without controls."""
    error_bound: float
    """Proven bound on the absolute error of any single value: pairs so near a threshold may count on either side."""
    backend: str
    precision: str
    matmul: str
    n_dropped: int
    """Rows left out by ``on_invalid="drop"``: of all rows."""
    seed: int
    source: str
    family: str
    rows: NDArray[np.int64] = field(repr=False, compare=False)
    """Numbers of the rows measured, ascending, (points,)."""

    def __getitem__(self, statistic: str) -> Estimate:
        """Return the estimate of one statistic by name."""
        wanted = field_today(statistic)
        for each in self.estimates:
            if each.statistic == wanted:
                return each
        msg = f"statistic must be one of {[each.statistic for each in self.estimates]}; got {statistic!r}"
        raise InvalidInputError(msg)

    def to_rows(self) -> list[dict[str, Any]]:
        """Tidy rows, one a statistic; each says how many points were measured (`sampled`), and of how many."""
        return [
            {
                "source": self.source, "family": self.family, "n": self.n, "d": self.d, "metric": self.metric,
                "statistic": each.statistic, **{name: getattr(each, name) for name in FIGURES},
                "confidence": self.confidence, "sampled": self.n_sample, "sampled_from": self.n,
                "blocks": self.n_blocks, "control": each.control, "note": each.note, "backend": self.backend,
                "precision": self.precision, "seed": self.seed,
            }
            for each in self.estimates
        ]  # fmt: skip

    def to_frame(self) -> "pd.DataFrame":
        """Tidy rows as a pandas frame."""
        import pandas as pd

        return pd.DataFrame(self.to_rows())

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar field by name, and the estimates by theirs."""
        scalars = super().to_dict()
        return scalars | {estimate.statistic: estimate.to_dict() for estimate in scalars.pop("estimates")}

    def __str__(self) -> str:
        drawn = f"{self.n_sample:,}" if self.n_blocks is None else f"{self.n_sample:,} in {self.n_blocks:,} blocks"
        lines = [f"sampled {drawn} of {self.n:,} rows x {self.d}, {self.metric}; control: {self.control}"]
        share = f"{self.confidence:.4g}"
        lines.append(f"{'statistic':<26}{'value':>12}{'se':>11}{f'low ({share})':>14}{'high':>14}  note")
        lines += [
            f"{each.statistic:<26}{each.value:>12.6g}{each.se:>11.3g}{each.ci_low:>14.6g}{each.ci_high:>14.6g}  "
            f"{each.note}"
            for each in self.estimates
        ]
        return "\n".join(line.rstrip() for line in lines)


@renamed_keywords(points="n_sample")
def sampled(
    x: Any,
    n_sample: int,
    *,
    seed: int = 0,
    metric: str = "cosine",
    blocks: int | None = None,
    within: Sequence[float] | None = None,
    above: Sequence[float] = (),
    quantiles: Sequence[float] = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    confidence: float = 0.95,
    moments: Moments | bool | None = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
    source: str = "",
    family: str = "",
) -> Sampled:
    """Estimate the distribution of cosine, or of squared distance, over all pairs from the pairs of some points.

    Parameters
    ----------
    x : array_like (n, d)
        As for `cosine_stats`, `geomkit.Shards` included. Points are measured in the host's memory.
    n_sample : int
        Rows to draw, without replacement and each as likely as any other; at least 20, and fewer than n.
    seed : int, default 0
        At least 0; the same one draws the same rows.
    metric : {"cosine", "sqeuclidean"}
    blocks : int, optional
        Draw blocks of at most so many consecutive rows, as long as one another but for one row: for rows of which a
        single one costs the reading of a whole block. ``n_sample // blocks`` of them are drawn, at least 20, which may
        be somewhat fewer rows than `n_sample`. Intervals are then over blocks, for rows of a block may be alike, and
        mostly wider than of as many single rows.
    within : sequence of float, optional
        Shares of pairs with ``|value| <= eps``; (0.1,) for cosines, and none for distances, unless given.
    above : sequence of float
        Shares of pairs with ``value > t``.
    quantiles : sequence of float
        Inside (0, 1).
    confidence : float
        Of the intervals; inside (0, 1).
    moments : Moments or False, optional
        What `geomkit.moments` says of all rows of `x`, the controls; computed here, in one pass over all rows, unless
        given. False reads the drawn rows alone, and estimates mean and std, too.
    precision : {"float32", "float64"}
        Of the products.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite, or zero where cosine needs a direction. With ``moments=False`` only
        the drawn rows are looked at. ``"drop"`` draws from the rows that are left, so that fewer points may be
        measured; it needs the moments, which know how many are left, and single rows.
    threads : int, optional
        As for `cosine_stats`.
    source, family : str
        For the columns of the same names.

    Returns
    -------
    Sampled

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not what it must be.

    Notes
    -----
    O(m² d) time for m points beside the pass for the moments, O(n d²). Memory: the points, and their prepared rows.

    Plain shares are unbiased. Their standard errors are over points, with both terms of the variance of a U-statistic
    and the correction for drawing without replacement: see `geomkit.sampling.intervals`. What mean and variance of
    the sample are off from those of all pairs is regressed out of shares and quantiles, with coefficients from the
    points' own means: where points differ in their mean and spread, as real vectors do, that leaves about a tenth of
    the variance of a share in the bulk, and a bias of order 1/m, a part of the standard error. Mean and std are then
    the exact ones. Controls are left alone where they are off by more than 5 standard errors, which the note says:
    rows far out are then missing from the sample.

    Intervals of shares are Wilson's, with Student's t; those of quantiles are the values where the distribution
    function has the ends of its own interval at the quantile (Woodruff 1952). Where fewer than 10 points bear the
    variance of a share, or a fifth where fewer than 50 were drawn, as where few pairs are beyond a threshold, the
    interval is Hoeffding's, which holds for any rows and is wide; the note says so. A share of 0 among m points leaves
    up to 7.4 / m open at 95 %, not 3 / m²: a single row in m / 4 that is near to all others goes unseen.

    Intervals rest on how sums over points are distributed, and need points enough: in simulations of isotropic,
    clustered and anisotropic rows those at 95 % cover between 91 and 98 % with 150 points. Mean and std with
    ``moments=False`` cover less where rows have few directions and none in common, or long tails.

    References
    ----------
    W. Hoeffding: A class of statistics with asymptotically normal distribution. Ann. Math. Stat. 19, 1948, 293-325.
    W. Hoeffding: Probability inequalities for sums of bounded random variables. JASA 58, 1963, 13-30.
    R. S. Woodruff: Confidence intervals for medians and other position measures. JASA 47, 1952, 635-646.
    L. Zhao, X. Chen: Normal approximation for finite-population U-statistics. Acta Math. Appl. Sin. 6, 1990, 263-272.
    """
    matrix = as_matrix(x)
    if metric == "squared_distance":
        warn_renamed('metric="squared_distance"', '"sqeuclidean"', stacklevel=4)
        metric = "sqeuclidean"
    question = Question.of(metric, within, above, quantiles, confidence)
    _check(matrix, n_sample, seed, blocks, moments, precision, on_invalid, threads)
    facts = _facts(matrix, metric, moments, on_invalid, threads)
    n = facts.n if facts else matrix.n
    if n_sample >= n:
        whole = "cosine_stats" if metric == "cosine" else "squared_distance_stats"
        msg = f"n_sample must be fewer than the {n} rows there are; got {n_sample}: measure all of them with {whole}"
        raise InvalidInputError(msg)
    rng = np.random.default_rng(seed)
    drawn = Drawn.of(matrix, n, n_sample, blocks, rng, metric, precision, on_invalid, threads)
    if len(drawn.rows) < FEWEST_POINTS:
        msg = (
            f"n_sample: {len(drawn.rows)} of the {n_sample} rows drawn are left after dropping; it must be at least 20"
        )
        raise InvalidInputError(msg)
    found, control, far = estimates(drawn, question, facts, rng, threads)
    m = len(drawn.rows)
    return Sampled(
        estimates=found,
        n=n,
        d=matrix.d,
        n_sample=m,
        n_blocks=None if drawn.cuts is None else len(drawn.cuts) - 1,
        block_rows=blocks,
        n_pairs=m * (m - 1) // 2,
        metric=metric,
        confidence=float(confidence),
        control=control,
        control_z=far,
        error_bound=drawn.error_bound,
        backend=drawn.scores.backend.value,
        precision=drawn.scores.precision,
        matmul=drawn.scores.matmul,
        n_dropped=facts.n_dropped if facts else 0,
        seed=int(seed),
        source=source,
        family=family,
        rows=drawn.rows,
    )


def _check(
    matrix: Matrix,
    n_sample: int,
    seed: int,
    blocks: int | None,
    moments: Any,
    precision: Precision,
    on_invalid: OnInvalid,
    threads: int | None,
) -> None:
    check_threads(threads)
    check_choice(precision, "precision", ("float32", "float64"))
    check_on_invalid(on_invalid)
    check_whole(n_sample, "n_sample", FEWEST_POINTS)
    check_whole(seed, "seed", 0)
    if blocks is not None:
        check_whole(blocks, "blocks", 2, n_sample // FEWEST_POINTS, high_is=f"n_sample // {FEWEST_POINTS}")
    if not (moments is None or moments is False or isinstance(moments, Moments)):
        msg = f"moments must be the Moments of x, False for none, or None to compute them; got {moments!r}"
        raise InvalidInputError(msg)
    if on_invalid == "drop" and (moments is False or blocks is not None):
        why = "moments=False leaves unknown how many rows are valid" if moments is False else "blocks are drawn whole"
        msg = f'on_invalid must be "raise" here, for {why}; got "drop"'
        raise InvalidInputError(msg)
    if isinstance(moments, Moments) and (moments.n + moments.n_dropped, moments.d) != (matrix.n, matrix.d):
        msg = (
            f"moments must be those of all {matrix.n} rows of {matrix.name}, {matrix.d} wide; got those of "
            f"{moments.n + moments.n_dropped} rows, {moments.d} wide"
        )
        raise InvalidInputError(msg)


def _facts(
    matrix: Matrix, metric: str, moments: Moments | bool | None, on_invalid: OnInvalid, threads: int | None
) -> Known | None:
    """Return what is known of all pairs."""
    if moments is False:
        return None
    if not isinstance(moments, Moments):
        if metric == "cosine" or not by_columns(matrix):
            moments = moments_of(matrix.data, on_invalid=on_invalid, threads=threads)
        else:
            # Zero rows have distances.
            pair, kept, _ = accumulate(matrix, _backend(matrix), threads, on_invalid, directed=False)
            moments = moments_of_pair(pair, kept.n_dropped)
    facts = known_from(moments, metric)
    if not (math.isfinite(facts.mean) and math.isfinite(facts.variance)):
        got = f"a mean of {facts.mean} and a variance of {facts.variance}"
        msg = f"moments must be finite, or False for none; got {got}: divide {matrix.name} by a number"
        raise InvalidInputError(msg)
    return facts


def _backend(matrix: Matrix) -> Backend:
    return Backend.TORCH if matrix.on_accelerator else Backend.CPU
