"""The figure of the study `scale`: drawn from its tables alone."""

from typing import TYPE_CHECKING

from geomkit.reporting.style import headed, styled

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["finding", "scale"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73")
_MARKERS = ("o", "s", "^")


def scale(grown: "pd.DataFrame", shared: "pd.DataFrame", model: "pd.DataFrame") -> "Figure":
    """Throughput and memory against rows, efficiency against workers, and seconds predicted against measured.

    Parameters
    ----------
    grown, shared, model : DataFrame
        results/scale.csv, results/scale_workers.csv and results/scale_model.csv.
    """
    with styled():
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(2, 2, figsize=(11, 8.4))
        _throughput(panels[0][0], grown)
        _memory(panels[0][1], grown)
        _workers(panels[1][0], shared)
        _model(panels[1][1], model)
        headed(figure, finding(grown, shared, model))
        return figure


def _by_shape(grown: "pd.DataFrame") -> "pd.DataFrame":
    return grown.drop_duplicates(["n", "d"])


def _throughput(axes: "Axes", grown: "pd.DataFrame") -> None:
    for at, (d, mine) in enumerate(_by_shape(grown).groupby("d")):
        colour = _COLOURS[at]
        axes.plot(mine.n, mine.rows_per_second, color=colour, marker=_MARKERS[at], label=f"moments, {d} dimensions")
        axes.plot(mine.n, mine.n / mine.drawing_seconds, color=colour, linestyle=":", label=f"drawing the rows, {d}")
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="rows a second")
    axes.set_title(f"exact moments, {int(grown.workers.iloc[0])} workers")
    axes.legend()


def _memory(axes: "Axes", grown: "pd.DataFrame") -> None:
    for at, (d, mine) in enumerate(_by_shape(grown).groupby("d")):
        colour = _COLOURS[at]
        axes.plot(mine.n, mine.worker_bytes / 1e6, color=colour, marker=_MARKERS[at], label=f"a worker, {d} dimensions")
        axes.plot(mine.n, mine.matrix_bytes / 1e6, color=colour, linestyle=":", label=f"the matrix, {d}")
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="peak memory, MB (10⁶ bytes)")
    axes.set_title("memory of a worker, without files cached")
    axes.legend()


def _workers(axes: "Axes", shared: "pd.DataFrame") -> None:
    names = list(dict.fromkeys(shared.measurement))
    beside = {1: "one worker / plain call, one thread", 2: "two workers / one worker"}
    for at, (workers, label) in enumerate(beside.items()):
        mine = shared[(shared.workers == workers) & (shared.beside == workers - 1)].set_index("measurement").loc[names]
        places = [place + 0.36 * (at - 0.5) for place in range(len(names))]
        reach = [mine.times_as_fast - mine.low, mine.high - mine.times_as_fast]
        axes.bar(places, mine.times_as_fast, 0.34, color=_COLOURS[at], label=label, yerr=reach, capsize=3)
    axes.axhline(1, color="0.35", linewidth=1)
    axes.axhline(2, color="0.35", linewidth=1, linestyle=":", label="as many times as workers")
    axes.set_xticks(range(len(names)), [f"{name}\n{_shape(shared, name)}" for name in names])
    axes.set(ylabel="times as fast", ylim=(0, 1.45 * max(2.0, shared.high[shared.workers > shared.beside].max())))
    axes.set_title("workers on one machine, beside fewer")
    axes.legend(loc="upper left")


def _shape(shared: "pd.DataFrame", name: str) -> str:
    row = shared[shared.measurement == name].iloc[0]
    return f"{int(row.n):,} × {int(row.d)}"


def _model(axes: "Axes", model: "pd.DataFrame") -> None:
    ends = [model.seconds.min() / 1.5, model.seconds.max() * 1.5]
    axes.fill_between(ends, [0.8 * end for end in ends], [1.2 * end for end in ends], color="0.85", label="within 20 %")
    axes.plot(ends, ends, color="0.35", linewidth=1)
    for at, (name, mine) in enumerate(model.groupby("measurement", sort=False)):
        fitted, held = mine[~mine.held_out], mine[mine.held_out]
        colour, marker = _COLOURS[at], _MARKERS[at]
        axes.scatter(
            fitted.seconds, fitted.predicted_seconds, s=18, facecolors="none", edgecolors=colour, marker=marker
        )  # fmt: skip
        axes.scatter(held.seconds, held.predicted_seconds, s=60, color=colour, marker=marker, label=f"{name}, held out")
    axes.set(xscale="log", yscale="log", xlabel="seconds measured", ylabel="seconds predicted")
    axes.set_title("cost model, fitted to the small runs (open)")
    axes.legend()


def finding(grown: "pd.DataFrame", shared: "pd.DataFrame", model: "pd.DataFrame") -> str:
    """Say how fast the largest matrix was measured, in how much memory, and how good the forecasts were."""
    shapes = _by_shape(grown)
    largest = shapes.sort_values("matrix_bytes").iloc[-1]
    what = f"Moments of {int(largest.n):,} × {int(largest.d)} ({largest.matrix_bytes / 1e9:.1f} GB)"
    lines = [
        f"{what} exactly in {largest.seconds:.0f} s; a worker takes {shapes.worker_bytes.max() / 1e6:.0f} MB at most"
    ]
    two = shared[(shared.workers == 2) & (shared.beside == 1)]
    speedups = ", ".join(f"{row.measurement} {row.times_as_fast:.2f}×" for row in two.itertuples())
    lines.append(f"Two workers over one: {speedups}")
    held = model[model.held_out]
    worst = held.relative_error.abs().max()
    lines.append(f"Held-out runs are predicted within {100 * worst:.0f} % ({len(held)} of them)")
    return "\n".join(lines)
