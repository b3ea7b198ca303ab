"""How measurements grow with rows and workers, in how much memory; and a cost model, held against larger runs."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
import pandas as pd

import geomkit
from bench.figures.scale import finding, scale
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs.generated import generated
from bench.speed.peak_memory import PeakMemory
from geomkit.core.blocks import BlockMap
from geomkit.distributed.api import distribute
from geomkit.distributed.cost import MEASUREMENTS, Job, Machines, Rates, Run, fit
from geomkit.distributed.executors import local_cluster
from geomkit.sampling.estimator import sampled
from geomkit.stats.moments import Moments

GROWTH, WORKERS = "growth", "workers"
"""What two units are called; others are by the measurement whose cost model they fit."""

MEMORY = 2**28
"""Bytes of prepared rows that a worker may hold, in every run here."""

ROUNDS, FITTED_ROUNDS = 3, 2
"""Timings of each case; medians are taken."""

POINTS, POINTS_QUICK = 4000, 300
"""Rows whose pairs stand for all."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Shapes (n, d) of what is measured."""

    grown: tuple[tuple[int, int], ...]
    """Generated on the fly: moments exact, distribution sampled."""
    fitted: dict[str, tuple[tuple[int, int], ...]]
    """For the cost model, with one and with two workers."""
    held_out: dict[str, tuple[tuple[int, int], ...]]
    """Larger than those; with two workers."""
    shared: dict[str, tuple[int, int]]
    """For efficiency: the plain call in one thread, beside one and two workers."""


_PAIRS = ((16_000, 128), (32_000, 128), (64_000, 128), (12_000, 768), (20_000, 768), (32_000, 768))
_PAIRS_QUICK = ((1_600, 16), (3_200, 16), (1_600, 64), (3_200, 64))

FULL = Sizes(
    grown=((100_000, 128), (1_000_000, 128), (10_000_000, 128), (100_000, 768), (1_000_000, 768)),
    fitted={
        "moments": ((65_536, 128), (524_288, 128), (2_097_152, 128), (65_536, 768), (131_072, 768), (262_144, 768)),
        "cosine_stats": _PAIRS,
        "neighbors": _PAIRS,
    },
    held_out={
        "moments": ((10_000_000, 128), (1_000_000, 768)),
        "cosine_stats": ((64_000, 768), (128_000, 128)),
        "neighbors": ((64_000, 768), (128_000, 128)),
    },
    shared={"moments": (1_000_000, 128), "cosine_stats": (48_000, 768), "neighbors": (48_000, 768)},
)

QUICK = Sizes(
    grown=((20_000, 16), (40_000, 16)),
    fitted={"moments": ((16_384, 16), (32_768, 16), (16_384, 64)), "cosine_stats": _PAIRS_QUICK},
    held_out={"moments": ((65_536, 16),), "cosine_stats": ((6_400, 64),)},
    shared={"cosine_stats": (3_000, 64)},
)

CALLS: dict[str, Callable[..., Any]] = {
    "moments": geomkit.moments,
    "cosine_stats": geomkit.cosine_stats,
    "neighbors": lambda x, **how: geomkit.neighbors(x, 10, **how),
}

PLANNED = 10**9, 1024
"""Rows and columns that are planned for, ..."""

MACHINES = 1, 10, 100, 1000
"""... on so many machines, ..."""

WORKER_MEMORY = 2**33
"""... with so many bytes of prepared rows for each worker ..."""

NETWORK = 1.25e9
"""... and so many bytes a second into each: 10 Gbit/s."""


def units(context: Context) -> tuple[Unit, ...]:
    """List growth, workers, and the cost model of each measurement: clusters take as long to start as some of these."""
    sizes = QUICK if context.quick else FULL
    return (Unit(GROWTH), Unit(WORKERS), *(Unit(name) for name in sizes.fitted))


def measure(context: Context, unit: Unit) -> Tables:
    """Measure one of them: scale.csv, scale_workers.csv, or scale_rates.csv and scale_model.csv."""
    sizes = QUICK if context.quick else FULL
    if unit.name == GROWTH:
        with Bench(context.seed, ("moments",), (2,)) as bench:
            return {"scale.csv": grow(bench, sizes, context)}
    if unit.name == WORKERS:
        with Bench(context.seed, tuple(sizes.shared)) as bench:
            return {"scale_workers.csv": share(bench, sizes, context)}
    with Bench(context.seed, (unit.name,)) as bench:
        rates, model = learn(bench, unit.name, sizes, context)
    return {"scale_rates.csv": pd.DataFrame([rates.to_dict()]), "scale_model.csv": model}


def conclude(context: Context) -> None:
    """Plan by the rates that were learned: scale_plan.csv; and say what was found."""
    known = context.read("scale_rates.csv").itertuples(index=False)
    context.table("scale_plan.csv", plan({str(row.measurement): Rates(*row) for row in known}))
    context.say(finding(*_drawn(context)).replace("\n", "; "))


def draw(context: Context) -> None:
    """Draw scale.svg."""
    context.figure("scale", scale(*_drawn(context)))


def _drawn(context: Context) -> list[pd.DataFrame]:
    return [context.read(f"{name}.csv") for name in ("scale", "scale_workers", "scale_model")]


class Bench:
    """Clusters of so many workers that have compiled some measurements, and a place for memory maps; closes them."""

    def __init__(self, seed: int, measurements: tuple[str, ...], crews: tuple[int, ...] = (1, 2)) -> None:
        self.seed, self._measurements, self._crews = seed, measurements, crews
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        import distributed

        # It tells of every step of every worker, unless it is told after it was imported.
        logging.getLogger(distributed.__name__).setLevel(logging.WARNING)
        self._folder = Path(self._opened.enter_context(tempfile.TemporaryDirectory()))
        self.clients = {many: self._opened.enter_context(local_cluster(many, dashboard=False)) for many in self._crews}
        self.pids = {many: list(client.run(os.getpid).values()) for many, client in self.clients.items()}
        # Compiled code is loaded when it is first called.
        for client in self.clients.values():
            for measurement in self._measurements:
                with distribute(generated(20_000, 16, 0, 2**20), client=client) as rows:
                    CALLS[measurement](rows)
        return self

    def __exit__(self, *about: object) -> None:
        self._opened.close()

    def rows(self, measurement: str, shape: tuple[int, int]) -> Any:
        """Rows of a shape: for moments drawn when read, for pairs, whose panels are read again and again, mapped."""
        if measurement == "moments":
            return generated(*shape, self.seed, MEMORY)
        path = self._folder / "{}x{}.npy".format(*shape)
        if not path.exists():
            np.save(path, generated(*shape, self.seed).read(0, shape[0]))
        return geomkit.open_shards(path, max_memory=MEMORY)

    def timed(self, measurement: str, rows: Any, workers: int) -> tuple[float, Any]:
        """Seconds of one call by so many workers, 0 for a plain call in one thread; and what it found."""
        start = time.perf_counter()
        if workers:
            with distribute(rows, client=self.clients[workers]) as spread:
                found = CALLS[measurement](spread)
        else:
            found = CALLS[measurement](rows, threads=1)
        return time.perf_counter() - start, found


def grow(bench: Bench, sizes: Sizes, context: Context) -> pd.DataFrame:
    """Measure generated rows with two workers: moments of all, and the distribution of cosine from some points."""
    rows = []
    points = POINTS_QUICK if context.quick else POINTS
    for n, d in sizes.grown:
        data = generated(n, d, context.seed, MEMORY)
        with distribute(data, client=bench.clients[2]) as spread:
            spread.run(BlockMap([(0, 1), (1, 2)], _Draw(data), (), threads=1))
            start = time.perf_counter()
            spread.run(BlockMap([(at, min(at + 2**16, n)) for at in range(0, n, 2**16)], _Draw(data), (), threads=1))
            drawing = time.perf_counter() - start
        with PeakMemory(bench.pids[2]) as memory:
            seconds, moments = bench.timed("moments", data, 2)
        start = time.perf_counter()
        found = sampled(data, points, seed=context.seed, moments=moments)
        sampling = time.perf_counter() - start
        took = {"seconds": seconds, "drawing_seconds": drawing, "sampling_seconds": sampling}
        rows += [_grown(moments, found[name], points, took, memory) for name in _SHOWN]
    return pd.DataFrame(rows)


_SHOWN = ("mean", "std", "within_fraction_0.1", "quantile_0.01", "quantile_0.5", "quantile_0.99")


class _Draw:
    """Reads a block, and does nothing with it."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __call__(self, start: int, stop: int) -> int:
        """Draw some rows."""
        return len(self.rows.read(start, stop))


def _grown(moments: Moments, found: Any, points: int, took: dict[str, float], memory: PeakMemory) -> dict[str, Any]:
    return {
        "n": moments.n, "d": moments.d, "statistic": found.statistic, "value": found.value, "se": found.se,
        "low": found.ci_low, "high": found.ci_high, "null_mean": found.null_mean, "z": found.z,
        "control": found.control, "sampled": 0 if found.control == "exact" else points, "workers": len(memory.peak),
        **took, "rows_per_second": moments.n / took["seconds"], "worker_bytes_before": max(memory.before.values()),
        "worker_bytes": max(memory.peak.values()), "matrix_bytes": moments.n * moments.d * 4,
    }  # fmt: skip


def share(bench: Bench, sizes: Sizes, context: Context) -> pd.DataFrame:
    """Time the plain call in one thread beside one and two workers, in turn."""
    rows = []
    for measurement, shape in sizes.shared.items():
        data = bench.rows(measurement, shape)
        took = {workers: list[float]() for workers in (0, 1, 2)}
        for at in range(1 if context.quick else ROUNDS):
            for turn in range(3):
                workers = (at + turn) % 3
                took[workers].append(bench.timed(measurement, data, workers)[0])
        for workers, seconds in took.items():
            for beside, other in took.items():
                if workers != beside:
                    ratios = [a / b for a, b in zip(other, seconds, strict=True)]
                    rows.append(
                        {
                            "measurement": measurement, "n": shape[0], "d": shape[1], "workers": workers,
                            "seconds": median(seconds), "beside": beside, "times_as_fast": median(ratios),
                            "low": min(ratios), "high": max(ratios), "rounds": len(seconds),
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def learn(bench: Bench, measurement: str, sizes: Sizes, context: Context) -> tuple[Rates, pd.DataFrame]:
    """Fit the cost model of one measurement to small runs, and hold it against larger ones."""
    rows = list[dict[str, Any]]()
    small = [(shape, workers) for shape in sizes.fitted[measurement] for workers in (1, 2)]
    # In turn with those that are fitted, for what a shared machine can do changes from one minute to the next.
    large = [(shape, 2) for shape in sizes.held_out[measurement]]
    timed = _timed(bench, measurement, [*small, *large], 1 if context.quick else FITTED_ROUNDS)
    runs, held = timed[: len(small)], timed[len(small) :]
    rates = fit(runs)
    for each, is_held in [*((each, False) for each in runs), *((each, True) for each in held)]:
        told = rates.forecast(each.job, each.machines)
        rows.append(
            {
                "measurement": measurement, "n": each.job.n, "d": each.job.d, "workers": each.machines.workers,
                "held_out": is_held, "seconds": each.seconds, "predicted_seconds": told.seconds,
                "relative_error": told.seconds / each.seconds - 1, "bytes_read": told.demand.bytes_read,
                "bytes_returned": told.demand.bytes_returned, "panel_rows": told.demand.panel_rows,
                "tasks": told.demand.stripes or told.demand.branches, "bytes_held": told.demand.bytes_held,
            }
        )  # fmt: skip
    return rates, pd.DataFrame(rows)


def _timed(bench: Bench, measurement: str, cases: Sequence[tuple[tuple[int, int], int]], rounds: int) -> list[Run]:
    """Time cases in turn, and take medians."""
    took = [list[float]() for _ in cases]
    for _ in range(rounds):
        for seconds, (shape, workers) in zip(took, cases, strict=True):
            seconds.append(bench.timed(measurement, bench.rows(measurement, shape), workers)[0])
    return [
        Run(Job(measurement, *shape), Machines(workers=workers, memory=MEMORY), median(seconds))
        for seconds, (shape, workers) in zip(took, cases, strict=True)
    ]


def plan(rates: dict[str, Rates]) -> pd.DataFrame:
    """Forecast what is far out of reach here."""
    rows = []
    for measurement in MEASUREMENTS:
        if measurement not in rates:
            continue
        for machines in MACHINES:
            cluster = Machines(machines, 2, WORKER_MEMORY, NETWORK)
            told = rates[measurement].forecast(Job(measurement, *PLANNED), cluster)
            rows.append(
                {
                    "measurement": measurement, "n": PLANNED[0], "d": PLANNED[1], "machines": machines,
                    "workers": cluster.all, "hours": told.hours, "compute_hours": told.compute_seconds / 3600,
                    "transfer_hours": told.transfer_seconds / 3600, "bound": told.bound,
                    "panel_rows": told.demand.panel_rows, "panels": told.demand.panels,
                    "tasks": told.demand.stripes or told.demand.branches, "bytes_read": told.demand.bytes_read,
                    "bytes_returned": told.demand.bytes_returned, "bytes_held": told.demand.bytes_held,
                    "network": NETWORK,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


STUDY = Study(
    "scale", "throughput against rows, efficiency against workers, memory, and a cost model", measure, units,
    conclude, draw, by_code=False, alone=True,
)  # fmt: skip
