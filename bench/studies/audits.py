"""Every real source audited, beside random vectors of the same number and dimension."""

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from bench.figures import audits as drawn
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from bench.measures.tidy import NOT_MEASURED
from geomkit import datasets
from geomkit.auditing.audit import audit
from geomkit.auditing.statistics import STATISTICS

if TYPE_CHECKING:
    from geomkit.auditing.result import Audit
    from geomkit.datasets import Vectors

K, METRIC, NULL = 10, "cosine", "gaussian"

CONTROLS = (
    "sphere-50", "sphere-300", "sphere-768", "sphere-4096", "gaussian-300", "gaussian-768", "cube-512", "cube-768",
)  # fmt: skip
"""Random sources. Spheres and Gaussians should pass; cubes do not lie about the origin, and have a high mean cosine."""

WORK, FEWEST, MOST, MOST_QUICK = 6.5e10, 8, 16, 4
"""Random sets of a source: so many as this many products of coordinates allow, within these numbers."""

WIDEST = 4096
"""Most columns of a source on which a transform is tried: beyond, TF-IDF would have to become dense."""

FEATURED = (
    "sphere-300", "gaussian-768", "cube-768",
    "tfidf-documents-30925", "tfidf-terms-11293", "tfidf-bbc-12597", "lsa-50", "lsa-300", "projection-4096",
    "glove-50", "googlenews-300", "skipgram-50", "skipgram-300",
    "minilm-384", "use-512", "mpnet-768", "smollm2-input-576", "qwen-unembedding-1536", "deepseek-unembedding-3584",
    "smollm2-documents-layer00-576", "smollm2-documents-layer08-576", "smollm2-documents-layer16-576",
    "smollm2-documents-layer24-576", "smollm2-documents-layer30-576",
    "smollm2-tokens-layer00-576", "smollm2-tokens-layer16-576", "smollm2-tokens-layer30-576",
)  # fmt: skip
"""Sources that the figure shows, in its order; its title is about all of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One statistic of one source."""

    source: str
    family: str
    n: int | None
    d: int
    metric: str
    group: str
    """Family of the statistic."""
    statistic: str
    value: float
    se: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    null_mean: float = math.nan
    null_std: float = math.nan
    z: float = math.nan
    effect: float = math.nan
    """As the audit judges it: value less null, value over null, or both less 1."""
    verdict: str = ""
    k: int | None = None
    null: str = ""
    null_draws: int | None = None
    backend: str = ""
    precision: str = ""
    seed: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """What an audit tried or suggested, and one statistic before and after."""

    source: str
    findings: str
    action: str
    transform: str
    statistic: str
    before: float
    after: float
    suggested: bool
    """Whether it helped and did no harm."""
    note: str
    """What got worse, or why it was not tried."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every source is a unit."""
    return spaces.units(context, names(context))


def measure(context: Context, unit: Unit) -> Tables:
    """Audit a source: audits.csv, a row a statistic, and audit_suggestions.csv."""
    if unit.absent:
        source = datasets.get(unit.name)
        why = Row(unit.name, source.family, None, source.dim, METRIC, "", NOT_MEASURED, math.nan, note=unit.absent)
        return {"audits.csv": _table([why]), "audit_suggestions.csv": _suggested([])}
    found = spaces.load_rows(unit.name, context)
    result = audit(
        found.vectors, k=K, metric=METRIC, null=NULL,
        null_draws=draws(found.vectors.shape[0], found.dim, quick=context.quick), labels=found.categories,
        try_transforms=found.dim <= WIDEST, source=unit.name, seed=context.seed,
    )  # fmt: skip
    return {"audits.csv": _table(rows_of(result, found)), "audit_suggestions.csv": _suggested(_suggestions(result))}


def _table(rows: list[Row]) -> pd.DataFrame:
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(Row.__dataclass_fields__))
    return table.astype(dict.fromkeys(("n", "k", "null_draws", "seed"), "Int64"))


def _suggested(tried: list[Tried]) -> pd.DataFrame:
    return pd.DataFrame([asdict(each) for each in tried], columns=list(Tried.__dataclass_fields__))


def draw(context: Context) -> None:
    """Draw audits.svg."""
    context.figure("audits", drawn.audits(context.read("audits.csv"), FEATURED))


def names(context: Context) -> list[str]:
    """List the real sources of this run and the random ones that serve as controls."""
    return [name for name in spaces.names(context) if datasets.get(name).family != "random" or name in CONTROLS]


def draws(n: int, d: int, *, quick: bool) -> int:
    """How many random sets an audit of such a source is compared with."""
    return int(min(MOST_QUICK if quick else MOST, max(FEWEST, WORK // (float(n) * n * d))))


def rows_of(result: "Audit", found: "Vectors") -> list[Row]:
    """Return one row a statistic; a note that the source has is on all of them, one of a statistic comes first."""
    plain = Row(
        source=found.name, family=found.family, n=result.n, d=result.d, metric=result.metric, group="", statistic="",
        value=math.nan, k=result.k, null=result.null, null_draws=result.null_draws, backend=result.backend,
        precision=result.precision, seed=result.seed,
    )  # fmt: skip
    return [
        replace(
            plain, group=STATISTICS[each.statistic].family, statistic=each.statistic, value=each.value, se=each.se,
            ci_low=each.ci_low, ci_high=each.ci_high, null_mean=each.null_mean, null_std=each.null_std, z=each.z,
            effect=each.effect, verdict=each.verdict, note="; ".join(filter(None, (each.note, found.note))),
        )
        for each in result.findings
    ]  # fmt: skip


def _suggestions(result: "Audit") -> list[Tried]:
    rows = []
    for each in (*result.suggestions, *result.rejected):
        note = each.reason or (f"makes worse: {', '.join(each.harm)}" if each.harm else "")
        one = Tried(
            result.source, " ".join(each.findings), each.action, each.transform, "", math.nan, math.nan,
            each in result.suggestions, note,
        )  # fmt: skip
        changed = [
            replace(one, statistic=name, before=each.before[name], after=each.after[name]) for name in each.after
        ]
        rows += changed or [one]
    return rows


STUDY = Study("audits", "every real source audited beside random vectors", measure, units, draw=draw)
