"""Audits as whole processes: seconds and memory are those of the audit, and nobody is left out silently."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from bench.inputs import spaces
from bench.measures import audit_peers as peers
from bench.speed import launcher
from bench.speed.timing import Pace
from bench.studies import audit_peers as study
from geomkit.datasets import Vectors
from geomkit.errors import BackendUnavailableError
from tests.bench.answering import answer, context_of

FAKE = """
import json, os, sys
from pathlib import Path
cache = Path(os.environ["GEOMKIT_CACHE"])
cache.mkdir(exist_ok=True)
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps(["{name}", sys.argv[1:], len(list(cache.iterdir()))]) + "\\n")
if "{name}" == "fake_ours":
    (cache / "draws").touch()
if {code} > 1:
    print("first line\\nit broke", file=sys.stderr)
else:
    print('{said}')
sys.exit({code})
"""
OURS = {"verdict": "ok", "findings": [{"statistic": "cosine_mean", "value": 0.5, "null_mean": 0.0, "verdict": "ok"}]}
THEIRS = {
    "verdict": "fail",
    "findings": [
        {"name": "anisotropy", "metric": "mean_random_cosine", "value": 0.4, "verdict": "fail", "details": {}},
    ],
}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Modules that log how they were called and say what they are told to; vecscope exits with 1."""

    def write(name, said, code=0):
        (tmp_path / f"{name}.py").write_text(FAKE.format(name=name, said=json.dumps(said), code=code))

    write("fake_ours", OURS)
    write("fake_vecscope", THEIRS, 1)
    write("fake_spectralyte", {"anisotropy": {"score": 0.3, "interpretation": "fine"}})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(
        peers,
        "CONTENDERS",
        (
            peers.Contender(peers.VECSCOPE, "", "fake_vecscope"),
            peers.Contender(peers.SPECTRALYTE, "", "fake_spectralyte", queries=False),
            peers.Contender(peers.SPECTRALYTE, "--experimental", "fake_spectralyte", ("--experimental",), most=5),
            peers.Contender(peers.OURS, "cold", "fake_ours", cold=True),
            peers.Contender(peers.OURS, peers.CACHED, "fake_ours"),
        ),
    )
    monkeypatch.setattr(peers, "_version", lambda _: "1.2")
    return write


@pytest.fixture
def place(tmp_path):
    x = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    folder = tmp_path / "place"
    folder.mkdir()
    np.save(folder / "x.npy", x)
    return peers.Place(peers.Sample("made-4", None), x, folder / "x.npy", folder / "queries.npy")


PACE = Pace(seconds=0.0, least=3, most=3)


def calls(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def test_everyone_runs_once_and_then_in_turn(fakes, place, tmp_path):
    rows, values = peers.processes(place, PACE)
    table = pd.DataFrame([vars_of(row) for row in rows])

    said = calls(tmp_path)
    names = [name for name, _, _ in said]
    assert names[:4] == ["fake_vecscope", "fake_spectralyte", "fake_ours", "fake_ours"]
    assert {names.count(name) for name in ("fake_vecscope", "fake_spectralyte")} == {1 + 3}
    assert names.count("fake_ours") == 2 * (1 + 3)
    # Every round starts with another.
    assert len(set(names[5::5])) > 1
    # The cold cache is empty each time, the other one only the first time.
    found = [count for name, _, count in said if name == "fake_ours"]
    assert (found.count(0), found.count(1)) == (4 + 1, 3)
    assert all(("--queries" in words) == (name != "fake_spectralyte") for name, words, _ in said)
    assert {tuple(words[:3]) for _, words, _ in said} == {("audit", str(place.file), "--json")}

    seconds = table[table.statistic == "seconds"].set_index(["tool", "setting"])
    assert (seconds.rounds == 3).all()
    assert (seconds.low <= seconds.value).all()
    assert (seconds.value <= seconds.high).all()
    assert set(seconds.note) == {"vecscope 1.2", "spectralyte 1.2", "geomkit 1.2"}
    faster = table[table.statistic == "times_as_fast"]
    assert set(zip(faster.setting, faster.beside, strict=True)) == {
        (setting, peer) for setting in ("cold", peers.CACHED) for peer in ("vecscope", "spectralyte")
    }
    assert (table[table.statistic == "peak_mib"].value.between(3, 200)).all()
    judged = {value.statistic: value for value in values}
    assert (judged["anisotropy.mean_random_cosine"].value, judged["anisotropy.mean_random_cosine"].our_value) == (
        0.4, 0.5,
    )  # fmt: skip
    assert (judged["verdict"].verdict, judged["verdict"].our_verdict) == ("fail", "ok")
    assert judged["anisotropy.score"].value == 0.3


def vars_of(row):
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def test_ratios_are_of_the_same_rounds_and_the_right_way_round():
    sample = peers.Place(peers.Sample("x", None), np.zeros((3, 2), np.float32), None, None)
    us, them = peers.Contender(peers.OURS, "", ""), peers.Contender(peers.VECSCOPE, "", "")
    mine = [peers.Ran(1.0, 300.0, None), peers.Ran(2.0, 300.0, None), peers.Ran(4.0, 300.0, None)]
    theirs = [peers.Ran(3.0, 100.0, None), peers.Ran(4.0, 200.0, None), peers.Ran(40.0, 600.0, None)]
    rows = peers._times(sample, us, mine, [(us, mine), (them, theirs)])
    found = {row.statistic: row for row in rows}
    assert (found["times_as_fast"].value, found["times_as_fast"].low, found["times_as_fast"].high) == (3.0, 2.0, 10.0)
    assert (found["times_the_memory"].value, found["times_the_memory"].beside) == (1.5, "vecscope")
    assert found["peak_mib"].value == 300 / 2**20
    assert not [row for row in peers._times(sample, them, theirs, [(us, mine)]) if row.beside]


def test_who_is_missing_is_too_slow_or_fails_has_a_row_that_says_so(fakes, place, monkeypatch):
    fakes("fake_vecscope", {}, 2)

    def version(library):
        if library == peers.SPECTRALYTE:
            msg = "spectralyte is not installed; pip install spectralyte"
            raise BackendUnavailableError(msg)
        return "1.2"

    rows, values = peers.processes(place, Pace(seconds=0.0, least=1, most=1))
    missing = {(row.tool, row.setting): row.note for row in rows if row.statistic == "not measured"}
    assert missing["vecscope", ""] == "-m fake_vecscope audit ended with 2: it broke"
    assert "up to 5 rows" in missing["spectralyte", "--experimental"]
    assert {value.tool for value in values} == {"spectralyte"}
    monkeypatch.setattr(peers, "_version", version)
    rows, values = peers.processes(place, Pace(seconds=0.0, least=1, most=1))
    missing = {(row.tool, row.setting): row.note for row in rows if row.statistic == "not measured"}
    assert "pip install spectralyte" in missing["spectralyte", ""]
    assert values == []
    (place.file.parent.parent / "fake_ours.py").write_text("print('no JSON')")
    with pytest.raises(BackendUnavailableError, match="fake_ours audit ended with 0"):
        peers.processes(place, PACE)


def test_a_library_that_is_not_installed_is_named():
    with pytest.raises(BackendUnavailableError, match="pip install no-such-library"):
        peers._version("no-such-library")


def test_peak_memory_is_of_the_child_however_large_the_parent(tmp_path):
    here = np.ones(2**25)  # 256 MiB
    seen = {}
    for name, code in (("none", "pass"), ("much", "x = b'1' * 2**27")):
        seen[name] = peers.ran(
            [sys.executable, "-c", f"{code}; print('{{}}')"], folder(tmp_path, name), os.environ
        ).peak / 2**20  # fmt: skip
    code = "import resource; x = b'1' * 2**26; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    found = peers.ran([sys.executable, "-c", code], folder(tmp_path, "itself"), os.environ)
    unit = 1 if sys.platform == "darwin" else 1024
    assert unit * found.said == pytest.approx(found.peak, rel=0.01)
    assert here.sum() == 2**25
    assert seen["none"] < 60
    assert 120 < seen["much"] - seen["none"] < 140


def folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_seconds_are_those_of_the_child_and_its_code_is_kept(tmp_path):
    files = [str(tmp_path / name) for name in ("report", "out", "err")]
    (tmp_path / "out").write_text("what was said before\n")
    command = [sys.executable, "-c", "import sys, time; time.sleep(0.3); print('said'); sys.exit('oh')"]
    subprocess.run([sys.executable, "-I", "-S", launcher.__file__, *files, *command], check=True)
    report, out, err = ((tmp_path / name).read_text() for name in ("report", "out", "err"))
    assert (json.loads(report)["code"], out, err) == (1, "said\n", "oh\n")
    assert 0.3 <= json.loads(report)["seconds"] < 20


def test_dimensions_agree_with_scikit_dimension(place):
    importlib.import_module("skdim")
    x = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    sample = peers.Place(place.sample, x, place.file, None)
    rows, values = peers.dimensions(sample, Pace(seconds=0.0, least=2, most=2))
    assert {value.statistic for value in values} == {"TwoNN", "MLE"}
    for value in values:
        assert value.our_value == pytest.approx(value.value, rel=1e-3)
    assert [(row.tool, row.statistic, row.rounds) for row in rows if row.setting in {"twonn", "TwoNN"}] == [
        ("geomkit", "seconds", 2), ("scikit-dimension", "seconds", 2), ("geomkit", "times_as_fast", 2),
    ]  # fmt: skip


def test_duplicates_are_as_the_notes_say(place):
    importlib.import_module("skdim")
    x = np.random.default_rng(1).standard_normal((200, 5)).astype(np.float32)
    x[3] = 2 * x[4]
    _, values = peers.dimensions(peers.Place(place.sample, x, place.file, None), Pace(seconds=0.0, least=1, most=1))
    twonn, mle = values
    assert twonn.our_value == pytest.approx(twonn.value, rel=1e-3)
    assert (mle.value, 3 < mle.our_value < 5) == (0.0, True)
    assert "theirs is 0" in mle.note


def test_without_scikit_dimension_rows_say_so(place, monkeypatch):
    def need(name, install=""):
        msg = f"{name} is not installed; pip install {install}"
        raise BackendUnavailableError(msg)

    monkeypatch.setattr(peers, "need", need)
    rows, values = peers.dimensions(place, PACE)
    assert [row.statistic for row in rows] == ["not measured"] * 2
    assert "pip install scikit-dimension" in rows[0].note
    assert values == []


def test_the_last_rows_become_queries_and_a_source_that_is_not_here_has_a_row(fakes, tmp_path, monkeypatch, capsys):
    x = np.arange(48, dtype=np.float32).reshape(12, 4)
    seen = []

    def load(name, *, n, seed):
        return Vectors(x[:n], [], None, name, "tfidf", 4, "", "", None, "")

    def processes(place, pace):
        seen.append((np.load(place.file), np.load(place.queries), place.x.shape, pace))
        return [peers._missing("here-4", (9, 4), "vecscope", "", "why not")], []

    monkeypatch.setattr(peers.datasets, "load", load)
    monkeypatch.setattr(peers, "processes", processes)
    monkeypatch.setattr(peers, "dimensions", lambda *_: ([], []))
    monkeypatch.setattr(peers, "SAMPLES", (peers.Sample("gone-4", 5), peers.Sample("here-4", 11, queries=2)))
    monkeypatch.setattr(spaces, "left_out", lambda name, _: "gone-4 is not cached" if name == "gone-4" else "")
    where = context_of("audit-peers", tmp_path)
    assert [(each.name, each.sources) for each in study.units(where)] == [
        ("gone-4", ("gone-4",)), ("here-4", ("here-4",)),
    ]  # fmt: skip
    assert answer(study.STUDY, where) == ["audit_peer_values.csv", "audit_peers.csv"]
    times, values = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("audit_peers", "audit_peer_values"))
    rows, queries, shape, pace = seen[0]
    np.testing.assert_array_equal(rows, x[:9])
    np.testing.assert_array_equal(queries, x[9:11])
    assert (shape, pace) == ((9, 4), peers.PACE)
    assert times[["source", "statistic", "note"]].to_numpy().tolist() == [
        ["gone-4", "not measured", "gone-4 is not cached"], ["here-4", "not measured", "why not"],
    ]  # fmt: skip
    assert list(values.columns) == list(peers.Value.__dataclass_fields__)
    err = capsys.readouterr().err
    assert "gone-4 is not cached" in err
    assert "vecscope  is not measured on here-4: why not" in err


def test_every_sample_is_a_unit(tmp_path):
    samples = [each.source for each in peers.SAMPLES]
    assert [each.name for each in study.units(context_of("audit-peers", tmp_path))] == samples
    quick = study.units(context_of("audit-peers", tmp_path, quick=True))
    assert [(each.name, each.sources) for each in quick] == [("googlenews-300", ("googlenews-300",))]
