"""C1 to C3: techniques, orthogonality and distance, measured on the vectors."""

from typing import TYPE_CHECKING, Any

from bench.harness.study import Context
from bench.inputs import spaces
from bench.studies.verdicts.record import Z95, Finding
from geomkit import datasets
from geomkit.datasets import tfidf
from geomkit.datasets.catalogue import HUB

if TYPE_CHECKING:
    from collections.abc import Callable

GEOMETRY = "geometry.csv"


def dimensions(context: Context) -> Finding:
    """C1: the dimensions that each technique really has here."""
    del context
    real = [
        s for s in datasets.SOURCES.values() if s.family != "random" and not s.name.startswith(("lsa", "projection"))
    ]
    here = [s for s in real if not s.origin.startswith(tuple(HUB))]
    spans = {family: sorted({s.dim for s in here if s.family == family}) for family in ("tfidf", "word2vec", "llm")}
    expected: dict[str, Callable[[int], bool]] = {
        "tfidf": lambda dim: dim == tfidf.DOCUMENTS,
        "word2vec": lambda dim: 50 <= dim <= 300,
        "llm": lambda dim: dim >= 768,
    }
    verdicts = []
    for family, holds in expected.items():
        split = {
            word: [f"{d:,}" for d in spans[family] if holds(d) is yes]
            for word, yes in (("holds", True), ("fails", False))
        }
        verdicts.append(
            f"{family}: " + ", ".join(f"{word} at {', '.join(dims)}" for word, dims in split.items() if dims)
        )
    return Finding(
        figure=[f"{family}: {', '.join(f'{dim:,}' for dim in dims)}" for family, dims in spans.items()],
        null=["none: a count"],
        interval=["exact"],
        verdict="; ".join(verdicts) + f" (20 Newsgroups has {tfidf.DOCUMENTS:,} documents)",
    )


_WIDE = ("sphere-512", "sphere-768", "sphere-1024", "lsa-512", "lsa-1024", "use-512", "mpnet-768", "smollm2-input-576",
         "smollm2-documents-layer00-576", "smollm2-documents-layer16-576", "smollm2-documents-layer30-576")  # fmt: skip


def orthogonal(context: Context) -> Finding:
    """C2: the share of pairs that are nearly orthogonal, in 512 to 1024 dimensions."""
    # The table of studies imports the claims.
    from bench.studies.geometry import EPS

    found = _measured(context, "cosine", "within_fraction", _WIDE)
    most = [row.source for row in found if row.value > 0.5]
    few = [row.source for row in found if row.value <= 0.5]
    return Finding(
        figure=[f"share of pairs with |cos| ≤ {EPS}", *(f"{row.source} {row.value:.4f}" for row in found)],
        null=["uniform sphere", *(f"{row.null_mean:.4f}" for row in found)],
        interval=[
            "95 % over rows",
            *(f"{max(row.value - Z95 * row.se, 0):.4f}–{min(row.value + Z95 * row.se, 1):.4f}" for row in found),
        ],
        verdict=f"holds for {', '.join(most) or 'none'}; fails for {', '.join(few) or 'none'}",
    )


_FAR = ("gaussian-768", "lsa-300", "googlenews-300", "minilm-384", "use-512", "smollm2-documents-layer16-576",
        "smollm2-documents-layer30-576")  # fmt: skip


def far(context: Context) -> Finding:
    """C3: how near the nearest neighbour is, as a share of the mean distance, and the relative contrast."""
    found = _measured(context, "minkowski-2", "nearest_to_mean", _FAR)
    contrast = {row.source: row for row in _measured(context, "minkowski-2", "relative_contrast", _FAR)}
    holds = [row.source for row in found if row.value > 0.8]
    fails = [row.source for row in found if row.value <= 0.8]
    return Finding(
        figure=[
            "nearest over mean distance (relative contrast)",
            *(f"{row.source} {row.value:.3f} ({contrast[row.source].value:.2f})" for row in found),
        ],
        null=[
            "Gaussian, same n and d",
            *(f"{row.null_mean:.3f} ({contrast[row.source].null_mean:.2f})" for row in found),
        ],
        interval=[
            "95 % over rows",
            *(f"{row.value - Z95 * row.se:.3f}–{row.value + Z95 * row.se:.3f}" for row in found),
        ],
        verdict=f"(far: nearest above 0.8 of the mean) holds for {', '.join(holds) or 'none'}; "
        f"fails for {', '.join(fails) or 'none'}",
    )


def _measured(context: Context, metric: str, statistic: str, names: tuple[str, ...]) -> list[Any]:
    """Rows of results/geometry.csv about some sources, at the number of rows that all sources have."""
    table = context.read(GEOMETRY)
    mine = table[(table.metric == metric) & (table.statistic == statistic) & (table.n == spaces.rows(context))]
    by_name = {row.source: row for row in mine.itertuples()}
    return [by_name[name] for name in names if name in by_name]
