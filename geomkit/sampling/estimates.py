"""From the sums over drawn pairs to shares and quantiles of all pairs, with intervals and nulls."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from geomkit import nulls
from geomkit.core.intervals import wilson
from geomkit.core.result import Result
from geomkit.core.validation import check_choice, is_number
from geomkit.errors import InvalidInputError
from geomkit.sampling.draws import Drawn, Known, Swept
from geomkit.sampling.intervals import FAR, FEWEST, Adjusted, Interval, furthest, hoeffding, student

__all__ = ["FIGURES", "METRICS", "Estimate", "Question", "estimates"]

Vector = NDArray[np.float64]

METRICS = ("cosine", "sqeuclidean")

FIGURES = ("value", "se", "ci_low", "ci_high", "null_mean", "null_std", "z")
"""Columns of a tidy row that an estimate fills with numbers."""

CONTROLS = ("mean", "variance")

BEARING = 20
"""Points that must bear the variance of a control, for slopes to rest on them: see `FEWEST`.

Twice as many, for what controls are for is to do better: with fewer, plain shares are as good, and their intervals
surer.
"""


@dataclass(frozen=True, slots=True)
class Estimate(Result):
    """One statistic of all pairs."""

    statistic: str
    """``mean``, ``std``, ``within_fraction_<eps>``, ``above_fraction_<t>`` or ``quantile_<q>``."""
    value: float
    se: float
    """Standard error over points; 0 of what is exact; NaN of a quantile whose interval has an end that is none."""
    ci_low: float
    ci_high: float
    control: str
    """Controls that were regressed out, ``"none"``, or ``"exact"`` of what all rows say without pairs."""
    note: str
    """Why an interval is not the usual one; empty where it is."""
    null_mean: float
    """What directions uniform on the sphere would give as many rows as were drawn from; NaN of distances."""
    null_std: float
    z: float
    """(value - null_mean) over both standard errors, that of the null and that of sampling."""


def _numbers(values: Any, name: str, low: float, high: float, *, ends: bool, what: str) -> tuple[float, ...]:
    given = list(values) if isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str) else None
    if given is None:
        msg = f"{name} must be a sequence of numbers {what}; got {values!r}"
        raise InvalidInputError(msg)
    for each in given:
        if not (is_number(each) and math.isfinite(each) and (low <= each <= high if ends else low < each < high)):
            msg = f"{name} must be numbers {what}; got {each!r}"
            raise InvalidInputError(msg)
    numbers = tuple(float(each) for each in given)
    twice = [number for number in numbers if numbers.count(number) > 1]
    if twice:
        msg = f"{name} must be numbers {what}, each once; got {twice[0]!r} {len(twice)} times"
        raise InvalidInputError(msg)
    return numbers


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the pairs."""

    metric: str
    within: tuple[float, ...]
    above: tuple[float, ...]
    quantiles: tuple[float, ...]
    confidence: float

    @classmethod
    def of(cls, metric: str, within: Any, above: Any, quantiles: Any, confidence: Any) -> Self:
        """Check what was asked.

        Raises
        ------
        InvalidInputError
            An argument is not what it must be.
        """
        check_choice(metric, "metric", METRICS)
        cosine = metric == "cosine"
        if within is None:
            within = (0.1,) if cosine else ()
        most, what = (1.0, "in [0, 1]") if cosine else (math.inf, "of at least 0")
        (sure,) = _numbers([confidence], "confidence", 0, 1, ends=False, what="inside (0, 1)")
        return cls(
            metric,
            _numbers(within, "within", 0, most, ends=True, what=what),
            _numbers(above, "above", -1 if cosine else 0, most, ends=True, what="in [-1, 1]" if cosine else what),
            _numbers(quantiles, "quantiles", 0, 1, ends=False, what="inside (0, 1)"),
            sure,
        )


def _named(kind: str, number: float) -> str:
    """Return the name of a statistic; numbers that differ have different names, which give the number exactly."""
    text = f"{number:g}"
    return f"{kind}_{text if float(text) == number else repr(number)}"


class _Columns:
    """Kernels of one sweep: flags at thresholds, entries, their squares, ones; statistics are weighted sums of them."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn, self.thresholds = drawn, list[float]()
        self._dtype = np.dtype(drawn.scores.dtype).type
        self._wanted: list[tuple[str, list[tuple[int, float]], float]] = []

    def at_most(self, value: float, *, strictly: bool = False) -> tuple[list[tuple[int, float]], float]:
        """Flag values at most, or less than, this one: weights of columns, and a constant."""
        if value >= self.drawn.high and not strictly:
            return [], 1.0
        up = self.drawn.slope > 0
        entry = self._dtype(self.drawn.entry(value))
        # Entries fall where values rise by a negative slope.
        self.thresholds.append(float(np.nextafter(entry, self._dtype(-math.inf)) if up == strictly else entry))
        return [(len(self.thresholds) - 1, 1.0 if up else -1.0)], 0.0 if up else 1.0

    def want(self, name: str, parts: list[tuple[int, float]], constant: float) -> None:
        """Put a share on the list."""
        self._wanted.append((name, parts, constant))

    def weights(self) -> dict[str, Vector]:
        """Return all shares, by name, as weights of the kernels."""
        found = {}
        for name, parts, constant in self._wanted:
            weights = np.zeros(len(self.thresholds) + 3)
            for column, weight in parts:
                weights[column] += weight
            weights[-1] = constant
            found[name] = weights
        return found


FEW_POINTS = 1000
"""Points whose pairs are swept more than once to find out where to count."""


def estimates(
    drawn: Drawn, question: Question, known: Known | None, rng: np.random.Generator, threads: int | None
) -> tuple[tuple[Estimate, ...], str, float]:
    """Answer a question from drawn points.

    Returns
    -------
    estimates, control, furthest
        The answers, which controls they have, and how many standard errors the sample is off in these.
    """
    places = _places(drawn, question, known, rng, threads) if question.quantiles else ()
    answers = _answered(drawn, question, known, places, threads)
    names = [name for name in answers.weights if name.startswith(("within_fraction", "above_fraction"))]
    found = [answers.mean(), answers.std(), *map(answers.share, names)]
    found += [answers.quantile(q) for q in question.quantiles]
    return tuple(found), answers.control, answers.far


def _answered(
    drawn: Drawn, question: Question, known: Known | None, places: Sequence[float], threads: int | None
) -> "_Answers":
    """Measure all pairs, and count at the thresholds asked and at these places."""
    columns = _Columns(drawn)
    for eps in question.within:
        parts, constant = columns.at_most(eps)
        if question.metric == "cosine":
            below, less = columns.at_most(-eps, strictly=True)
            parts, constant = parts + [(column, -weight) for column, weight in below], constant - less
        columns.want(_named("within_fraction", eps), parts, constant)
    for value in question.above:
        parts, constant = columns.at_most(value)
        columns.want(_named("above_fraction", value), [(column, -weight) for column, weight in parts], 1 - constant)
    for q, place in zip(question.quantiles, places, strict=True):
        columns.want(_named("quantile", q), *columns.at_most(place))
    swept = drawn.sweep(np.array(columns.thresholds), known, threads)
    return _Answers(swept, question, known, columns.weights())


def _places(
    drawn: Drawn, question: Question, known: Known | None, rng: np.random.Generator, threads: int | None
) -> list[float]:
    """Return where to count for quantiles: near them, for there slopes and variances are what they are at them.

    They are the adjusted quantiles of a quarter of the points, whose pairs are a sixteenth; or of the same ones.
    """
    if len(drawn.rows) > FEW_POINTS:
        drawn = drawn.quarter(rng, threads)
        first = _places(drawn, question, known, rng, threads)
    else:
        swept = drawn.sweep(np.empty(0), known, threads)
        first = [swept.place(q) for q in question.quantiles]
    answers = _answered(drawn, replace(question, within=(), above=()), known, first, threads)
    return [answers.near(q) for q in question.quantiles]


class _Answers:
    def __init__(self, swept: Swept, question: Question, known: Known | None, weights: dict[str, Vector]) -> None:
        self.weights = weights
        self.swept, self.sums, self.question, self.known = swept, swept.sums, question, known
        self.drawn = swept.drawn
        kernels = self.sums.by_unit.shape[1]
        self._entry, self._square = np.eye(kernels)[-3], np.eye(kernels)[-2]
        self._one = np.eye(kernels)[-1]
        self.controls, self.at, self.far = np.empty((0, kernels)), np.empty(0), 0.0
        self.control, self.note = "none", ""
        if known is not None:
            self._control(known)

    def _control(self, known: Known) -> None:
        """Settle which controls are used: those that enough units bear, unless the sample is far off in one."""
        slope, origin = self.drawn.slope, self.drawn.scores.origin
        mean = known.mean / slope - origin
        both, at = np.stack([self._entry, self._spread(mean)]), np.array([mean, known.variance / slope**2])
        used = np.array([self.sums.bearing(each) >= BEARING for each in both])
        self.far = furthest(self.sums, both[used], at[used])
        if self.far > FAR:
            self.note = f"controls are {self.far:.1f} standard errors off: not used"
        elif used.any():
            self.controls, self.at = both[used], at[used]
            self.control = ", ".join(name for name, one in zip(CONTROLS, used, strict=True) if one)

    def mean(self) -> Estimate:
        """Exact where the moments are known."""
        if self.known is not None:
            return self._estimate("mean", Interval(self.known.mean, 0.0, *(self.known.mean,) * 2), "exact")
        slope, origin = self.drawn.slope, self.drawn.scores.origin
        se = abs(slope) * math.sqrt(self.sums.variance(self._entry))
        value = slope * (self.sums.mean(self._entry) + origin)
        reach = student(self.sums.drawn - 1, self.question.confidence) * se
        low, high = max(value - reach, self.drawn.low), min(value + reach, self.drawn.high)
        return self._estimate("mean", Interval(value, se, low, high), "none")

    def std(self) -> Estimate:
        """Over pairs; exact where the moments are known."""
        if self.known is not None:
            value = math.sqrt(self.known.variance)
            return self._estimate("std", Interval(value, 0.0, value, value), "exact")
        middle = self.sums.mean(self._entry)
        spread = self._spread(middle)
        factor = abs(self.drawn.slope)
        variance, se = max(self.sums.mean(spread), 0.0), math.sqrt(self.sums.variance(spread))
        reach = student(self.sums.drawn - 1, self.question.confidence) * se
        value = factor * math.sqrt(variance)
        se = factor * se / (2 * math.sqrt(variance)) if variance > 0 else 0.0
        ends = (factor * math.sqrt(max(variance + way * reach, 0.0)) for way in (-1, 1))
        return self._estimate("std", Interval(value, se, *ends), "none")

    def share(self, name: str) -> Estimate:
        """Return a share of pairs, unbiased."""
        weights = self.weights[name]
        adjusted = self._adjusted(weights)
        low, high, note = self._interval(adjusted, adjusted.value, weights)
        if note:
            # The plain share, for what the controls explain rests on too few points.
            adjusted = Adjusted.of(self.sums, weights, self.controls[:0], self.at[:0])
        found = Interval(adjusted.value, math.sqrt(adjusted.variance), low, high)
        return self._estimate(name, found, "none" if note else self.control, note)

    def quantile(self, q: float) -> Estimate:
        """Where the adjusted distribution function is q; its ends where that has the ends of its interval at q."""
        name = _named("quantile", q)
        weights = self.weights[name]
        adjusted = self._adjusted(weights)
        low, high, note = self._interval(adjusted, q, weights, at_share=True)
        shift = 0.0 if note else adjusted.shift
        value, *ends = (self.swept.quantile(share + shift) for share in (q, low, high))
        times = student(adjusted.df, self.question.confidence)
        nowhere = {self.drawn.low, self.drawn.high} & set(ends)
        se = math.nan if nowhere else (ends[1] - ends[0]) / (2 * times)
        return self._estimate(name, Interval(value, se, *ends), "none" if note else self.control, note)

    def near(self, q: float) -> float:
        """Return the adjusted quantile, but among the values measured."""
        return self.swept.place(q + self._adjusted(self.weights[_named("quantile", q)]).shift)

    def _spread(self, middle: float) -> Vector:
        """Weights of the square of what an entry is off from `middle`, which does not depend on the origin."""
        found: Vector = self._square - 2 * middle * self._entry + middle**2 * self._one
        return found

    def _adjusted(self, weights: Vector) -> Adjusted:
        return Adjusted.of(self.sums, weights, self.controls, self.at)

    def _interval(
        self, adjusted: Adjusted, share: float, weights: Vector, *, at_share: bool = False
    ) -> tuple[float, float, str]:
        """Interval of a distribution function about `share`, with a note where it is not the usual one.

        `at_share` keeps `share` where the interval is Hoeffding's, which is else about the plain share.
        """
        plain = self.sums.mean(weights)
        bearing = self.sums.bearing(weights)
        if 0 < plain < 1 and 0 < share < 1 and bearing >= min(FEWEST, self.sums.drawn / 5):
            draws = share * (1 - share) / adjusted.variance if adjusted.variance else math.inf
            return *wilson(share, draws, student(adjusted.df, self.question.confidence)), ""
        about = share if at_share else min(max(plain, 0.0), 1.0)
        what = "points" if self.drawn.cuts is None else "blocks"
        note = "no pair on one side" if plain in {0.0, 1.0} else f"{bearing:.0f} {what} bear the variance"
        return *hoeffding(about, self.sums.drawn, self.question.confidence), f"{note}: Hoeffding's bound"

    def _estimate(self, name: str, found: Interval, control: str, note: str = "") -> Estimate:
        mean, sd = _null(name, self.question, self.drawn)
        z = (found.value - mean) / math.hypot(sd, found.se) if sd + found.se > 0 else math.nan
        note = note or (self.note if control != "exact" else "")
        return Estimate(name, *found, control, note, mean, sd, z)


def _null(name: str, question: Question, drawn: Drawn) -> tuple[float, float]:
    """Mean and standard deviation of a statistic of n directions uniform on the sphere: all pairs are independent."""
    n, d = drawn.n, drawn.scores.matrix.d
    if question.metric != "cosine" or d < 2:
        return math.nan, math.nan
    sphere, pairs = nulls.sphere(d), n * (n - 1) / 2
    kind, _, at = name.rpartition("_")
    if kind == "within_fraction":
        return sphere.within_fraction(float(at)), sphere.within_fraction_std(float(at), n)
    if kind == "above_fraction":
        share = 1 - float(sphere.cdf(float(at)))
        return share, math.sqrt(share * (1 - share) / pairs)
    if kind == "quantile":
        from scipy.special import betaincinv

        half, q = (d - 1) / 2, float(at)
        value = 2 * float(betaincinv(half, half, q)) - 1
        density = float(sphere.pdf(value))
        # So far out that float64 has no density left, there is no standard deviation by it.
        return value, math.sqrt(q * (1 - q) / pairs) / density if density > 0 else math.nan
    if name == "mean":
        return 0.0, sphere.mean_std(n)
    return sphere.std, sphere.mean_square_std(n) / (2 * sphere.std)
