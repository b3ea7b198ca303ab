"""The pages in docs/: their Python runs, their links lead somewhere, and the site builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import geomkit
from geomkit.auditing.statistics import STATISTICS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("how-to/*.md")])
STATISTIC_PAGES = sorted(path for path in DOCS.glob("statistics/*.md") if path.stem != "index")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_python_runs(page, capsys):
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})  # noqa: S102 - ours
        assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert links
    # Figures of the gallery are drawn when the site is built.
    assert [link for link in links if not link.startswith("gallery/") and not (page.parent / link).exists()] == []


def test_every_statistic_has_a_page_and_is_listed():
    assert [path.stem for path in STATISTIC_PAGES] == sorted(STATISTICS)
    index = (DOCS / "statistics" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"- \[(\w+)\]\((\w+)\.md\): (.+)", index)
    assert listed == [(name, name, each.about) for name, each in STATISTICS.items()]


@pytest.mark.parametrize("page", STATISTIC_PAGES, ids=lambda page: page.stem)
def test_a_page_of_a_statistic_says_what_the_table_says(page):
    text, statistic = page.read_text(encoding="utf-8"), STATISTICS[page.stem]
    said = dict(re.findall(r"\*\*([\w ]+)\.\*\* (.+)", text))
    assert list(said) == ["Formula", "Source", "Range", "Null", "Verdict", "When it misleads"]
    assert said["Range"] == f"`{statistic.range}`"
    assert said["Null"].startswith("None:") == (not statistic.null)
    if statistic.worse:
        assert f"from {statistic.warn:g} and {statistic.fail:g} on" in said["Verdict"]
        assert f"on the {statistic.worse} side" in said["Verdict"]
    else:
        assert said["Verdict"] == "There is no verdict on it."


def test_the_site_builds_without_a_warning_and_asks_the_network_for_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(STATISTIC_PAGES) + len(PAGES)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://[^\"]+\.(?:js|css|png|woff2?)", text) == []
    reference = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site" / "reference").rglob("*.html"))
    documented = set(re.findall(r'id="(geomkit\.[\w.]+)"', reference))
    public = {f"{where}.{name}" for name, where in geomkit._WHERE.items() if name not in geomkit._MODULES}
    assert public - documented == set()
    coloured = (tmp_path / "site" / "how-to" / "gpu" / "index.html").read_text(encoding="utf-8")
    assert '<span class="kn">import</span>' in coloured
    assert (tmp_path / "site" / "results" / "scale.csv").is_file()
    assert (tmp_path / "site" / "results" / "roofline.csv").is_file()
    assert (tmp_path / "site" / "examples" / "gallery.py").is_file()
    gallery = tmp_path / "site" / "gallery"
    shown = re.findall(r'src="(\w+\.svg)"', (gallery / "index.html").read_text(encoding="utf-8"))
    assert len(shown) == 6
    assert all((gallery / name).stat().st_size > 5000 for name in shown)
