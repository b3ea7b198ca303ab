"""The page of the project's own results, in a browser: numbers are those of the tables, and every control works."""

import itertools
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from bench.pages.results import READS, results_page
from geomkit.reporting.page import render

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(scope="module")
def text():
    return render(results_page(RESULTS))


@pytest.fixture(scope="module")
def file(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def specs(text):
    return json.loads(text.split('<script type="application/json" id="charts">')[1].split("</script>")[0])


def rows_of(spec):
    """All rows that a chart holds."""
    return [row for each in spec["datasets"].values() for row in each]


def numbers(page, table, column):
    """What a column of a table sorts by."""
    keys = page.tab.eval_on_selector_all(
        f"#table-{table} tbody tr", f"rows => rows.map(row => row.cells[{column}].dataset.key)"
    )
    return [float(each) for each in keys]


def test_the_page_is_small_and_the_one_that_is_committed(text):
    assert len(text.encode()) < 8_000_000
    assert (RESULTS / "report.html").read_text(encoding="utf-8") == text, "run `python -m bench report`"


def test_it_opens_without_network_or_complaint(show, ahead, file):
    assert ahead(file) < 3_000_000
    with show(file) as page:
        page.all_drawn()
        assert page.said == []
        assert page.requests == []


def test_the_key_names_the_curves_that_are_drawn(show, file):
    histograms = pd.read_csv(RESULTS / "cosine_histograms.csv")
    null = "random directions of the same dimension"
    with show(file) as page:
        key = page.drawn("distribution").locator("g.mark-text.role-mark text")
        want = list(dict.fromkeys(histograms[histograms.d == 300].source))
        assert key.all_text_contents() == [*want, null]
        heights = [each.bounding_box()["y"] for each in key.all()]
        assert heights == sorted(heights)
        assert min(b - a for a, b in itertools.pairwise(heights)) > 10
        page.tab.locator("#control-cosines-family_word2vec").click()
        left = [each for each in want if each not in {"googlenews-300", "skipgram-300"}]
        page.tab.wait_for_function(
            f"document.querySelectorAll('#chart-distribution g.mark-text.role-mark text').length === {len(left) + 1}"
        )
        assert key.all_text_contents() == [*left, null]


def test_bars_start_where_both_are_as_fast_and_none_lies_on_another(show, file, specs):
    for name in specs:
        if name.startswith("speed-"):
            rows = [row for row in rows_of(specs[name]) if "times" in row]
            assert len({(row["name"], row["who"]) for row in rows}) == len(rows)
    with show(file) as page:
        ends = (
            page.drawn("speed-0")
            .locator("g.mark-rect path")
            .evaluate_all("all => all.map(e => [e.getBBox().x, e.getBBox().width])")
        )
        assert len({round(start) for start, _ in ends}) == 1
        rows = [row for row in rows_of(specs["speed-0"]) if "times" in row]
        widths = sorted(width for _, width in ends)
        logs = sorted(math.log(row["times"]) for row in rows)
        assert [width / widths[-1] for width in widths] == pytest.approx([log / logs[-1] for log in logs], abs=0.01)


def test_a_printer_finds_every_chart_drawn(show, file):
    with show(file) as page:
        # Nobody scrolls.
        page.tab.wait_for_function(
            "[...document.querySelectorAll('.chart')].every(e => !e.offsetParent || e.dataset.drawn)", timeout=20_000
        )
        shown = page.tab.locator(".chart[data-drawn]").count()
        assert shown == page.tab.eval_on_selector_all(".chart", "all => all.filter(e => e.offsetParent).length") > 8
        page.tab.locator("#control-speed-kernel").select_option(index=1)
        page.tab.wait_for_selector("#chart-speed-1[data-drawn]", timeout=20_000)
        page.tab.emulate_media(media="print")
        assert not page.tab.locator("nav").is_visible()
        assert page.tab.locator(".controls:visible").count() == 0
        assert page.said == []


def test_titles_say_what_the_tables_say():
    tables = {name: pd.read_csv(RESULTS / name) for names in READS.values() for name in names}
    charts = {chart.name: chart.title for chart in results_page(RESULTS).charts}
    geometry = tables["geometry.csv"]
    geometry = geometry[geometry.n == 2000]
    near = geometry[(geometry.statistic == "within_fraction") & geometry.d.between(512, 1024)]
    models = 100 * near[near.family == "llm"].value
    assert f"{models.min():.0f} to {models.max():.0f}\u00a0% of language models" in charts["orthogonality"]
    for statistic in ("relative_contrast", "relative_variance"):
        apart = geometry[(geometry.metric == "minkowski-2") & (geometry.statistic == statistic)]
        apart = apart[apart.family != "random"]
        ratio = apart.value / apart.null_mean
        said = f"in {(ratio > 1).sum()} of {len(apart)} real spaces: {ratio.median():.0f} times in the median"
        assert said in charts[statistic]
    few = pd.read_csv(RESULTS / "decode_bytes.csv").bytes
    assert charts["rates"].startswith(f"{few.min():g} to {few.max():g} bytes a vector")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(show, file, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with show(file, scheme=scheme) as page:
        page.all_drawn()
        violations = Axe().run(page.tab).response["violations"]
        assert [each["id"] for each in violations if each["impact"] in {"serious", "critical"}] == []


def test_a_phone_scrolls_tables_and_not_the_page(show, file):
    with show(file, width=360, height=740) as page:
        page.all_drawn()
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_numbers_of_audits_are_those_of_the_table(show, file):
    table = pd.read_csv(RESULTS / "audits.csv")
    with show(file) as page:
        for source in ("googlenews-300", "cube-768", "smollm2-documents-layer16-576"):
            mine = table[table.source == source]
            for column, name in ((1, "value"), (2, "ci_low"), (3, "ci_high"), (4, "null_mean"), (5, "z")):
                assert numbers(page, f"audit-{source}", column) == pytest.approx(mine[name].tolist(), nan_ok=True)


def test_numbers_of_layers_are_those_of_the_tables(show, file):
    geometry, lens = (pd.read_csv(RESULTS / name) for name in ("geometry.csv", "lens.csv"))
    with show(file) as page:
        for layer in (0, 16, 30):
            mine = (
                geometry[(geometry.metric == "cosine") & (geometry.n == 2000)].set_index(["source", "statistic"]).value
            )
            names = [f"smollm2-{what}-layer{layer:02d}-576" for what in ("documents", "tokens")]
            for column, statistic in ((1, "mean"), (2, "std"), (3, "q1"), (4, "q99")):
                want = [mine[name, statistic] for name in names]
                assert numbers(page, f"geometry-{layer}", column) == pytest.approx(want)
            read = lens[(lens.layer == layer) & lens.reader.isin(["lens", "tuned"])]
            for column, name in ((1, "agreement"), (2, "kl"), (3, "entropy"), (4, "rank")):
                assert numbers(page, f"lens-{layer}", column) == pytest.approx(read[name].tolist())


def test_charts_hold_the_numbers_of_the_tables(specs):
    rates = pd.read_csv(RESULTS / "decode_rate.csv")
    drawn = [row for row in rows_of(specs["rates"]) if row.get("who") not in {None, "chance"}]
    assert sorted(row["kept"] for row in drawn) == pytest.approx(sorted(rates.kept), rel=1e-4)
    speed = pd.read_csv(RESULTS / "speed.csv")
    want = speed[(speed.statistic == "times_as_fast") & (speed.contender == "geomkit")].value
    drawn = [
        row["times"] for name in specs if name.startswith("speed-") for row in rows_of(specs[name]) if "times" in row
    ]
    assert sorted(drawn) == pytest.approx(sorted(want), rel=1e-4)
    geometry = pd.read_csv(RESULTS / "geometry.csv")
    want = geometry[(geometry.metric == "cosine") & (geometry.statistic == "within_fraction") & (geometry.n == 2000)]
    assert sorted(row["value"] for row in rows_of(specs["orthogonality"]) if "name" in row) == sorted(want.value)
    apart = geometry[geometry.metric.str.startswith("minkowski", na=False) & (geometry.n == 2000)]
    for statistic in ("relative_contrast", "relative_variance"):
        want, drawn = apart[apart.statistic == statistic], rows_of(specs[statistic])
        points = [row["value"] for row in drawn if "name" in row]
        assert sorted(points) == pytest.approx(sorted(want.value), rel=1e-4)
        nulls = {(row["p"], row["d"]): row["value"] for row in drawn if "name" not in row}
        known = {(metric.removeprefix("minkowski-"), d): value
                 for metric, d, value in zip(want.metric, want.d, want.null_mean, strict=True)}  # fmt: skip
        assert nulls == pytest.approx(known, rel=1e-4)
    histograms = pd.read_csv(RESULTS / "cosine_histograms.csv")
    drawn = [row for row in rows_of(specs["distribution"]) if row.get("family") not in {None, "null"}]
    assert sum(row["density"] for row in drawn) == pytest.approx(
        histograms.density[histograms.density > 1e-3].sum(), rel=1e-4
    )


def marks(page, chart, kind):
    """How many marks of a kind a chart has, and what they are."""
    return page.tab.eval_on_selector_all(
        f"#chart-{chart} g.mark-{kind} path, #chart-{chart} g.mark-{kind} line, #chart-{chart} g.mark-{kind} text",
        "all => all.filter(e => e.getAttribute('d') !== '').map(e => (e.getAttribute('d') || '') + "
        "(e.getAttribute('transform') || '') + e.textContent)",
    )


def changes(page, chart, kind, act):
    """Do something, and wait until the marks of a chart are others."""
    page.drawn(chart)
    page.tab.wait_for_timeout(200)
    before = marks(page, chart, kind)
    act()
    for _ in range(50):
        page.tab.wait_for_timeout(100)
        if marks(page, chart, kind) != before:
            return before, marks(page, chart, kind)
    pytest.fail(f"nothing changed in {chart}")


def slide(page, name, to):
    page.tab.locator(f"#{name}").evaluate(
        "(e, to) => { e.value = to; e.dispatchEvent(new Event('input', {bubbles: true})); }", str(to)
    )


def test_every_control_changes_what_it_should(show, file):
    def toggle(page, name):
        return lambda: page.tab.locator(f"#{name}").click()

    with show(file) as page:
        tried = set()
        slide(page, "control-cosines-d", 0)
        for family, many in (("word2vec", 4), ("tfidf", 6), ("llm", 6), ("random", 4)):
            name = f"control-cosines-family_{family}"
            before, after = changes(page, "distribution", "line", toggle(page, name))
            assert len(before) - len(after) == many, family
            tried.add(name)
        before, after = changes(page, "distribution", "line", toggle(page, "control-cosines-family_null"))
        assert after == []
        tried |= {"control-cosines-family_null", "control-cosines-d"}
        for family in ("random", "tfidf", "word2vec", "llm"):
            name = f"control-orthogonality-show_{family}"
            before, after = changes(page, "orthogonality", "symbol", toggle(page, name))
            assert len(after) < len(before)
            tried.add(name)
        for family in ("random", "tfidf", "word2vec", "llm"):
            name = f"control-concentration-show_{family}"
            before, after = changes(page, "relative_contrast", "symbol", toggle(page, name))
            assert len(after) < len(before)
            tried.add(name)
        toggle(page, "control-concentration-show_llm")()
        order = page.tab.locator("#control-concentration-p")
        for chart, value in (("relative_variance", "inf"), ("relative_contrast", "0.5")):
            before, after = changes(page, chart, "line", lambda value=value: order.select_option(value=f'"{value}"'))
            assert len(before) == len(after) == 1
        tried.add("control-concentration-p")
        changes(page, "layers", "rule", lambda: slide(page, "control-layers-layer", 16))
        assert page.tab.locator("#table-geometry-16").is_visible()
        assert page.tab.locator("#table-lens-16").is_visible()
        assert not page.tab.locator("#table-geometry-0").is_visible()
        assert page.tab.locator("output[for=control-layers-layer]").inner_text() == "16"
        changes(page, "atlas-0", "text", lambda: page.tab.locator("#control-atlas-word").select_option(label="king"))
        assert "king" in page.tab.locator("#chart-atlas-1").inner_text()
        before, after = changes(
            page, "atlas-0", "text", lambda: page.tab.locator("#control-atlas-word").select_option(label="all")
        )
        assert len(after) > 5 * len(before)
        page.tab.locator("#control-audits-source").select_option(label="glove-50")
        assert page.tab.locator("#table-audit-glove-50").is_visible()
        assert not page.tab.locator("#table-audit-googlenews-300").is_visible()
        pick = page.tab.locator("#control-rates-space")
        changes(page, "rates", "line", lambda: pick.select_option(label="minilm-384, neighbours"))
        assert page.tab.locator("#chart-speed-0").is_visible()
        page.tab.locator("#control-speed-kernel").select_option(index=1)
        page.drawn("speed-1")
        assert not page.tab.locator("#chart-speed-0").is_visible()
        tried |= {
            "control-layers-layer", "control-atlas-word", "control-audits-source", "control-rates-space",
            "control-speed-kernel",
        }  # fmt: skip
        assert tried == set(page.tab.eval_on_selector_all("[data-name]", "all => all.map(e => e.id)"))
        assert page.said == []


def test_all_tables_sort(show, file):
    with show(file) as page:
        for table in ("claims", "atlas", "audit-googlenews-300", "geometry-0"):
            button = page.tab.locator(f"#table-{table} th button").nth(1)
            button.click()
            keys = page.tab.eval_on_selector_all(
                f"#table-{table} tbody tr", "rows => rows.map(row => row.cells[1].dataset.key)"
            )
            try:
                values = [float(each) for each in keys]
            except ValueError:
                order = page.tab.evaluate("keys => [...keys].sort((a, b) => a.localeCompare(b))", keys)
                assert keys == order
            else:
                known = [each for each in values if not math.isnan(each)]
                assert known == sorted(known)


def test_a_missing_table_is_named_and_the_others_are_shown(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table of results"):
        results_page(tmp_path)
    for name in ("geometry.csv", "cosine_histograms.csv", "geometry.provenance.json"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    page = results_page(tmp_path)
    assert [section.name for section in page.sections] == ["cosines", "orthogonality", "concentration"]
    missing = "claims.csv, lens.csv, audits.csv, decode_rate.csv, speed.csv, atlas.csv"
    assert page.lead.endswith(f"Not measured here: {missing}.")
    [(tables, made)] = page.facts
    assert tables == "cosine_histograms.csv, geometry.csv"
    assert "python -m bench geometry" in made
    assert "geomkit 0." in made
