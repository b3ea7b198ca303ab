"""`python -m bench`: what it lists, runs and refuses, and its exit codes."""

import json

import pytest

from bench import __main__ as command
from bench.harness.study import Study
from bench.studies import STUDIES
from tests.bench import toys


@pytest.fixture(autouse=True)
def toy(tmp_path, monkeypatch):
    """Two toys instead of all studies, and a cache of their own."""
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    for study in (toys.READER, toys.TOY, Study("plain", "draws nothing", toys.measure, toys.units)):
        monkeypatch.setitem(STUDIES, study.name, study)


def run(out, *words):
    return command.main([*words, "--out", str(out), "--jobs", "0"])


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_list_names_every_study(capsys):
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["reader", "toy", "plain"]


def test_all_run_in_the_order_of_what_they_read(out):
    assert run(out) == 0
    assert (out / "verdict.md").read_text() == "1.0000\n"
    assert toys.ran(out) == "abcabc"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["toi"], "no study is called toi; did you mean toy?"),
        (["zzz"], "no study is called zzz; there are reader, toy, plain"),
        (["status", "zzz"], "no study is called zzz"),
        (["--jobs", "-1"], "--jobs must be 0 or more; got -1"),
        (["toy", "--json"], "--json goes with status"),
        (["--jobs", "many"], "--jobs"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err


@pytest.mark.parametrize(("flag", "code"), [("fail-b", 1), ("gone-b", 2)])
def test_what_failed_is_said_at_the_end(out, capsys, flag, code):
    (out / flag).touch()
    assert run(out, "toy", "reader") == code
    last = capsys.readouterr().err.splitlines()[-3:]
    assert last[0].startswith("bench: toy, b: ")
    assert last[1] == "bench: reader: not run, because toy failed, which it reads"
    assert last[2] == "bench: what else was measured is kept; the same command goes on from there"
    assert toys.ran(out) == "abc"
    (out / flag).unlink()
    assert run(out, "toy", "reader") == 0
    assert toys.ran(out) == "b"


def test_status_says_what_is_to_be_done(out, capsys):
    assert run(out, "status") == 0
    text = capsys.readouterr().out
    assert "toy              0 of 3 units current; never timed" in text
    assert "3 never measured" in text
    run(out, "toy")
    (out / "toy.csv").write_text("edited")
    capsys.readouterr()
    assert run(out, "status", "toy", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [set(each) for each in found] == [{"study", "unit", "state", "why", "seconds"}] * 4
    # The values are kept, so that only the table is to be written.
    assert [each["state"] for each in found] == ["current"] * 3 + ["stale"]
    assert found[0]["seconds"] >= 0
    assert toys.ran(out) == "abc"


def test_draw_measures_nothing(out, capsys):
    assert run(out, "toy", "plain") == 0
    toys.ran(out)
    (out / "toy.svg").unlink()
    assert run(out, "--draw") == 0
    assert (out / "toy.svg").is_file()
    assert toys.ran(out) == ""
    assert run(out, "plain", "--draw") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "bench: study plain draws no figures"


def test_what_this_machine_lacks_stops_who_asks_for_it_alone(out, capsys, monkeypatch):
    def lacks():
        from geomkit.errors import BackendUnavailableError

        msg = "a GPU"
        raise BackendUnavailableError(msg)

    monkeypatch.setitem(STUDIES, "gpu", Study("gpu", "", toys.measure, toys.units, needs=lacks))
    assert run(out) == 0
    assert "gpu: does not run here, and its files stay as they are: a GPU" in capsys.readouterr().err
    assert run(out, "gpu") == 2
    assert "study gpu cannot run here: a GPU" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["plain", "--out", str(tmp_path / "file"), "--jobs", "0"]) == 2
    assert "Not a directory" in capsys.readouterr().err
