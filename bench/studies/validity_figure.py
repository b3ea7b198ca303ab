"""The figure of the study `validity`, drawn from its table: a change of it measures nothing again."""

import pandas as pd

from bench.runner import Context, Study
from geomkit.report.validity import validity


def run(context: Context) -> None:
    """Read validity.csv and draw validity.svg and validity.png."""
    context.figure("validity", validity(pd.read_csv(context.out / "validity.csv")))


STUDY = Study("validity_figure", "the figure of validity, from its table", run, ("validity.csv",))
