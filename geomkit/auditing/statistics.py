"""The table of what an audit measures: adding a statistic is a row here and a line in `readings`.

A side is worse for what the statistic itself says: rows that nobody finds, scores that do not start at 0, memory that
holds nothing. That it makes an index miss neighbours is another matter, which the study `validity` measures; of those
with a verdict, only `relative_contrast` went with the recall of HNSW and IVF as one would suppose.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["FAMILIES", "STATISTICS", "Statistic"]

Worse = Literal["high", "low", ""]
Effect = Literal["difference", "ratio", "distance ratio", ""]


@dataclass(frozen=True, slots=True)
class Statistic:
    """What one number of an audit is, and when it is a finding."""

    name: str
    family: str
    about: str
    """What it says about search or about cosine, in one line."""
    range: str
    resolution: Literal["row", "one", ""] = ""
    """Least step that the statistic can take: one row of n, or 1; "" where it is continuous. It is the least spread
    that a null can have: a null that never moved in a few draws still could."""
    null: bool = True
    """Whether random vectors say what to expect."""
    worse: Worse = ""
    """The side on which it hurts; "" where neither does, and there is no verdict."""
    effect: Effect = ""
    """``"difference"``: value - null; ``"ratio"``: value over null; ``"distance ratio"``: the same, both less 1."""
    warn: float = 0.0
    fail: float = 0.0
    """Effects from which on the verdict is warn, and fail."""
    remedy: str = ""
    """What to look at, or to drop; transforms are tried instead (`suggestions`)."""

    def least_difference(self, first: float, second: float) -> float:
        """Return the least difference between two values that matters, which the range of the statistic tells.

        It is 0.01 of what lies in [-1, 1], 0.1 of skewness, 1 of a count, and 5 % of the smaller value of what has a
        scale of its own: dimensions, ranks and ratios.
        """
        if self.range.endswith((" 1]", " 1)")):
            return 0.01
        return {"(-inf, inf)": 0.1, "[0, d]": 1.0}.get(self.range, 0.05 * min(abs(first), abs(second)))


STATISTICS: dict[str, Statistic] = {
    each.name: each
    for each in (
        Statistic(
            "cosine_mean", "cosine", "cosine of two arbitrary rows: where scores start, not at 0", "[-1/(n-1), 1]",
            worse="high", effect="difference", warn=0.2, fail=0.5,
        ),
        Statistic("cosine_std", "cosine", "spread of cosines: the room that scores have", "[0, 1]"),
        Statistic("cosine_q01", "cosine", "1 % of pairs have a cosine below", "[-1, 1]"),
        Statistic("cosine_q50", "cosine", "half of the pairs have a cosine below", "[-1, 1]"),
        Statistic("cosine_q99", "cosine", "1 % of pairs have a cosine above: a threshold below keeps noise", "[-1, 1]"),
        Statistic(
            "relative_contrast", "cosine", "distance to an arbitrary row over that to the nearest: 1 is no signal",
            "[1, inf)", worse="low", effect="distance ratio", warn=0.5, fail=0.2,
        ),
        Statistic(
            "hubness_skewness", "hubness", "how unevenly rows turn up in the results of others", "(-inf, inf)",
            worse="high", effect="difference", warn=1.0, fail=3.0,
        ),
        Statistic("robin_hood", "hubness", "share of all results that a fair space would hand to other rows", "[0, 1)"),
        Statistic("gini", "hubness", "inequality of the numbers of results", "[0, 1)"),
        Statistic(
            "antihub_fraction", "hubness", "rows that no other row finds among its k nearest", "[0, 1]", "row",
            worse="high", effect="difference", warn=0.05, fail=0.2,
            remedy="look at some of them for empty or broken text",
        ),
        Statistic("hub_fraction", "hubness", "rows found more than twice as often as the average", "[0, 1]", "row"),
        Statistic("mutual_fraction", "hubness", "neighbours that are neighbours the other way round, too", "[0, 1]"),
        Statistic(
            "island_fraction", "graph", "rows outside the largest part of the neighbour graph: graph indices lose them",
            "[0, 1]", "row", worse="high", effect="difference", warn=0.01, fail=0.1,
            remedy="look at some of them: repeated rows, or topics of their own",
        ),
        Statistic(
            "outlier_fraction", "graph", "rows whose nearest other row is unusually far", "[0, 1]", "row",
            worse="high", effect="difference", warn=0.01, fail=0.05,
            remedy="look at some of them: broken input, or topics with one row",
        ),
        Statistic(
            "duplicate_fraction", "duplicates", "rows with an equal row (direction, where the metric is cosine)",
            "[0, 1]", "row", worse="high", effect="difference", warn=0.02, fail=0.1,
            remedy="drop repeated rows before indexing",
        ),
        Statistic(
            "near_duplicate_fraction", "duplicates", "rows within a distance of 0.01 of another", "[0, 1]", "row",
            worse="high", effect="difference", warn=0.05, fail=0.2,
            remedy="drop or merge near-duplicates: they fill result lists with one text",
        ),
        Statistic("twonn", "dimension", "intrinsic dimension near each row, from two neighbours", "[0, inf)"),
        Statistic("mle", "dimension", "intrinsic dimension from k neighbours (Levina-Bickel)", "[0, inf)"),
        Statistic("lid", "dimension", "local intrinsic dimension, median over rows", "[0, inf)"),
        Statistic("participation_ratio", "spectrum", "directions that share the variance", "[1, min(n-1, d)]"),
        Statistic(
            "effective_rank", "spectrum", "directions in use, by the entropy of the singular values",
            "[1, min(n-1, d)]", worse="low", effect="ratio", warn=0.1, fail=0.02,
        ),
        Statistic("stable_rank", "spectrum", "variance over that of the strongest direction", "[1, min(n-1, d)]"),
        Statistic("isoscore", "spectrum", "1 where all directions have one variance, 0 where one has it all", "[0, 1]"),
        Statistic("partition_isotropy", "spectrum", "1 where no direction is preferred, about the origin", "[0, 1]"),
        Statistic(
            "largest_variance_ratio", "spectrum", "variance of the largest coordinate over the mean", "[1, d]",
            worse="high", effect="ratio", warn=10.0, fail=50.0,
        ),
        Statistic(
            "n_dominant", "spectrum", "coordinates that make up half of the mean cosine", "[0, d]", "one", null=False
        ),
        Statistic("norm_cv", "norms", "spread of lengths over their mean", "[0, inf)", null=False),
        Statistic(
            "metric_overlap", "norms", "neighbours that cosine and inner product agree on", "[0, 1]", null=False
        ),
        Statistic(
            "out_of_distribution_fraction", "queries", "queries farther from the corpus than 99 % of its rows",
            "[0, 1]", worse="high", effect="difference", warn=0.05, fail=0.2,
            remedy="look at some of them: another language, length or model than the corpus",
        ),
        Statistic(
            "query_hubness_skewness", "queries", "how unevenly queries find the rows", "(-inf, inf)",
            worse="high", effect="difference", warn=2.0, fail=5.0,
        ),
        Statistic("unreached_fraction", "queries", "rows that no query finds", "[0, 1]"),
        Statistic(
            "same_label_rate", "labels", "neighbours with the label of the row", "[0, 1]",
            worse="", effect="difference",
        ),
        Statistic("probe_accuracy", "labels", "accuracy of a linear probe for the labels", "[0, 1]"),
    )
}  # fmt: skip
"""Every statistic by name, in the order in which it is shown."""

FAMILIES = tuple(dict.fromkeys(each.family for each in STATISTICS.values()))
