"""The figure of validity says what its table says, the title included."""

import math

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bench.figures import validity as drawn


def row(statistic, outcome, rho, within, *, holds=False, within_holds=False, expected=0, tested=True):
    ends = {"low": rho - 0.1, "high": rho + 0.1} if tested else {"low": math.nan, "high": math.nan}
    return {
        "statistic": statistic, "outcome": outcome, "n_spaces": 40, "n_sources": 8, "expected": expected,
        "n_groups": 6, "rho": rho, **ends, "holds": holds,
        "within_n_groups": 5, "within_rho": within, "within_low": within - 0.2, "within_high": within + 0.2,
        "within_holds": within_holds,
    }  # fmt: skip


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            row("mle", "hnsw_recall", -0.8, -0.6, holds=True, within_holds=True),
            row("relative_contrast", "hnsw_recall", 0.7, 0.1, holds=True, within_holds=True, expected=1),
            row("cosine_mean", "hnsw_recall", 0.5, 0.0, holds=True, expected=-1),
            row("mle", "probe", 0.2, 0.3),
            row("relative_contrast", "probe", -0.1, 0.3, expected=1),
            row("cosine_mean", "probe", math.nan, math.nan, expected=-1, tested=False),
            row("mle", "wordsim", 0.4, 0.3, tested=False),
        ]
    )


def test_the_title_counts_what_holds_and_names_the_strongest(table):
    lines = drawn.finding(table).splitlines()
    assert lines[0] == (
        "Of correlations that hold, 1 of 2 across sources and 1 of 1 within sources have the sign that a verdict of "
        "the audit supposes"
    )
    assert lines[1] == (
        "Across sources 3 of 5 correlations hold; the strongest: mle −0.80 with HNSW recall, none with probe accuracy"
    )
    assert lines[2].startswith("Within sources 2 of 6 correlations hold; the strongest: mle −0.60 with HNSW recall")
    assert lines[3] == "Too few models to test word similarity"
    assert " ".join(drawn.validity(table).get_suptitle().split()) == lines[0]


def test_a_table_in_which_nothing_holds_says_so(table):
    title = drawn.finding(table.assign(holds=False, within_holds=False))
    assert "Across sources 0 of 5 correlations hold; the strongest: none with HNSW recall, none with probe" in title
    assert "0 of 0 across sources and 0 of 0 within" in title


def test_every_correlation_is_drawn_where_it_belongs(table):
    figure = drawn.validity(table)

    panels = {axes.get_title(loc="left").strip(): axes for axes in figure.axes}
    assert list(panels) == ["HNSW recall", "probe accuracy", "word similarity"]
    recall = panels["HNSW recall"]
    assert [label.get_text() for label in recall.get_yticklabels()] == [
        "mle", "relative_contrast (+)", "cosine_mean (−)",
    ]  # fmt: skip
    dots = [line for line in recall.lines if line.get_marker() in "o^" and len(line.get_xdata())]
    found = {(line.get_marker(), round(float(line.get_ydata()[0]))): line for line in dots}
    assert found["o", 0].get_xdata()[0] == -0.8
    assert found["^", 1].get_xdata()[0] == 0.1
    filled = {key: to_hex(line.get_markerfacecolor()) != "#ffffff" for key, line in found.items()}
    assert filled == {("o", 0): True, ("^", 0): True, ("o", 1): True, ("^", 1): True, ("o", 2): True, ("^", 2): False}
    blue = [line for line in recall.lines if line.get_color() == "#0072B2" and line.get_marker() == "None"]
    bars = [list(line.get_xdata()) for line in blue if len(line.get_xdata())]
    assert [pytest.approx(bar) for bar in bars] == [[-0.9, -0.7], [0.6, 0.8], [0.4, 0.6]]
    assert "40 spaces of 6 models" in [text.get_text() for text in recall.texts]


def test_it_is_saved_as_the_same_bytes_twice(table, tmp_path):
    from geomkit.reporting.style import save

    for name in ("a.svg", "b.svg"):
        save(drawn.validity(table), tmp_path / name, "svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
