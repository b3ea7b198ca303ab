"""What an article on embeddings claims, held against measurement: results/claims.md."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

import geomkit
from bench import inputs, tasks
from bench.intervals import jackknife
from bench.runner import Context, Study
from bench.studies.geometry import EPS
from geomkit import nulls, sources
from geomkit.sources import corpora, tfidf
from geomkit.sources.catalogue import HUB

Z95 = 1.96
MARGIN = 0.01
"""By how much another metric must score higher to be called ahead of cosine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured about one claim."""

    figure: list[str]
    """What was measured, an entry a source, after an entry that says what it is."""
    null: list[str]
    """What chance or random vectors give, in the same order."""
    interval: list[str]
    verdict: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, the instrument that measures it, and the function that does, if there is one yet."""

    number: str
    text: str
    instrument: str
    measure: Callable[[Context], Finding] | None = None


def _dimensions(context: Context) -> Finding:
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


def _orthogonal(context: Context) -> Finding:
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


def _far(context: Context) -> Finding:
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


def _useful(context: Context) -> Finding:
    """C5: word similarity, analogies and retrieval by cosine, beside Euclidean distance, dot product and chance."""
    scores = []
    documents = ("tfidf-bbc-12597", "minilm-384", "use-512", "smollm2-documents-layer00-576",
                 "smollm2-documents-layer16-576", "smollm2-documents-layer30-576")  # fmt: skip
    words = ("googlenews-300", "glove-50")
    questions = [question for section in corpora.analogies().values() for question in section]
    for name in words:
        found = inputs.load(name, context, whole=True)
        if isinstance(found, inputs.Missing):
            continue
        scores += tasks.word_similarity(found, "WordSim-353", corpora.wordsim353(), context.seed)
        scores += tasks.word_similarity(found, "SimLex-999", corpora.simlex999(), context.seed)
        if name == "googlenews-300":
            asked = questions[::20] if context.quick else questions
            scores += tasks.analogies(found, asked, context.seed)
    for name in documents:
        found = inputs.load(name, context, whole=True)
        if not isinstance(found, inputs.Missing) and found.categories is not None:
            scores += tasks.retrieval(found, context.seed)
    table = pd.DataFrame([asdict(score) for score in scores])
    context.table("usefulness.csv", table)
    cosine = table[table.metric == "cosine"]
    ahead = table.merge(cosine[["source", "task", "value"]], on=["source", "task"], suffixes=("", "_cosine"))
    ahead = ahead[ahead.value > ahead.value_cosine + MARGIN]
    losing = [f"{row.source} {row.task} ({row.metric} {row.value:.3f})" for row in ahead.itertuples()]
    above = bool((cosine.low > cosine.chance).all())
    rows = list(cosine.itertuples())
    return Finding(
        figure=["score by cosine", *(f"{row.source} {row.task} {row.value:.3f}" for row in rows)],
        null=["chance", *(f"{row.chance:.2g}" for row in rows)],
        interval=["95 % over items", *(f"{row.low:.3f}–{row.high:.3f}" for row in rows)],
        verdict=("holds: above chance everywhere" if above else "fails: not above chance everywhere")
        + (
            f"; ahead of cosine by more than {MARGIN}: {', '.join(losing)}"
            if losing
            else f"; no other metric is ahead by more than {MARGIN}"
        ),
    )


_REAL = ("tfidf-documents-30925", "tfidf-bbc-12597", "lsa-300", "glove-50", "googlenews-300", "minilm-384", "use-512",
         "smollm2-input-576", "smollm2-documents-layer16-576")  # fmt: skip


def _isotropy(context: Context) -> Finding:
    """C6, the isotropy part: mean cosine and the spread of the cosine against uniform directions."""
    figures = ["mean cosine (dimensions that directions fill: 1/mean cos²)"]
    intervals, expected = ["95 % over rows"], ["uniform sphere"]
    subset: list[str] = []
    for name in _REAL:
        found = inputs.load(name, context)
        if isinstance(found, inputs.Missing):
            continue
        cosines = geomkit.cosine_stats(found.vectors)
        sphere = nulls.sphere(found.dim)
        z = nulls.z(cosines.mean, 0.0, sphere.mean_sd(cosines.n))
        # On the sphere the mean square cosine is 1/d, so its inverse says how many dimensions directions fill.
        filled = 1 / cosines.rms**2
        figures.append(f"{name} {cosines.mean:.4f} ({filled:,.1f} of {found.dim:,})")
        intervals.append(f"{cosines.mean - Z95 * cosines.mean_se:.4f}–{cosines.mean + Z95 * cosines.mean_se:.4f}")
        expected.append(f"0 ± {sphere.mean_sd(cosines.n):.1g} ({found.dim:,})")
        if abs(z) > 4 and filled < found.dim:
            subset.append(name)
    rest = [name for name in _REAL if name not in subset]
    return Finding(
        figure=figures,
        null=expected,
        interval=intervals,
        verdict=f"isotropy part only: not uniform for {', '.join(subset) or 'none'}"
        + (f"; not shown for {', '.join(rest)}" if rest else "")
        + "; spectrum and intrinsic dimension not yet measured",
    )


CLAIMS = (
    Claim(
        "C1",
        "Three techniques: TF-IDF (dimension = number of documents), Word2Vec (50–300), language models (768 and more)",
        "table of sources; interpretability study",
        _dimensions,
    ),
    Claim("C2", "In 512–1024 dimensions most vectors are orthogonal", "orthogonality by family", _orthogonal),
    Claim("C3", "… and far from each other", "distance concentration by family", _far),
    Claim("C4", "It changes how embeddings cluster and relate", "hubness, neighbours, intrinsic dimension"),
    Claim("C5", "Cosine similarity helps to find one's way", "word similarity, analogies, retrieval", _useful),
    Claim("C6", "Vectors are not uniform but lie on a meaningful subset …", "isotropy, spectrum, dimension", _isotropy),
    Claim("C7", "… in which relevant categories are linearly separable", "probes against shuffled labels"),
    Claim("C8", "Word2Vec can be understood through matrix factorisation", "shifted PPMI + SVD against skip-gram"),
    Claim("C9", "Only the model's own decoder understands the vector", "decoding by lens, embedding, another head"),
    Claim("C10", "Decoding an intermediate vector to tokens loses context", "rate-distortion and token recovery"),
    Claim("C11", "LogitLens shows what a model might be thinking at each layer …", "lens by layer"),
    Claim("C12", "… but is limited at middle layers", "plain lens against tuned lens"),
    Claim("C13", "Interpretable features need expensive extra training", "sparse autoencoder, with its cost"),
    Claim("C14", "Differentiable indexing replaces the one-hot product", "lookup against one-hot"),
    Claim("C15", "The more capable, the less transparent", "interpretability against probe accuracy"),
)


def run(context: Context) -> None:
    """Measure what can be measured so far and write results/claims.md and its tables."""
    rows = []
    for claim in CLAIMS:
        command = "python -m bench claims" + (" --quick" if context.quick else "")
        if claim.measure is None:
            found, command = Finding(["–"], ["–"], ["–"], f"not yet measured; instrument: {claim.instrument}"), "–"
        else:
            context.say(f"{claim.number}: {claim.text}")
            found = claim.measure(context)
        rows.append({"#": claim.number, "claim": claim.text, **asdict(found), "command": command})
    table = pd.DataFrame(rows)
    lists = ["figure", "null", "interval"]
    context.table("claims.csv", table.assign(**{name: table[name].str.join("; ") for name in lists}))
    context.text("claims.md", _page(table.assign(**{name: table[name].str.join("<br>") for name in lists})))


def _page(table: pd.DataFrame) -> str:
    lines = [
        "# What is claimed of embeddings, and what was measured",
        "",
        "Regenerated by `python -m bench claims`; machine and versions in claims.provenance.json. Intervals are over",
        "points (rows, words, queries), never over pairs.",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
    ]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in table.itertuples(index=False)
    ]
    return "\n".join(lines) + "\n"


STUDY = Study("claims", "what an article claims of embeddings, held against measurement", run)
