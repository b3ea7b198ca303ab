"""Exponents are slopes of logarithms; memory is what is anonymous."""

import math
import os
import time

import numpy as np
import pytest

from bench.speed import growth
from bench.speed.growth import Series
from bench.speed.peak_memory import PeakMemory

MIB = 2**20


def test_exponents_of_a_power_law_are_found_and_their_error_covers_noise():
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert growth.fit(sizes, [3 * n**1.5 for n in sizes]) == (pytest.approx(1.5), pytest.approx(0, abs=1e-12))
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        slope, se = growth.fit(sizes, [n**2 * math.exp(0.05 * rng.standard_normal()) for n in sizes])
        inside += abs(slope - 2) <= 3.18 * se  # Student's t with 3 degrees of freedom, 95 %.
    assert 180 <= inside <= 199


def test_no_exponent_of_nothing():
    assert all(map(math.isnan, growth.fit([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])))


def test_a_peak_is_seen_after_it_is_gone():
    with PeakMemory([os.getpid()], step=1e-3) as memory:
        held = np.ones(64 * MIB // 8)
        time.sleep(0.05)
        held = None
    assert held is None
    assert 60 * MIB <= memory.grown <= 80 * MIB


def test_pages_of_a_map_do_not_count(tmp_path):
    path = tmp_path / "rows.npy"
    growth._write(path, 100_000, 64, seed=0)
    mapped = np.load(path, mmap_mode="r")
    assert mapped.shape == (100_000, 64)
    with PeakMemory([os.getpid()], step=1e-3) as memory:
        mapped.sum(dtype=np.float64)
    assert memory.grown < 8 * MIB
    assert np.array_equal(mapped[:3], np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32))


def test_a_series_in_a_process_of_its_own():
    series = Series("moments", "float64", "n", ((300, 8), (600, 8), (1200, 8)))
    rows = growth._in_a_process(series, seed=1)
    assert [(row.n, row.statistic) for row in rows] == [
        (n, statistic) for n in (300, 600, 1200) for statistic in ("seconds", "peak_mib")
    ]
    assert all(row.value > 0 for row in rows if row.statistic == "seconds")
    fitted = list(growth.exponents(series, rows))
    assert [row.statistic for row in fitted] == ["exponent of seconds", "exponent of peak_mib"]


def test_a_map_is_written_for_its_series_and_is_not_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(growth.tempfile, "tempdir", str(tmp_path))
    table = growth.measure(Series("moments", "float64", "n", ((300, 8), (600, 8), (1200, 8)), growth.MAP), seed=1)
    assert set(table.source) == {"memory map"}
    assert table.statistic.tolist()[-2:] == ["exponent of seconds", "exponent of peak_mib"]
    assert table.n.isna().tolist() == [False] * 6 + [True] * 2
    assert not list(tmp_path.iterdir())


def test_the_plan_names_calls_that_exist():
    for series in growth.plan(quick=True):
        assert (series.kernel, series.precision) in growth.CALLS
        sizes = [n if series.against == "n" else d for n, d in series.sizes]
        assert sizes == sorted(set(sizes))
        assert len(sizes) >= 3
