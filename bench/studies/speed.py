"""Speed beside what users would call instead, and beside the machine's own limits; growth in n and d."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from bench.figures.speed import speed
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures.tidy import NOT_MEASURED
from bench.speed import comparison, growth, limits
from bench.speed.cases import (
    OURS,
    Case,
    ConcentrationCase,
    CosineCase,
    KeopsCase,
    MomentsCase,
    NeighborsCase,
    SimilarityCase,
    SurveyCase,
)
from bench.speed.timing import Pace

DIMS = (50, 64, 128, 300, 384, 768, 1024, 1536, 2048, 4096)
NEIGHBOR_DIMS = (50, 384, 768, 1536)
PACE, PACE_QUICK = Pace(seconds=10.0, least=3, most=7), Pace(seconds=0.0, least=3, most=3)
PACE_ALONE = Pace(seconds=5.0, least=1, most=3)
"""Where ours meets nobody, and is timed for its rate alone."""
_NO_PRODUCT = (0.5, 1.5, 1.7)
"""Orders whose powers take SciPy thirty times as long as a difference."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One contest of the study."""

    case: Case
    only: tuple[str, ...] = ()
    """Contenders, all of them unless named."""


def plan(seed: int, *, quick: bool) -> Iterator[Entry]:
    """List all contests. Peers that take minutes at the full size meet ours at a smaller n, the same for both."""
    n = 2048 if quick else 16_384
    for d in (50, 300, 768) if quick else DIMS:
        yield Entry(CosineCase(n, d, seed))
    yield Entry(CosineCase(n, 768, seed, data="anisotropic"))
    yield Entry(KeopsCase(512 if quick else 4096, 64, seed, quick=quick))
    for d in (384,) if quick else NEIGHBOR_DIMS:
        yield Entry(NeighborsCase(2000 if quick else 20_000, d, seed))
    yield Entry(SurveyCase(n, 384 if quick else 768, seed))
    yield Entry(MomentsCase(2000 if quick else 20_000, 128 if quick else 768, seed))
    yield Entry(SimilarityCase(1000 if quick else 4096, 768, seed))
    yield Entry(SimilarityCase(500 if quick else 2048, 768, seed, slow=True))
    for p in (1.0, 1.7) if quick else ConcentrationCase.orders:
        d = 64 if quick else 768
        yield Entry(ConcentrationCase(400 if quick else (600 if p in _NO_PRODUCT else 3000), d, seed, p=p))
        yield Entry(ConcentrationCase(600 if quick else 8000, d, seed, p=p), only=(OURS,))


def threaded(seed: int, *, quick: bool) -> Iterator[tuple[Case, str]]:
    """List what is timed with one thread and with all."""
    n, d = (1500, 128) if quick else (8192, 768)
    yield CosineCase(n, d, seed), "float32"
    yield CosineCase(n, d, seed), "bfloat16"
    yield NeighborsCase(n, d, seed), "float32"
    yield NeighborsCase(n, d, seed), "bfloat16"
    yield MomentsCase(2 * n, d, seed), "float64"
    yield ConcentrationCase(n // 2, d, seed), "float32"


def units(context: Context) -> tuple[Unit, ...]:
    """List the limits, every contest, every case timed with one thread and with all, and every series."""
    return tuple(Unit(name) for name in _parts(context))


def measure(context: Context, unit: Unit) -> Tables:
    """Measure one of them: limits.csv, speed.csv or growth.csv.

    Shares of the limits are of those that the same process measures, once, when a unit first asks for them.
    """
    part, quick = _parts(context)[unit.name], context.quick
    if part is None:
        held = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
        if held:
            context.say(f"{' and '.join(held)} hold NumPy's product back; unset for benchmarks, as `make results` does")
        return {"limits.csv": limits.known(quick=quick).frame()}
    if isinstance(part, growth.Series):
        return {"growth.csv": growth.measure(part, context.seed)}
    pace, known = PACE_QUICK if quick else PACE, limits.known(quick=quick)
    if isinstance(part, Entry):
        rows = comparison.contest(part.case, known, PACE_ALONE if part.only else pace, part.only)
    else:
        rows = comparison.scaling(*part, known, pace)
    for row in rows:
        if row.statistic == NOT_MEASURED:
            context.say(f"{row.kernel} beside {row.contender} is not measured: {row.note}")
    return {"speed.csv": comparison.frame(rows)}


def _parts(context: Context) -> dict[str, Entry | tuple[Case, str] | growth.Series | None]:
    """Say what each unit measures; None stands for the limits."""
    parts: dict[str, Entry | tuple[Case, str] | growth.Series | None] = {"limits": None}
    for entry in plan(context.seed, quick=context.quick):
        alone = f", {' and '.join(entry.only)} alone" if entry.only else ""
        parts[f"{_named(entry.case)}{alone}"] = entry
    for case, precision in threaded(context.seed, quick=context.quick):
        parts[f"threads, {_named(case)}, {precision}"] = case, precision
    for series in growth.plan(quick=context.quick):
        mapped = f" from a {growth.MAP}" if series.source == growth.MAP else ""
        parts[f"growth with {series.against}, {series.kernel} {series.precision}{mapped}"] = series
    return parts


def _named(case: Case) -> str:
    kernel = "cosine_stats, KeOps" if isinstance(case, KeopsCase) else case.kernel
    data = "" if case.data == "isotropic" else case.data
    return ", ".join(filter(None, (kernel, case.setting, data, f"{case.n} x {case.d}")))


def draw(context: Context) -> None:
    """Draw speed.svg."""
    context.figure("speed", speed(context.read("speed.csv"), context.read("growth.csv")))


STUDY = Study(
    "speed", "beside chunked torch, faiss, SciPy and others, and beside the machine's limits; growth", measure, units,
    draw=draw, by_code=False, alone=True,
)  # fmt: skip
