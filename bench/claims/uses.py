"""C5: what cosine similarity is used for, beside other metrics and chance."""

from dataclasses import asdict

import pandas as pd

from bench import inputs, tasks
from bench.claims.record import Finding
from bench.runner import Context
from geomkit.sources import corpora

MARGIN = 0.01
"""By how much another metric must score higher to be called ahead of cosine."""


def useful(context: Context) -> Finding:
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
