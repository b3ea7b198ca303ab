"""Speed on a GPU beside the bare product, what users would call instead, and what was predicted."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu.facts import Facts, facts, needs_gpu
from bench.gpu.roofline import CHIPS, PRECISIONS, ideal_seconds
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures.tidy import NOT_MEASURED
from bench.speed.cases import (
    BARE,
    OURS,
    Case,
    ConcentrationCase,
    CosineCase,
    MomentsCase,
    NeighborsCase,
    SquaredDistanceCase,
)
from bench.speed.comparison import TIMES, Recorder, Row, prepared
from bench.speed.timing import Pace, interleaved_on, median_interval

if TYPE_CHECKING:
    import pandas as pd

DEVICE = "cuda"
TABLE, ROOFLINE = "gpu.csv", "roofline.csv"
N, N_DIFFERENCES, N_QUICK = 50_000, 8_000, 4_096
"""Rows; of distances of order 1, for which `torch.cdist` takes the longer the less it is a product, fewer."""
DIMS, DIMS_QUICK = (64, 128, 300, 384, 768, 1024, 1536, 2048, 4096), (64, 768)
PACE, PACE_QUICK = Pace(seconds=5.0, least=7, most=25), Pace(seconds=0.5, least=3, most=7)
"""Seven rounds are the least for an interval of the median at 95 %."""

OVER_PRODUCT, OVER_HALF = "over_product", "over_half_product"
"""Seconds over those of the bare product of all rows with all rows at this precision, and over half of them."""
OVER_DENSE, PREDICTED = "over_dense_half_product", "predicted"
"""Seconds over those of the half product at the data sheet's dense rate, and what roofline.csv expects of it."""


def plan(seed: int, device: str, *, quick: bool) -> list[Case]:
    """List all contests."""
    n = N_QUICK if quick else N
    return [
        case
        for d in (DIMS_QUICK if quick else DIMS)
        for case in (
            CosineCase(n, d, seed, device=device, quick=quick),
            SquaredDistanceCase(n, d, seed, device=device),
            NeighborsCase(n, d, seed, device=device),
            MomentsCase(n, d, seed, device=device),
            ConcentrationCase(min(n, N_DIFFERENCES), d, seed, device=device),
        )
    ]


def units(context: Context) -> tuple[Unit, ...]:
    """Every contest is a unit; its key holds what was predicted of it, which stands beside what is measured."""
    table = _roofline(context)
    return tuple(Unit(name, given=_given(table, case)) for name, case in _contests(context).items())


def measure(context: Context, unit: Unit) -> Tables:
    """Hold one contest on the GPU: gpu.csv, with the fields of `Row` and of `Facts` after the last round."""
    import pandas as pd

    case, known = _contests(context)[unit.name], facts(DEVICE)
    pace = PACE_QUICK if context.quick else PACE
    rows = contest(case, known, _roofline(context), pace)
    device = asdict(facts(DEVICE)) | {"seed": context.seed}
    for row in rows:
        if row.statistic == NOT_MEASURED:
            context.say(f"{row.kernel}, d = {row.d}, {row.contender} {row.precision} is not measured: {row.note}")
    return {TABLE: pd.DataFrame([asdict(row) | device for row in rows]).drop(columns="threads")}


def conclude(context: Context) -> None:
    """Say where no prediction stands beside what was measured."""
    table = context.read(TABLE)
    if not table.statistic.eq(OVER_DENSE).any():
        chips = ", ".join(chip.name for chip in CHIPS)
        context.say(f"nothing was predicted for {', '.join(table.device.unique())}; predictions are for {chips}")
    elif not table.statistic.eq(PREDICTED).any():
        context.say(f"nothing beside the measurements says what was predicted: {ROOFLINE} is not there")


def contest(case: Case, known: Facts, roofline: "pd.DataFrame | None", pace: Pace) -> list[Row]:
    """Prove and time all contenders of a case; one that is missing or does not work here has a row that says why."""
    ready, missing = prepared(case.contenders())
    took = dict(zip(ready, interleaved_on(case.device, list(ready.values()), pace).T, strict=True))
    rows = [Recorder(case, contender).row(NOT_MEASURED, note=why) for contender, why in missing.items()]
    chips = [chip for chip in CHIPS if chip.name in known.device and chip.multiprocessors == known.multiprocessors]
    for contender, seconds in took.items():
        recorder = Recorder(case, contender, summary=median_interval)
        rows += recorder.times(seconds)
        if contender.name == OURS:
            rows += _beside_peers(recorder, seconds, took)
            if chips and contender.precision in PRECISIONS and _predicted_kernels(case):
                rows += _beside_predictions(recorder, seconds, chips[0], roofline)
    return rows


def _beside_peers(recorder: Recorder, seconds: Any, took: dict[Any, Any]) -> Iterator[Row]:
    """Compare with the bare product at the same precision, with every peer at the same or at its only one."""
    precision = recorder.contender.precision
    for peer, theirs in took.items():
        if peer.name == BARE and peer.precision == precision:
            yield recorder.row(OVER_PRODUCT, seconds / theirs, beside=BARE)
            yield recorder.row(OVER_HALF, 2 * seconds / theirs, beside=BARE)
        elif peer.name not in {OURS, BARE} and peer.precision in {precision, "float32"}:
            name = peer.name if peer.precision == precision else f"{peer.name}, {peer.precision}"
            yield recorder.row(TIMES, theirs / seconds, beside=name)


def _beside_predictions(recorder: Recorder, seconds: Any, chip: Any, roofline: "pd.DataFrame | None") -> Iterator[Row]:
    """Compare with the half product at the data sheet's rate, and say what was predicted of Triton's kernels."""
    case, contender = recorder.case, recorder.contender
    half = ideal_seconds(chip, contender.precision, case.n, case.d)
    yield recorder.row(OVER_DENSE, seconds / half, beside=chip.name)
    if contender.backend != "triton" or roofline is None:
        return
    rounded, other = _predicted_kernels(case)
    kernel = rounded if contender.precision == "bfloat16" else other
    expected = predicted(roofline, case)
    if (chip.name, kernel, contender.precision) in expected.index:
        value = float(expected[chip.name, kernel, contender.precision])
        yield Recorder(case, contender).row(PREDICTED, np.full(len(seconds), value), beside=chip.name, note=kernel)


def predicted(roofline: "pd.DataFrame", case: Case) -> "pd.Series[float]":
    """Return what is expected of the kernels of a case at its dimension, by chip, kernel and precision."""
    mine = roofline[roofline.kernel.isin(_predicted_kernels(case)) & (roofline.d == case.d)]
    return mine.groupby(["chip", "kernel", "precision"]).expected.min()


def _predicted_kernels(case: Case) -> tuple[str, ...]:
    """Return the kernel of Triton's that counts products rounded to bfloat16, and that of all others."""
    counts = ("count", "tally")
    return {"cosine_stats": counts, "squared_distance_stats": counts, "neighbors": ("screen", "screen")}.get(
        case.kernel, ()
    )


def _given(roofline: "pd.DataFrame | None", case: Case) -> str:
    return "" if roofline is None or not _predicted_kernels(case) else predicted(roofline, case).to_csv()


def _roofline(context: Context) -> "pd.DataFrame | None":
    return context.read(ROOFLINE) if (context.out / ROOFLINE).is_file() else None


def _contests(context: Context) -> dict[str, Case]:
    cases = plan(context.seed, DEVICE, quick=context.quick)
    return {f"{case.kernel} in {case.d} dimensions": case for case in cases}


STUDY = Study(
    "gpu", "on a GPU beside the bare product, torch, faiss, cuVS, KeOps, and what was predicted", measure, units,
    conclude, reads=("roofline",), needs=needs_gpu, by_code=False, alone=True,
)  # fmt: skip
