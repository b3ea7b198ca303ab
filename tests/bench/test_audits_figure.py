"""The figure of audits says what its table says, the title included."""

from itertools import pairwise

import matplotlib.colors
import pandas as pd
import pytest

from bench.figures import audits as drawn
from geomkit.auditing.statistics import STATISTICS
from geomkit.reporting.style import save

NAN = float("nan")


def row(source, family, statistic, value, verdict=NAN, null_mean=0.0, note=""):
    return {
        "source": source, "family": family, "statistic": statistic, "value": value, "null_mean": null_mean,
        "verdict": verdict, "note": note,
    }  # fmt: skip


@pytest.fixture
def table():
    rows = [
        row("sphere-9", "random", "cosine_mean", 0.001, "ok"),
        row("gaussian-9", "random", "cosine_mean", -0.001, "ok"),
        row("cube-9", "random", "cosine_mean", 0.75, "fail"),
        row("lsa-9", "tfidf", "cosine_mean", 0.3, "warn"),
        row("lsa-9", "tfidf", "hubness_skewness", 3.94, "fail", null_mean=0.31),
        row("lsa-9", "tfidf", "antihub_fraction", 0.0002, "ok", null_mean=NAN),
        row("lsa-9", "tfidf", "same_label_rate", 0.543, null_mean=0.05),
        row("lsa-9", "tfidf", "twonn", 7.0),
        row("skipgram-9", "word2vec", "hubness_skewness", 12.3456, "warn"),
        row("glove-9", "word2vec", "effective_rank", 1234.5, "ok", null_mean=1300.4),
        row("gone-9", "llm", "not measured", NAN, note="not fetched"),
    ]
    return pd.DataFrame(rows)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def cells(figure):
    """Colour of every filled cell by column and row, counted from the top."""
    found = {}
    for patch in figure.axes[0].collections:
        box = patch.get_paths()[0].get_extents()
        found[int(box.x0), round(box.y0, 3)] = matplotlib.colors.to_hex(patch.get_facecolor()[0])
    columns = sorted({x for x, _ in found})
    rows = sorted({y for _, y in found})
    return {(columns.index(x), rows.index(y)): colour for (x, y), colour in found.items()}


def test_the_title_counts_real_spaces_and_random_directions(table):
    said = drawn.finding(table).replace("\n", " ")
    assert said == (
        "2 of 3 real spaces are flagged, most often for hubs (2) and a high mean cosine (1);"
        " none of the 2 sets of random directions is"
    )


def test_the_title_does_not_promise_what_is_not_so(table):
    table.loc[table.source == "sphere-9", "verdict"] = "warn"
    assert drawn.finding(table).endswith("\n1 of the 2 sets of random directions is")
    table["verdict"] = "ok"
    assert drawn.finding(table).startswith("0 of 3 real spaces are flagged;")
    real = table[table.family != "random"]
    assert drawn.finding(real) == "0 of 3 real spaces are flagged"


def test_a_source_is_counted_once_however_often_it_is_flagged(table):
    again = table[table.source == "lsa-9"].assign(statistic="island_fraction", verdict="fail")
    assert drawn.finding(pd.concat([table, again])).startswith("2 of 3")


def test_every_cell_has_its_value_its_null_and_its_colour(table):
    figure = drawn.audits(table, list(dict.fromkeys(table.source)))
    said = texts(figure)
    for expected in ("0.00", "0.75", "0.30", "3.94", "0.31", "<0.1 %", "–", "54 %", "5.0 %", "12.3", "1,234", "1,300"):
        assert expected in said
    assert "-0.00" not in said
    assert "7.00" not in said  # twonn is never judged, and not shown
    assert "not measured: not fetched" in said
    ok, warn, fail = ("#eef3f7", "#f3c969", "#b2182b")
    columns = list(drawn.COLUMNS)
    mean, hubs, never = (columns.index(name) for name in ("cosine_mean", "hubness_skewness", "antihub_fraction"))
    shown = sorted({x for x in range(len(columns)) if columns[x] in set(table.statistic)})
    at = {columns[x]: shown.index(x) for x in shown}
    assert (mean, hubs, never) == (0, 1, 2)
    assert cells(figure) == {
        (at["cosine_mean"], 0): ok,
        (at["cosine_mean"], 1): ok,
        (at["cosine_mean"], 2): fail,
        (at["cosine_mean"], 3): warn,
        (at["hubness_skewness"], 3): fail,
        (at["antihub_fraction"], 3): ok,
        (at["same_label_rate"], 3): "#ffffff",
        (at["hubness_skewness"], 4): warn,
        (at["effective_rank"], 5): ok,
    }


def test_sources_keep_their_order_within_families_and_others_are_left_out(table):
    figure = drawn.audits(table, ["glove-9", "skipgram-9", "nosuch-9", "cube-9"])
    said = texts(figure)
    assert [each for each in said if each.endswith("-9")] == ["cube-9", "glove-9", "skipgram-9"]
    assert "TF-IDF" not in said
    # The title is about all sources, shown or not.
    assert figure.texts[0].get_text() == drawn.finding(table)


def test_every_statistic_that_is_judged_without_queries_has_a_column():
    judged = {name for name, each in STATISTICS.items() if each.worse and each.family != "queries"}
    assert {name for name, column in drawn.COLUMNS.items() if column.flagged} == judged
    assert set(drawn.COLUMNS) - judged == {"same_label_rate"}


def test_verdicts_differ_in_lightness():
    def lightness(colour):
        red, green, blue = matplotlib.colors.to_rgb(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    fills = [lightness(fill) for fill, _, _ in drawn._VERDICTS.values()]
    assert min(first - second for first, second in pairwise(fills)) > 0.1


@pytest.mark.filterwarnings("error")
def test_it_is_saved_in_both_formats_without_complaint(table, tmp_path):
    figure = drawn.audits(table, list(dict.fromkeys(table.source)))
    for suffix in ("svg", "png"):
        save(figure, tmp_path / f"audits.{suffix}", suffix)
        assert (tmp_path / f"audits.{suffix}").stat().st_size > 1000
