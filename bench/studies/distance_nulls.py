"""Concentration of distances of Gaussian vectors: what a set of n rows in d dimensions gives, simulated once.

It depends on n, d, p and the seed alone, so results/distance-nulls.csv is read by whoever compares real distances with
random ones, and is drawn again where a source has another dimension. `tests/bench/test_distance_nulls.py` draws some of
it anew, and holds it against the closed forms that there are.
"""

import math
from functools import cache

import numpy as np
import pandas as pd

import geomkit
from bench.harness.study import RESULTS, Context, Study, Tables, Unit
from bench.inputs import spaces
from geomkit import datasets
from geomkit.errors import InvalidInputError

ORDERS = (0.5, 1.0, 2.0, math.inf)

STATISTICS = ("relative_variance", "relative_variance_squared", "relative_contrast", "nearest_to_mean")

FEWEST, MOST, WORK = 6, 40, 40 * 1024
"""Random sets of a dimension: so many as this many coordinates of a row in all, within these numbers."""

TABLE = "distance-nulls.csv"

Expected = dict[tuple[float, str], tuple[float, float]]
"""Mean and standard deviation over random sets, by order and statistic."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every dimension that a source has is a unit."""
    del context
    return tuple(Unit(str(d)) for d in sorted({source.dim for source in datasets.SOURCES.values()}))


def measure(context: Context, unit: Unit) -> Tables:
    """Draw sets of one dimension, with as many rows as studies take of sources, in full runs and in quick ones."""
    d = int(unit.name)
    rows = []
    for n in (spaces.N_QUICK, spaces.N):
        for p in ORDERS:
            drawn = [draw(n, d, p, context.seed, number) for number in range(draws(d))]
            for name, values in zip(STATISTICS, np.array(drawn).T, strict=True):
                spread = float(values.std(ddof=1))
                rows.append(
                    {"n": n, "d": d, "p": p, "statistic": name, "mean": values.mean(),
                     "mean_se": spread / math.sqrt(len(values)), "std": spread, "draws": len(values),
                     "seed": context.seed}
                )  # fmt: skip
    return {TABLE: pd.DataFrame(rows)}


def draws(d: int) -> int:
    """How many sets are drawn: 40 up to 1,024 dimensions, fewer of sets that take seconds to minutes."""
    return min(MOST, max(FEWEST, WORK // d))


def draw(n: int, d: int, p: float, seed: int, number: int) -> tuple[float, ...]:
    """Draw one set of Gaussian rows, and return `STATISTICS` of its distances."""
    rng = np.random.default_rng([seed, n, d, number])
    found = geomkit.concentration(rng.standard_normal((n, d), dtype=np.float32), p=p)
    return tuple(getattr(found, name) for name in STATISTICS)


def expected(n: int, d: int) -> Expected:
    """Look up what random sets of n rows in d dimensions give, in the table that is committed.

    Raises
    ------
    InvalidInputError
        The table has no such sets.
    """
    found = _table().get((n, d))
    if found is None:
        msg = f"results/{TABLE} has no sets of {n} rows in {d} dimensions; `python -m bench distance-nulls` draws them"
        raise InvalidInputError(msg)
    return found


@cache
def _table() -> dict[tuple[int, int], Expected]:
    path = RESULTS / TABLE
    if not path.is_file():
        msg = f"there is no results/{TABLE}; `python -m bench distance-nulls` draws it, in a quarter of an hour"
        raise InvalidInputError(msg)
    out: dict[tuple[int, int], Expected] = {}
    for row in pd.read_csv(path).to_dict("records"):
        found = out.setdefault((int(row["n"]), int(row["d"])), {})
        found[float(row["p"]), str(row["statistic"])] = float(row["mean"]), float(row["std"])
    return out


STUDY = Study(
    "distance-nulls", "distances of Gaussian vectors, simulated once", measure, units, by_code=False,
)  # fmt: skip
