"""C4 and C6: what the audits of all sources say of neighbours, and of the subset that vectors lie on."""

import pandas as pd

from bench.harness.study import Context
from bench.measures.tidy import NOT_MEASURED
from bench.studies.verdicts.record import Finding

AUDITS = "audits.csv"

Z = 4.0
"""From here on a statistic is called unlike that of random vectors, as in an audit."""

_RANDOM = ("sphere-50", "sphere-300", "sphere-768", "sphere-4096")
_REAL = ("tfidf-documents-30925", "tfidf-bbc-12597", "lsa-300", "glove-50", "googlenews-300", "minilm-384", "use-512",
         "smollm2-input-576", "smollm2-documents-layer16-576", "smollm2-documents-layer30-576")  # fmt: skip


def neighbours(context: Context) -> Finding:
    """C4: whether the many dimensions change who is near whom: hubs, beside random directions."""
    audits = _Audits(context)
    skewness = audits.of("hubness_skewness")
    real = skewness[skewness.family != "random"]
    hubs = real[real.z > Z]
    least, most = (skewness.loc[name] for name in (_RANDOM[0], _RANDOM[-1]))
    by_dimension = float(real.d.corr(real.value, method="spearman"))
    rows = list(skewness.reindex([name for name in (*_RANDOM, *_REAL) if name in skewness.index]).itertuples())
    return Finding(
        figure=["skewness of the 10-occurrence", *(f"{row.Index} {row.value:.2f}" for row in rows)],
        null=["Gaussian, same n and d", *(f"{row.null_mean:.2f} ± {row.null_std:.2f}" for row in rows)],
        interval=["95 % over rows", *(f"{row.ci_low:.2f}–{row.ci_high:.2f}" for row in rows)],
        verdict=f"more hubs than random for {len(hubs)} of {len(real)} real spaces; not by dimension itself: random "
        f"directions have {least.value:.2f} in {least.d} dimensions and {most.value:.2f} in {most.d:,}, and over the "
        f"real spaces its rank correlation with the dimension is {by_dimension:.2f}",
    )


def subset(context: Context) -> Finding:
    """C6: whether vectors fill their space, by mean cosine, spectrum and intrinsic dimension."""
    audits = _Audits(context)
    cosine, spread, local = (audits.of(name) for name in ("cosine_mean", "participation_ratio", "twonn"))
    rows = [(cosine.loc[name], spread.loc[name], local.loc[name]) for name in _REAL if name in cosine.index]
    every = cosine.index[(cosine.family != "random")]
    leaning = int((cosine.z[every].abs() > Z).sum())
    fewer = {
        what: int((table.z[every] < -Z).sum()) for what, table in (("participation ratio", spread), ("TwoNN", local))
    }
    holds = 2 * min(leaning, *fewer.values()) > len(every)
    return Finding(
        figure=[
            "mean cosine; participation ratio; TwoNN dimension",
            *(f"{a.name} {a.value:.3f}; {b.value:.1f} of {b.d:,}; {c.value:.1f}" for a, b, c in rows),
        ],
        null=[
            "Gaussian, same n and d",
            *(f"{a.null_mean:.0f}; {b.null_mean:.1f}; {c.null_mean:.1f}" for a, b, c in rows),
        ],
        interval=[
            "95 % over rows",
            *("; ".join(f"{each.ci_low:.4g}–{each.ci_high:.4g}" for each in row) for row in rows),
        ],
        verdict=f"{'holds' if holds else 'fails'}: of {len(every)} real spaces {leaning} have a common direction that "
        "random vectors lack, "
        + " and ".join(f"{count} a lower {what}" for what, count in fewer.items())
        + f" than random vectors (|z| > {Z:.0f})",
    )


class _Audits:
    """The table of audits, by statistic and source."""

    def __init__(self, context: Context) -> None:
        table = pd.read_csv(context.out / AUDITS)
        self.table = table[table.statistic != NOT_MEASURED]

    def of(self, statistic: str) -> pd.DataFrame:
        return self.table[self.table.statistic == statistic].set_index("source")
