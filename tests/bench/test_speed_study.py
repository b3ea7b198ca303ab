"""The study of speed: what it plans, and the files that it leaves."""

from dataclasses import replace

import pandas as pd
import pytest

from bench.speed import comparison, growth, limits
from bench.speed.cases import OURS, ConcentrationCase, CosineCase, KeopsCase, NeighborsCase
from bench.speed.timing import Pace
from bench.studies import speed
from tests.bench.answering import answer, context_of


def kinds(quick):
    return [entry.case for entry in speed.plan(0, quick=quick)]


def test_the_full_plan_has_the_sizes_that_it_promises():
    cases = kinds(quick=False)
    cosine = [case for case in cases if type(case) is CosineCase]
    assert [case.d for case in cosine if case.data == "isotropic"] == list(speed.DIMS)
    assert {case.n for case in cosine} == {16_384}
    assert sum(case.data == "anisotropic" for case in cosine) == 1
    assert [(case.n, case.d) for case in cases if type(case) is NeighborsCase] == [
        (20_000, d) for d in (50, 384, 768, 1536)
    ]
    orders = {case.p for case in cases if isinstance(case, ConcentrationCase) and case.n == 8000}
    assert orders >= {0.5, 1.0, 1.5, 2.0, float("inf")}


@pytest.mark.parametrize("quick", [False, True])
def test_nobody_meets_ours_at_another_size(quick):
    for entry in speed.plan(0, quick=quick):
        names = {each.name for each in entry.case.contenders()}
        assert set(entry.only) <= names
        assert entry.only in {(), (OURS,)}


def test_every_kernel_of_the_full_plan_is_in_a_quick_one():
    assert {case.kernel for case in kinds(quick=True)} == {case.kernel for case in kinds(quick=False)}


@pytest.fixture
def measured():
    """Limits are measured anew, and forgotten."""
    limits.known.cache_clear()
    yield limits.known
    limits.known.cache_clear()


def test_a_run_leaves_limits_contests_threads_and_growth(tmp_path, monkeypatch, capsys, measured):
    rows = [growth.Row("moments", "float64", "memory", "n", 10, 2, "seconds", 0.1)]
    monkeypatch.setattr(limits, "_QUICK", Pace(seconds=0.0, least=1, most=1))
    monkeypatch.setattr(growth, "measure", lambda _, seed: pd.DataFrame(rows).assign(seed=seed))
    monkeypatch.setattr(
        speed,
        "plan",
        lambda seed, *, quick: [speed.Entry(CosineCase(90, 8, seed)), speed.Entry(KeopsCase(90, 8, seed, quick=quick))],
    )
    monkeypatch.setattr(speed, "threaded", lambda seed, *, quick: [(CosineCase(80 + quick, 8, seed), "float32")])
    context = context_of("speed", tmp_path, quick=True)

    assert answer(replace(speed.STUDY, draw=None), context) == ["growth.csv", "limits.csv", "speed.csv"]
    # Shares are of the limits in the table, and those are measured once.
    assert measured.cache_info().misses == 1
    table = pd.read_csv(tmp_path / "speed.csv")
    assert list(table.columns) == [name for name in comparison.Row.__dataclass_fields__ if name != "backend"]
    ours = table[(table.contender == OURS) & (table.n == 90)]
    assert set(ours.statistic) == {"seconds", "million_pairs_per_second", "times_as_fast", "share_of_limit"}
    assert set(ours.beside.dropna()) == {"chunked torch", "bare product"}
    assert set(table[table.n == 81].beside.dropna()) == {"one thread"}
    assert table[table.contender == "KeOps"].statistic.tolist() == ["not measured"]
    assert "KeOps is not measured" in capsys.readouterr().err
    assert {"product", "read", "copy", "increments"} == set(pd.read_csv(tmp_path / "limits.csv").limit)


@pytest.mark.parametrize("quick", [False, True])
def test_every_contest_case_of_threads_and_series_is_a_unit(tmp_path, quick):
    names = [each.name for each in speed.units(context_of("speed", tmp_path, quick=quick))]
    parts = speed.plan(0, quick=quick), speed.threaded(0, quick=quick), growth.plan(quick=quick)
    assert len(names) == len(set(names)) == 1 + sum(len(list(each)) for each in parts)
    assert names[0] == "limits"
    assert sum(name.startswith("threads, ") for name in names) == 6
    assert sum(name.startswith("growth with ") for name in names) == (5 if quick else 11)
