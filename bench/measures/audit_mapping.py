"""What other audits measure, which statistic of ours covers it, and the two side by side."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

VECSCOPE, SPECTRALYTE, SKDIM = "vecscope", "spectralyte", "scikit-dimension"


class Covered(NamedTuple):
    """How a finding of vecscope is covered."""

    statistic: str
    """The statistic of our audit that is judged in its place; "" where the audit has none."""
    note: str


FINDINGS: dict[str, Covered] = {
    "hubness": Covered("hubness_skewness", "beside random sets of the same n, d and k, not beside 2 and 4"),
    "antihubs": Covered("antihub_fraction", "beside random sets of the same n, d and k, not beside exp(-k)"),
    "anisotropy": Covered("cosine_mean", "over all pairs, not over up to 20,000 that are drawn"),
    "effective_rank": Covered("effective_rank", "by entropy; their formula is our participation_ratio"),
    "collapse": Covered("near_duplicate_fraction", "the same; equal rows are duplicate_fraction"),
    "rogue_dimensions": Covered("largest_variance_ratio", "of directions where the metric is cosine"),
    "norms": Covered("norm_cv", "never judged: length hurts only where it changes neighbours"),
    "metric_mismatch": Covered("metric_overlap", "over 500 rows that are drawn where there are more; never judged"),
    "distance_concentration": Covered("relative_contrast", "beside random sets, not beside 1.2 and 1.05"),
    "outliers": Covered("outlier_fraction", "beyond Tukey's outer fence instead of a median absolute deviation"),
    "connectivity": Covered("island_fraction", "all rows outside the largest part, not those of parts below n / 200"),
    "ood_queries": Covered("out_of_distribution_fraction", "with --queries"),
    "query_hubness": Covered("query_hubness_skewness", "with --queries; beside retrieval at random"),
    "ann_recall": Covered("", "about an index, not about vectors: neighbors() gives the exact lists to compare with"),
}
"""Every finding that vecscope can emit."""


class Pair(NamedTuple):
    """One number of a peer, and ours of the same thing."""

    theirs: str
    """Dotted place in the peer's JSON."""
    ours: str
    """Statistic of our audit; "" where there is none."""
    note: str
    about: str = ""
    """Finding that it belongs to; the first part of its place unless given."""

    @property
    def finding(self) -> str:
        """Name of the finding, or of the metric."""
        return self.about or self.theirs.partition(".")[0]


OF_VECSCOPE = (
    Pair("hubness.skewness", "hubness_skewness", "same formula"),
    Pair("antihubs.antihub_ratio", "antihub_fraction", "same formula"),
    Pair("anisotropy.mean_random_cosine", "cosine_mean", "theirs over pairs that are drawn, up to 20,000"),
    Pair(
        "anisotropy.effective_rank", "participation_ratio",
        "same formula under another name; the finding is their value over min(d, n - 1)", about="effective_rank",
    ),
    Pair("collapse.near_duplicate_ratio", "near_duplicate_fraction", "same formula: cosine of at least 0.99"),
    Pair(
        "collapse.exact_duplicate_ratio", "duplicate_fraction",
        "theirs leaves out the first of equal rows, after rounding to six digits; ours counts all of equal direction",
    ),
    Pair(
        "rogue_dimensions.top1_dim_variance_ratio", "largest_variance_ratio",
        "theirs of rows as they are, ours of directions: the same where lengths are",
    ),
    Pair("norms.norm_cv", "norm_cv", "same formula"),
    Pair("metric_mismatch.topk_overlap", "metric_overlap", "same formula, ours over up to 500 rows that are drawn"),
    Pair(
        "distance_concentration.relative_contrast", "relative_contrast",
        "theirs over the median of nearest distances above 1e-4, ours over their mean",
    ),
    Pair(
        "outliers.outlier_ratio", "outlier_fraction",
        "theirs beyond the median and 3 x 1.4826 median absolute deviations, ours beyond Tukey's outer fence",
    ),
    Pair(
        "connectivity.island_ratio", "island_fraction",
        "theirs in parts of fewer than max(k + 1, n / 200) rows, ours in all but the largest part",
    ),
    Pair("ood_queries.ood_query_ratio", "out_of_distribution_fraction", "same quantile; theirs leaves duplicates out"),
    Pair("query_hubness.query_hubness_skewness", "query_hubness_skewness", "same formula"),
)  # fmt: skip
"""Numbers of vecscope by finding and name in its details, or by the name of its metric."""

OF_SPECTRALYTE = (
    Pair("anisotropy.score", "cosine_mean", "theirs of up to 5,000 rows that are drawn, and not below 0"),
    Pair(
        "dimensionality.participation_ratio", "participation_ratio",
        "theirs of rows as they are, and above 10,000 of them from 500 components; ours of all, of directions",
    ),
    Pair(
        "dimensionality.effective_dims", "",
        "components that hold 95 %, at most 500 above 10,000 rows; intrinsic_dimension(method='pca') of ours",
    ),
    Pair("density.cv", "", "spread of the distance to the tenth neighbour; ours has no such statistic"),
    Pair("density.n_outliers", "", "rows by local outlier factor; outlier_fraction of ours looks at nearest distances"),
    Pair("sensitivity.mean_stability", "", "overlap of neighbours after noise; ours has no such statistic"),
    Pair(
        "intrinsic_dim.d_int", "twonn",
        "theirs of up to 5,000 rows, fitted with an intercept; of directions above 100 dimensions alone",
    ),
)  # fmt: skip
"""Numbers of spectralyte by place in its JSON; those from density on are its experimental ones."""


OF_SKDIM = {
    "TwoNN": "both leave out rows that have a duplicate",
    "MLE": "ours leaves out rows that have a duplicate, theirs is 0 as soon as there is one",
}
"""What scikit-dimension's estimators make of duplicates."""


@dataclass(frozen=True, slots=True)
class Value:
    """One number of a peer beside ours."""

    source: str
    n: int
    d: int
    tool: str
    statistic: str
    value: float | None
    verdict: str
    """Of the finding that it belongs to."""
    our_statistic: str
    our_value: float | None
    our_null: float | None
    """What random vectors give for ours."""
    judged: str
    """The statistic of ours that is judged in place of the finding."""
    our_verdict: str
    note: str


def beside_vecscope(
    source: str, shape: tuple[int, int], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> Iterator[Value]:
    """Put what `vecscope audit --json` says beside what `geomkit audit --json` says."""
    verdicts = {each["name"]: each["verdict"] for each in theirs["findings"]}
    numbers = {
        f"{each['name']}.{name}": value
        for each in theirs["findings"]
        for name, value in {**each["details"], each["metric"]: each["value"]}.items()
    }
    maker = _Maker(source, shape, VECSCOPE, ours)
    for pair in OF_VECSCOPE:
        if pair.theirs in numbers:
            judged = FINDINGS[pair.finding].statistic
            yield maker.row(pair, numbers[pair.theirs], verdicts[pair.finding], judged)
    for finding, covered in FINDINGS.items():
        if finding not in verdicts:
            yield maker.row(Pair(finding, "", f"not asked for; {covered.note}"), None, "", covered.statistic)
    yield Value(
        source, *shape, VECSCOPE, "verdict", None, theirs["verdict"], "", None, None, "verdict", ours["verdict"],
        "the worst of all",
    )  # fmt: skip


def beside_spectralyte(
    source: str, shape: tuple[int, int], theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> Iterator[Value]:
    """Put what `spectralyte audit --json` says beside what `geomkit audit --json` says."""
    maker = _Maker(source, shape, SPECTRALYTE, ours)
    for pair in OF_SPECTRALYTE:
        _, _, name = pair.theirs.partition(".")
        if pair.finding in theirs:
            said = theirs[pair.finding]
            yield maker.row(pair, said[name], said["interpretation"], pair.ours)


def beside_skdim(source: str, shape: tuple[int, int], theirs: str, value: float, ours: str, our_value: float) -> Value:
    """Put two estimates of one dimension side by side."""
    note = f"same formula, of directions by chord distance; {OF_SKDIM[theirs]}"
    return Value(source, *shape, SKDIM, theirs, value, "", ours, our_value, None, "", "", note)


@dataclass(frozen=True)
class _Maker:
    """Writes rows about one peer and one file."""

    source: str
    shape: tuple[int, int]
    tool: str
    ours: Mapping[str, Any]

    def row(self, pair: Pair, value: float | None, verdict: str, judged: str) -> Value:
        mine = {each["statistic"]: each for each in self.ours["findings"]}
        ours, judge = mine.get(pair.ours, {}), mine.get(judged, {})
        return Value(
            self.source, *self.shape, self.tool, pair.theirs, value, verdict, pair.ours, ours.get("value"),
            ours.get("null_mean"), judged, judge.get("verdict", ""), pair.note,
        )  # fmt: skip
