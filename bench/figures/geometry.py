"""Figures of the study `geometry`: drawn from its tables alone."""

from typing import TYPE_CHECKING

from bench.figures.families import FAMILIES, legend_below, plain_numbers, scatter_families
from geomkit.nulls import sphere
from geomkit.reporting.style import headed, percent, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "concentration",
    "concentration_finding",
    "cosine_distribution",
    "cosines_finding",
    "layers",
    "layers_finding",
    "orthogonality",
    "orthogonality_finding",
]

_LAYERS = r"-layer(\d+)-"


def cosine_distribution(shapes: "pd.DataFrame") -> "Figure":
    """Density of the cosine over all pairs, a panel a family, beside the uniform sphere of the same dimensions.

    Parameters
    ----------
    shapes : DataFrame
        Columns source, family, d, left, density, null_density.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(2, 2, figsize=(11, 7.4), sharex=True)
        for axes, (family, (title, _, _)) in zip(panels.flat, FAMILIES.items(), strict=True):
            mine = shapes[shapes.family == family]
            for at, (source, rows) in enumerate(mine.groupby("source", sort=False)):
                centre = rows.left + (rows.left.iloc[1] - rows.left.iloc[0]) / 2
                colour = f"C{at % 8}"
                axes.plot(centre, rows.density, color=colour, label=_short(str(source)))
                axes.plot(centre, rows.null_density, color=colour, linestyle=":", linewidth=1.1)
            axes.set(title=title, yscale="log", ylim=(0.01, 200), xlim=(-1, 1))
            if not mine.empty:
                axes.legend(loc="upper left")
        for axes in panels[:, 0]:
            axes.set_ylabel("density of pairs (log scale)")
        for axes in panels[1]:
            axes.set_xlabel("cosine similarity of a pair")
        dotted = figure.axes[0].plot([], [], color="0.4", linestyle=":", linewidth=1.1)
        figure.legend(
            dotted, ["dotted: directions uniform on the sphere of the same dimension"], loc="outside lower center"
        )
        headed(figure, cosines_finding(shapes))
        return figure


def cosines_finding(shapes: "pd.DataFrame") -> str:
    """Say how many real sources have cosines that are wider than the sphere's or off zero."""
    wider = shifted = real = 0
    for _, rows in shapes[shapes.family != "random"].groupby("source"):
        width = rows.left.iloc[1] - rows.left.iloc[0]
        at, weight = rows.left + width / 2, rows.density * width
        mean, null_std = float((at * weight).sum()), float(rows.d.iloc[0]) ** -0.5
        real += 1
        wider += float((at**2 * weight).sum() - mean**2) ** 0.5 > null_std
        shifted += abs(mean) > null_std
    return (
        f"{wider} of {real} real spaces have cosines spread wider than those of random directions, "
        f"{shifted} a mean further off zero than that"
    )


def orthogonality(table: "pd.DataFrame", eps: float, n: int) -> "Figure":
    """Share of nearly orthogonal pairs against dimension, beside the closed form for the sphere.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of the study.
    eps : float
        Pairs with |cosine| up to this are nearly orthogonal.
    n : int
        Rows of a source; only sources of this size are drawn.
    """
    with styled():
        import matplotlib.pyplot as plt

        shares = table[(table.metric == "cosine") & (table.statistic == "within_fraction") & (table.n == n)]
        curve = shares.drop_duplicates("d").sort_values("d")
        figure, axes = plt.subplots(figsize=(10, 5.6))
        axes.axvspan(512, 1024, color="0.93", zorder=0)
        axes.text(724, 1.045, "512 to 1024", ha="center", fontsize=8.5, color="0.35")
        axes.plot(curve.d, curve.null_mean, color="0.35", label="uniform sphere, closed form")
        scatter_families(axes, shares, s=26, alpha=0.8, zorder=3)
        _annotate(axes, shares)
        axes.set(xscale="log", xlabel="dimension (log scale)", ylim=(-0.03, 1.08))
        plain_numbers(axes.xaxis, (50, 100, 200, 300, 512, 1024, 2048, 4096, 11_293, 30_925))
        axes.set_ylabel(f"share of pairs with |cosine| ≤ {eps:g}")
        legend_below(figure, [axes], 5)
        headed(figure, orthogonality_finding(shares))
        return figure


def orthogonality_finding(shares: "pd.DataFrame") -> str:
    """Say which share of pairs is nearly orthogonal in the dimensions that people speak of."""
    there = shares[shares.d.between(512, 1024)]
    if there.empty:
        return "Nothing was measured in 512 to 1024 dimensions"
    random = percent(there.null_mean.min(), there.null_mean.max())
    summary = f"Nearly orthogonal pairs in 512 to 1024 dimensions: {random} of random directions"
    for family, name in (("tfidf", "TF-IDF"), ("llm", "language models")):
        mine = there[there.family == family].value
        summary += f", {percent(mine.min(), mine.max())} of {name}" if len(mine) else ""
    return summary


_NAMED = (
    "tfidf-documents-30925", "tfidf-terms-11293", "googlenews-300", "glove-50", "minilm-384", "use-512",
    "smollm2-input-576", "cube-2048", "skipgram-100", "mpnet-768", "qwen-unembedding-1536",
    "deepseek-unembedding-3584", "lsa-1024", "projection-4096",
)  # fmt: skip


def _annotate(axes: "Axes", shares: "pd.DataFrame") -> None:
    """Name the sources that a reader will look for."""
    for row in shares[shares.source.isin(_NAMED)].itertuples():
        axes.annotate(_short(str(row.source)), (row.d, row.value), (5, 3), textcoords="offset points", fontsize=7.5)


def concentration(table: "pd.DataFrame", n: int) -> "Figure":
    """Relative contrast and relative variance of distances against dimension, a column an order p.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of the study.
    n : int
        Rows of a source; only sources of this size are drawn.
    """
    with styled():
        import matplotlib.pyplot as plt

        orders = ("0.5", "1", "2", "inf")
        statistics = {
            "relative_contrast": "relative contrast\n(d_max − d_min) / d_min",
            "relative_variance": "relative variance\nVar D / (E D)²",
        }
        figure, panels = plt.subplots(2, 4, figsize=(13, 6.6), sharex=True, sharey="row")
        for line, (statistic, label) in zip(panels, statistics.items(), strict=True):
            for axes, p in zip(line, orders, strict=True):
                values = table[(table.metric == f"minkowski-{p}") & (table.statistic == statistic) & (table.n == n)]
                values = values[values.value > 0]
                null = values.drop_duplicates("d").sort_values("d")
                axes.plot(null.d, null.null_mean, color="0.35", label="Gaussian vectors, simulated")
                scatter_families(axes, values, s=15, alpha=0.75)
                axes.set(xscale="log", yscale="log")
                plain_numbers(axes.xaxis, (50, 300, 1024, 4096, 30_925))
            line[0].set_ylabel(label)
        for axes, p in zip(panels[0], orders, strict=True):
            axes.set_title(f"p = {'∞' if p == 'inf' else p}")
        for axes in panels[1]:
            axes.set_xlabel("dimension (log scale)")
        legend_below(figure, [panels[0][0]])
        headed(figure, concentration_finding(table, n))
        return figure


def concentration_finding(table: "pd.DataFrame", n: int, statistic: str = "relative_variance") -> str:
    """Say in how many real spaces Euclidean distances are told apart better than in Gaussian ones as wide.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of the study.
    n : int
        Rows of a source.
    statistic : {"relative_variance", "relative_contrast"}
    """
    values = table[(table.metric == "minkowski-2") & (table.statistic == statistic) & (table.n == n)]
    values = values[(values.family != "random") & (values.value > 0)]
    ratio = values.value / values.null_mean
    what = {
        "relative_variance": "Euclidean distances vary more than those of",
        "relative_contrast": "The farthest row is further beyond the nearest than among",
    }[statistic]
    summary = f"{what} Gaussian vectors in {int((ratio > 1).sum())} of {len(values)} real spaces"
    return summary + (f": {ratio.median():.0f} times in the median" if len(values) else "")


def layers(table: "pd.DataFrame", n: int) -> "Figure":
    """Mean cosine by layer of the language model, with the middle 98 % of pairs shaded.

    Parameters
    ----------
    table : DataFrame
        Tidy rows of the study.
    n : int
        Rows of a source; only sources of this size are drawn.
    """
    with styled():
        import matplotlib.pyplot as plt

        of_model = table[(table.metric == "cosine") & (table.n == n) & table.source.str.startswith("smollm2-")]
        of_model = of_model.assign(layer=of_model.source.str.extract(_LAYERS, expand=False).astype("float"))
        wide = of_model.dropna(subset=["layer"]).assign(what=lambda rows: rows.source.str.split("-").str[1])
        figure, axes = plt.subplots(figsize=(10, 5.6))
        kinds = {
            "documents": ("news articles, mean of all their tokens (the first, an attention sink, too)", "#0072B2"),
            "tokens": ("tokens in context, the first of each text left out", "#D55E00"),
        }
        for what, (title, colour) in kinds.items():
            mine = wide[wide.what == what].pivot(index="layer", columns="statistic", values="value").sort_index()
            if mine.empty:
                continue
            axes.fill_between(mine.index, mine["q1"], mine["q99"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(mine.index, mine["mean"], color=colour, marker="o", markersize=3.5, label=title)
        dimension = int(wide.d.iloc[0])
        reach = sphere(dimension).quantile(0.99)
        axes.axhspan(-reach, reach, color="0.5", alpha=0.2, linewidth=0)
        axes.axhline(
            0, color="0.35", linewidth=1.2, linestyle="--", label=f"random directions in {dimension} dimensions"
        )
        axes.set(xlabel="layer of SmolLM2-135M (0 = input embedding)", ylabel="cosine similarity", ylim=(-0.62, 1.03))
        axes.legend(loc="lower right")
        headed(figure, layers_finding(wide))
        return figure


def layers_finding(wide: "pd.DataFrame") -> str:
    """Say how alike vectors of a layer are."""
    means = wide[wide.statistic == "mean"].groupby("what").value
    spans = ", ".join(
        f"{name} {means.min()[what]:.2f} to {means.max()[what]:.2f}"
        for what, name in (("documents", "of news articles"), ("tokens", "of tokens in context"))
        if what in means.groups
    )
    return f"Mean cosine by layer: {spans}; of random directions 0.00\nLine: mean; band: 1 % to 99 % of pairs"


def _short(source: str) -> str:
    """Say a source's name as a reader would."""
    what, _, dimension = source.rpartition("-")
    return f"{what.replace('smollm2-documents-', 'smollm2 ').replace('-', ' ')} {dimension}"
