"""How time and memory grow with the number of rows and with their dimension, each series in a process of its own.

Memory is what a call holds beyond its input at its peak: the greatest ``RssAnon`` of ``/proc/self/status`` seen by a
thread that reads it every millisecond, less that before the call. ``RssAnon`` leaves out file pages, so that a memory
map counts for nothing however much of it happens to be in memory, which the kernel's own high-water mark (``VmHWM``)
would not tell apart. A peak shorter than the sampling is missed only as far as memory can be filled within it: some
MiB. A call at the largest size comes first, which compiles code, starts threads and chooses the matrix product that all
sizes then use. The allocator is told to return large blocks at once (``MALLOC_MMAP_THRESHOLD_``), so that memory that
an earlier call gave back is not there for a later one.
"""

import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import geomkit
from bench.speed.peak_memory import PeakMemory
from bench.speed.vectors import isotropic

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
MIB = 2.0**20
MEMORY, MAP = "memory", "memory map"
TIMED = 3
"""Calls of which the median is taken; others are watched for memory ..."""
WATCHED = 0.1
"""... for so many seconds, since a short one would fall between two looks."""

CALLS: dict[tuple[str, str], Callable[[Any], object]] = {
    ("cosine_stats", "float32"): geomkit.cosine_stats,
    ("cosine_stats", "bfloat16"): lambda x: geomkit.cosine_stats(x, precision="bfloat16"),
    ("neighbors", "float32"): lambda x: geomkit.neighbors(x, 10),
    ("moments", "float64"): geomkit.moments,
    ("concentration p=1", "float32"): lambda x: geomkit.concentration(x, p=1.0),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One call at several sizes, of which one grows."""

    kernel: str
    precision: str
    against: str
    """``n`` or ``d``."""
    sizes: tuple[tuple[int, int], ...]
    """(n, d), ascending."""
    source: str = MEMORY
    """`MEMORY`, `MAP`, or the ``.npy`` file whose first rows are read through a memory map."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number about one size, or the fitted exponent of a series."""

    kernel: str
    precision: str
    source: str
    """`MEMORY` or `MAP`."""
    against: str
    n: int | None
    d: int | None
    statistic: str
    """``seconds``, ``peak_mib``, or ``exponent of`` one of them: the slope of its logarithm."""
    value: float
    se: float | None = None
    """Standard error of the slope, from what the fit leaves."""


def plan(*, quick: bool) -> Iterator[Series]:
    """List all series, smallest size first."""
    shrink = 16 if quick else 1
    rows = tuple(n // shrink for n in (4096, 8192, 16_384, 32_768))
    dims = (64, 128, 256) if quick else (128, 256, 512, 1024, 2048)
    for kernel, precision in [("cosine_stats", "float32"), ("moments", "float64")] if quick else CALLS:
        few = rows[:-1] if kernel.startswith("concentration") else rows
        many = tuple(8 * n for n in few) if kernel == "moments" else few
        yield Series(kernel, precision, "n", tuple((n, 64 if quick else 256) for n in many))
        n = 8192 // shrink // (4 if kernel.startswith("concentration") else 1)
        yield Series(kernel, precision, "d", tuple((n * (4 if kernel == "moments" else 1), d) for d in dims))
    sizes = (2_000, 5_000, 10_000) if quick else (100_000, 200_000, 500_000, 1_000_000, 2_000_000)
    yield Series("moments", "float64", "n", tuple((n, 128) for n in sizes), MAP)


def measure(series: Series, seed: int) -> "pd.DataFrame":
    """Measure a series and fit its exponents: rows of the table results/growth.csv."""
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="geomkit-growth-") as folder:
        timed = series
        if series.source == MAP:
            path = Path(folder) / "rows.npy"
            _write(path, *series.sizes[-1], seed)
            timed = replace(series, source=str(path))
        rows_of_sizes = _in_a_process(timed, seed)
    rows = [*rows_of_sizes, *exponents(series, rows_of_sizes)]
    return pd.DataFrame([asdict(row) for row in rows]).astype({"n": "Int64", "d": "Int64"})


def exponents(series: Series, rows: list[Row]) -> Iterator[Row]:
    """Fit ``log value = a + b log size`` by least squares, for time and for memory."""
    for statistic in ("seconds", "peak_mib"):
        mine = [row for row in rows if row.statistic == statistic]
        sizes = [float((row.n if series.against == "n" else row.d) or 0) for row in mine]
        slope, se = fit(sizes, [row.value for row in mine])
        yield Row(*_about(series), None, None, f"exponent of {statistic}", slope, se)


def fit(sizes: list[float], values: list[float]) -> tuple[float, float]:
    """Slope of the logarithms, and its standard error from the residuals (NaN for fewer than three points).

    NaN where a value is not positive: memory can grow by nothing at all.
    """
    if min(values) <= 0:
        return math.nan, math.nan
    x, y = np.log(sizes), np.log(values)
    x = x - x.mean()
    slope = float(x @ y / (x @ x))
    left = y - y.mean() - slope * x
    se = math.sqrt(float(left @ left) / (len(x) - 2) / float(x @ x)) if len(x) > 2 else math.nan
    return slope, se


def _about(series: Series) -> tuple[str, str, str, str]:
    source = MEMORY if series.source == MEMORY else MAP
    return series.kernel, series.precision, source, series.against


def _write(path: Path, n: int, d: int, seed: int) -> None:
    """Write normal rows to a .npy file, some at a time."""
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (n, d)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, 100_000):
            rng.standard_normal((min(100_000, n - start), d), dtype=np.float32).tofile(file)


def _in_a_process(series: Series, seed: int) -> list[Row]:
    held = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_TRIM_THRESHOLD_": str(2**17)}
    done = subprocess.run(
        [sys.executable, "-m", "bench.speed.growth", json.dumps(asdict(series) | {"seed": seed})],
        cwd=ROOT,
        env=os.environ | held,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=1200,
    )
    return [Row(**row) for row in json.loads(done.stdout)]


def watch(series: Series, seed: int) -> Iterator[Row]:
    """Time and watch a series in this process."""
    call = CALLS[series.kernel, series.precision]
    call(_input(series, *series.sizes[-1], seed))
    for n, d in series.sizes:
        x = _input(series, n, d, seed)
        took = []
        for _ in range(TIMED):
            start = time.perf_counter()
            call(x)
            took.append(time.perf_counter() - start)
        gc.collect()
        with PeakMemory([os.getpid()], step=1e-3) as memory:
            until = time.perf_counter() + WATCHED
            call(x)
            while time.perf_counter() < until:
                call(x)
        yield Row(*_about(series), n, d, "seconds", float(np.median(took)))
        yield Row(*_about(series), n, d, "peak_mib", memory.grown / MIB)


def _input(series: Series, n: int, d: int, seed: int) -> Any:
    if series.source == MEMORY:
        return isotropic(n, d, seed)
    return np.load(series.source, mmap_mode="r")[:n]


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    seed = asked.pop("seed")
    asked["sizes"] = tuple(tuple(size) for size in asked["sizes"])
    print(json.dumps([asdict(row) for row in watch(Series(**asked), seed)]))
