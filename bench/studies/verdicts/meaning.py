"""C7 to C15: what vectors mean, read from the tables of the studies that asked."""

from typing import Any

import pandas as pd

from bench.figures.factorise import best, verdict
from bench.harness.study import Context
from bench.studies.verdicts.record import Finding

SEPARABILITY, FACTORISE, TOKENS, BYTES, LENS, SAE, LOOKUP, TRADEOFF = (
    "separability.csv", "factorise.csv", "decode_tokens.csv", "decode_bytes.csv", "lens.csv", "sae.csv", "lookup.csv",
    "interpret_tradeoff.csv",
)  # fmt: skip

_LAYERS = (0, 12, 30)
_READERS = ("logit lens", "trained linear map", "Word2Vec, trained linear map", "rotated table")
_FEATURED = ("tfidf-bbc-12597", "googlenews-mean-300", "glove-mean-50", "minilm-384", "use-512",
             "smollm2-documents-layer00-576", "smollm2-documents-layer16-576",
             "smollm2-documents-layer30-576")  # fmt: skip


def separable(context: Context) -> Finding:
    """C7: accuracy of linear probes on texts that they have not seen, and in how few directions."""
    table = pd.read_csv(context.out / SEPARABILITY)
    table = table[table.accuracy.notna()]
    null = table[["majority", "shuffled_max", "random_ci_high"]].max(axis=1)
    above = table.ci_low > null
    few = table.fewest < table.fewest_random
    shown = table[table.source.isin(_FEATURED) | (table.corpus != "bbc")]
    rows = _rows(shown)
    return Finding(
        figure=[
            "accuracy of a linear probe (directions that keep 95 % of it above chance)",
            *(f"{row.source} {row.corpus} {row.accuracy:.3f} ({row.fewest:.0f} of {row.d:,.0f})" for row in rows),
        ],
        null=[
            "best of majority, shuffled labels, random vectors (random directions that keep as much)",
            *(f"{null[row.Index]:.3f} ({row.fewest_random:.0f})" for row in rows),
        ],
        interval=["95 % over texts", *(f"{row.ci_low:.3f}–{row.ci_high:.3f}" for row in rows)],
        verdict=f"{'holds' if above.all() else 'fails for some'}: above every null in {above.sum()} of {len(table)} "
        f"spaces; fewer principal directions than random ones suffice in {few.sum()}, in the median "
        f"{table.fewest.median():.0f}, where TwoNN says {table.twonn.median():.0f} dimensions",
    )


def factorised(context: Context) -> Finding:
    """C8: how near the factorisation of a PMI matrix comes to skip-gram trained on the same corpus."""
    table = pd.read_csv(context.out / FACTORISE)
    found = best(table)
    rows = _rows(found[found.dim == table.dim.max()])
    return Finding(
        figure=[
            f"PPMI and SVD beside skip-gram, {table.dim.max()} dimensions, best shift and power",
            *(f"{row.statistic} {row.value:.3f}" for row in rows),
        ],
        null=["rows shuffled … another seed of skip-gram", *(f"{row.floor:.3f} … {row.ceiling:.3f}" for row in rows)],
        interval=["95 % over pairs of words, or words", *(f"{row.low:.3f}–{row.high:.3f}" for row in rows)],
        verdict=verdict(found),
    )


def understood(context: Context) -> Finding:
    """C9: which token a state is of, read by the model's own head, by trained maps, and by strangers."""
    table = pd.read_csv(context.out / TOKENS)
    table = table[(table.target == "same") & table.reader.isin(_READERS)]
    rows = _rows(table[table.layer.isin(_LAYERS)])
    reads = (table.low > table.most_frequent).groupby(table.reader).agg(["sum", "size"])
    trained: Any = reads.loc["Word2Vec, trained linear map"]
    said = ", ".join(f"{reader} at {row['sum']} of {row['size']} layers" for reader, row in reads.iterrows())
    return Finding(
        figure=["token read back, share", *(f"layer {row.layer}, {row.reader} {row.top1:.3f}" for row in rows)],
        null=["most frequent token", *(f"{row.most_frequent:.3f}" for row in rows)],
        interval=["95 % over texts", *(f"{row.low:.3f}–{row.high:.3f}" for row in rows)],
        verdict=f"{'fails' if trained['sum'] == trained['size'] else 'holds in part'}: better than the most frequent "
        f"token is {said}; a linear map that was trained is enough to read a state with another model's vectors",
    )


def lossy(context: Context) -> Finding:
    """C10: how many bytes of a vector keep half of what it says."""
    rows = _rows(pd.read_csv(context.out / BYTES))
    return Finding(
        figure=[
            "bytes a vector that keep half of neighbours or tokens",
            *(f"{row.space} {row.what} {row.bytes:g} of {row.float32_bytes:,}" for row in rows),
        ],
        null=["share kept by chance", *(f"{row.floor:.3f}" for row in rows)],
        interval=["95 % over rows", *(f"{row.low:g}–{row.high:g}" for row in rows)],
        verdict=f"{'holds' if max(row.bytes for row in rows) <= 64 else 'holds in part'}: half of what "
        f"{min(row.float32_bytes for row in rows):,} to {max(row.float32_bytes for row in rows):,} bytes say is kept "
        f"in {min(row.bytes for row in rows):g} to {max(row.bytes for row in rows):g}",
    )


def readable(context: Context) -> Finding:
    """C11: how often the logit lens names what the model will say, by layer."""
    table, constant = _lens(context)
    plain = table[table.reader == "lens"].sort_values("layer")
    knows = plain.agreement_low > constant.agreement_high
    last = int(plain.layer.max())
    # From here on every layer does.
    first = int(plain.layer[~knows].max()) + 1 if not knows.all() else 0
    rows = _rows(plain[plain.layer.isin(range(0, int(plain.layer.max()) + 1, 6))])
    return Finding(
        figure=[
            "agreement with the five tokens of the last layer",
            *(f"layer {r.layer} {r.agreement:.3f}" for r in rows),
        ],
        null=["one answer for every text", *(f"{constant.agreement:.3f}" for _ in rows)],
        interval=["95 % over texts", *(f"{row.agreement_low:.3f}–{row.agreement_high:.3f}" for row in rows)],
        verdict=(f"holds from layer {first} of {last} on" if first <= last else "fails")
        + f": more than one answer for every text agrees at {knows.sum()} of {len(plain)} layers",
    )


def limited(context: Context) -> Finding:
    """C12: how far the plain lens is from the model, and by how much a trained translator comes nearer."""
    table, constant = _lens(context)
    plain = table[table.reader == "lens"].set_index("layer")
    tuned = _rows(table[table.reader == "tuned"].sort_values("layer"))
    middle = plain[plain.index < plain.index.max()]
    worse, better = int((middle.kl_low > constant.kl_high).sum()), sum(row.kl_fall_low > 0 for row in tuned)
    return Finding(
        figure=[
            "KL to the model's answer in nats, logit lens → tuned lens",
            *(f"layer {row.layer} {plain.kl[row.layer]:.2f} → {row.kl:.2f}" for row in tuned),
        ],
        null=["one answer for every text", *(f"{constant.kl:.2f}" for _ in tuned)],
        interval=["95 % of the fall, over texts", *(f"{row.kl_fall_low:.2f}–{row.kl_fall_high:.2f}" for row in tuned)],
        verdict=f"{'holds' if better == len(tuned) else 'holds in part'}: a translator lowers KL at {better} of "
        f"{len(tuned)} layers on held-out texts; the plain lens is further off than one answer for every text at "
        f"{worse} of {len(middle)} layers before the last",
    )


def trained(context: Context) -> Finding:
    """C13: what features that were trained explain beside those that were not, and what the training costs."""
    table = pd.read_csv(context.out / SAE)
    quality = table[(table.part == "quality") & (table.statistic == "explained_variance")].set_index(["method", "k"])
    cost = table[(table.part == "cost") & (table.method == "sae")].set_index(["statistic", "k"]).value
    ks = sorted(quality.loc["sae"].index)
    rows = [quality.loc["sae", k] for k in ks]
    needed = all(quality.low["sae", k] > max(quality.high["pca", k], quality.high["random features", k]) for k in ks)
    price = [cost["training_over_forward_flops", k] for k in ks]
    parity = min(cost["features_at_parity", k] for k in ks)
    cheap = max(price) < 1
    need = "extra training is needed" if needed else "training explains no more than directions without it"
    said = "holds in part" if needed and cheap else "holds" if needed else "fails"
    return Finding(
        figure=[
            "held-out variance explained by k trained features (training / forward pass, in operations; in seconds)",
            *(
                f"k = {k} {row.value:.3f} ({each:.3f}; {cost['training_over_forward', k]:.3f})"
                for k, row, each in zip(ks, rows, price, strict=True)
            ),
        ],
        null=[
            "k random features, k principal components",
            *(f"{quality.value['random features', k]:.3f}, {quality.value['pca', k]:.3f}" for k in ks),
        ],
        interval=["95 % over texts", *(f"{row.low:.3f}–{row.high:.3f}" for row in rows)],
        verdict=f"{said}: {need}; once the model has made its states, a token in training costs {min(price):.3f} to "
        f"{max(price):.3f} of the model's forward pass, and as much as it at {parity:,.0f} features",
    )


def looked_up(context: Context) -> Finding:
    """C14: what a gather saves over the one-hot product, and whether gradients are the same."""
    table = pd.read_csv(context.out / LOOKUP)
    equal = table.equal.dropna().astype(bool)
    timed = table[(table.way == "one-hot") & table.ratio.notna()]
    slower, batches = int((timed.ratio_low > 1).sum()), sorted(timed.tokens.unique())
    # One size of batch is enough to show; all count.
    rows = _rows(timed[timed.tokens == batches[len(batches) // 2]])
    holds = bool(equal.all()) and len(equal) > 0 and slower > 0
    return Finding(
        figure=[
            "time of the one-hot product over that of a gather (memory)",
            *(
                f"{row.device}, {row.passes}, {row.vocabulary:,} words, {row.tokens:,} tokens {row.ratio:,.3g} "
                f"({row.memory_ratio:.3g})"
                for row in rows
            ),
        ],
        null=["the same time (and memory)", *("1 (1)" for _ in rows)],
        interval=["95 % over rounds", *(f"{row.ratio_low:,.3g}–{row.ratio_high:,.3g}" for row in rows)],
        verdict=f"{'holds' if holds and slower == len(timed) else 'holds in part' if holds else 'fails'}: "
        f"outputs and gradients are {'' if equal.all() else 'NOT '}equal in {equal.sum()} of {len(equal)} comparisons; "
        f"the one-hot product is slower at {slower} of {len(timed)} sizes",
    )


def opaque(context: Context) -> Finding:
    """C15: whether spaces that are more useful have dimensions that mean less, by two judges of meaning."""
    table = pd.read_csv(context.out / TRADEOFF)
    rows = _rows(table[table.interpretable.isin(["coherence_npmi_gain", "coherence_glove_gain"])])
    against, towards = sum(row.high < 0 for row in rows), sum(row.low > 0 for row in rows)
    signs = sum(row.rho < 0 for row in rows)
    said = "holds" if against == len(rows) else "fails" if towards == len(rows) else "not decided"
    return Finding(
        figure=[
            "Spearman's rank correlation over spaces of coherence of dimensions with usefulness",
            *(f"{row.interpretable}, {row.useful} {row.rho:.2f} ({row.spaces} spaces)" for row in rows),
        ],
        null=["no relation", *("0" for _ in rows)],
        interval=["95 % over models", *(_between(row.low, row.high) for row in rows)],
        verdict=f"{said}: below 0 in {signs} of {len(rows)} correlations, and beyond doubt in {against}; above beyond "
        f"doubt in {towards}",
    )


def _between(low: float, high: float) -> str:
    return "too few models" if pd.isna(low) or pd.isna(high) else f"{low:.2f} to {high:.2f}"


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples())


def _lens(context: Context) -> tuple[pd.DataFrame, pd.Series]:
    table = pd.read_csv(context.out / LENS)
    return table, table[table.reader == "constant"].iloc[0]
