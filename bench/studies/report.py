"""One page of all results, drawn from the tables of the other studies."""

from bench.harness.study import Context, Study
from bench.pages.results import READS, results_page
from geomkit.reporting.page import render

MOST = 8_000_000
"""Bytes of the page."""


def conclude(context: Context) -> None:
    """Write report.html."""
    text = render(results_page(context.out))
    size = len(text.encode())
    if size > MOST:
        msg = f"report.html would have {size:,} bytes; it must not have more than {MOST:,}"
        raise ValueError(msg)
    context.text("report.html", text)
    context.say(f"report.html has {size / 1e6:.1f} MB")


STUDY = Study("report", "one page of all results, for a browser", conclude=conclude, reads=tuple(READS))
