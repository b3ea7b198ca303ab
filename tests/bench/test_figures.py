"""Figures are drawn from tables alone and show what the tables say."""

import numpy as np
import pandas as pd
import pytest

from bench.figures import geometry
from geomkit.reporting.style import save


def tidy(source, family, d, metric, statistic, value, null=0.5):
    return {
        "source": source, "family": family, "n": 100, "d": d, "metric": metric, "statistic": statistic,
        "value": value, "null_mean": null,
    }  # fmt: skip


@pytest.fixture
def table():
    rows = []
    for d in (50, 768):
        rows.append(tidy(f"sphere-{d}", "random", d, "cosine", "within_fraction", 0.4 + d / 2000))
        for p in ("0.5", "1", "2", "inf"):
            rows += [
                tidy(f"sphere-{d}", "random", d, f"minkowski-{p}", s, 1 / d)
                for s in ("relative_contrast", "relative_variance")
            ]
    for layer in (0, 16, 30):
        for what in ("documents", "tokens"):
            name = f"smollm2-{what}-layer{layer:02}-576"
            rows += [
                tidy(name, "llm", 576, "cosine", s, v) for s, v in (("q1", 0.1), ("mean", layer / 60), ("q99", 0.9))
            ]
    return pd.DataFrame(rows)


def test_orthogonality_draws_each_source_and_the_null(table):
    axes = geometry.orthogonality(table, 0.1, 100).axes[0]

    offsets = np.concatenate([np.asarray(scatter.get_offsets()).reshape(-1, 2) for scatter in axes.collections])
    points = {(int(x), round(float(y), 3)) for x, y in offsets}
    assert {(50, 0.425), (768, 0.784)} <= points
    curve = next(line for line in axes.lines if "closed form" in line.get_label())
    assert list(curve.get_xdata()) == [50, 768]
    assert "0.1" in axes.get_ylabel()


def test_layers_draws_the_mean_of_each_layer(table):
    axes = geometry.layers(table, 100).axes[0]

    lines = {line.get_label(): line for line in axes.lines}
    documents = next(line for label, line in lines.items() if "articles" in label)
    assert list(documents.get_xdata()) == [0, 16, 30]
    assert list(documents.get_ydata()) == pytest.approx([0, 16 / 60, 0.5])
    assert axes.get_xlabel()


def test_concentration_has_a_panel_for_each_order_and_statistic(table):
    figure = geometry.concentration(table, 100)
    assert len(figure.axes) == 8
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == ["p = 0.5", "p = 1", "p = 2", "p = ∞"]


def test_distribution_draws_density_and_null():
    left = np.linspace(-1, 0.98, 100)
    shapes = pd.DataFrame(
        {"source": "sphere-50", "family": "random", "d": 50, "left": left, "density": 1.5, "null_density": 0.7}
    )
    axes = geometry.cosine_distribution(shapes).axes[0]
    heights = [set(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
    assert {1.5} in heights
    assert {0.7} in heights
    assert axes.lines[0].get_xdata()[0] == pytest.approx(-0.99)


def test_headings_say_what_the_tables_say(table):
    def head(figure):
        return " ".join(figure.get_suptitle().split())

    tfidf = tidy("lsa-768", "tfidf", 768, "cosine", "within_fraction", 0.25)
    found = pd.concat([table, pd.DataFrame([tfidf])])
    assert head(geometry.orthogonality(found, 0.1, 100)) == (
        "Nearly orthogonal pairs in 512 to 1024 dimensions: 50 % of random directions, 25 % of TF-IDF"
    )
    real = tidy("glove-50", "word2vec", 50, "minkowski-2", "relative_variance", 0.75, null=0.25)
    found = pd.concat([table, pd.DataFrame([real, real | {"source": "glove-100", "value": 0.2}])])
    assert "than those of Gaussian vectors in 1 of 2 real spaces: 2 times" in head(geometry.concentration(found, 100))
    assert "of news articles 0.00 to 0.50, of tokens in context 0.00" in head(geometry.layers(table, 100))


def test_the_heading_of_distributions_counts_what_is_wide_and_what_is_off_zero():
    left = np.linspace(-1, 1, 400, endpoint=False)
    at = left + 0.0025

    def shape(source, mean, std):
        density = np.exp(-((at - mean) ** 2) / (2 * std**2)) / (std * (2 * np.pi) ** 0.5)
        return pd.DataFrame({"source": source, "family": "llm", "d": 100, "left": left, "density": density,
                             "null_density": 1.0})  # fmt: skip

    shapes = pd.concat([shape("a", 0.3, 0.15), shape("b", 0.05, 0.12), shape("c", 0.0, 0.05)])
    head = " ".join(geometry.cosine_distribution(shapes).get_suptitle().split())
    assert head.startswith("2 of 3 real spaces have cosines spread wider")
    assert "1 a mean further off zero" in head


def test_layers_shade_where_random_directions_would_be(table):
    axes = geometry.layers(table, 100).axes[0]
    band = next(patch for patch in axes.patches if patch.get_alpha() == 0.2)
    cosines = np.random.default_rng(1).standard_normal((100_000, 576))[:, 0] / 24
    low, high = band.get_extents().transformed(axes.transData.inverted()).intervaly
    assert (low, high) == pytest.approx(np.quantile(cosines, [0.01, 0.99]), rel=0.03)


def test_a_heading_breaks_to_the_width_and_hides_nothing():
    from matplotlib.figure import Figure

    for width in (6, 12):
        figure = Figure(figsize=(width, 5), layout="constrained")
        axes = figure.subplots()
        said = "A finding in so many words that it needs two lines on a narrow figure, whatever it says\n" + "n " * 150
        geometry.headed(figure, said)
        figure.draw_without_rendering()
        head, small = figure.get_suptitle(), figure.texts[-1]
        assert " ".join(head.split()) == said.splitlines()[0]
        assert small.get_text().split() == ["n"] * 150
        words = small.get_window_extent()
        assert words.x1 <= figure.bbox.x1
        assert words.y0 >= axes.get_tightbbox().y1
        assert words.y1 <= figure.bbox.y1


def test_saving_twice_gives_the_same_bytes(table, tmp_path):
    for suffix in ("svg", "png"):
        for name in ("a", "b"):
            save(geometry.layers(table, 100), tmp_path / f"{name}.{suffix}", suffix)
        first = (tmp_path / f"a.{suffix}").read_bytes()
        assert len(first) > 1000
        assert first == (tmp_path / f"b.{suffix}").read_bytes()
