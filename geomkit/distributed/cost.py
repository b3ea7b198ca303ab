"""What a measurement of many rows will take: hours, bytes moved and memory, from runs that were timed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.distributed.schedule import branches, leaves, panel_cut
from geomkit.errors import InvalidInputError
from geomkit.pairwise.panels import AT_ONCE
from geomkit.pairwise.tiles import TILE

__all__ = ["MEASUREMENTS", "Demand", "Forecast", "Job", "Machines", "Rates", "Run", "fit"]

MEASUREMENTS = ("moments", "cosine_stats", "neighbors")
"""What can be forecast; all but the first look at every pair."""

COUNTERS = 2**16 * 8
"""Bytes of the counts of a distribution, which every stripe returns."""

CANDIDATE = 16
"""Bytes of a candidate for a nearest other: its value and its number."""


@dataclass(frozen=True, slots=True)
class Job:
    """A measurement of a matrix of a certain shape."""

    measurement: str
    n: int
    d: int
    itemsize: int = 4
    """Bytes of a number as stored."""
    prepared: int = 4
    """Bytes of a number that is ready for products: 2 for bfloat16, 8 for float64."""
    k: int = 10
    """Nearest others of each row, of ``neighbors``."""

    def __post_init__(self) -> None:
        if self.measurement not in MEASUREMENTS:
            msg = f"measurement must be one of {MEASUREMENTS}; got {self.measurement!r}"
            raise InvalidInputError(msg)
        for name, least in (("n", 2), ("d", 1), ("itemsize", 1), ("prepared", 1), ("k", 1)):
            _check_whole(name, getattr(self, name), least)

    @property
    def pairs(self) -> int:
        """Pairs of rows that are looked at."""
        return 0 if self.measurement == "moments" else self.n * (self.n - 1) // 2

    @property
    def candidates(self) -> float:
        """How many become one of the best so far of their row: of rows in any order, k (1 + ln(n / k)) each."""
        if self.measurement != "neighbors":
            return 0.0
        return self.n * self.kept * (1 + math.log(self.n / self.kept))

    @property
    def kept(self) -> int:
        """Candidates that are kept of each row, as `geomkit.neighbors` does in float32."""
        return min(self.k + self.k // 8 + 2, self.n - 1)


@dataclass(frozen=True, slots=True)
class Machines:
    """Workers of one thread each, on machines that are alike."""

    machines: int = 1
    workers: int = 1
    """On each machine."""
    memory: int = 2**30
    """Bytes of prepared rows that a worker may hold."""
    network: float = math.inf
    """Bytes a second that come to each machine, or to the client; infinite where rows are read at memory's speed."""

    def __post_init__(self) -> None:
        for name in ("machines", "workers", "memory"):
            _check_whole(name, getattr(self, name), 1)
        if not self.network > 0:
            msg = f"network must be more than 0 bytes a second; got {self.network!r}"
            raise InvalidInputError(msg)

    @property
    def all(self) -> int:
        """Workers on all machines."""
        return self.machines * self.workers


@dataclass(frozen=True, slots=True)
class Demand:
    """What the schedule asks for; exact, but that a worker who helps another reads one panel more."""

    branches: int
    """Tasks of a sum over rows."""
    panel_rows: int
    panels: int
    stripes: int
    """Tasks of a sweep over pairs."""
    bytes_read: int
    """By all workers: every row once for sums over rows, and panels for pairs."""
    bytes_returned: int
    """To the client, which merges."""
    bytes_held: int
    """Prepared rows of a worker."""

    @classmethod
    def of(cls, job: Job, machines: Machines) -> "Demand":
        """Follow the schedule of `geomkit.distribute`.

        Notes
        -----
        Of P panels with p rows, P (P + 1) / 2 are read in all, for a worker keeps the left panel of its stripes: about
        n² / (2p) rows. What a machine must be sent shrinks with the memory of its workers.
        """
        row, width = job.d * job.itemsize, job.d * job.prepared
        parts = _parts(job, machines)
        if job.measurement == "moments":
            return cls(parts, 0, 0, 0, job.n * row, parts * 16 * job.d**2 + 8 * job.n, 0)
        panel, most = panel_cut(job.n, TILE, max(1, machines.memory // (AT_ONCE * width * TILE)) * TILE, machines.all)
        panels = math.ceil(job.n / panel)
        rights = np.arange(panels, 0, -1, dtype=np.int64)
        tasks = int((-(-rights // most)).sum())
        # The last panel is shorter, and a right one for all.
        rows_read = panel * (panels * (panels - 1) // 2) + panels * (job.n - (panels - 1) * panel)
        returned = tasks * COUNTERS
        if job.measurement == "neighbors":
            # Rows of a stripe: its rights, and its left where that is none of them.
            spans = rows_read + (tasks - panels) * panel
            returned = spans * (job.kept * CANDIDATE + 8)
        held = min(AT_ONCE, panels) * panel * width
        return cls(parts, panel, panels, tasks, job.n * row + rows_read * row, returned, held)


@dataclass(frozen=True, slots=True)
class Run:
    """A measurement that was timed."""

    job: Job
    machines: Machines
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a measurement will take."""

    seconds: float
    compute_seconds: float
    """As the model says; with `seconds`, it is the longer that counts, for rows are read ahead."""
    transfer_seconds: float
    """Least time for the bytes of each machine, or of the client, over the network."""
    demand: Demand

    @property
    def hours(self) -> float:
        """Of wall time."""
        return self.seconds / 3600

    @property
    def bound(self) -> str:
        """What it waits for: ``compute`` or ``network``."""
        return "compute" if self.compute_seconds >= self.transfer_seconds else "network"


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of one worker for each thing there is to do, for one measurement on one kind of machine."""

    measurement: str
    fixed: float
    """Seconds of every run, whatever its size."""
    number: float
    """For each number of the matrix."""
    square: float
    """For each row and pair of columns, of sums over rows."""
    merge: float
    """For each branch and pair of columns, at the client."""
    product: float
    """For each pair of rows and column."""
    pair: float
    """For each pair of rows."""
    candidate: float
    """For each candidate that enters the list of a row, of which there are `Job.candidates`."""
    contention: float
    """By what share each further worker of the same machine slows all of them down."""
    error: float
    """Largest relative error among the runs that were fitted."""
    runs: int
    """How many."""

    def forecast(self, job: Job, machines: Machines) -> Forecast:
        """Say what a measurement will take.

        Raises
        ------
        InvalidInputError
            These are the rates of another measurement.
        """
        if job.measurement != self.measurement:
            msg = f"job must be of {self.measurement}, of which these rates are; got {job.measurement!r}"
            raise InvalidInputError(msg)
        demand = Demand.of(job, machines)
        rates = np.array([self.fixed, self.number, self.square, self.merge, self.product, self.pair, self.candidate])
        compute = float(_terms(job, machines, self.contention) @ rates)
        each = demand.bytes_read / machines.machines
        transfer = max(each, demand.bytes_returned) / machines.network
        return Forecast(max(compute, transfer), compute, transfer, demand)

    def to_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def _parts(job: Job, machines: Machines) -> int:
    return len(branches([False] * len(leaves(job.n, job.d)), job.n, machines.all))


def _terms(job: Job, machines: Machines, contention: float) -> NDArray[np.float64]:
    """Return what multiplies each rate: shares of one worker, slowed down by those beside it."""
    share = (1 + contention * (machines.workers - 1)) / machines.all
    numbers, pairs = float(job.n * job.d), float(job.pairs)
    parts = _parts(job, machines)
    # Of a sum over rows there is no more to share than branches.
    poured = share * math.ceil(parts / machines.all) * machines.all / parts
    squares, merges = numbers * job.d * poured, parts * float(job.d) ** 2
    shared = np.array([pairs * job.d, pairs, job.candidates]) * share
    return np.array([1.0, numbers * poured, squares, merges, *shared])


def fit(runs: Sequence[Run]) -> Rates:
    """Fit rates to runs of one measurement, by least squares of relative errors with no rate below 0.

    Parameters
    ----------
    runs : sequence of Run
        At least 4 that differ in rows and in columns; with one and with several workers on a machine, or contention is
        taken to be 0.

    Returns
    -------
    Rates

    Raises
    ------
    InvalidInputError
        Fewer runs, or runs of several measurements.

    Notes
    -----
    The schedule is known, so what is fitted is time for each number, product, pair, candidate and merge alone.
    Contention is found by minimising what is left over, between 0 (workers do not notice each other) and 1 (two take as
    long as one).
    """
    kinds = {run.job.measurement for run in runs}
    if len(runs) < 4 or len(kinds) != 1:
        msg = f"runs must be at least 4 of one measurement; got {len(runs)} of {sorted(kinds)}"
        raise InvalidInputError(msg)
    from scipy.optimize import minimize_scalar, nnls

    seconds = np.array([run.seconds for run in runs])

    def solved(contention: float) -> tuple[NDArray[np.float64], float]:
        terms = np.array([_terms(run.job, run.machines, contention) for run in runs]) / seconds[:, None]
        scale = np.abs(terms).max(axis=0)
        scale[scale == 0] = 1.0
        rates, left = nnls(terms / scale, np.ones(len(runs)))
        return rates / scale, float(left)

    contention = 0.0
    if any(run.machines.workers > 1 for run in runs):
        found = minimize_scalar(lambda each: solved(each)[1], bounds=(0.0, 1.0), method="bounded")
        contention = float(found.x)
    rates, _ = solved(contention)
    told = np.array([_terms(run.job, run.machines, contention) for run in runs]) @ rates
    error = float(np.abs(told / seconds - 1).max())
    fixed, number, square, merge, product, pair, candidate = rates.tolist()
    return Rates(
        kinds.pop(), fixed, number, square, merge, product, pair, candidate, contention, error, len(runs)
    )  # fmt: skip


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        msg = f"{name} must be a whole number of at least {least}; got {value!r}"
        raise InvalidInputError(msg)
