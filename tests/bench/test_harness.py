"""Studies run in units: what is current is left alone, what fails stops nothing else, and a kill loses one unit."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.harness import code_keys, finish, provenance, status
from bench.harness.execute import execute, in_order
from bench.harness.plan import planned
from bench.harness.study import Context, Study
from geomkit.errors import InvalidInputError
from tests.bench import toys
from tests.bench.toys import READER, TIMING, TOY, ran

ROOT = Path(__file__).parents[2]
TABLE = "unit,value\na,0.3333333\na,0\nb,0.3333333\nb,0\nc,0.3333333\nc,0\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def run(out, *studies, jobs=0, force=False, **settings):
    return execute(studies or (TOY, READER), lambda name: Context(name, out, **settings), jobs=jobs, force=force)


def states(out, study=TOY, **settings):
    return {
        line.unit: (line.state, line.why) for line in status.lines([study], lambda name: Context(name, out, **settings))
    }


def known(out, study="toy"):
    return json.loads((out / f"{study}.provenance.json").read_text())


def test_a_second_run_does_nothing(out, capsys):
    done, failures = run(out)
    assert (done, failures, ran(out)) == (["toy", "reader"], [], "abc")
    assert (out / "toy.csv").read_text() == TABLE
    assert (out / "verdict.md").read_text() == "1.0000\n"
    assert "a is measured" in capsys.readouterr().err
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}

    assert run(out) == ([], [])

    assert ran(out) == ""
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before


def test_the_provenance_says_what_made_each_unit(out):
    run(out, TOY)
    made = known(out)
    assert made["command"] == "python -m bench toy --seed 0"
    assert made["settings"] == {"quick": False, "seed": 0, "version": 1}
    assert list(made["units"]) == ["a", "b", "c"]
    assert [each["rows"] for each in made["units"].values()] == [{"toy.csv": 2}] * 3
    assert made["machines"][0]["versions"]["numpy"]
    assert made["machines"][0]["processor"]["extensions"]
    assert set(made["files"]) == {"toy.csv", "toy.svg", "total.csv"}
    assert "tests.bench.toys" in made["code"]
    # No file vouches for itself, and none holds a path of this machine.
    assert str(out) not in json.dumps(made)


def test_a_fresh_clone_knows_what_is_current(out, tmp_path, monkeypatch):
    run(out)
    ran(out)
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "another"))
    assert run(out) == ([], [])
    assert ran(out) == ""
    # One unit changes: the others come from the table that is there.
    made = known(out)
    made["units"]["b"]["key"] = "0" * 16
    (out / "toy.provenance.json").write_text(json.dumps(made))
    assert states(out)["b"][0] == "stale"
    run(out)
    assert ran(out) == "b"
    assert (out / "toy.csv").read_text() == TABLE


@pytest.mark.parametrize(("setting", "said"), [({"seed": 1}, "seed is now 1"), ({"quick": True}, "quick is now True")])
def test_another_setting_measures_again(out, setting, said):
    run(out)
    ran(out)
    assert states(out, **setting)["a"] == ("stale", f"setting: {said}")
    run(out, **setting)
    assert sorted(ran(out)) == ["a", "b", "c"]
    # What was measured before is kept, so going back measures nothing.
    run(out)
    assert ran(out) == ""
    assert (out / "toy.csv").read_text() == TABLE


def test_a_table_that_was_edited_is_written_anew_and_a_figure_drawn(out):
    run(out)
    ran(out)
    (out / "toy.csv").write_text(TABLE.replace("0.333", "0.444"))
    run(out)
    assert (out / "toy.csv").read_text() == TABLE
    (out / "toy.svg").unlink()
    run(out)
    assert (out / "toy.svg").stat().st_size > 1000
    assert ran(out) == ""


def test_force_measures_again(out, monkeypatch):
    run(out)
    ran(out)
    monkeypatch.setattr(toys.pd.DataFrame, "to_csv", _doubled(toys.pd.DataFrame.to_csv))
    run(out, TOY)
    assert ran(out) == ""
    run(out, TOY, force=True)
    assert sorted(ran(out)) == ["a", "b", "c"]
    assert (out / "toy.csv").read_text().startswith("unit,value\na,0.6666667\na,0\n")


def _doubled(write):
    def doubled(frame, *given, **how):
        return write(frame.assign(value=2 * frame.value), *given, **how)

    return doubled


def test_a_unit_that_fails_stops_only_what_reads_it(out, capsys):
    (out / "fail-b").touch()
    alone = Study("alone", "", conclude=_write)
    done, failures = run(out, TOY, READER, alone)
    assert done == ["alone"]
    assert [(each.study, each.unit, each.refused) for each in failures] == [("toy", "b", False), ("reader", "", True)]
    assert failures[0].why == "ValueError: b is wrong"
    assert ran(out) == "abc"
    assert not list(out.glob("*.csv"))
    (out / "fail-b").unlink()
    run(out)
    assert ran(out) == "b"


def _write(context):
    context.text("alone.md", "done\n")


def test_data_that_cannot_be_had_is_a_refusal(out):
    (out / "gone-c").touch()
    _, failures = run(out, TOY)
    assert [(each.why, each.refused) for each in failures] == [("c could not be fetched", True)]


def test_a_unit_whose_source_is_not_here_says_so_until_it_is(out):
    (out / "absent-b").touch()
    run(out, TOY)
    assert "b,,it is not here\n" in (out / "toy.csv").read_text()
    assert states(out)["b"] == ("current", "no figures: it is not here")
    (out / "absent-b").unlink()
    assert states(out)["b"] == ("stale", "data: its source is here now")
    run(out, TOY)
    assert (out / "toy.csv").read_text() == TABLE
    # Where it is not, what was measured elsewhere stays.
    (out / "absent-b").touch()
    ran(out)
    assert states(out)["b"][0] == "current"
    run(out, TOY)
    assert ran(out) == ""
    assert (out / "toy.csv").read_text() == TABLE


def test_processes_give_the_same_bytes_and_survive_one_that_is_killed(out, tmp_path):
    done, failures = run(out, jobs=2)
    assert (done, failures) == (["toy", "reader"], [])
    assert (out / "toy.csv").read_text() == TABLE
    other = tmp_path / "other"
    other.mkdir()
    (other / "kill-b").touch()
    _, failures = run(other, jobs=2, seed=2)
    assert [(each.study, each.unit) for each in failures] == [("toy", "b"), ("reader", "")]
    assert "killed" in failures[0].why
    (other / "kill-b").unlink()
    ran(other)
    assert run(other, jobs=2, seed=2)[1] == []
    assert ran(other) == "b"


def test_killed_at_any_moment_it_loses_one_unit_and_ends_the_same(out, tmp_path):
    """Five kills of the whole run, each later than the one before, and then a run to its end."""
    script = (
        "import sys, time; from pathlib import Path; from bench.harness.execute import execute;"
        "from bench.harness.study import Context; from dataclasses import replace; from tests.bench import toys\n"
        "def slow(context, unit):\n"
        "    time.sleep(0.3); return toys.measure(context, unit)\n"
        "slow.__module__, slow.__qualname__ = 'tests.bench.toys', 'measure'\n"
        "execute([replace(toys.TOY, measure=slow), toys.READER], lambda n: Context(n, Path(sys.argv[1])), jobs=0)"
    )
    command = [sys.executable, "-c", script, str(out)]
    measured = ""
    for after in (0.0, 0.1, 0.25, 0.4, 0.55):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        process.stderr.readline()  # it has planned, and begins
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        measured += ran(out)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    measured += ran(out)
    assert set(measured) == {"a", "b", "c"}
    # Each kill costs one unit at most.
    assert len(measured) <= 3 + 5
    assert (out / "toy.csv").read_text() == TABLE
    assert (out / "verdict.md").read_text() == "1.0000\n"
    assert not [path for path in (*out.iterdir(), *(tmp_path / "cache").rglob("*")) if path.name.endswith(".part")]


def test_timings_are_not_stale_by_code_and_say_where_they_were_made(out, monkeypatch):
    run(out, TIMING)
    ran(out)
    assert known(out, "timing")["code"] == {}
    assert known(out, "timing")["machines"][0]["commit"]
    monkeypatch.setattr(code_keys, "CUT", ())
    assert run(out, TIMING) == ([], [])
    assert run(out, replace(TIMING, version=2))[0] == ["timing"]
    assert sorted(ran(out)) == ["a", "b", "c"]


def test_figures_are_drawn_again_without_measuring_and_nothing_is_stale_after(out):
    run(out)
    ran(out)
    (out / "drawn").unlink()
    finish.redraw(TOY, Context("toy", out), code_keys.Code())
    assert (out / "drawn").exists()
    assert run(out) == ([], [])
    assert ran(out) == ""


def test_what_cannot_be_drawn_is_refused(out):
    with pytest.raises(InvalidInputError, match=r"no toy\.provenance\.json in .*; run `python -m bench toy` first"):
        finish.redraw(TOY, Context("toy", out), code_keys.Code())
    run(out)
    (out / "total.csv").write_text("edited")
    with pytest.raises(InvalidInputError, match=r"a table of toy in .* is missing or was edited"):
        finish.redraw(TOY, Context("toy", out), code_keys.Code())


@pytest.mark.parametrize(
    ("text", "said"),
    [('{"format": 2, "st', "damaged"), ('{"seconds": 3}', "format 1"), ("[]", "damaged"), ('{"format": 2}', "damaged")],
)
def test_a_provenance_that_cannot_be_read_is_said_and_measured_again(out, text, said, capsys):
    run(out)
    (out / "toy.provenance.json").write_text(text)
    assert said in states(out)["tables and figures"][1]
    capsys.readouterr()
    run(out)
    told = [line for line in capsys.readouterr().err.splitlines() if said in line]
    assert len(told) == 1
    assert "`python -m bench toy` measures it again" in told[0]
    assert provenance.read(out, "toy") is not None


def test_a_full_disk_leaves_nothing_half_written(out, monkeypatch):
    def full(context, name, parts):
        with context.file(name) as path:
            path.write_text("half")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(finish, "_write", full)
        _, failures = run(out, TOY)
    assert ["No space left on device" in each.why for each in failures] == [True]
    assert failures[0].refused
    assert sorted(path.name for path in out.iterdir()) == ["ran"]
    # What was measured is kept.
    ran(out)
    assert run(out, TOY) == (["toy"], [])
    assert ran(out) == ""


def test_studies_run_behind_those_they_read():
    chain = [Study("c", "", reads=("b",)), Study("b", "", reads=("a", "elsewhere")), Study("a", "")]
    assert [study.name for study in in_order(chain)] == ["a", "b", "c"]


def test_a_unit_that_is_no_more_leaves_the_tables(out, monkeypatch):
    run(out)
    monkeypatch.setattr(toys, "NAMES", ("a", "c"))
    assert run(out)[0] == ["toy", "reader"]
    assert (out / "toy.csv").read_text() == TABLE.replace("b,0.3333333\nb,0\n", "")
    assert planned(TOY, Context("toy", out), code_keys.Code()).undone == ""


def test_a_table_that_another_study_took_over_is_not_removed(out):
    run(out, replace(TIMING, name="first"))
    made = known(out, "first")
    made["files"]["total.csv"] = made["files"]["toy.csv"]
    made["files"]["gone.csv"] = made["files"]["toy.csv"]
    (out / "gone.csv").write_text("of nobody any more")
    (out / "first.provenance.json").write_text(json.dumps(made))
    run(out, TOY)
    run(out, replace(TIMING, name="first", version=2))
    assert (out / "total.csv").is_file()
    assert not (out / "gone.csv").exists()


def test_two_runs_at_once_share_what_they_measure(out):
    script = (
        "import sys; from pathlib import Path; from bench.harness.execute import execute;"
        "from bench.harness.study import Context; from tests.bench import toys;"
        "done, failed = execute([toys.TOY], lambda n: Context(n, Path(sys.argv[1])), jobs=0); sys.exit(len(failed))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", script, str(out)], cwd=ROOT, env=os.environ) for _ in range(2)]
    assert [each.wait() for each in runs] == [0, 0]
    assert sorted(ran(out)) == ["a", "b", "c"]
    assert (out / "toy.csv").read_text() == TABLE
    assert states(out)["tables and figures"] == ("current", "")
