"""`geomkit audit` and `geomkit compare`: results on standard output, progress on standard error, verdicts as a gate."""

import csv
import importlib.util
import json

import numpy as np
import pytest

import geomkit
from tests.auditing import spaces
from tests.cli.test_cli import call, run  # noqa: F401

QUICK = ("--null-draws", "2")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def files(tmp_path):
    made = {}
    for name in ("healthy", "anisotropic", "repeated"):
        made[name] = tmp_path / f"{name}.npy"
        np.save(made[name], getattr(spaces, name)(300, 8))
    return made


def test_json_equals_the_library(call, files):  # noqa: F811
    code, out, err = call("audit", files["anisotropic"], *QUICK, "--json", "--seed", "4", "-k", "5")
    assert code == 0
    assert all(line.startswith("geomkit: ") for line in err.splitlines())
    assert "null gaussian: 2 of 2" in err
    want = geomkit.audit(np.load(files["anisotropic"]), null_draws=2, seed=4, k=5, source="anisotropic.npy")
    assert json.loads(out) == json.loads(want.to_json()) | {"read": {"note": "", "columns": [], "left_out": []}}


def test_text_has_what_a_person_wants(call, files):  # noqa: F811
    code, out, _ = call("audit", files["anisotropic"], "--null-draws", "8")
    assert code == 0
    assert out.startswith("anisotropic.npy: 300 rows of 8; k = 10, cosine")
    assert "verdict: FAIL" in out
    assert "not suggested: Centering" in out
    code, out, _ = call("audit", files["anisotropic"], "--null-draws", "8", "--all-suggestions")
    assert "Centering, on held-out rows: cosine_mean" in out
    assert "neighbours kept" in out.split("makes worse: ")[1].splitlines()[0]
    _, out, _ = call("audit", files["anisotropic"], *QUICK, "--no-try")
    assert "computed on these rows" not in out


@pytest.mark.parametrize(
    ("name", "fail_on", "code"),
    [("healthy", "warn", 0), ("anisotropic", "fail", 1), ("anisotropic", "warn", 1), ("anisotropic", None, 0)],
)
def test_the_verdict_is_a_gate(call, files, name, fail_on, code):  # noqa: F811
    gate = () if fail_on is None else ("--fail-on", fail_on)
    got, out, _ = call("audit", files[name], "--null-draws", "6", *gate)
    assert got == code
    assert "verdict: " in out


def test_thresholds_come_from_a_file(call, files, tmp_path):  # noqa: F811
    loose = tmp_path / "loose.json"
    loose.write_text('{"cosine_mean": [0.99, 0.99], "hubness_skewness": [90, 99]}')
    code, _, _ = call("audit", files["anisotropic"], *QUICK, "--thresholds", loose, "--fail-on", "warn")
    assert code == 0
    for text, said in (("{", "could not be read as JSON"), ("[1]", "must hold an object of pairs")):
        loose.write_text(text)
        code, out, err = call("audit", files["healthy"], "--thresholds", loose)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


def test_tidy_rows_are_written_whole(call, files, tmp_path):  # noqa: F811
    out = tmp_path / "rows.csv"
    code, _, _ = call("audit", files["healthy"], *QUICK, "--csv", out)
    assert code == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    want = geomkit.audit(np.load(files["healthy"]), null_draws=2)
    assert [row["statistic"] for row in rows] == [each.statistic for each in want.findings]
    assert float(rows[0]["value"]) == want.findings[0].value
    assert not list(tmp_path.glob(".*part"))
    code, _, err = call("audit", files["healthy"], "--csv", tmp_path / "none" / "rows.csv")
    assert code == 2
    assert "--csv must be a .csv file in a folder that exists" in err


def test_labels_from_a_column_and_from_a_file(call, tmp_path):  # noqa: F811
    labels = np.arange(120) % 2
    x = spaces.gaussian(120, 3) + 4 * np.eye(3)[labels]
    table = tmp_path / "x.csv"
    lines = ["a,b,c,topic", *(f"{','.join(map(str, row))},{'xy'[at]}" for row, at in zip(x, labels, strict=True))]
    table.write_text("\n".join(lines))
    lists = tmp_path / "labels.txt"
    lists.write_text("\n".join("xy"[at] for at in labels))
    np.save(tmp_path / "x.npy", x)
    for asked in (("audit", table, "--labels", "topic"), ("audit", tmp_path / "x.npy", "--labels", lists)):
        code, out, _ = call(*asked, *QUICK, "--json")
        assert code == 0
        values = {each["statistic"]: each["value"] for each in json.loads(out)["findings"]}
        assert values["same_label_rate"] > 0.9
    code, _, err = call("audit", table, "--labels", "subject")
    assert code == 2
    assert "subject" in err


def test_queries(call, files):  # noqa: F811
    code, out, _ = call("audit", files["healthy"], "--queries", files["repeated"], *QUICK)
    assert code == 0
    assert "out_of_distribution_fraction" in out


def test_compare(call, files, tmp_path):  # noqa: F811
    out = tmp_path / "rows.csv"
    code, text, err = call("compare", *files.values(), *QUICK, "--csv", out, "--fail-on", "fail")
    assert code == 1
    assert all(name in text for name in ("healthy.npy", "anisotropic.npy", "repeated.npy", "debiased CKA"))
    assert "anisotropic.npy: null gaussian" not in err  # the first has drawn them for all
    assert out.read_text().count("cosine_mean") == 3
    code, text, _ = call("compare", files["healthy"], files["repeated"], *QUICK, "--json", "--independent")
    assert code == 0
    assert json.loads(text)["paired"] is False


REFUSED = {
    "k must be a whole number from 2 to n - 1 = 299; got 300": ("audit", "healthy", "-k", "300"),
    "--fail-on must be warn or fail; got never": ("audit", "healthy", "--fail-on", "never"),
    "metric must be one of": ("audit", "healthy", "--metric", "l1"),
    "null must be one of": ("audit", "healthy", "--null", "none"),
    "n_sample must be": ("audit", "healthy", "--n-sample", "2"),
    "--n is for sources": ("audit", "healthy", "--n", "5"),
    "each space must be named once": ("compare", "healthy", "healthy"),
    "spaces must hold at least two; got 1": ("compare", "healthy"),
    "No such file": ("audit", "/nowhere/x.parquet"),
    "--labels names a part of a file; sphere-50 is a source": ("audit", "sphere-50", "--labels", "topic"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals_are_one_line(call, files, message):  # noqa: F811
    command, *rest = REFUSED[message]
    code, out, err = call(command, *(files.get(each, each) for each in rest))
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_html_is_the_page_of_the_audit(call, files, tmp_path):  # noqa: F811
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"text {row}" for row in range(300)))
    out = tmp_path / "audit.html"
    code, _, _ = call("audit", files["repeated"], *QUICK, "--no-try", "--labels", labels, "--html", out)
    assert code == 0
    text = out.read_text(encoding="utf-8")
    assert "<title>repeated.npy</title>" in text
    assert "<bdi>text 2" in text
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_html_is_the_page_of_the_comparison(call, files, tmp_path):  # noqa: F811
    out = tmp_path / "both.html"
    code, _, _ = call("compare", files["healthy"], files["anisotropic"], *QUICK, "--html", out)
    assert code == 0
    assert "<title>healthy.npy / anisotropic.npy</title>" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["audit", "compare"])
def test_html_that_could_not_be_written_is_refused_at_once(call, files, tmp_path, command):  # noqa: F811
    given = [files["healthy"]] * (1 if command == "audit" else 2)
    for out in (tmp_path / "page.txt", tmp_path / "none" / "page.html"):
        code, said, err = call(command, *given, "--html", out)
        assert (code, said) == (2, "")
        assert err == f"geomkit: --html must be an .html file in a folder that exists; got {out}\n"


def test_html_without_its_libraries_is_refused_at_once(call, files, tmp_path, monkeypatch):  # noqa: F811
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vl_convert" else real(name))
    code, said, err = call("audit", files["healthy"], "--html", tmp_path / "page.html")
    assert (code, said) == (2, "")
    assert "HTML needs Altair, vl-convert and Jinja2; vl_convert is not installed: pip install 'geomkit[report]'" in err
