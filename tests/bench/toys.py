"""A study of three units and one that reads it, for tests: files in their folder make units fail or be killed."""

import os
import signal
from pathlib import Path

import pandas as pd

from bench.harness.study import Context, Study, Tables, Unit
from geomkit.errors import SourceUnavailableError

NAMES = ("a", "b", "c")


def units(context: Context) -> tuple[Unit, ...]:
    absent = "it is not here" if (context.out / "absent-b").exists() else ""
    return tuple(Unit(name, absent=absent if name == "b" else "") for name in NAMES)


def measure(context: Context, unit: Unit) -> Tables:
    flagged = {path.name for path in context.out.glob("*-?")}
    with (context.out / "ran").open("a") as file:
        file.write(unit.name)
    if f"kill-{unit.name}" in flagged:
        os.kill(os.getpid(), signal.SIGKILL)
    if f"fail-{unit.name}" in flagged:
        msg = f"{unit.name} is\nwrong"
        raise ValueError(msg)
    if f"gone-{unit.name}" in flagged:
        msg = f"{unit.name} could not be fetched"
        raise SourceUnavailableError(msg)
    if unit.absent:
        return {"toy.csv": pd.DataFrame({"unit": [unit.name], "note": [unit.absent]})}
    context.say(f"{unit.name} is measured")
    return {"toy.csv": pd.DataFrame({"unit": [unit.name] * 2, "value": [1 / 3, float(context.seed)]})}


def conclude(context: Context) -> None:
    context.table("total.csv", context.read("toy.csv").groupby("unit").value.sum().reset_index())


def draw(context: Context) -> None:
    from matplotlib.figure import Figure

    (context.out / "drawn").touch()
    figure = Figure()
    figure.subplots().plot(context.read("total.csv").value)
    context.figure("toy", figure)


def judge(context: Context) -> None:
    context.text("verdict.md", f"{context.read('total.csv').value.sum():.4f}\n")


TOY = Study("toy", "a toy", measure, units, conclude, draw)
READER = Study("reader", "reads the toy", conclude=judge, reads=("toy",))
TIMING = Study("timing", "a timing", measure, units, by_code=False, alone=True)


def ran(out: Path) -> str:
    """The units that were measured since this was last asked, in order."""
    file = out / "ran"
    text = file.read_text() if file.exists() else ""
    file.unlink(missing_ok=True)
    return text
