"""The README promises nothing that does not run or was not measured."""

import re
from pathlib import Path

import pandas as pd
import pytest

from bench.pages import readme

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_its_code_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    assert len(capsys.readouterr().out.splitlines()) >= 4


def test_its_speed_table_is_the_one_in_results():
    shown = TEXT.split(readme.START)[1].split(readme.END)[0].strip()
    assert shown == readme.table(pd.read_csv(ROOT / "results" / "speed.csv"))


def test_its_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_refresh_changes_the_table_alone(tmp_path):
    page, speed = tmp_path / "README.md", tmp_path / "speed.csv"
    page.write_text(f"before\n{readme.START}\nold\n{readme.END}\nafter\n", encoding="utf-8")
    row = {
        "kernel": "cosine_stats",
        "data": "isotropic",
        "n": 9,
        "d": 768,
        "contender": "geomkit",
        "precision": "float32",
    }
    found = [("million_pairs_per_second", "", 123.4), ("times_as_fast", "bare product", 2.0)]
    rows = [row | {"statistic": name, "beside": beside, "value": value} for name, beside, value in found]
    pd.DataFrame(rows).to_csv(speed, index=False)

    readme.refresh(tmp_path, tmp_path, "speed")

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 123 |" in text


def test_what_it_says_of_gpus_is_what_results_say():
    shown = TEXT.split(readme.GPU_START)[1].split(readme.GPU_END)[0].strip()
    assert shown == readme.gpu(ROOT / "results" / "gpu.csv")


def test_the_page_on_scale_shows_the_plan_that_was_forecast():
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    shown = text.split(readme.PLAN_START)[1].split(readme.PLAN_END)[0].strip()
    assert shown == readme.plan(pd.read_csv(ROOT / "results" / "scale_plan.csv"))


def test_a_plan_is_told_in_units_that_fit():
    row = {
        "measurement": "neighbors", "machines": 1000, "workers": 2000, "hours": 1.25, "bound": "network",
        "panels": 17, "panel_rows": 7680, "tasks": 20, "bytes_read": 2.5e15, "bytes_returned": 3e9,
    }  # fmt: skip
    lines = readme.plan(pd.DataFrame([row, row | {"hours": 100.0, "panels": 0}, row | {"hours": 0.1}])).splitlines()
    assert len(lines) == 5
    assert lines[2] == "| neighbors | 1,000 | 2,000 | 1.2 h | network | 17 × 7,680 | 20 | 2.5 PB | 3.0 GB |"
    assert [line.split(" | ")[3] for line in lines[3:]] == ["4 days", "6 min"]
    assert lines[3].split(" | ")[5] == "—"
    tiny = readme.plan(pd.DataFrame([row | {"hours": 48.0, "bytes_read": 5e12, "bytes_returned": 20_000}]))
    assert tiny.splitlines()[2].endswith("| 2 days | network | 17 × 7,680 | 20 | 5.0 TB | 0.0 MB |")
