"""The figure of the study `lens`: drawn from its table alone."""

from typing import TYPE_CHECKING

from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["finding", "lens"]

_READERS = {
    "lens": ("logit lens", "#0072B2", "o"),
    "regression": ("regression on the last layer", "#E69F00", "s"),
    "tuned": ("tuned lens", "#D55E00", "D"),
    "other_basis": ("the head in another basis", "0.55", "x"),
    "nearest_input": ("nearest input embedding", "#009E73", "^"),
}
_GEOMETRY = (
    ("mean_cosine", "mean cosine", "#0072B2"),
    ("effective_rank", "effective rank / dimensions", "#D55E00"),
    ("intrinsic_dimension", "intrinsic dimension / 50", "#009E73"),
)


def lens(table: "pd.DataFrame") -> "Figure":
    """KL from the last layer, agreement with it and rank of the next token by layer, and the layer's geometry.

    Parameters
    ----------
    table : DataFrame
        results/lens.csv.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(2, 2, figsize=(11, 8), sharex=True)
        constant = table[table.reader == "constant"].iloc[0]
        for axes, (name, label) in zip(
            panels.flat,
            (
                ("kl", "KL from the last layer, nats"),
                ("agreement", "share of the last layer's top 5 tokens"),
                ("rank", "mean rank of the next token (0 is best)"),
            ),
            strict=False,
        ):
            _panel(axes, table, name)
            axes.axhline(float(constant[name]), color="0.35", linestyle=":", linewidth=1.2)
            axes.set_ylabel(label)
        # KL is 0 at the last layer, and a rank may be.
        panels[0, 0].set_yscale("symlog", linthresh=1)
        panels[0, 0].set_ylim(bottom=0)
        panels[1, 0].set_yscale("symlog", linthresh=10)
        panels[1, 0].set_ylim(bottom=0)
        _geometry(panels[1, 1], table[(table.reader == "lens") & table.mean_cosine.notna()])
        for axes in panels[1]:
            axes.set_xlabel("layer")
        handles = [
            panels[0, 1].plot([], [], color=colour, marker=marker, markersize=5, label=label)[0]
            for reader, (label, colour, marker) in _READERS.items()
            if reader in set(table.reader)
        ]
        handles += panels[0, 1].plot([], [], color="0.35", linestyle=":", label="one answer for every text")
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        headed(figure, finding(table))
        return figure


def finding(table: "pd.DataFrame") -> str:
    """Say where the plain lens knows more than a constant does, and what tuning changes."""
    plain = table[table.reader == "lens"].sort_values("layer")
    tuned = table[table.reader == "tuned"].sort_values("layer")
    constant = table[table.reader == "constant"].iloc[0]
    last = int(plain.layer.max())
    middle = plain[plain.layer < last]
    worse = middle[middle.kl_low > constant.kl_high]
    better = int((tuned.kl_fall_low > 0).sum())
    first = (
        f"At {len(worse)} of {len(middle)} layers before the last, the logit lens is further from the model's answer "
        f"than one answer for every text is ({constant.kl:.1f} nats of KL)"
    )
    lines = [first]
    if len(tuned):
        before = dict(zip(plain.layer.tolist(), plain.kl.tolist(), strict=True))
        after = zip(tuned.layer.tolist(), tuned.kl.tolist(), strict=True)
        shown = ", ".join(f"{before[layer]:.1f} → {kl:.1f} at {layer}" for layer, kl in after if layer in before)
        lines.append(f"A trained affine translator lowers KL at {better} of {len(tuned)} layers: {shown}")
    return "\n".join(lines)


def _panel(axes: "Axes", table: "pd.DataFrame", name: str) -> None:
    for reader, (_, colour, marker) in _READERS.items():
        rows = table[(table.reader == reader) & table[name].notna()].sort_values("layer")
        if rows.empty:
            continue
        # Layers between two that have a translator were not measured: no line may say that they were.
        line = "-" if reader == "lens" else ""
        axes.plot(rows.layer, rows[name], color=colour, marker=marker, markersize=4.5, linestyle=line)
        axes.vlines(rows.layer, rows[f"{name}_low"], rows[f"{name}_high"], color=colour, linewidth=1)


def _geometry(axes: "Axes", rows: "pd.DataFrame") -> None:
    rows = rows.sort_values("layer")
    scales = {"mean_cosine": 1.0, "effective_rank": float(rows.d.max()), "intrinsic_dimension": 50.0}
    for name, label, colour in _GEOMETRY:
        axes.plot(rows.layer, rows[name] / scales[name], color=colour, marker=".", label=label)
    axes.axhline(0, color="0.35", linestyle="--", linewidth=1, label="mean cosine of random directions")
    axes.set(ylabel="geometry of the layer", ylim=(-0.05, 1.05))
    axes.legend(loc="best", fontsize=8)
