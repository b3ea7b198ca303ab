"""Tidy rows: one number a row, with what it is a number of and what random vectors would have given."""

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NOT_MEASURED = "not measured"
"""The statistic of a row that says why a source has no figures."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number."""

    source: str
    family: str
    n: int | None
    d: int
    metric: str
    statistic: str
    value: float
    se: float = math.nan
    null_mean: float = math.nan
    null_std: float = math.nan
    z: float = math.nan
    backend: str = ""
    precision: str = ""
    seed: int | None = None
    note: str = ""


def frame(rows: list[Row]) -> "pd.DataFrame":
    """Make a table; whole numbers stay whole where one is missing."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).astype({"n": "Int64", "seed": "Int64"})
