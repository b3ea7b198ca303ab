"""Six figures of any vectors, a function each, to copy from.

    python examples/gallery.py vectors.npy --out gallery
    python examples/gallery.py googlenews-300 --n 5000 --out gallery

Every figure stands beside what random vectors of the same number and dimension give, and is headed by what it shows.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

import geomkit
from geomkit.core.atomic import written
from geomkit.errors import GeomkitError, InvalidInputError
from geomkit.reporting.style import headed, save, styled
from geomkit.transforms import AllButTheTop, Centering, Whitening

Rows = NDArray[np.floating[Any]]

OURS, NULL = "#0072B2", "0.35"
DRAWS = 5
"""Random sets behind a null that has no closed form."""


def drawn(x: Rows, seed: int) -> list[NDArray[np.float32]]:
    """Gaussian rows as many and as wide as those of `x`."""
    return [np.random.default_rng((seed, at)).standard_normal(x.shape, np.float32) for at in range(DRAWS)]


def cosines(x: Rows, _: int) -> Figure:
    """Draw the cosine of all pairs, beside the closed form for directions uniform on the sphere."""
    found = geomkit.cosine_stats(x)
    null = geomkit.nulls.sphere(found.d)
    count, edges = found.histogram(400)
    centre = (edges[1:] + edges[:-1]) / 2
    figure, axes = plt.subplots(figsize=(8, 5))
    density = count / count.sum() / np.diff(edges)
    axes.plot(centre, density, color=OURS, label="these vectors")
    axes.plot(centre, null.pdf(centre), color=NULL, linestyle=":", label="random directions")
    axes.set(
        yscale="log",
        ylim=(1e-3, 3 * max(density.max(), null.pdf(0.0))),
        xlabel="cosine similarity of a pair",
        ylabel="density of pairs (log scale)",
    )
    axes.legend()
    headed(figure, f"Mean cosine {found.mean:.3f}, {found.std / null.std:.1f} times as spread as random directions")
    return figure


def orthogonality(x: Rows, _: int) -> Figure:
    """Draw the share of pairs within eps of orthogonal, beside the closed form; shaded: two standard deviations."""
    found = geomkit.cosine_stats(x)
    null = geomkit.nulls.sphere(found.d)
    eps = np.linspace(0.005, 0.5, 100)
    random = np.array([null.within_fraction(each) for each in eps])
    spread = np.array([null.within_fraction_std(each, found.n) for each in eps])
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.plot(eps, [found.within_fraction(each) for each in eps], color=OURS, label="these vectors")
    axes.plot(eps, random, color=NULL, linestyle=":", label="random directions")
    axes.fill_between(eps, random - 2 * spread, random + 2 * spread, color=NULL, alpha=0.2, linewidth=0)
    axes.set(xlabel="eps", ylabel="share of pairs with |cosine| ≤ eps", ylim=(0, 1.02))
    axes.legend(loc="lower right")
    headed(
        figure,
        f"{found.within_fraction(0.1):.0%} of pairs are within 0.1 of orthogonal; of random directions "
        f"{null.within_fraction(0.1):.0%}",
    )
    return figure


def hubs(x: Rows, seed: int) -> Figure:
    """Draw how often a row is among the 10 nearest of others, beside Gaussian sets."""
    found = geomkit.hubness(x, k=10)
    random = [geomkit.hubness(each, k=10) for each in drawn(x, seed)]
    figure, axes = plt.subplots(figsize=(8, 5))
    for each in random:
        axes.step(*_at_least(each.occurrence), color=NULL, linestyle=":", linewidth=1, where="post")
    axes.plot([], [], color=NULL, linestyle=":", label=f"{DRAWS} Gaussian sets")
    axes.step(*_at_least(found.occurrence), color=OURS, where="post", label="these vectors")
    axes.set(
        xscale="symlog", yscale="log", xlim=(0, None), xlabel="times among the 10 nearest of others (log from 1 on)"
    )
    axes.set_ylabel("share of rows that are, so often or more (log scale)")
    axes.legend()
    skewness = [each.skewness for each in random]
    headed(
        figure,
        f"One row is among the 10 nearest of {found.largest_occurrence:,} others; skewness {found.skewness:.2f}, of "
        f"Gaussian sets {min(skewness):.2f} to {max(skewness):.2f}",
    )
    return figure


def _at_least(occurrence: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    times, rows = np.unique(occurrence, return_counts=True)
    return times, rows[::-1].cumsum()[::-1] / rows.sum()


def spectrum(x: Rows, seed: int) -> Figure:
    """Draw the share of variance along each principal direction, beside Gaussian sets."""
    found = geomkit.spectrum(x, standard_errors=True)
    random = [geomkit.spectrum(each) for each in drawn(x, seed)]
    figure, axes = plt.subplots(figsize=(8, 5))
    place = np.arange(1, found.d + 1)
    shares = np.array([_shares(each.eigenvalues) for each in random])
    axes.fill_between(place, shares.min(axis=0), shares.max(axis=0), color=NULL, alpha=0.3, linewidth=0)
    axes.plot(place, shares.mean(axis=0), color=NULL, linestyle=":", label=f"{DRAWS} Gaussian sets")
    axes.plot(place, _shares(found.eigenvalues), color=OURS, label="these vectors")
    axes.set(
        xscale="log", yscale="log", xlabel="principal direction (log scale)", ylabel="share of variance (log scale)"
    )
    axes.legend(loc="lower left")
    headed(
        figure,
        f"Effective rank {found.effective_rank:.0f} ± {found.effective_rank_se:.1f} of {found.d}; of Gaussian sets "
        f"{np.mean([each.effective_rank for each in random]):.0f}",
    )
    return figure


def _shares(eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sort(eigenvalues)[::-1] / eigenvalues.sum())


def contrast(x: Rows, seed: int) -> Figure:
    """Draw by order p how far the farthest row is beyond the nearest, beside Gaussian sets; bars: standard errors."""
    orders = (0.5, 1.0, 1.5, 2.0, 3.0, float("inf"))
    places = range(len(orders))
    found = [geomkit.concentration(x, p=p) for p in orders]
    random = np.array([[geomkit.concentration(each, p=p).relative_contrast for p in orders] for each in drawn(x, seed)])
    figure, axes = plt.subplots(figsize=(8, 5))
    axes.fill_between(places, random.min(axis=0), random.max(axis=0), color=NULL, alpha=0.3, linewidth=0)
    axes.plot(places, random.mean(axis=0), color=NULL, linestyle=":", label=f"{DRAWS} Gaussian sets")
    ours, error = [each.relative_contrast for each in found], [each.relative_contrast_se for each in found]
    axes.errorbar(places, ours, error, color=OURS, marker="o", markersize=4, label="these vectors")
    axes.set_xticks(places, ["∞" if p == float("inf") else f"{p:g}" for p in orders])
    axes.set(
        yscale="log", xlabel="order p of the distance", ylabel="relative contrast (d_max − d_min) / d_min (log scale)"
    )
    axes.legend()
    at = orders.index(2.0)
    headed(
        figure, f"Relative contrast of Euclidean distances {ours[at]:.2f}, of Gaussian sets {random[:, at].mean():.2f}"
    )
    return figure


def mended(x: Rows, seed: int) -> Figure:
    """Draw mean cosine and hubness as they are and after each transform, beside a Gaussian set."""
    forms: dict[str, Rows] = {
        "as they are": x,
        "centred": Centering().fit_transform(x),
        "all but the top": AllButTheTop().fit_transform(x),
        "whitened": Whitening().fit_transform(x),
    }
    random = drawn(x, seed)[0]
    panels: tuple[tuple[str, Callable[[Any], float]], ...] = (
        ("mean cosine", lambda each: geomkit.cosine_stats(each, on_invalid="drop").mean),
        ("hubness (skewness of 10-occurrence)", lambda each: geomkit.hubness(each, k=10, on_invalid="drop").skewness),
    )
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    said = []
    for axes, (label, measured) in zip(both, panels, strict=True):
        values = [measured(each) for each in forms.values()]
        axes.barh(list(forms), values, color=OURS)
        axes.axvline(measured(random), color=NULL, linestyle=":", label="a Gaussian set")
        axes.set_xlabel(label)
        least = int(np.argmin(np.abs(values)))
        said.append(f"{label.split(' (')[0]} {values[0]:.2f}, {list(forms)[least]} {abs(values[least]):.2f} from zero")
    both[0].invert_yaxis()
    both[1].legend()
    headed(figure, f"{'; '.join(said).capitalize()}")
    return figure


FIGURES: dict[str, Callable[[Rows, int], Figure]] = {
    each.__name__: each for each in (cosines, orthogonality, hubs, spectrum, contrast, mended)
}


def main(
    vectors: Annotated[str, typer.Argument(help="A file of vectors, or the name of a source.", metavar="VECTORS")],
    out: Annotated[Path, typer.Option(help="A folder for the figures.")] = Path("gallery"),
    n: Annotated[int | None, typer.Option(help="Rows of a source; of a file all are drawn.", metavar="N")] = None,
    seed: Annotated[int, typer.Option(help="Draws random sets, and the rows of a source.")] = 0,
) -> None:
    """Draw six figures of vectors as SVG and PNG, and say what each shows."""
    if Path(vectors).suffix or Path(vectors).exists():
        if n is not None:
            msg = f"--n is for sources; all rows of the file {vectors} are drawn; got {n}"
            raise InvalidInputError(msg)
        x = geomkit.io.read(vectors).vectors
    else:
        x = geomkit.datasets.load(vectors, n=n, seed=seed).vectors
    if hasattr(x, "toarray"):
        typer.echo(f"gallery: {vectors} is sparse and made dense: {8 * x.shape[0] * x.shape[1] / 1e9:.1f} GB", err=True)
        x = x.toarray()
    x = np.asarray(x)
    out.mkdir(parents=True, exist_ok=True)
    with styled():
        for name, draw in FIGURES.items():
            figure = draw(x, seed)
            for suffix in ("svg", "png"):
                with written(out / f"{name}.{suffix}") as part:
                    save(figure, part, suffix)
            typer.echo(f"{out / name}.svg: {' '.join(figure.get_suptitle().split())}")
            plt.close(figure)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (GeomkitError, OSError) as refused:
        print(f"gallery: {' '.join(str(refused).split())}", file=sys.stderr)
        sys.exit(2)
