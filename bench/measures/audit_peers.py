"""Our audit beside vecscope, spectralyte and scikit-dimension: values, seconds and peak memory on the same files.

Peak memory is the largest resident set of the whole process, pages of the file included where it is mapped. Kernels of
ours were compiled before, as they are after an audit, or after ``geomkit warm``.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.harness.study import Context
from bench.measures.audit_mapping import (
    SKDIM,
    SPECTRALYTE,
    VECSCOPE,
    Value,
    beside_skdim,
    beside_spectralyte,
    beside_vecscope,
)
from bench.measures.tidy import NOT_MEASURED
from bench.speed import launcher
from bench.speed.baselines import need
from bench.speed.timing import Pace, interleaved, spread
from geomkit import datasets
from geomkit.errors import BackendUnavailableError
from geomkit.stats.dimension import intrinsic_dimension

if TYPE_CHECKING:
    import pandas as pd

OURS = "geomkit"
SECONDS, PEAK, FASTER, MEMORY = "seconds", "peak_mib", "times_as_fast", "times_the_memory"
CACHED = "random sets cached"
LEAST = ("--no-try", "--precision", "bfloat16")
"""Tries no transform, as no peer does; bfloat16 screens neighbours, which stay exact."""

K = 10
PACE, PACE_QUICK = Pace(seconds=0.0, least=3), Pace(seconds=0.0, least=1)
EXPERIMENTAL_ROWS = 5000
"""Most rows for spectralyte's experimental metrics: its k-d trees compare all rows with all in one thread."""
DIMENSION_ROWS = 5000
"""Most rows for scikit-dimension: its TwoNN sorts the distances of each row to all."""
MIB = 2.0**20


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a source in a file; the last ones become a file of queries."""

    source: str
    n: int | None
    """All there are where None."""
    queries: int = 0


SAMPLES = (
    Sample("googlenews-300", 20_000),
    Sample("gaussian-768", 20_000),
    Sample("minilm-384", None, queries=127),
    Sample("smollm2-documents-layer16-576", None),
)
SAMPLES_QUICK = (Sample("googlenews-300", 340, queries=40),)


@dataclass(frozen=True, slots=True)
class Contender:
    """An audit as its user would start it."""

    tool: str
    setting: str
    module: str
    options: tuple[str, ...] = ()
    queries: bool = True
    """Whether it takes queries."""
    most: int | None = None
    """Most rows that it is asked for."""
    cold: bool = False
    """Whether it has to draw random sets anew."""


CONTENDERS = (
    Contender(VECSCOPE, "", "vecscope.cli"),
    Contender(SPECTRALYTE, "", "spectralyte.cli", queries=False),
    Contender(
        SPECTRALYTE, "--experimental", "spectralyte.cli", ("--experimental",), queries=False,
        most=EXPERIMENTAL_ROWS,
    ),
    Contender(OURS, "no random sets cached", "geomkit", cold=True),
    Contender(OURS, CACHED, "geomkit"),
    Contender(OURS, f"{CACHED}, {' '.join(LEAST)}", "geomkit", LEAST),
)  # fmt: skip
"""Random sets are kept by size: the first audit of a size draws them, all others of that size read them."""


@dataclass(frozen=True, slots=True)
class Time:
    """What one audit of one file took."""

    source: str
    n: int
    d: int
    tool: str
    setting: str
    statistic: str
    """``seconds`` and ``peak_mib`` of the whole process, of the call alone for dimensions; ``times_as_fast`` and
    ``times_the_memory``: the first of `beside` over ours, the second ours over that of `beside`, round by round."""
    beside: str
    value: float | None
    """Median over rounds."""
    low: float | None
    """Least of the rounds."""
    high: float | None
    rounds: int
    note: str = ""


class Ran(NamedTuple):
    """What one process left."""

    seconds: float
    peak: float
    """Bytes."""
    said: Any
    """Its JSON."""


@dataclass(frozen=True)
class Place:
    """A sample in a folder of its own."""

    sample: Sample
    x: NDArray[np.float32] = field(repr=False)
    file: Path
    queries: Path | None


def contest(sample: Sample, context: Context, absent: str = "") -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Hold it on a sample, and return its rows of the table of times and of that of values.

    Parameters
    ----------
    sample : Sample
    context : Context
    absent : str
        Why its source is not here; the only row then says so.
    """
    import pandas as pd

    if absent:
        context.say(f"{sample.source} is not audited by others: {absent}")
        times, values = [_missing(sample.source, (0, 0), "", "", absent)], list[Value]()
    else:
        with tempfile.TemporaryDirectory(prefix="geomkit-audits-") as folder:
            place = _placed(sample, Path(folder), context.seed)
            pace = PACE_QUICK if context.quick else PACE
            times, values = processes(place, pace)
            took, estimates = dimensions(place, pace)
        times, values = times + took, values + estimates
    for row in times:
        if row.statistic == NOT_MEASURED and row.tool:
            context.say(f"{row.tool} {row.setting} is not measured on {row.source}: {row.note}")
    columns = list(Value.__dataclass_fields__)
    return pd.DataFrame([asdict(row) for row in times]), pd.DataFrame([asdict(row) for row in values], columns=columns)


def _placed(sample: Sample, folder: Path, seed: int) -> Place:
    found = datasets.load(sample.source, n=sample.n, seed=seed).vectors
    assert isinstance(found, np.ndarray)
    file, queries = folder / f"{sample.source}.npy", None
    if sample.queries:
        queries = folder / "queries.npy"
        np.save(queries, found[-sample.queries :])
        found = found[: -sample.queries].copy()
    np.save(file, found)
    return Place(sample, found, file, queries)


def processes(place: Place, pace: Pace) -> tuple[list[Time], list[Value]]:
    """Time all contenders in turn, each once before that; one that is missing has a row that says so."""
    ready: list[tuple[Contender, list[Ran]]] = []
    thunks: list[Callable[[], object]] = []
    rows: list[Time] = []
    said: dict[tuple[str, str], Any] = {}
    shape = place.x.shape
    for each in CONTENDERS:
        try:
            said[each.tool, each.setting] = _first(each, place).said
        except BackendUnavailableError as why:
            if each.tool == OURS:
                raise
            rows.append(_missing(place.sample.source, shape, each.tool, each.setting, str(why)))
            continue
        runs: list[Ran] = []
        ready.append((each, runs))
        thunks.append(lambda each=each, runs=runs: runs.append(_audit(each, place)))  # type: ignore[misc]
    interleaved(thunks, pace)
    for each, runs in ready:
        rows += _times(place, each, runs, ready)
    return rows, list(_values(place, said))


def _first(who: Contender, place: Place) -> Ran:
    if who.tool != OURS:
        _version(who.tool)
    if who.most is not None and place.x.shape[0] > who.most:
        msg = f"asked of up to {who.most:,} rows alone: its k-d trees compare all rows with all in one thread"
        raise BackendUnavailableError(msg)
    return _audit(who, place)


def _audit(who: Contender, place: Place) -> Ran:
    command = [sys.executable, "-m", who.module, "audit", str(place.file), "--json", *who.options]
    if who.queries and place.queries is not None:
        command += ["--queries", str(place.queries)]
    with tempfile.TemporaryDirectory(dir=place.file.parent) as name:
        cache = (Path(name) if who.cold else place.file.parent) / "cache"
        return ran(command, Path(name), {**os.environ, "GEOMKIT_CACHE": str(cache)})


def ran(command: list[str], folder: Path, environment: Mapping[str, str]) -> Ran:
    """Run an audit that writes JSON, by the launcher.

    Raises
    ------
    BackendUnavailableError
        It failed, or wrote something else.
    """
    report, out, err = (folder / name for name in ("report.json", "out.json", "err.txt"))
    script = [sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(report), str(out), str(err)]
    subprocess.run([*script, *command], env=environment, check=True)
    took = json.loads(report.read_text())
    try:
        said = json.loads(out.read_text(encoding="utf-8"))
    except ValueError:
        said = None
    # 1 is the verdict "fail".
    if took["code"] not in {0, 1} or said is None:
        last = (err.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[-1]
        msg = f"{' '.join(command[1:4])} ended with {took['code']}: {last}"
        raise BackendUnavailableError(msg)
    return Ran(took["seconds"], took["peak"], said)


def _times(place: Place, who: Contender, runs: list[Ran], everyone: list[tuple[Contender, list[Ran]]]) -> list[Time]:
    seconds, peaks = (np.array([getattr(each, name) for each in runs]) for name in ("seconds", "peak"))

    def row(statistic: str, values: NDArray[np.float64], beside: str = "", note: str = "") -> Time:
        n, d = place.x.shape
        return Time(
            place.sample.source, n, d, who.tool, who.setting, statistic, beside, *spread(values), len(runs), note
        )

    rows = [row(SECONDS, seconds, note=f"{who.tool} {_version(who.tool)}"), row(PEAK, peaks / MIB)]
    for peer, theirs in everyone if who.tool == OURS else ():
        if peer.tool != OURS:
            beside = f"{peer.tool} {peer.setting}".strip()
            rows.append(row(FASTER, np.array([each.seconds for each in theirs]) / seconds, beside))
            rows.append(row(MEMORY, peaks / np.array([each.peak for each in theirs]), beside))
    return rows


def _values(place: Place, said: Mapping[tuple[str, str], Any]) -> Iterator[Value]:
    ours, source, shape = said[OURS, CACHED], place.sample.source, place.x.shape
    if (VECSCOPE, "") in said:
        yield from beside_vecscope(source, shape, said[VECSCOPE, ""], ours)
    # The experimental run says all that the other does.
    theirs = said.get((SPECTRALYTE, "--experimental"), said.get((SPECTRALYTE, "")))
    if theirs is not None:
        yield from beside_spectralyte(source, shape, theirs, ours)


def dimensions(place: Place, pace: Pace) -> tuple[list[Time], list[Value]]:
    """Time estimates of the intrinsic dimension of directions, by calls in this process."""
    x = place.x[:DIMENSION_ROWS]
    source, (n, d) = place.sample.source, x.shape
    rows: list[Time] = []
    values: list[Value] = []
    for ours, (name, theirs) in _ESTIMATORS.items():

        def mine(method: str = ours) -> float:
            return intrinsic_dimension(x, method=method, k=K, metric="cosine").dimension

        try:
            # Both run once before they are timed: ours compiles.
            values.append(beside_skdim(source, x.shape, name, theirs(x), ours, mine()))
        except BackendUnavailableError as why:
            rows.append(_missing(source, x.shape, SKDIM, name, str(why)))
            continue
        took = interleaved([mine, lambda theirs=theirs: theirs(x)], pace)  # type: ignore[misc]
        note = f"in this process, of the first {n:,} rows"
        for tool, setting, statistic, beside, each in (
            (OURS, ours, SECONDS, "", took[:, 0]),
            (SKDIM, name, SECONDS, "", took[:, 1]),
            (OURS, ours, FASTER, f"{SKDIM} {name}", took[:, 1] / took[:, 0]),
        ):
            rows.append(Time(source, n, d, tool, setting, statistic, beside, *spread(each), len(took), note))
    return rows, values


def _skdim(x: NDArray[np.float32], estimator: str, **how: Any) -> float:
    """Estimate as scikit-dimension does on rows of unit length, whose distances are those of cosine."""
    skdim = need("skdim", "scikit-dimension")
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    with warnings.catch_warnings():
        # It says how many duplicates it leaves out; ours does the same.
        warnings.simplefilter("ignore")
        return float(getattr(skdim.id, estimator)().fit(unit, **how).dimension_)


_ESTIMATORS: dict[str, tuple[str, Callable[[NDArray[np.float32]], float]]] = {
    "twonn": ("TwoNN", lambda x: _skdim(x, "TwoNN")),
    "mle": ("MLE", lambda x: _skdim(x, "MLE", n_neighbors=K)),
}
"""By our method: their class and call."""


def _missing(source: str, shape: tuple[int, int], tool: str, setting: str, why: str) -> Time:
    n, d = shape
    return Time(source, n, d, tool, setting, NOT_MEASURED, "", None, None, None, 0, " ".join(why.split()))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError as why:
        msg = f"{library} is not installed; pip install {library}"
        raise BackendUnavailableError(msg) from why
