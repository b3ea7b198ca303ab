"""What this machine can do at most: products, memory, increments; and the least time that a computation can take."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bench.speed.timing import Pace, Thunk, interleaved, spread
from geomkit.core.threads import processors
from geomkit.kernels import Backend, load

if TYPE_CHECKING:
    import pandas as pd

_TILE = 768
_REPEATS = 4
"""Products that a thread makes in a row, so that starting it does not count."""

_PACE = Pace(seconds=3.0, least=5, most=15)
_QUICK = Pace(seconds=0.3, least=3, most=5)


@dataclass(frozen=True, slots=True)
class Work:
    """What a computation cannot do without."""

    products: float = 0.0
    """Multiplications and additions of a matrix product, or as many other operations on vector registers."""
    precision: str = "float32"
    """Of those."""
    increments: float = 0.0
    """Of counters at places that depend on the data."""
    read: float = 0.0
    """Bytes that come from memory at least once."""
    copied: float = 0.0
    """Bytes that go to memory or come from it in a result as large as this."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One measured rate."""

    limit: str
    """``product``, ``read``, ``copy`` or ``increments``."""
    library: str
    precision: str
    threads: int
    value: float
    """Median over rounds."""
    low: float
    high: float
    unit: str
    rounds: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """All measured rates."""

    rows: tuple[Limit, ...]

    def rate(self, limit: str, precision: str, threads: int) -> float:
        """Fastest way that was measured, in operations or bytes a second.

        Rows of bfloat16 can be multiplied in float32 too, where that is faster.
        """
        precisions = {precision, "float32"} if (limit, precision) == ("product", "bfloat16") else {precision}
        return max(
            row.value * 1e9
            for row in self.rows
            if row.limit == limit and row.precision in precisions and row.threads == threads
        )

    def least_seconds(self, work: Work, threads: int) -> float:
        """Least time that the work can take on this machine.

        A core multiplies or counts, and does not do both at once: these times add up. Memory works beside the cores:
        the longer of the two counts.
        """
        cores = 0.0
        if work.products:
            cores += work.products / self.rate("product", work.precision, threads)
        if work.increments:
            cores += work.increments / self.rate("increments", "bfloat16", threads)
        memory = 0.0
        if work.read:
            memory += work.read / self.rate("read", "float32", threads)
        if work.copied:
            memory += work.copied / self.rate("copy", "float32", threads)
        return max(cores, memory)

    def frame(self) -> "pd.DataFrame":
        """Make the table results/limits.csv."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])


def measure(*, quick: bool = False) -> Limits:
    """Measure all limits, with one thread and with as many as this process has processors."""
    pace = _QUICK if quick else _PACE
    rows: list[Limit] = []
    for threads in sorted({1, processors()}):
        rows += _products(threads, 768 if quick else 2048, pace)
        rows += _memory(threads, 2**24 if quick else 2**27, pace)
        rows += _increments(threads, 4 if quick else 64, pace)
    return Limits(tuple(rows))


@cache
def known(*, quick: bool = False) -> Limits:
    """Return the limits of this machine, measured when a process first asks."""
    return measure(quick=quick)


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Let BLAS and torch use so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads, "blas"):
            yield
    finally:
        torch.set_num_threads(before)


def _products(threads: int, side: int, pace: Pace) -> list[Limit]:
    """Square products, by the threads of the library and by one single-threaded product a thread of ours."""
    rows = []
    for precision in ("float32", "float64", "bfloat16"):
        libraries = ("torch",) if precision == "bfloat16" else ("numpy", "torch")
        with limited(threads):
            whole = [_product(library, precision, side) for library in libraries]
            rows += _rates(libraries, precision, threads, 2.0 * side**3, whole, pace, "threads of the library")
        if threads > 1:
            with limited(1):
                apart = [_apart(library, precision, side // 2, threads) for library in libraries]
                operations = _REPEATS * threads * 2.0 * (side // 2) ** 3
                rows += _rates(libraries, precision, threads, operations, apart, pace, "a product a thread")
    return rows


def _rates(
    libraries: Sequence[str],
    precision: str,
    threads: int,
    operations: float,
    ways: Sequence[Thunk],
    pace: Pace,
    note: str,
) -> list[Limit]:
    for way in ways:
        way()
    seconds = interleaved(ways, pace)
    return [
        _limit("product", library, precision, threads, operations / took, "Gflop/s", note)
        for library, took in zip(libraries, seconds.T, strict=True)
    ]


def _product(library: str, precision: str, side: int) -> Thunk:
    """Return a square product into memory that is there."""
    import torch

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, side, side)).astype("float64" if precision == "float64" else "float32")
    if library == "numpy":
        out = np.empty_like(a)
        return lambda: np.matmul(a, b.T, out=out)
    dtype = getattr(torch, precision)
    left, right = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
    into = torch.empty((side, side), dtype=dtype)
    return lambda: torch.mm(left, right.T, out=into)


def _apart(library: str, precision: str, side: int, threads: int) -> Thunk:
    """Return several single-threaded products, each in a thread of ours."""
    import torch

    def alone(product: Thunk) -> Thunk:
        def run() -> None:
            # OpenMP's count belongs to the thread.
            torch.set_num_threads(1)
            for _ in range(_REPEATS):
                product()

        return run

    products = [alone(_product(library, precision, side)) for _ in range(threads)]
    return lambda: _in_threads(products)


def _in_threads(thunks: Sequence[Thunk]) -> None:
    with ThreadPoolExecutor(len(thunks)) as pool:
        for done in [pool.submit(thunk) for thunk in thunks]:
            done.result()


def _memory(threads: int, size: int, pace: Pace) -> list[Limit]:
    """Read an array many times the cache, and copy it; a copy counts the bytes read and the bytes written."""
    import torch

    source, target = torch.ones(size), torch.zeros(size)
    ways: list[Thunk] = [source.sum, lambda: target.copy_(source)]
    with limited(threads):
        for way in ways:
            way()
        seconds = interleaved(ways, pace)
    size_bytes = 4.0 * size
    return [
        _limit("read", "torch", "float32", threads, size_bytes / seconds[:, 0], "GB/s", "sum"),
        _limit("copy", "torch", "float32", threads, 2 * size_bytes / seconds[:, 1], "GB/s", "read and written"),
    ]


def _increments(threads: int, repeats: int, pace: Pace) -> list[Limit]:
    """Count the values of a tile of cosines, again and again: in bfloat16 alone, in float32 with sums and extremes."""
    rng = np.random.default_rng(0)
    tile = (rng.standard_normal((_TILE, _TILE)) / np.sqrt(384)).astype(np.float32)
    bits = (tile.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    ways: dict[str, Callable[[], Thunk]] = {
        "bfloat16": lambda: _repeated(load("count", Backend.CPU), repeats, bits, False, np.zeros((4, 65536), "uint32")),
        "float32": lambda: _repeated(
            load("tally", Backend.CPU),
            repeats,
            *(tile, False, 0.0, np.zeros((4, 65536), "uint32"), np.zeros(4), np.array([np.inf, -np.inf])),
        ),
    }
    rows = []
    for precision, make in ways.items():
        runs = [make() for _ in range(threads)]
        runs[0]()
        seconds = interleaved([lambda runs=runs: _in_threads(runs)], pace)[:, 0]  # type: ignore[misc]
        note = "counts" if precision == "bfloat16" else "counts, power sums and extremes"
        done = float(threads * repeats * tile.size)
        rows.append(_limit("increments", "geomkit", precision, threads, done / seconds, "G/s", note))
    return rows


def _repeated(kernel: Callable[..., Any], repeats: int, *arguments: Any) -> Thunk:
    def run() -> None:
        for _ in range(repeats):
            kernel(*arguments)

    return run


def _limit(
    limit: str, library: str, precision: str, threads: int, rates: NDArray[np.float64], unit: str, note: str
) -> Limit:
    summary = spread(rates / 1e9)
    return Limit(limit, library, precision, threads, *summary, unit, len(rates), note)


def share(limits: Limits, work: Work | None, seconds: float, threads: int) -> float | None:
    """Least time over measured time; None where nothing is known of the least."""
    return None if work is None else limits.least_seconds(work, threads) / seconds


if __name__ == "__main__":
    start = time.perf_counter()
    print(measure().frame().to_string(), f"\n{time.perf_counter() - start:.0f} s")
