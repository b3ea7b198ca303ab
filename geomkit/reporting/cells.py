"""Numbers and text on their way from tables of results to a page."""

import math
from typing import TYPE_CHECKING, Any

from geomkit.core.result import format_number
from geomkit.reporting.page import Cell

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["five", "number", "records", "text"]


def number(value: float) -> Cell:
    """Show a number in four digits; sort it by all of them."""
    return Cell("—" if math.isnan(value) else format_number(value), value)


def text(value: Any) -> Cell:
    """Show a value as it prints; nothing where it is missing."""
    said = "" if isinstance(value, float) and math.isnan(value) else str(value)
    return Cell(said, said)


def five(value: float) -> float:
    """Keep five digits: more than a chart shows."""
    return float(f"{value:.5g}")


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Rows of a table as dictionaries."""
    found: list[dict[str, Any]] = frame.to_dict("records")  # type: ignore[assignment]
    return found
