"""The figures of the study `geometry`, drawn from its tables: a change of a figure measures nothing again."""

import pandas as pd

from bench import inputs
from bench.runner import Context, Study
from bench.studies.geometry import EPS
from geomkit.report import figures


def run(context: Context) -> None:
    """Read geometry.csv and cosine_histograms.csv and draw four figures."""
    table, shapes = (pd.read_csv(context.out / name) for name in STUDY.reads)
    n = inputs.rows(context)
    context.figure("cosine_distribution", figures.cosine_distribution(shapes))
    context.figure("orthogonality", figures.orthogonality(table, EPS, n))
    context.figure("concentration", figures.concentration(table, n))
    context.figure("layers", figures.layers(table, n))


STUDY = Study("figures", "the figures of geometry, from its tables", run, ("geometry.csv", "cosine_histograms.csv"))
