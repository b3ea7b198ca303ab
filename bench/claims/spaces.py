"""C1 to C3: techniques, orthogonality and distance, measured on the vectors."""

from typing import TYPE_CHECKING

import numpy as np

import geomkit
from bench import inputs
from bench.claims.record import Z95, Finding
from bench.intervals import jackknife
from bench.runner import Context
from bench.studies.geometry import EPS
from geomkit import nulls, sources
from geomkit.sources import tfidf
from geomkit.sources.catalogue import HUB

if TYPE_CHECKING:
    from collections.abc import Callable


def dimensions(context: Context) -> Finding:
    """C1: the dimensions that each technique really has here."""
    del context
    real = [
        s for s in sources.SOURCES.values() if s.family != "random" and not s.name.startswith(("lsa", "projection"))
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
    figures, expected, intervals = [f"share of pairs with |cos| ≤ {EPS}"], ["uniform sphere"], ["95 % over rows"]
    most: list[str] = []
    few: list[str] = []
    for name in _WIDE:
        found = inputs.load(name, context)
        if isinstance(found, inputs.Missing):
            continue
        share, se = jackknife(found.vectors, lambda x: geomkit.cosine_stats(x).fraction_within(EPS), context.seed)
        figures.append(f"{name} {share:.4f}")
        intervals.append(f"{max(share - Z95 * se, 0):.4f}–{min(share + Z95 * se, 1):.4f}")
        expected.append(f"{nulls.sphere(found.dim).fraction_within(EPS):.4f}")
        (most if share > 0.5 else few).append(name)
    return Finding(
        figure=figures,
        null=expected,
        interval=intervals,
        verdict=f"holds for {', '.join(most) or 'none'}; fails for {', '.join(few) or 'none'}",
    )


_FAR = ("gaussian-768", "lsa-300", "googlenews-300", "minilm-384", "use-512", "smollm2-documents-layer16-576",
        "smollm2-documents-layer30-576")  # fmt: skip


def far(context: Context) -> Finding:
    """C3: how near the nearest neighbour is, as a share of the mean distance, and the relative contrast."""
    figures, expected = ["nearest over mean distance (relative contrast)"], ["Gaussian, same n and d"]
    intervals = ["95 % over rows"]
    holds: list[str] = []
    fails: list[str] = []
    for name in _FAR:
        found = inputs.load(name, context)
        if isinstance(found, inputs.Missing):
            continue
        real = geomkit.concentration(found.vectors)
        rng = np.random.default_rng([context.seed, found.dim])
        null = geomkit.concentration(rng.standard_normal((real.n, real.d), dtype=np.float32))
        figures.append(f"{name} {real.nearest_to_mean:.3f} ({real.relative_contrast:.2f})")
        expected.append(f"{null.nearest_to_mean:.3f} ({null.relative_contrast:.2f})")
        se = real.nearest_to_mean_se
        intervals.append(f"{real.nearest_to_mean - Z95 * se:.3f}–{real.nearest_to_mean + Z95 * se:.3f}")
        (holds if real.nearest_to_mean > 0.8 else fails).append(name)
    return Finding(
        figure=figures,
        null=expected,
        interval=intervals,
        verdict=f"(far: nearest above 0.8 of the mean) holds for {', '.join(holds) or 'none'}; "
        f"fails for {', '.join(fails) or 'none'}",
    )
