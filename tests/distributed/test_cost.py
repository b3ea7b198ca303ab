"""The cost model: what it says the schedule asks for is what a run does, and rates are found again."""

import itertools

import numpy as np
import pytest

import geomkit
from geomkit.distributed import schedule
from geomkit.distributed.api import distribute
from geomkit.distributed.cost import MEASUREMENTS, Demand, Job, Machines, Rates, Run, fit
from geomkit.distributed.executors import LocalExecutor
from geomkit.errors import InvalidInputError
from geomkit.pairwise.tiles import TILE

CALLS = {"moments": geomkit.moments, "cosine_stats": geomkit.cosine_stats, "neighbors": geomkit.neighbors}


class Listening(LocalExecutor):
    """Does tasks like one of several workers, and keeps what they return."""

    def __init__(self, workers):
        super().__init__(1)
        self.workers, self.returned, self.tasks = workers, 0, []

    def run(self, job, tasks, plan):
        for number, found in super().run(job, tasks, plan):
            states = found if isinstance(found, list) else [found.sums]
            if type(job).__name__ in {"SweepJob", "RowSumsJob"}:
                self.returned += sum(array.nbytes for state in states for array in state.values())
                self.returned += getattr(found, "norms", np.empty(0)).nbytes
                self.tasks.append(dict(tasks)[number])
            yield number, found


@pytest.mark.parametrize("measurement", MEASUREMENTS)
@pytest.mark.parametrize("workers", [1, 5])
def test_a_demand_is_what_a_run_does(measurement, workers):
    n, d, memory = 20_000, 16, 2**20
    listening = Listening(workers)
    x = np.random.default_rng(0).standard_normal((n, d)).astype("float32")
    how = {"k": 10} if measurement == "neighbors" else {}
    rows = distribute(x, max_memory=memory)
    rows.executor = listening
    CALLS[measurement](rows, **how)
    told = Demand.of(Job(measurement, n, d), Machines(workers=workers, memory=memory))
    poured = [task for task in listening.tasks if isinstance(task, list)]
    counted = [task for task in listening.tasks if isinstance(task, schedule.Stripe)]
    assert len(counted) == told.stripes
    if measurement == "moments":
        assert len(poured) == told.branches
    else:
        assert max(stop - start for task in counted for start, stop in task.rights) == told.panel_rows
        assert 3 * told.panel_rows * d * 4 <= memory
    assert told.bytes_returned == pytest.approx(listening.returned, rel=0.02)


@pytest.mark.parametrize("workers", [1, 3, 40])
@pytest.mark.parametrize("n", [500, TILE * 30, 100_000, 123_457])
def test_bytes_read_are_those_of_the_panels_of_every_stripe(n, workers):
    job, machines = Job("cosine_stats", n, 32, itemsize=2), Machines(workers=workers, memory=2**20)
    told = Demand.of(job, machines)
    room = 2**20 // (3 * 32 * 4 * TILE) * TILE
    stripes = schedule.stripes(n, *schedule.panel_cut(n, TILE, room, workers))
    rows = sum(stop - start for stripe in stripes for start, stop in stripe.rights)
    assert told.bytes_read == (n + rows) * 32 * 2
    assert (told.stripes, told.panels) == (len(stripes), len({stripe.left for stripe in stripes}))


def test_more_memory_is_less_to_read_and_more_workers_are_more():
    job = Job("cosine_stats", 10**8, 1024)
    reads = [Demand.of(job, Machines(10, 2, memory)).bytes_read for memory in (2**30, 2**32, 2**34)]
    assert reads == sorted(reads, reverse=True)
    assert reads[0] / reads[1] == pytest.approx(4, rel=0.05)
    assert Demand.of(job, Machines(1000, 2, 2**34)).bytes_read > reads[2]
    assert Demand.of(job, Machines(10, 2, 2**32)).bytes_held <= 2**32


TRUE = {
    "moments": Rates("moments", 0.2, 3e-9, 2e-11, 1e-9, 0.0, 0.0, 0.0, 0.1, 0.0, 0),
    "cosine_stats": Rates("cosine_stats", 0.5, 2e-9, 1e-11, 0.0, 2e-11, 3e-9, 0.0, 0.2, 0.0, 0),
    "neighbors": Rates("neighbors", 0.5, 2e-9, 1e-11, 0.0, 2e-11, 1e-9, 4e-7, 0.2, 0.0, 0),
}


@pytest.mark.parametrize("measurement", TRUE)
def test_rates_are_found_again(measurement):
    true = TRUE[measurement]
    runs = [
        Run(job, machines, true.forecast(job, machines).seconds)
        for n, d, workers in itertools.product((9_000, 40_000, 200_000), (32, 128, 700), (1, 2, 4))
        for job, machines in [(Job(measurement, n, d), Machines(workers=workers))]
    ]
    found = fit(runs)
    assert found.error < 1e-4
    assert found.runs == len(runs)
    assert found.contention == pytest.approx(true.contention, rel=1e-3)
    job, machines = Job(measurement, 10**7, 256), Machines(3, 2)
    want = true.forecast(job, machines)
    assert found.forecast(job, machines).seconds == pytest.approx(want.seconds, rel=1e-3)
    # The same rates with noise: relative errors are what is made small, and what is told of them.
    rng = np.random.default_rng(0)
    noisy = [Run(run.job, run.machines, run.seconds * rng.uniform(0.9, 1.1)) for run in runs]
    again = fit(noisy)
    errors = [abs(again.forecast(run.job, run.machines).seconds / run.seconds - 1) for run in noisy]
    assert again.error == pytest.approx(max(errors))
    assert 0.02 < again.error < 0.2


def test_candidates_are_those_that_enter_the_list_of_a_row():
    n, job = 4000, Job("neighbors", 4000, 3, k=8)
    draw = np.random.default_rng(0)
    entered = 0
    for _ in range(20):
        best = []
        for value in draw.standard_normal(n):
            if len(best) < job.kept or value > best[0]:
                entered += 1
                best = sorted([*best, value])[-job.kept :]
    assert job.candidates == pytest.approx(n * entered / 20, rel=0.05)
    assert Job("moments", n, 3).candidates == 0


def test_one_worker_says_nothing_of_contention():
    true = TRUE["cosine_stats"]
    runs = [
        Run(job, Machines(), true.forecast(job, Machines()).seconds)
        for job in (Job("cosine_stats", n, d) for n in (9_000, 40_000, 200_000) for d in (32, 128, 700))
    ]
    assert fit(runs).contention == 0


def test_of_workers_on_one_machine_each_slows_the_others_and_machines_do_not():
    rates, job = TRUE["cosine_stats"], Job("cosine_stats", 10**6, 768)
    alone, apart, together = (
        rates.forecast(job, Machines(*many)).seconds - rates.fixed for many in ((1, 1), (2, 1), (1, 2))
    )
    assert alone / together == pytest.approx(2 / 1.2, rel=0.02)
    assert alone / apart == pytest.approx(2, rel=0.02)


def test_a_slow_network_is_what_a_run_waits_for():
    rates, job = TRUE["cosine_stats"], Job("cosine_stats", 10**7, 1024)
    fast, slow = (rates.forecast(job, Machines(10, 2, 2**28, network)) for network in (1e12, 1e6))
    assert (fast.bound, slow.bound) == ("compute", "network")
    assert fast.seconds == fast.compute_seconds
    assert slow.seconds == slow.transfer_seconds == slow.demand.bytes_read / 10 / 1e6
    assert slow.hours == slow.seconds / 3600
    client = rates.forecast(Job("cosine_stats", 10**6, 8), Machines(1000, 2, 2**20, 1e6))
    assert client.transfer_seconds == client.demand.bytes_returned / 1e6


def test_more_workers_than_leaves_are_no_help():
    rates, job = TRUE["moments"], Job("moments", 4 * 2**13, 512)
    few, many = (rates.forecast(job, Machines(machines)).seconds for machines in (4, 100))
    assert many == pytest.approx(few)
    assert rates.forecast(job, Machines(3)).seconds == pytest.approx(rates.forecast(job, Machines(2)).seconds)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Job("median", 10, 3), r"measurement must be one of .*; got 'median'"),
        (lambda: Job("moments", 1, 3), r"n must be a whole number of at least 2; got 1"),
        (lambda: Job("moments", 10, 0), r"d must be a whole number of at least 1; got 0"),
        (lambda: Job("moments", 1e9, 10), r"n must be a whole number of at least 2; got 1000000000.0"),
        (lambda: Job("neighbors", 10, 3, k=0), r"k must be a whole number of at least 1; got 0"),
        (lambda: Machines(0), r"machines must be a whole number of at least 1; got 0"),
        (lambda: Machines(workers=True), r"workers must be a whole number of at least 1; got True"),
        (lambda: Machines(memory=-1), r"memory must be a whole number of at least 1; got -1"),
        (lambda: Machines(network=0.0), r"network must be more than 0 bytes a second; got 0.0"),
        (lambda: fit([]), r"runs must be at least 4 of one measurement; got 0 of \[\]"),
        (
            lambda: fit([Run(Job(name, 9, 3), Machines(), 1.0) for name in MEASUREMENTS * 2]),
            r"runs must be at least 4 of one measurement; got 6 of \['cosine_stats', 'moments', 'neighbors'\]",
        ),
        (
            lambda: TRUE["moments"].forecast(Job("neighbors", 9, 3), Machines()),
            r"job must be of moments, of which these rates are; got 'neighbors'",
        ),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(InvalidInputError, match=said):
        make()
