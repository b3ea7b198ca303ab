"""Runs studies: their units side by side, one process a core, and what must be alone after everything else.

A unit that fails is told at the end and stops nothing but its own study and those that read it. Whatever was measured
is kept, so that the next run takes it up.
"""

import contextlib
import io
import math
import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Self

from bench.harness import store
from bench.harness.code_keys import Code
from bench.harness.finish import finish
from bench.harness.plan import Plan, Planned, planned
from bench.harness.progress import Progress
from bench.harness.settle import settle
from bench.harness.study import Context, Study
from geomkit.errors import GeomkitError, InvalidInputError

__all__ = ["Failure", "execute", "in_order"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be done."""

    study: str
    unit: str
    why: str
    refused: bool
    """Whether something that it needs is missing or was refused, rather than that the code failed."""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a process has to say of a task."""

    said: str = ""
    failure: Failure | None = None


def in_order(studies: Sequence[Study]) -> list[Study]:
    """Put each study behind those that it reads."""
    asked = {study.name: study for study in studies}
    out: dict[str, Study] = {}

    def put(study: Study) -> None:
        for name in study.reads:
            if name in asked and name not in out:
                put(asked[name])
        out.setdefault(study.name, study)

    for study in studies:
        put(study)
    return list(out.values())


def execute(
    studies: Sequence[Study],
    context_of: Callable[[str], Context],
    *,
    jobs: int = 0,
    force: bool = False,
) -> tuple[list[str], list[Failure]]:
    """Do what is stale of some studies.

    Parameters
    ----------
    studies : sequence of Study
    context_of : callable
        Makes the context of a study by its name.
    jobs : int
        Processes beside this one, each on a core of its own. 0 does everything here, with all cores.
    force : bool
        Measure units again although they are current.

    Returns
    -------
    list of str, list of Failure
        Studies of which something was done, and what failed.
    """
    run = _Run(in_order(studies), context_of, force=force)
    with Progress() as run.progress:
        for alone in (False, True):
            run.go(alone=alone, jobs=jobs)
    return run.done, run.failures


class _Run:
    """The state of a run: which studies wait, which units, and what came of them."""

    def __init__(self, studies: list[Study], context_of: Callable[[str], Context], *, force: bool) -> None:
        self.studies, self.context_of, self.force = studies, context_of, force
        self.code = Code()
        self.progress: Progress
        self.waiting = list(studies)
        self.open: dict[str, list[Planned]] = {}
        """Units of each study in work that are not measured yet."""
        self.plans: dict[str, Plan] = {}
        self.queue: list[tuple[str, Planned]] = []
        self.done: list[str] = []
        self.failures: list[Failure] = []
        self.finished: set[str] = set()
        self.making: set[str] = set()
        """What units that run now make for others; and what is made."""
        self.made = {""}

    def go(self, *, alone: bool, jobs: int) -> None:
        """Do all studies but those that must be alone, or these too, one process at a time and with all cores."""
        self._admit(alone=alone)
        if not self.open:
            return
        if jobs == 0:
            while self.open:
                self._finish_ready(_Here(), alone=alone)
                if (task := self._next()) is not None:
                    self._measured(task, _measure(self.context_of(task[0]), self._study(task[0]), task[1]))
            return
        with _Pool(1 if alone else jobs, pinned=not alone) as pool:
            self._in_pool(pool, alone=alone)

    def _in_pool(self, pool: "_Pool", *, alone: bool) -> None:
        running: dict[Future[_Outcome], tuple[str, Planned]] = {}
        while self.open:
            self._finish_ready(pool, alone=alone)
            while len(running) < pool.size and (task := self._next()) is not None:
                study = self._study(task[0])
                running[pool.submit(_measure, self.context_of(study.name), study, task[1])] = task
            if not running:
                continue
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            if any(isinstance(each.exception(), BrokenProcessPool) for each in ended):
                # A process that is killed takes the pool with it; each that ran gets a second try, by itself.
                lost = list(running.values())
                running.clear()
                pool.restart()
                for name, unit in lost:
                    why = "its process was killed, twice; perhaps there is too little memory"
                    outcome = pool.alone(_measure, self.context_of(name), self._study(name), unit)
                    self._measured((name, unit), outcome or _Outcome(failure=Failure(name, unit.unit.name, why, False)))
                continue
            for each in ended:
                self._measured(running.pop(each), each.result())

    def _study(self, name: str) -> Study:
        return next(study for study in self.studies if study.name == name)

    def _admit(self, *, alone: bool) -> None:
        """Plan the studies whose turn it is: those they read are written, or are not asked for."""
        asked = {study.name for study in self.studies}
        for study in list(self.waiting):
            if study.alone and not alone:
                continue
            unmet = [name for name in study.reads if name in asked and name not in self.finished]
            failed = [name for name in unmet if any(each.study == name for each in self.failures)]
            if failed:
                self.waiting.remove(study)
                why = f"not run, because {', '.join(failed)} failed, which it reads"
                self.failures.append(Failure(study.name, "", why, refused=True))
                self._admit(alone=alone)
                return
            if unmet:
                continue
            self.waiting.remove(study)
            try:
                plan = planned(study, self.context_of(study.name), self.code)
            except (GeomkitError, OSError) as why:
                self.failures.append(Failure(study.name, "", str(why), refused=True))
                continue
            if plan.trouble:
                self.progress.say(f"{study.name}: {plan.trouble}")
            if self.force:
                plan = replace(plan, units=tuple(replace(each, state="stale", why="asked for") for each in plan.units))
            pending = plan.pending
            if not pending and not plan.undone:
                self.progress.say(f"{study.name}: up to date")
                self.finished.add(study.name)
                self._admit(alone=alone)
                return
            self.plans[study.name], self.open[study.name] = plan, pending
            self.progress.add(study.name, plan)
            self.queue += [(study.name, each) for each in pending]

    def _next(self) -> tuple[str, Planned] | None:
        """Take the unit from the queue that took longest the last time; one that was never timed may take longer.

        A unit that shares what another is just making would wait for it on a core that has better things to do.
        """
        ready = [task for task in self.queue if task[1].unit.shares not in self.making]
        if not ready:
            return None
        task = max(ready, key=lambda each: math.inf if each[1].seconds is None else each[1].seconds)
        self.queue.remove(task)
        if task[1].unit.shares not in self.made:
            self.making.add(task[1].unit.shares)
        if self.force:
            store.forget(task[0], task[1].unit.name, task[1].key)
        return task

    def _measured(self, task: tuple[str, Planned], outcome: _Outcome) -> None:
        name, unit = task
        self.making.discard(unit.unit.shares)
        self.made.add(unit.unit.shares)
        if outcome.said:
            self.progress.say(outcome.said)
        self.progress.measured(name, unit)
        self.open[name].remove(unit)
        if outcome.failure is not None:
            self.failures.append(outcome.failure)
            self.progress.say(f"{name}: {unit.unit.name} failed: {outcome.failure.why}")

    def _finish_ready(self, pool: "_Pool | _Here", *, alone: bool) -> None:
        """Write the files of studies whose units are all measured."""
        for name in [name for name, units in self.open.items() if not units]:
            plan = self.plans[name]
            del self.open[name]
            failed = [each for each in self.failures if each.study == name]
            if not failed:
                study = plan.study
                outcome = pool.alone(_finish, self.context_of(name), study, self.force)
                if outcome is None:
                    why = "the process that writes its files was killed"
                    outcome = _Outcome(failure=Failure(name, "", why, refused=False))
                if outcome.said:
                    self.progress.say(outcome.said)
                if outcome.failure is None:
                    self.finished.add(name)
                    self.done.append(name)
                else:
                    self.failures.append(outcome.failure)
            self.progress.finished(name)
            self._admit(alone=alone)


class _Here:
    """Does tasks in this process."""

    size = 1

    def alone(self, task: Callable[..., _Outcome], *given: object) -> _Outcome | None:
        return task(*given)


class _Pool:
    """Processes, each on a core of its own where `pinned`."""

    def __init__(self, size: int, *, pinned: bool) -> None:
        self.size, self._pinned = size, pinned

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, *stopped: object) -> None:
        # A run that is interrupted waits for nobody.
        if stopped[0] is not None:
            for process in list(self._pool._processes.values()):  # noqa: SLF001 - there is no public way
                process.kill()
        self._pool.shutdown(wait=stopped[0] is None, cancel_futures=True)

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        places = spawn.Queue()
        for at in range(self.size):
            places.put(cores[at % len(cores)] if cores and self._pinned else None)
        self._pool = ProcessPoolExecutor(self.size, mp_context=spawn, initializer=settle, initargs=(places,))

    def submit(self, task: Callable[..., _Outcome], *given: object) -> Future[_Outcome]:
        return self._pool.submit(task, *given)

    def restart(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._start()

    def alone(self, task: Callable[..., _Outcome], *given: object) -> _Outcome | None:
        """Do one task in the pool and wait for it; None where its process was killed."""
        try:
            return self._pool.submit(task, *given).result()
        except BrokenProcessPool:
            self.restart()
            return None


def _measure(context: Context, study: Study, unit: Planned) -> _Outcome:
    """Measure one unit and keep it."""
    measure, name = study.measure, unit.unit.name
    assert measure is not None
    return _told(context, name, lambda: store.keep(study.name, name, unit.key, lambda: measure(context, unit.unit)))


def _finish(context: Context, study: Study, force: bool) -> _Outcome:
    """Write the files of a study, planned anew: its units are kept by now."""

    def work() -> None:
        plan = planned(study, context, Code())
        if plan.pending:
            msg = "its code, data or settings changed while it was measured; run it again"
            raise InvalidInputError(msg)
        if force:
            plan = replace(plan, units=tuple(replace(each, state="kept") for each in plan.units))
        files = finish(plan)
        context.say(f"{len(files)} files")

    return _told(context, "", work)


def _told(context: Context, unit: str, work: Callable[[], object]) -> _Outcome:
    """Do something, and return what it said and why it failed."""
    said = io.StringIO()
    failure = None
    with contextlib.redirect_stderr(said):
        try:
            work()
        except (GeomkitError, OSError) as why:
            failure = Failure(context.study, unit, " ".join(str(why).split()), refused=True)
        except Exception as why:  # whatever it is, others go on
            text = f"{type(why).__name__}: {' '.join(str(why).split())}"
            failure = Failure(context.study, unit, text, refused=False, trace=traceback.format_exc())
    return _Outcome(said.getvalue().rstrip(), failure)
