"""A hostile file, from the command line to the browser: what it says is shown, and what it lacks is said."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.auditing import spaces
from tests.cli.test_cli import call, run  # noqa: F401
from tests.reporting.test_audit_page import HOSTILE

BAD = [3, 17, 40]
"""Rows that are not numbers."""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    x = spaces.repeated(300, 8)
    x[BAD] = np.nan
    x[BAD[1], 1:] = np.inf
    labels = [HOSTILE[row % len(HOSTILE)] for row in range(300)]
    path = tmp_path / "\u202e<b onmouseover=alert(1)>.parquet"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 8)
    parquet.write_table(pa.table({"vector": vectors, "<i>title</i>": pa.array(labels, pa.large_string())}), path)
    return path


def test_rows_that_are_no_numbers_are_refused_and_no_page_is_left(call, hostile, tmp_path):  # noqa: F811
    out = tmp_path / "page.html"
    code, said, err = call("audit", hostile, "--null-draws", "2", "--html", out)
    assert (code, said) == (2, "")
    said = [line for line in err.splitlines() if "measuring" not in line and "column" not in line]
    assert said == ["geomkit: x has 3 rows (first: 3, 17, 40) that are not finite; drop them with --on-invalid drop"]
    assert sorted(each.name for each in tmp_path.iterdir() if each.suffix == ".html") == []


def test_dropped_rows_are_counted_and_labels_stay_with_their_rows(call, show, hostile, tmp_path):  # noqa: F811
    out = tmp_path / "page.html"
    code, _, err = call(
        "audit", hostile, "--null-draws", "2", "--no-try", "--on-invalid", "drop", "--labels", "<i>title</i>",
        "--html", out,
    )  # fmt: skip
    assert code == 0, err
    assert out.stat().st_size < 3_000_000
    with show(out) as page:
        page.all_drawn()
        assert (page.said, page.requests) == ([], [])
        assert "; 3 rows were dropped" in page.tab.locator("header p").inner_text()
        assert page.tab.locator("main b, main i, main img, main script, main svg[onload]").count() == 0
        rows = page.tab.eval_on_selector_all(
            "#table-rows tbody tr", "all => all.map(row => [row.cells[0].dataset.key, row.cells[3].innerText])"
        )
        assert rows
        assert not {int(row) for row, _ in rows} & set(BAD)
        for row, label in rows:
            want = HOSTILE[int(row) % len(HOSTILE)]
            assert label.startswith(" ".join(want[:150].split())), row
        specs = json.loads(page.tab.locator("#charts").text_content())
        assert "NaN" not in json.dumps(specs)
