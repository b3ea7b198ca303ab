"""Studies run once for each state of code and settings, and leave nothing half-written."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from bench import __main__ as command
from bench import runner
from bench.studies import STUDIES
from geomkit.errors import InvalidInputError


def make(out, **settings):
    default = {"study": "toy", "out": out, "quick": False, "everything": False, "seed": 0, "files": []}
    return runner.Context(**(default | settings))


@pytest.fixture
def toy():
    runs = []

    def work(context):
        runs.append(context.seed)
        context.table("toy.csv", pd.DataFrame({"value": [1 / 3]}))
        context.text("toy.md", "hello\n")

    return runner.Study("toy", "a toy", work), runs


def test_second_run_recomputes_nothing(toy, tmp_path):
    study, runs = toy

    assert runner.run(study, make(tmp_path)) is True
    assert runner.run(study, make(tmp_path)) is False

    assert runs == [0]
    assert (tmp_path / "toy.csv").read_text() == "value\n0.3333333\n"
    made = json.loads((tmp_path / "toy.provenance.json").read_text())
    assert made["files"] == ["toy.csv", "toy.md"]
    assert made["command"] == "python -m bench toy --seed 0"
    assert made["versions"]["numpy"]
    assert made["processor"]["model"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"quick": True}, {"everything": True}])
def test_another_setting_runs_again(toy, tmp_path, change):
    study, runs = toy
    runner.run(study, make(tmp_path))
    assert runner.run(study, make(tmp_path, **change)) is True
    assert len(runs) == 2


def test_a_changed_or_missing_file_runs_again(toy, tmp_path):
    study, runs = toy
    runner.run(study, make(tmp_path))
    (tmp_path / "toy.md").write_text("edited by hand")
    assert runner.run(study, make(tmp_path)) is True
    (tmp_path / "toy.csv").unlink()
    assert runner.run(study, make(tmp_path)) is True
    (tmp_path / ".stamps" / "toy.json").write_text("{ torn")
    assert runner.run(study, make(tmp_path)) is True
    assert len(runs) == 4


def test_changed_code_runs_again(toy, tmp_path, monkeypatch):
    study, runs = toy
    root = tmp_path / "root"
    for name in ("geomkit/a.py", "bench/b.py", "constraints.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    monkeypatch.setattr(runner, "ROOT", root)
    out = tmp_path / "out"
    runner.run(study, make(out))
    (root / "bench/b.py").write_text("x = 2\n")
    assert runner.run(study, make(out)) is True
    assert len(runs) == 2


def test_a_failure_leaves_no_part_and_no_stamp(tmp_path):
    def work(context):
        with context._file("half.csv") as path:
            path.write_text("half")
            msg = "disk full"
            raise OSError(msg)

    with pytest.raises(OSError, match="disk full"):
        runner.run(runner.Study("toy", "", work), make(tmp_path))

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_list_names_every_study(capsys):
    assert command.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(STUDIES)


def test_an_unknown_study_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(["nosuch"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nosuch" in err


def test_an_error_in_a_study_is_one_line(capsys, monkeypatch, tmp_path):
    def refuse(context):
        msg = "No space\nleft"
        raise OSError(msg)

    monkeypatch.setitem(STUDIES, "speed", runner.Study("speed", "", refuse))
    assert command.main(["speed", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "bench: No space left"


def test_a_study_that_reads_runs_again_when_what_it_reads_changes(tmp_path):
    runs = []
    study = runner.Study("toy", "", lambda _: runs.append(1), reads=("table.csv",))
    with pytest.raises(InvalidInputError, match=r"table\.csv"):
        runner.run(study, make(tmp_path))
    (tmp_path / "table.csv").write_text("a\n1\n")
    assert [runner.run(study, make(tmp_path)), runner.run(study, make(tmp_path))] == [True, False]
    (tmp_path / "table.csv").write_text("a\n2\n")
    assert runner.run(study, make(tmp_path)) is True
    assert len(runs) == 2


def _drawn(context):
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot(context.read("toy.csv").value)
    context.figure("toy", figure)


def test_figures_are_drawn_from_the_tables_and_again_without_measuring(toy, tmp_path, capsys):
    plain, runs = toy
    study = replace(plain, draw=_drawn)
    runner.run(study, make(tmp_path))
    before = json.loads((tmp_path / "toy.provenance.json").read_text())
    assert before["files"] == ["toy.csv", "toy.md", "toy.png", "toy.svg"]
    (tmp_path / "toy.png").unlink()

    runner.redraw(study, make(tmp_path))

    assert runs == [0]
    assert (tmp_path / "toy.png").stat().st_size > 1000
    after = json.loads((tmp_path / "toy.provenance.json").read_text())
    assert after.pop("figures_drawn")["files"] == ["toy.png", "toy.svg"]
    assert after == before
    assert "2 figures drawn" in capsys.readouterr().err


def test_what_cannot_be_drawn_is_refused(toy, tmp_path):
    plain, _ = toy
    with pytest.raises(InvalidInputError, match="toy draws no figures"):
        runner.redraw(plain, make(tmp_path))
    study = replace(plain, draw=_drawn)
    with pytest.raises(InvalidInputError, match=r"no toy\.provenance\.json .* run the study first"):
        runner.redraw(study, make(tmp_path))
    (tmp_path / "toy.provenance.json").write_text("{}")
    with pytest.raises(InvalidInputError, match=r"no toy\.csv .* run the study that writes it first"):
        runner.redraw(study, make(tmp_path))


def test_draw_at_the_command_line_measures_nothing(toy, tmp_path, monkeypatch):
    plain, runs = toy
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    monkeypatch.setitem(STUDIES, "plain", plain)
    monkeypatch.setitem(STUDIES, "toy", replace(plain, draw=_drawn))
    assert command.main(["toy", "--out", str(tmp_path)]) == 0
    (tmp_path / "toy.svg").unlink()
    assert command.main(["--draw", "--out", str(tmp_path)]) == 0
    assert runs == [0]
    assert (tmp_path / "toy.svg").is_file()
    assert command.main(["plain", "--draw", "--out", str(tmp_path)]) == 2
