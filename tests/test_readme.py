"""The README promises nothing that does not run or was not measured."""

import re
from pathlib import Path

import pandas as pd
import pytest

from bench import readme

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

    readme.refresh(page, speed)

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 123 |" in text


def test_what_it_says_of_gpus_is_what_results_say():
    shown = TEXT.split(readme.GPU_START)[1].split(readme.GPU_END)[0].strip()
    assert shown == readme.gpu(ROOT / "results" / "gpu.csv")
