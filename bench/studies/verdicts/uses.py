"""C5: what cosine similarity is used for, beside other metrics and chance."""

from bench.harness.study import Context
from bench.studies.verdicts.record import Finding

USEFULNESS = "usefulness.csv"

MARGIN = 0.01
"""By how much another metric must score higher to be called ahead of cosine."""


def useful(context: Context) -> Finding:
    """C5: word similarity, analogies and retrieval by cosine, beside Euclidean distance, dot product and chance."""
    table = context.read(USEFULNESS)
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
