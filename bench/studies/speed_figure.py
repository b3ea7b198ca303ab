"""The figure of the study `speed`, drawn from its tables: a change of it measures nothing again."""

import pandas as pd

from bench.runner import Context, Study
from geomkit.report.speed import speed


def run(context: Context) -> None:
    """Read speed.csv and growth.csv and draw speed.svg and speed.png."""
    table, growth = (pd.read_csv(context.out / name) for name in STUDY.reads)
    context.figure("speed", speed(table, growth))


STUDY = Study("speed_figure", "the figure of speed, from its tables", run, ("speed.csv", "growth.csv"))
