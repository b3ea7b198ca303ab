"""Rates are measured, and the least time follows from them."""

import math

import pytest

from bench.speed import limits
from bench.speed.limits import Limit, Limits, Work
from bench.speed.timing import Pace

ONCE = Pace(seconds=0.0, least=1, most=1)


def known(*rows):
    return Limits(tuple(Limit(*row[:4], row[4], row[4], row[4], "", 1) for row in rows))


MADE = known(
    ("product", "numpy", "float32", 1, 100.0),
    ("product", "torch", "float32", 1, 80.0),
    ("product", "torch", "bfloat16", 1, 50.0),
    ("product", "torch", "bfloat16", 2, 400.0),
    ("product", "torch", "float32", 2, 200.0),
    ("increments", "geomkit", "bfloat16", 1, 2.0),
    ("increments", "geomkit", "float32", 1, 7.0),
    ("read", "torch", "float32", 1, 10.0),
    ("copy", "torch", "float32", 1, 5.0),
)


def test_a_core_multiplies_and_then_counts():
    assert MADE.least_seconds(Work(products=1e11, increments=4e9), 1) == pytest.approx(1 + 2)


def test_memory_works_beside_the_cores():
    assert MADE.least_seconds(Work(products=1e11, read=1e9), 1) == pytest.approx(1.0)
    assert MADE.least_seconds(Work(products=1e9, read=1e10, copied=1e10), 1) == pytest.approx(1 + 2)


def test_bfloat16_rows_may_be_multiplied_in_float32():
    work = Work(products=4e11, precision="bfloat16")
    assert MADE.least_seconds(work, 1) == pytest.approx(4.0)
    assert MADE.least_seconds(work, 2) == pytest.approx(1.0)


def test_share_is_least_over_measured_or_unknown():
    assert limits.share(MADE, Work(products=1e11), 4.0, 1) == pytest.approx(0.25)
    assert limits.share(MADE, None, 4.0, 1) is None


@pytest.mark.parametrize("threads", [1, 2])
def test_every_rate_is_measured(threads):
    rows = [
        *limits._products(threads, 64, ONCE),
        *limits._memory(threads, 2**16, ONCE),
        *limits._increments(threads, 1, ONCE),
    ]
    found = Limits(tuple(rows))
    for limit, precision in (
        ("product", "float32"), ("product", "float64"), ("product", "bfloat16"),
        ("read", "float32"), ("copy", "float32"), ("increments", "bfloat16"), ("increments", "float32"),
    ):  # fmt: skip
        rate = found.rate(limit, precision, threads)
        assert 0 < rate < math.inf
    assert set(found.frame().columns) >= {"limit", "library", "precision", "threads", "value", "unit", "rounds"}


def test_a_process_measures_its_limits_once(monkeypatch):
    limits.known.cache_clear()
    asked = []
    monkeypatch.setattr(limits, "measure", lambda *, quick: asked.append(quick) or MADE)
    assert limits.known(quick=True) is limits.known(quick=True) is MADE
    limits.known(quick=False)
    assert asked == [True, False]
    limits.known.cache_clear()
