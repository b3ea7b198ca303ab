"""Pages of audits and comparisons, in a browser: nothing is asked of the network, and everything does what it says."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

import geomkit
from geomkit.core.result import format_number
from geomkit.errors import InvalidInputError
from geomkit.nulls import sphere
from geomkit.reporting.audit import VERDICTS, audit_page
from geomkit.reporting.comparison import comparison_page
from geomkit.reporting.page import render, write
from tests.auditing import spaces

HOSTILE = (
    "<script>document.title='taken'</script>",
    "</script><img src=x onerror=document.title='taken'>",
    "{{ 7 * 7 }} ${7*7} \u202egnitirw tfel ot thgir\u202c",
    "שלום עולם مرحبا",
    "]]>--><svg onload=document.title='taken'>",
    "x" * 10_000_000,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def found(cache):
    return geomkit.audit(spaces.anisotropic(300, 8), null_draws=4, source="news.npy")


@pytest.fixture(scope="module")
def compared(cache):
    x = spaces.healthy(300, 8)
    y = x.copy()
    y[:, 0] += 3
    return geomkit.compare({"a.npy": x, "b.npy": y, "c.npy": y[:, :5]}, null_draws=2)


@pytest.fixture(scope="module")
def file(found, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "audit.html"
    write(audit_page(found, [f"text {row}" for row in range(300)]), path)
    return path


@pytest.fixture(scope="module")
def comparison_file(compared, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    write(comparison_page(compared), path)
    return path


def keys(page, table, column):
    """What cells of a column sort by, top to bottom."""
    return page.tab.eval_on_selector_all(
        f"#table-{table} tbody tr", f"rows => rows.map(row => row.cells[{column}].dataset.key)"
    )


@pytest.mark.parametrize("which", ["file", "comparison_file"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_network_or_complaint(request, show, which, scheme):
    with show(request.getfixturevalue(which), scheme=scheme) as page:
        page.all_drawn()
        assert page.said == []
        assert page.requests == []
        assert page.tab.locator("main .chart svg").count() >= 1


def test_numbers_are_those_of_the_audit(show, file, found):
    with show(file) as page:
        values = keys(page, "findings", 1)
        assert [float(each) for each in values] == pytest.approx([each.value for each in found.findings], nan_ok=True)
        assert [float(each) for each in keys(page, "findings", 5)] == pytest.approx(
            [each.z for each in found.findings], nan_ok=True
        )
        text = page.tab.locator("#table-findings tbody tr").nth(0).inner_text()
        assert format_number(found["cosine_mean"].value) in text
        assert page.tab.locator("h1").inner_text() == f"news.npy {found.verdict}"


def test_a_click_sorts_and_another_turns_it_round(show, file, found):
    with show(file) as page:
        button = page.tab.locator("#table-findings th button", has_text=re.compile("^value"))
        button.focus()
        page.tab.keyboard.press("Enter")
        values = [float(each) for each in keys(page, "findings", 1)]
        known = [each for each in values if not math.isnan(each)]
        assert known == sorted(known)
        assert all(math.isnan(each) for each in values[len(known) :])
        head = page.tab.locator("#table-findings th[aria-sort]")
        assert (head.count(), head.get_attribute("aria-sort")) == (1, "ascending")
        button.click()
        values = [float(each) for each in keys(page, "findings", 1)]
        assert values[: len(known)] == known[::-1]
        # Some have no z: they come last both ways.
        z = page.tab.locator("#table-findings th button", has_text=re.compile("^z"))
        for sign in (1, -1):
            z.click()
            values = [float(each) for each in keys(page, "findings", 5)]
            known = [each for each in values if not math.isnan(each)]
            assert len(known) < len(values)
            assert values[: len(known)] == sorted(known, key=lambda each, sign=sign: sign * each)
        page.tab.locator("#table-findings th button", has_text="verdict").click()
        order = [VERDICTS[int(each)] for each in keys(page, "findings", 6)]
        assert order == sorted(order, key=VERDICTS.index)
        assert order[0] == "fail"


def test_toggles_take_curves_away_and_bring_them_back(show, file):
    with show(file) as page:
        chart = page.drawn("cosines")
        curves = chart.locator("g.mark-line path")
        assert curves.count() == 2
        box = page.tab.get_by_role("checkbox", name="random directions, d = 8")
        box.uncheck()
        page.tab.wait_for_function("document.querySelectorAll('#chart-cosines g.mark-line path').length === 1")
        box.check()
        page.tab.wait_for_function("document.querySelectorAll('#chart-cosines g.mark-line path').length === 2")
        assert page.said == []


def test_the_curve_is_drawn_from_all_pairs_and_the_closed_form(found):
    (chart,) = [each for each in audit_page(found).charts if each.name == "cosines"]
    rows = chart.spec["datasets"]["rows"]
    mine = [row for row in rows if row["who"] == "news.npy"]
    width = mine[1]["cosine"] - mine[0]["cosine"]
    assert sum(row["density"] for row in mine) * width == pytest.approx(1, abs=0.01)
    null = [row for row in rows if row["who"] != "news.npy"]
    want = sphere(8).pdf(np.array([row["cosine"] for row in null]))
    assert [row["density"] for row in null] == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_the_theme_can_be_chosen(show, file):
    def paper(page):
        return page.tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")

    with show(file) as page:
        assert paper(page) == "rgb(255, 255, 255)"
        page.drawn("z")
        page.tab.get_by_label("Theme").select_option("dark")
        assert paper(page) == "rgb(20, 23, 26)"
        ink = page.tab.evaluate("getComputedStyle(document.querySelector('#chart-z svg .role-axis-label text')).fill")
        assert ink == "rgb(230, 233, 236)"
    with show(file, scheme="dark") as page:
        assert paper(page) == "rgb(20, 23, 26)"
        page.tab.emulate_media(media="print")
        assert paper(page) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("which", ["file", "comparison_file"])
def test_a_phone_scrolls_tables_and_not_the_page(request, show, which):
    with show(request.getfixturevalue(which), width=360, height=740) as page:
        page.all_drawn()
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 360
        widest = page.tab.eval_on_selector_all(".chart svg", "all => Math.max(...all.map(e => e.clientWidth))")
        assert 200 < widest <= 360


@pytest.mark.parametrize("which", ["file", "comparison_file"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(request, show, which, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with show(request.getfixturevalue(which), scheme=scheme) as page:
        page.all_drawn()
        violations = Axe().run(page.tab).response["violations"]
        serious = [
            (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
            for each in violations
            if each["impact"] in {"serious", "critical"}
        ]
        assert serious == []


def test_little_is_painted_first(ahead, file, comparison_file):
    assert ahead(file) < 100_000
    assert ahead(comparison_file) < 200_000


def test_everything_is_reached_by_keyboard(show, file):
    with show(file) as page:
        reached = set()
        for _ in range(120):
            page.tab.keyboard.press("Tab")
            reached.add(page.tab.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        controls = page.tab.eval_on_selector_all("[data-name], #theme", "all => all.map(each => each.id)")
        assert len(controls) == 3
        assert set(controls) <= reached
        assert {"statistic", "value", "verdict", "To the content"} <= reached


def test_a_hostile_file_is_shown_and_does_nothing(show, cache, tmp_path):
    x = spaces.repeated(300, 8)
    labels = [HOSTILE[row % len(HOSTILE)] for row in range(300)]
    found = geomkit.audit(x, null_draws=2, source=HOSTILE[1], try_transforms=False)
    path = tmp_path / "hostile.html"
    write(audit_page(found, labels), path)
    assert path.stat().st_size < 3_000_000
    with show(path) as page:
        page.all_drawn()
        assert page.said == []
        assert page.requests == []
        assert page.tab.title().startswith("</script><img")
        assert page.tab.locator("main img, main script, main svg[onload]").count() == 0
        text = page.tab.locator("#table-rows").inner_text()
        assert "<script>document.title='taken'</script>" in text
        assert "{{ 7 * 7 }} ${7*7}" in text
        assert "(10,000,000 characters)" in text
        assert page.tab.locator("#table-rows bdi").count() > 0
        page.tab.locator("#table-rows th button", has_text="label").click()
        assert page.said == []


@pytest.mark.parametrize("sample", [None, 60])
def test_rows_are_called_what_the_frame_calls_them(cache, sample):
    x = spaces.repeated(80, 6)
    index = [f"doc-{at}" for at in range(80)]
    topics = pd.Series(["a", "b"] * 40, index=range(80)[::-1])
    kinds = topics.map({"a": "kind-0", "b": "kind-1"})
    options = {"k": 4, "null_draws": 2, "labels": topics, "n_sample": sample, "try_transforms": False}
    found = geomkit.audit(pd.DataFrame(x, index), **options)
    plain = geomkit.audit(x, **options | {"labels": list(topics)})
    assert found["same_label_rate"].value == plain["same_label_rate"].value
    assert found.measurements.rows.max() > 60  # of the input, not of the sample
    table = next(each for each in audit_page(found, kinds).sections if each.name == "rows").elements[0]
    assert [column.heading for column in table.columns][3:] == ["name", "label"]
    assert table.rows
    for number, *_, name, kind in table.rows:
        assert (name.shown, kind.shown) == (f"doc-{number.shown}", f"kind-{int(number.shown) % 2}")
    (elsewhere,) = (each for each in audit_page(plain).sections if each.name == "rows")
    assert len(elsewhere.elements[0].columns) == 3
    with pytest.raises(InvalidInputError, match="names has 2 entries; it must have one for each of the 80 rows"):
        geomkit.audit(x, k=4, names=["a", "b"])


def test_a_comparison_shows_one_space_at_a_time(show, comparison_file, compared):
    with show(comparison_file) as page:
        tables = page.tab.locator("#findings .panel table")
        assert [tables.nth(at).is_visible() for at in range(3)] == [True, False, False]
        page.tab.locator("#control-findings-space").select_option(index=1)
        assert [tables.nth(at).is_visible() for at in range(3)] == [False, True, False]
        differences = keys(page, "differences", 3)
        assert [float(each) for each in differences] == pytest.approx(
            [each.value for each in compared.differences], nan_ok=True
        )
        apart = page.tab.locator("#table-differences .mark.apart").count()
        assert apart == sum(each.answer == "yes" for each in compared.differences) > 0
        chart = page.drawn("cosines")
        assert chart.locator("g.mark-line path").count() == 5
        page.tab.get_by_role("checkbox", name="b.npy").uncheck()
        page.tab.wait_for_function("document.querySelectorAll('#chart-cosines g.mark-line path').length === 4")


def test_many_rows_make_no_larger_page_and_no_slower_one(show, ahead, cache, tmp_path):
    pages = {}
    for n in (5_000, 100_000):
        audit = geomkit.audit(spaces.healthy(n, 4), null_draws=2, n_sample=None, try_transforms=False)
        assert audit.n == n
        assert audit.sampled_from is None
        pages[n] = tmp_path / f"{n}.html"
        write(audit_page(audit, [str(row) for row in range(n)]), pages[n])
    few, many = (
        re.sub(r'<table id="table-rows">.*?</table>', "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for page in pages.values()
    )
    # Numbers are longer; nothing else is, but for the rows to look at, of which there are at most 100 of each kind.
    assert len(many) < 1.005 * len(few)
    assert pages[100_000].stat().st_size < 1_100_000
    with show(pages[100_000]) as page:
        page.all_drawn()
        assert page.tab.locator("#table-rows tbody tr").count() <= 400
    assert ahead(pages[100_000]) < 200_000


def test_what_a_suggestion_changed_is_a_sentence_of_its_own(found):
    text = render(audit_page(found))
    assert "Centering, on held-out rows: cosine_mean" in text


@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_another_metric_has_no_cosines_and_says_so(cache, metric):
    text = render(audit_page(geomkit.audit(spaces.healthy(100, 4), null_draws=2, metric=metric)))
    assert f"The audit was made with the metric {metric}" in text
    assert '"cosines"' not in text


def test_specs_are_json_that_no_text_ends(found):
    text = render(audit_page(geomkit_renamed(found, HOSTILE[1])))
    body = text.split('<script type="application/json" id="charts">')[1].split("</script>")[0]
    assert set(json.loads(body)) == {"cosines", "z", "occurrence"}
    assert "<" not in body


def geomkit_renamed(found, name):
    from dataclasses import replace

    return replace(found, source=name)
