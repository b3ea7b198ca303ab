"""The table of simulated distances: some of it drawn again, all of it beside the closed forms that there are."""

import math

import numpy as np
import pandas as pd
import pytest

from bench.harness.study import RESULTS, Context
from bench.inputs import spaces
from bench.studies import distance_nulls
from bench.studies.distance_nulls import ORDERS, STATISTICS, TABLE, draw, draws, expected
from geomkit import datasets, nulls
from geomkit.errors import InvalidInputError


@pytest.fixture(scope="module")
def table():
    return pd.read_csv(RESULTS / TABLE)


def test_every_dimension_of_a_source_is_there(table):
    wanted = {(n, source.dim) for n in (spaces.N_QUICK, spaces.N) for source in datasets.SOURCES.values()}
    assert set(zip(table.n, table.d, strict=True)) == wanted
    assert len(table) == len(wanted) * len(ORDERS) * len(STATISTICS)
    assert (table.draws == table.d.map(draws)).all()
    assert table.draws.min() == 6
    assert np.allclose(table.mean_se, table["std"] / np.sqrt(table.draws), rtol=1e-5)
    assert (table["std"] > 0).all()


@pytest.mark.parametrize(("n", "d", "orders"), [(150, 50, ORDERS), (150, 4096, (1.0,)), (2000, 50, (1.0, math.inf))])
def test_some_of_it_drawn_again_is_the_same(n, d, orders):
    found = expected(n, d)
    for p in orders:
        drawn = np.array([draw(n, d, p, 0, number) for number in range(draws(d))])
        for name, values in zip(STATISTICS, drawn.T, strict=True):
            mean, spread = found[p, name]
            # Float32 distances err by d units in the last place at most, and each draw by its own.
            assert values.mean() == pytest.approx(mean, rel=1e-4, abs=0.02 * spread)
            assert values.std(ddof=1) == pytest.approx(spread, rel=0.02)


def test_closed_forms_lie_within_the_standard_errors(table):
    """Of n rows the variance about their own mean is smaller by a share of 2/n or so: well within a deviation."""
    far = []
    for d, mine in table[table.n == spaces.N].groupby("d"):
        known = nulls.gaussian(int(d))
        for p, name, value in (
            (1.0, "relative_variance", known.relative_variance_manhattan),
            (2.0, "relative_variance", known.relative_variance),
            (2.0, "relative_variance_squared", known.relative_variance_squared),
        ):
            row = mine[(mine.p == p) & (mine.statistic == name)].iloc[0]
            far.append((row["mean"] - value) / row.mean_se)
    assert len(far) == 3 * table.d.nunique()
    assert np.abs(far).max() < 4.5
    assert np.mean(np.square(far)) < 2


def test_what_is_not_there_is_refused():
    with pytest.raises(
        InvalidInputError, match="no sets of 2000 rows in 51 dimensions; `python -m bench distance-nulls`"
    ):
        expected(2000, 51)


def test_a_missing_table_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(distance_nulls, "RESULTS", tmp_path)
    distance_nulls._table.cache_clear()
    try:
        with pytest.raises(InvalidInputError, match=f"there is no results/{TABLE}"):
            expected(150, 50)
    finally:
        distance_nulls._table.cache_clear()


def test_units_are_dimensions(tmp_path):
    names = [unit.name for unit in distance_nulls.units(Context("distance-nulls", tmp_path))]
    assert names == sorted(names, key=int)
    assert names[:2] == ["50", "100"]
    assert names[-1] == "30925"
