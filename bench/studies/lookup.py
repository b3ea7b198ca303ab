"""Reading embeddings by gather against the one-hot product: proven equal, then timed and weighed, size by size."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.figures.lookup import finding
from bench.figures.lookup import lookup as figure_of
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures.lookup import (
    PASSES,
    WAYS,
    LookupEquality,
    batch,
    lookup_equality,
    one_hot_bytes,
    peak_bytes,
    reader,
)
from bench.speed.cases import Contender
from bench.speed.limits import Limits, Work
from bench.speed.limits import known as limits_of
from bench.speed.timing import Pace, Thunk, interleaved, settled, spread
from geomkit.core.threads import processors

VOCABULARIES, VOCABULARIES_QUICK = (1024, 4096, 16_384, 49_152), (256, 1024)
"""The last is SmolLM2's."""

TOKENS, TOKENS_QUICK = (64, 512, 4096), (16, 128)
DIM, DIM_QUICK = 576, 64
BUDGET = 1 << 28
"""Bytes of one-hot rows that are tried: larger ones are predicted from the limits of the machine instead."""

SHORTEST = 2e-3
"""Seconds that a call is repeated for within one timing, so that the clock does not count."""

_SIZE = 4
"""Bytes of a float32."""


_NONE: NDArray[np.float64] = np.empty(0)


@dataclass(frozen=True, slots=True)
class Row:
    """Time and memory of one way at one size."""

    device: str
    vocabulary: int
    tokens: int
    dim: int
    passes: str
    way: str
    seconds: float
    """Median over rounds; NaN where it was not run."""
    low: float
    high: float
    """Least and largest over rounds."""
    ratio: float
    """Median over rounds of its time over that of ``gather`` in the same round."""
    ratio_low: float
    ratio_high: float
    least_seconds: float
    """What the machine's measured limits allow: bytes over bandwidth or operations over rate; NaN on a GPU."""
    peak_bytes: float
    """Most bytes of tensors at once, results included, what was there before the call (given one-hot rows) not."""
    memory_ratio: float
    """Over that of ``gather``."""
    equal: bool | None
    """Outputs proven equal to those of the other ways, gradients equal but for the order of sums."""
    gradient_fraction: float
    """Largest share of the bound on the order of sums that a gradient's difference took up."""
    rounds: int
    note: str = ""


@dataclass(frozen=True)
class LookupCase:
    """Rows of a table for a batch of tokens, forward and backward."""

    n: int
    """Tokens."""
    vocabulary: int
    d: int = DIM
    passes: str = PASSES[1]
    device: str = "cpu"
    seed: int = 0
    data: str = field(default="zipf", init=False)
    kernel: str = field(default="lookup", init=False)

    @property
    def setting(self) -> str:
        """Vocabulary and passes."""
        return f"vocabulary {self.vocabulary} {self.passes}"

    def contenders(self) -> list[Contender]:
        """Gather first; the one-hot product is the peer."""
        return [Contender(way, partial(self.call, way), library=self._library(way)) for way in WAYS]

    def ours(self, precision: str = "float32", threads: int | None = None) -> Thunk:
        """Return the gather, proven equal."""
        del precision, threads
        return self.call(WAYS[0])

    @staticmethod
    def _library(way: str) -> str:
        return "torch" if way.startswith("one-hot") else ""

    def proven(self) -> LookupEquality:
        """Compare all ways on this batch."""
        equality = _proof(self.vocabulary, self.d, self.n, self.seed, self.device)
        assert equality.holds, str(equality)
        return equality

    def call(self, way: str, *, prove: bool = True) -> Thunk:
        """Return a call that has run once, after all ways were proven equal where that fits into memory."""
        if prove and one_hot_bytes(self.n, self.vocabulary, _SIZE) <= BUDGET:
            self.proven()
        table, tokens, upstream = _batch(self.vocabulary, self.d, self.n, self.seed, self.device)
        thunk = reader(way, table, tokens, upstream if self.passes == PASSES[1] else None)
        thunk()
        return thunk

    def work(self, precision: str) -> Work | None:
        """Say what a gather costs at least."""
        del precision
        return least_work(WAYS[0], self)


@cache
def _proof(vocabulary: int, dim: int, tokens: int, seed: int, device: str) -> LookupEquality:
    return lookup_equality(vocabulary, dim, tokens, seed=seed, device=device, budget=BUDGET)


@lru_cache(maxsize=1)
def _batch(vocabulary: int, dim: int, tokens: int, seed: int, device: str) -> tuple[Any, Any, Any]:
    """Draw a batch once for all ways, which change nothing of it."""
    return batch(vocabulary, dim, tokens, seed=seed, device=device)


def least_work(way: str, case: LookupCase) -> Work:
    """Count what a way cannot do without: rows read and written, and for the one-hot product its operations."""
    rows, table = case.n * case.d * _SIZE, case.vocabulary * case.d * _SIZE
    one_hot = case.n * case.vocabulary * _SIZE
    backward = case.passes == PASSES[1]
    if way.startswith("gather"):
        # Backward the rows are read, and with a dense gradient all of the table is written too.
        gradient = (rows if "sparse" in way else rows + table) if backward else 0
        return Work(copied=float(2 * rows + gradient))
    times = 2 if backward else 1
    moved = times * (one_hot + table + rows) + (one_hot if way == "one-hot" else 0)
    return Work(products=times * 2.0 * case.n * case.vocabulary * case.d, copied=float(moved))


def units(context: Context) -> tuple[Unit, ...]:
    """Every size is a unit, a vocabulary and a batch on one device, forward and backward; a GPU may not be here."""
    no_gpu = "" if _has_gpu() else "no CUDA device is here"
    sizes = _sizes(context).items()
    return tuple(Unit(name, absent=no_gpu if device == "cuda" else "") for name, (device, *_) in sizes)


def measure(context: Context, unit: Unit) -> Tables:
    """Prove, time and weigh every way at one size: lookup.csv, a row a way and pass with the fields of `Row`."""
    if unit.absent:
        return {}
    limits = limits_of(quick=True)
    device, vocabulary, tokens = _sizes(context)[unit.name]
    dim = DIM_QUICK if context.quick else DIM
    rows: list[Row] = []
    for passes in PASSES:
        rows += of_case(LookupCase(tokens, vocabulary, dim, passes, device, context.seed), limits, context)
    return {"lookup.csv": pd.DataFrame([asdict(row) for row in rows])}


def conclude(context: Context) -> None:
    """Say what the table says."""
    context.say(finding(context.read("lookup.csv")).replace("\n", "; "))


def draw(context: Context) -> None:
    """Draw lookup.svg."""
    context.figure("lookup", figure_of(context.read("lookup.csv")))


def _sizes(context: Context) -> dict[str, tuple[str, int, int]]:
    """Device, vocabulary and tokens of each unit."""
    vocabularies, tokens = (VOCABULARIES_QUICK, TOKENS_QUICK) if context.quick else (VOCABULARIES, TOKENS)
    return {
        f"{device}, {words} words, {batch} tokens": (device, words, batch)
        for device in ("cpu", "cuda")
        for words in vocabularies
        for batch in tokens
    }


def _has_gpu() -> bool:
    """Say whether torch can use a GPU; it is imported, which takes seconds, where there is a driver alone."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def of_case(case: LookupCase, limits: Limits, context: Context) -> list[Row]:
    """Prove, time and weigh every way at one size; a way that would take too much memory is a row that says so."""
    need = one_hot_bytes(case.n, case.vocabulary, _SIZE)
    fits = need <= BUDGET
    ways = [way for way in WAYS if fits or not way.startswith("one-hot")]
    if not fits:
        context.say(f"{case.n} tokens, {case.vocabulary} words: no one-hot rows, of {need / 2**20:,.0f} MiB")
    proof = case.proven() if fits else None
    thunks = [case.call(way, prove=False) for way in ways]
    peaks = dict(zip(ways, [peak_bytes(thunk, case.device) for thunk in thunks], strict=True))
    pace = Pace(seconds=0.3, least=3, most=5) if context.quick else Pace(seconds=0.8, least=3, most=11)
    times = dict(zip(ways, timed(thunks, pace, case.device).T, strict=True))
    rows = []
    for way in WAYS:
        # Limits are of the processor, not of a GPU.
        least = limits.least_seconds(least_work(way, case), processors()) if case.device == "cpu" else math.nan
        took, ratios = (times[way], times[way] / times[WAYS[0]]) if way in times else (_NONE, _NONE)
        peak = peaks.get(way, math.nan)
        note = f"one-hot rows would take {need:,} bytes, above the budget of {BUDGET:,}: "
        rows.append(
            Row(
                case.device, case.vocabulary, case.n, case.d, case.passes, way, *spread(took), *spread(ratios),
                least_seconds=least, peak_bytes=peak, memory_ratio=peak / peaks[WAYS[0]],
                equal=None if proof is None else proof.holds,
                gradient_fraction=math.nan if proof is None else proof.gradient_fraction, rounds=len(took),
                note="" if fits else note + ("not proven here" if way in times else "not run"),
            )
        )  # fmt: skip
    return rows


def timed(thunks: list[Callable[[], Any]], pace: Pace, device: str) -> NDArray[np.float64]:
    """Seconds of one call of each, (rounds, thunks), interleaved; short calls are repeated within a timing."""
    repeats = []
    for thunk in thunks:
        start = settled(device)
        thunk()
        repeats.append(max(1, math.ceil(SHORTEST / max(settled(device) - start, 1e-6))))

    def often(thunk: Callable[[], Any], times: int) -> Thunk:
        def call() -> None:
            for _ in range(times):
                thunk()
            settled(device)

        return call

    took = interleaved([often(*pair) for pair in zip(thunks, repeats, strict=True)], pace)
    return np.asarray(took / np.array(repeats))


STUDY = Study(
    "lookup", "reading embeddings by gather against the one-hot product", measure, units, conclude, draw,
    by_code=False, alone=True,
)  # fmt: skip
