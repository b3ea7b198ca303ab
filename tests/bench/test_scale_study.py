"""The study `scale`: rows drawn when read, the memory of a process, the plan, and what the figure says."""

import copy
import mmap
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import geomkit
from bench.figures.scale import finding, scale
from bench.inputs.generated import generated
from bench.speed.peak_memory import PeakMemory, private_bytes
from bench.studies import scale as study
from bench.studies.scale import MACHINES, NETWORK, PLANNED, plan
from geomkit.distributed.cost import Rates
from geomkit.reporting.style import save
from tests.bench.answering import context_of


def test_generated_rows_are_the_same_however_they_are_read():
    rows = generated(20_000, 6, 3)
    whole = rows.read(0, 20_000)
    assert whole.dtype == np.float32
    assert np.array_equal(copy.deepcopy(rows).read(8_000, 9_000), whole[8_000:9_000])
    assert np.array_equal(rows.take(np.array([19_999, 3, 8_192])), whole[[19_999, 3, 8_192]])
    assert not np.array_equal(whole[:8192], whole[8192 : 2 * 8192])
    assert not np.array_equal(generated(20_000, 6, 4).read(0, 9), whole[:9])
    assert rows.identity == generated(20_000, 6, 3).identity != generated(20_000, 6, 4).identity
    assert np.allclose(whole.mean(axis=0), 0.25, atol=6 * 1.5 / np.sqrt(20_000))
    assert np.allclose(whole.std(axis=0), np.linspace(0.5, 1.5, 6), rtol=0.03)
    assert geomkit.moments(rows).n == 20_000


def test_the_peak_is_seen_after_it_is_over():
    size = 2**27
    with PeakMemory([os.getpid()]) as memory:
        # Pages that are new: an array might get what earlier tests freed and the process kept.
        fresh = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held = np.frombuffer(fresh, np.uint8)
        held += 1
        until = time.monotonic() + 30  # a busy machine may give the thread that looks no turn for a while
        while memory.peak[os.getpid()] - memory.before[os.getpid()] < 0.9 * size and time.monotonic() < until:
            held += 1
        del held
        fresh.close()
    grown = memory.peak[os.getpid()] - memory.before[os.getpid()]
    assert 0.9 * size < grown < 2 * size
    assert private_bytes(os.getpid()) < memory.peak[os.getpid()] - size / 2


def test_a_process_that_is_none_is_an_error():
    with pytest.raises(OSError, match="4194305"):
        private_bytes(4_194_305)


def test_what_is_planned_takes_less_time_on_more_machines():
    rates = {
        "moments": Rates("moments", 0.2, 3e-9, 2e-11, 1e-9, 0.0, 0.0, 0.0, 0.1, 0.0, 9),
        "cosine_stats": Rates("cosine_stats", 0.5, 2e-9, 1e-11, 0.0, 2e-11, 3e-9, 0.0, 0.2, 0.0, 9),
    }
    found = plan(rates)
    assert found.machines.tolist() == [*MACHINES, *MACHINES]
    assert set(found.n) == {PLANNED[0]}
    for _, mine in found.groupby("measurement"):
        assert mine.compute_hours.is_monotonic_decreasing
        assert np.array_equal(mine.hours, np.maximum(mine.compute_hours, mine.transfer_hours))
    pairs = found[found.measurement == "cosine_stats"].iloc[-1]
    work = PLANNED[0] * (PLANNED[0] - 1) / 2 * (PLANNED[1] * 2e-11 + 3e-9)
    assert pairs.compute_hours == pytest.approx(1.2 * work / 2000 / 3600, rel=0.01)
    assert pairs.transfer_hours == pytest.approx(pairs.bytes_read / 1000 / NETWORK / 3600)


GROWN = pd.DataFrame(
    {
        "n": [10**6, 10**6, 10**7], "d": [768, 768, 128], "statistic": ["mean", "std", "mean"], "workers": 2,
        "seconds": [30.0, 30.0, 21.0], "rows_per_second": [1e6 / 30] * 2 + [1e7 / 21], "drawing_seconds": [5.0] * 3,
        "worker_bytes": [2.5e8, 2.5e8, 3.125e8], "matrix_bytes": [3.072e9, 3.072e9, 5.12e9],
    }
)  # fmt: skip

SHARED = pd.DataFrame(
    {
        "measurement": "moments", "n": 1000, "d": 8, "workers": [1, 2, 0], "beside": [0, 1, 1],
        "times_as_fast": [0.95, 1.85, 1.05], "low": [0.9, 1.8, 1.0], "high": [1.0, 1.9, 1.1],
    }
)  # fmt: skip

MODEL = pd.DataFrame(
    {
        "measurement": "moments", "seconds": [1.0, 2.0, 10.0, 20.0], "predicted_seconds": [1.0, 1.0, 9.0, 23.0],
        "held_out": [False, False, True, True], "relative_error": [0.0, -0.5, -0.1, 0.15],
    }
)  # fmt: skip


def test_the_finding_tells_of_the_largest_matrix_and_the_worst_forecast():
    lines = finding(GROWN, SHARED, MODEL).splitlines()
    assert lines[0] == "Moments of 10,000,000 × 128 (5.1 GB) exactly in 21 s; a worker takes 312 MB at most"
    assert lines[1] == "Two workers over one: moments 1.85×"
    assert lines[2] == "Held-out runs are predicted within 15 % (2 of them)"


def test_growth_workers_and_every_measurement_are_units(tmp_path):
    names = [each.name for each in study.units(context_of("scale", tmp_path, quick=True))]
    assert names == ["growth", "workers", "moments", "cosine_stats"]
    names = [each.name for each in study.units(context_of("scale", tmp_path))]
    assert names == ["growth", "workers", "moments", "cosine_stats", "neighbors"]


def test_the_plan_follows_from_the_tables_alone(tmp_path, capsys):
    rates = Rates("moments", 0.2, 3e-9, 2e-11, 1e-9, 0.0, 0.0, 0.0, 0.1, 0.0, 9)
    tables = {"scale": GROWN, "scale_workers": SHARED, "scale_model": MODEL}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    pd.DataFrame([rates.to_dict()]).to_csv(tmp_path / "scale_rates.csv", index=False)
    study.conclude(context_of("scale", tmp_path))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "scale_plan.csv"), plan({"moments": rates}), rtol=1e-6)
    assert "; Two workers over one: moments 1.85×; " in capsys.readouterr().err


class Plain(study.Bench):
    """No clusters: every call is a plain one."""

    def __enter__(self):
        self._folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        return self

    def timed(self, measurement, rows, _):
        return super().timed(measurement, rows, 0)


def test_units_of_workers_and_of_the_cost_model_hold_their_rows_whatever_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "Bench", Plain)
    context = context_of("scale", tmp_path, quick=True)
    units = study.units(context)[1:]
    found, again = ({each.name: study.measure(context, each) for each in order} for order in (units, units[::-1]))
    assert [list(tables) for tables in found.values()] == [
        ["scale_workers.csv"], *[["scale_rates.csv", "scale_model.csv"]] * 2,
    ]  # fmt: skip
    demand = ["measurement", "n", "d", "workers", "held_out", "bytes_read", "bytes_returned", "panel_rows", "tasks"]
    for name, shapes in study.QUICK.fitted.items():
        one, other = (tables[name]["scale_model.csv"] for tables in (found, again))
        pd.testing.assert_frame_equal(one[demand], other[demand])
        assert one.held_out.tolist() == [False] * 2 * len(shapes) + [True]
        assert found[name]["scale_rates.csv"].measurement.tolist() == [name]
    shared = found["workers"]["scale_workers.csv"]
    assert list(zip(shared.workers, shared.beside, strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]


def test_the_figure_shows_every_shape_and_every_held_out_run(tmp_path):
    figure = scale(GROWN, SHARED, MODEL)
    labels = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    assert {"moments, 128 dimensions", "moments, 768 dimensions"} <= set(labels[0])
    assert "moments, held out" in labels[3]
    first, *more = finding(GROWN, SHARED, MODEL).splitlines()
    assert " ".join(figure.get_suptitle().split()) == first
    assert figure.texts[-1].get_text() == "\n".join(more)
    save(figure, tmp_path / "scale.png", "png")
    assert (tmp_path / "scale.png").stat().st_size > 10_000
