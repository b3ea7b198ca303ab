"""The figure of speed says what its tables say, the title included."""

import pandas as pd
import pytest

from bench.figures import speed as drawn


def row(statistic, value, **what):
    default = {
        "kernel": "cosine_stats", "data": "isotropic", "setting": None, "n": 1000, "d": 64, "contender": "geomkit",
        "precision": "float32", "threads": 2, "beside": None,
    }  # fmt: skip
    spread = {"value": value, "low": value * 0.9, "high": value * 1.1}
    return default | {"statistic": statistic} | spread | what


@pytest.fixture
def table():
    rows = []
    for d, share in ((64, 0.5), (768, 0.8)):
        rows += [
            row("million_pairs_per_second", 1000.0 / d, d=d),
            row("share_of_limit", share, d=d),
            row("million_pairs_per_second", 500.0 / d, d=d, contender="chunked torch"),
            row("million_pairs_per_second", 700.0 / d, d=d, contender="bare product"),
            row("times_as_fast", 1.6 * share, d=d, beside="bare product"),
            row("times_as_fast", 10 * share, d=d, beside="chunked torch"),
        ]
    rows += [
        row("times_as_fast", 3.0, kernel="neighbors", setting="k=10", d=384, beside="faiss", data="factors"),
        row("times_as_fast", 1.9, d=768, n=500, beside="one thread"),
        row("not measured", float("nan"), n=400, contender="KeOps"),
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def growth():
    about = {"kernel": "moments", "precision": "float64", "source": "memory map", "against": "n"}
    rows = [about | {"n": n, "d": 128, "statistic": "seconds", "value": n / 1e5} for n in (1e5, 2e5, 4e5)]
    rows.append(about | {"n": None, "d": None, "statistic": "exponent of seconds", "value": 1.0, "se": 0.03})
    return pd.DataFrame(rows)


def test_the_title_states_what_was_measured(table, growth):
    title = drawn.speed(table, growth).get_suptitle()
    assert "0.78 to 1.25 of the time" in title
    assert "5.0 to 8.0 times as fast as chunked torch" in title


def test_rates_peers_and_growth_are_drawn(table, growth):
    rates, peers, grown = drawn.speed(table, growth).axes

    lines = {line.get_label(): line for line in rates.lines}
    ours = lines["geomkit, float32"]
    assert list(ours.get_xdata()) == [64, 768]
    assert list(ours.get_ydata()) == pytest.approx([1000 / 64, 1000 / 768])
    dotted = next(line for line in rates.lines if line.get_linestyle() == ":" and len(line.get_xdata()))
    assert list(dotted.get_ydata()) == pytest.approx([1000 / 64 / 0.5, 1000 / 768 / 0.8])

    names = [label.get_text() for label in peers.get_yticklabels()]
    assert names == [
        "cosine_stats · bare product (1,000 × 768)",
        "cosine_stats · chunked torch (1,000 × 768)",
        "neighbors k=10 · faiss (1,000 × 384)",
    ]
    assert 3.0 in [line.get_xdata()[0] for line in peers.lines if len(line.get_xdata()) == 1]
    assert "n^1.00 ± 0.03" in grown.get_legend().get_texts()[0].get_text()
    for axes in (rates, grown):
        assert axes.get_xlabel()
        assert axes.get_ylabel()
