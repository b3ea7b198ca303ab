"""The study of lookup at small sizes, what it refuses, what it predicts, and its figure."""

import math
import time

import numpy as np
import pandas as pd
import pytest
import torch

from bench.figures import lookup as report
from bench.measures.lookup import PASSES, WAYS
from bench.speed.limits import Limit, Limits
from bench.speed.timing import Pace
from bench.studies import lookup as study
from tests.bench import answering


def context_of(out):
    return answering.context_of("lookup", out, quick=True)


@pytest.fixture
def limits(monkeypatch):
    """A machine of 10⁹ operations and 10⁸ bytes a second."""
    rows = [("product", "float32", 1.0), ("copy", "float32", 0.1), ("read", "float32", 0.1)]
    found = Limits(
        tuple(Limit(name, "", precision, study.processors(), rate, rate, rate, "", 3) for name, precision, rate in rows)
    )
    monkeypatch.setattr(study, "limits_of", lambda **_: found)
    return found


@pytest.fixture
def small(monkeypatch, limits):
    monkeypatch.setattr(study, "VOCABULARIES_QUICK", (30, 200))
    monkeypatch.setattr(study, "TOKENS_QUICK", (8, 90))
    monkeypatch.setattr(study, "DIM_QUICK", 6)
    monkeypatch.setattr(study, "BUDGET", 4 * 90 * 200 - 1)
    monkeypatch.setattr(study, "SHORTEST", 1e-5)


def test_a_run_leaves_every_size_and_says_what_it_did_not_run(tmp_path, capsys, small):
    context = context_of(tmp_path)

    assert answering.answer(study.STUDY, context) == ["lookup.csv", "lookup.svg"]
    table = pd.read_csv(tmp_path / "lookup.csv")
    cpu = table[table.device == "cpu"]
    assert len(cpu) == 2 * 2 * len(PASSES) * len(WAYS)
    large = (cpu.vocabulary == 200) & (cpu.tokens == 90)
    left = cpu[large & cpu.way.str.startswith("one-hot")]
    assert len(left) == 4
    assert left.seconds.isna().all()
    assert left.note.str.contains("72,000 bytes, above the budget of 71,999: not run").all()
    assert left.least_seconds.gt(0).all()
    assert cpu[large & cpu.way.str.startswith("gather")].note.str.endswith("not proven here").all()
    assert cpu[large].equal.isna().all()
    ran = cpu[~large]
    assert ran.equal.astype(bool).all()
    assert ran.seconds.gt(0).all()
    assert ran.note.isna().all()
    gather = ran[ran.way == "gather"]
    assert (gather.ratio == 1).all()
    assert (gather.memory_ratio == 1).all()
    one = ran[(ran.way == "one-hot") & (ran.passes == "forward")]
    assert one.memory_ratio.to_numpy() == pytest.approx((one.vocabulary / 6 + 1).to_numpy(), rel=1e-5)
    assert (ran.ratio_low <= ran.ratio).all()
    assert (ran.ratio <= ran.ratio_high).all()
    said = capsys.readouterr().err
    assert "90 tokens, 200 words: no one-hot rows, of 0 MiB" in said
    assert "lookup: A one-hot product gives what a gather gives" in said


def test_every_size_on_every_device_is_a_unit(tmp_path, small, monkeypatch):
    context = context_of(tmp_path)
    monkeypatch.setattr(study, "_has_gpu", lambda: False)
    units = study.units(context)
    assert [each.name for each in units] == [
        f"{device}, {words} words, {tokens} tokens"
        for device in ("cpu", "cuda") for words in (30, 200) for tokens in (8, 90)
    ]  # fmt: skip
    assert {bool(each.absent) for each in units[:4]} == {False}
    assert {each.absent for each in units[4:]} == {"no CUDA device is here"}
    assert study.measure(context, units[4]) == {}
    found, again = ({each.name: study.measure(context, each) for each in order} for order in (units, units[::-1]))
    proven = ["device", "vocabulary", "tokens", "passes", "way", "equal", "gradient_fraction", "peak_bytes", "note"]
    for each in units[:4]:
        one, other = (tables[each.name]["lookup.csv"][proven] for tables in (found, again))
        pd.testing.assert_frame_equal(one, other)


def test_a_gpu_is_asked_for_where_there_is_a_driver(monkeypatch):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(study.ctypes, "CDLL", lambda name: name)
    assert study._has_gpu()
    monkeypatch.setattr(study.ctypes, "CDLL", no_driver)
    assert not study._has_gpu()


def test_limits_are_bytes_and_operations(limits):
    case = study.LookupCase(10, 100, 4, PASSES[0])
    rows, table, one_hot = 10 * 4 * 4, 100 * 4 * 4, 10 * 100 * 4
    assert limits.least_seconds(study.least_work("gather", case), study.processors()) == 2 * rows / 1e8
    work = study.least_work("one-hot", case)
    assert work.products == 2 * 10 * 100 * 4
    assert work.copied == rows + table + 2 * one_hot
    assert study.least_work("one-hot given", case).copied == rows + table + one_hot
    both = study.LookupCase(10, 100, 4, PASSES[1])
    assert study.least_work("gather", both).copied == 3 * rows + table
    assert study.least_work("gather, sparse gradient", both).copied == 3 * rows
    assert study.least_work("one-hot given", both).products == 2 * work.products
    assert case.work("float32").copied == 2 * rows


def test_times_are_of_one_call(monkeypatch):
    # A clock that stands still but for what the calls take.
    taken = []
    monkeypatch.setattr(time, "perf_counter", lambda: sum(taken))
    monkeypatch.setattr(study, "SHORTEST", 0.018)
    times = study.timed([lambda: taken.append(0.005), lambda: taken.append(0.03)], Pace(0.0, least=3), "cpu")
    assert times == pytest.approx(np.tile([0.005, 0.03], (3, 1)))
    # Once to see how short it is, and then four times a round where that is shorter than asked for.
    assert (taken.count(0.005), taken.count(0.03)) == (1 + 3 * 4, 1 + 3)


def test_a_case_proves_itself(monkeypatch):
    case = study.LookupCase(20, 50, 4)
    assert [each.label for each in case.contenders()] == [f"{way} float32" for way in WAYS]
    assert [bool(each.library) for each in case.contenders()] == [False, False, True, True]
    out, gradient = case.contenders()[2].prepare()()
    want, other = case.ours()()
    assert (out == want).all()
    assert gradient.shape == other.shape == (50, 4)
    assert study.LookupCase(20, 50, 4, PASSES[0]).ours()()[1] is None
    assert "vocabulary 50" in case.setting
    proven = study.lookup_equality
    study._proof.cache_clear()
    monkeypatch.setattr(study, "lookup_equality", lambda *a, **k: _Not(proven(*a, **k)))
    with pytest.raises(AssertionError):
        case.ours()
    with pytest.raises(AssertionError):
        case.contenders()[2].prepare()
    study._proof.cache_clear()


class _Not:
    """An equality that does not hold."""

    def __init__(self, found):
        self.holds = not found.holds


def table(equal=True):
    rows = []
    for passes in PASSES:
        for vocabulary in (1024, 4096):
            for way in WAYS:
                ratio = 1.0 if way == "gather" else vocabulary / 64 if way.startswith("one-hot") else 0.5
                rows.append(
                    ("cpu", vocabulary, 64, passes, way, 1e-3, ratio, 0.9 * ratio, ratio, 2 * ratio, equal, 0.3)
                )
    rows.append(("cpu", 49152, 4096, PASSES[0], "one-hot", *[math.nan] * 5, None, math.nan))
    names = ["device", "vocabulary", "tokens", "passes", "way", "seconds", "ratio", "ratio_low", "ratio_high"]
    return pd.DataFrame(rows, columns=[*names, "memory_ratio", "equal", "gradient_fraction"])


def test_the_finding_says_what_was_proven_timed_and_left_out():
    lines = report.finding(table()).split("\n")
    assert lines[0] == "A one-hot product gives what a gather gives, to the bit, in up to 64× its time"
    assert any("at most 0.30 of the bound) at 2 sizes" in line for line in lines)
    assert lines[1] == (
        "forward: one-hot takes 16× (1,024 words, 64 tokens) to 64× (4,096 words, 64 tokens) the time of a gather, "
        "and up to 128× its memory"
    )
    assert lines[-1] == "Not run for memory: 49,152 words, 4,096 tokens"
    assert report.finding(table(equal=False)).startswith("NOT equal")
    figure = report.lookup(table())
    assert len(figure.axes) == 4
    assert all(axes.get_xscale() == axes.get_yscale() == "log" for axes in figure.axes)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["one-hot, 64 tokens"].get_ydata().tolist() == [16, 64]
    assert "one-hot, 4,096 tokens" not in lines
