"""Speed on a GPU beside the bare product, what users would call instead, and what was predicted."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.gpu.cases import BARE, DeviceCase, DeviceContender
from bench.gpu.facts import Clocks, Facts, clocks, facts, needs_gpu
from bench.gpu.roofline import CHIPS, PRECISIONS, Chip, ideal_seconds
from bench.gpu.timing import Median, Ready, median, rounds, warmed
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures.tidy import NOT_MEASURED
from bench.speed.cases.case import OURS
from bench.speed.timing import Pace
from geomkit.core.devices import is_out_of_memory
from geomkit.errors import GeomkitError

if TYPE_CHECKING:
    import pandas as pd

DEVICE = "cuda"
TABLE, ROOFLINE = "gpu.csv", "roofline.csv"
N, N_DIFFERENCES, N_QUICK = 50_000, 8_000, 4_096
"""Rows; of distances of order 1, for which `torch.cdist` takes the longer the less it is a product, fewer."""
DIMS, DIMS_QUICK = (64, 128, 300, 384, 768, 1024, 1536, 2048, 4096), (64, 768)
PACE, PACE_QUICK = Pace(seconds=5.0, least=7, most=25), Pace(seconds=0.5, least=3, most=7)
"""Seven rounds are the least for an interval of the median at 95 %."""

SECONDS, RATE, TIMES = "seconds", "million_pairs_per_second", "times_as_fast"
OVER_PRODUCT, OVER_HALF = "over_product", "over_half_product"
OVER_DENSE, PREDICTED = "over_dense_half_product", "predicted"

_UNPREDICTED = {"moments", "concentration"}
_KERNELS = {"cosine_stats": ("count", "tally"), "squared_distance_stats": ("count", "tally")}
"""Of Triton's, what counts products that are rounded to bfloat16, and all others."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number about one contender."""

    kernel: str
    data: str
    setting: str
    n: int
    d: int
    contender: str
    backend: str
    precision: str
    statistic: str
    """``seconds``; ``million_pairs_per_second``; ``times_as_fast`` as `beside`, its seconds over these, round by round;
    ``over_product`` and ``over_half_product``, seconds over those of the bare product of all rows with all rows at this
    precision, and over half of them; ``over_dense_half_product``, seconds over those of the half product at the data
    sheet's dense rate; ``predicted``, what results/roofline.csv expects of that; or ``not measured``."""
    beside: str
    value: float | None
    """Median over rounds."""
    low: float | None
    """Ends of an interval of the median at 95 %; 0 and infinity where rounds are too few."""
    high: float | None
    rounds: int
    note: str
    seed: int
    device: str
    driver: str
    sm_clock_mhz: float | None
    """As found right after the last round."""
    memory_clock_mhz: float | None
    torch: str
    triton: str
    cuda: str


def plan(seed: int, device: str, *, quick: bool) -> list[DeviceCase]:
    """List all contests."""
    n = N_QUICK if quick else N
    few = min(n, N_DIFFERENCES)
    return [
        case
        for d in (DIMS_QUICK if quick else DIMS)
        for case in (
            DeviceCase("cosine_stats", n, d, device, seed, quick=quick),
            DeviceCase("squared_distance_stats", n, d, device, seed),
            DeviceCase("neighbors", n, d, device, seed, data="factors"),
            DeviceCase("moments", n, d, device, seed, data="factors"),
            DeviceCase("concentration", few, d, device, seed),
        )
    ]


def units(context: Context) -> tuple[Unit, ...]:
    """Every contest is a unit; its key holds what was predicted of it, which stands beside what is measured."""
    return tuple(
        Unit(name, given=_predicted(context.out / ROOFLINE, case)) for name, case in _contests(context).items()
    )


def measure(context: Context, unit: Unit) -> Tables:
    """Hold one contest on the GPU: gpu.csv."""
    import pandas as pd

    known = facts(DEVICE)
    pace = PACE_QUICK if context.quick else PACE
    rows = contest(_contests(context)[unit.name], known, _expectations(context.out / ROOFLINE, known), pace)
    for row in rows:
        if row.statistic == NOT_MEASURED:
            context.say(f"{row.kernel}, d = {row.d}, {row.contender} {row.precision} is not measured: {row.note}")
    return {TABLE: pd.DataFrame([asdict(row) for row in rows])}


def conclude(context: Context) -> None:
    """Say where no prediction stands beside what was measured."""
    table = context.read(TABLE)
    if not table.statistic.eq(OVER_DENSE).any():
        chips = ", ".join(chip.name for chip in CHIPS)
        context.say(f"nothing was predicted for {', '.join(table.device.unique())}; predictions are for {chips}")
    elif not table.statistic.eq(PREDICTED).any():
        context.say(f"nothing beside the measurements says what was predicted: {ROOFLINE} is not there")


def _contests(context: Context) -> dict[str, DeviceCase]:
    cases = plan(context.seed, DEVICE, quick=context.quick)
    return {f"{case.kernel} in {case.d} dimensions": case for case in cases}


def contest(case: DeviceCase, known: Facts, expected: "Expectations", pace: Pace) -> list[Row]:
    """Prove and time all contenders of a case; one that is missing or does not work here has a row that says why."""
    ready: list[tuple[DeviceContender, Ready]] = []
    missing: list[tuple[DeviceContender, str]] = []
    for each in case.contenders():
        try:
            ready.append((each, warmed(each.prepare(), case.device)))
        except GeomkitError as why:
            missing.append((each, str(why)))
        except RuntimeError as why:
            if not is_out_of_memory(why):
                raise
            missing.append((each, "the device has no memory for it"))
    took = rounds([each for _, each in ready], case.device, pace)
    maker = _Maker(case, known, clocks(case.device), len(took))
    rows = [maker.row(each, NOT_MEASURED, None, note=" ".join(why.split())) for each, why in missing]
    everyone = [each for each, _ in ready]
    for at, who in enumerate(everyone):
        rows += maker.times(who, took[:, at])
        if who.name == OURS:
            rows += maker.ratios(who, took[:, at], dict(zip(everyone, took.T, strict=True)))
            rows += maker.dense(who, took[:, at], expected)
    return rows


@dataclass(frozen=True)
class Expectations:
    """What was predicted for this device, where it is one of the chips that predictions are for."""

    chip: Chip | None
    table: "pd.DataFrame | None"

    def ratio(self, kernel: str, precision: str, d: int) -> float | None:
        """Return the expected ratio to the half product at the dense rate."""
        if self.chip is None or self.table is None:
            return None
        found = self.table[(self.table.kernel == kernel) & (self.table.precision == precision) & (self.table.d == d)]
        return float(found.expected.min()) if len(found) else None


def _expectations(path: Path, known: Facts) -> Expectations:
    """Read roofline.csv, if it is there and the device is one of its chips."""
    import pandas as pd

    named = [chip for chip in CHIPS if chip.name in known.device and chip.multiprocessors == known.multiprocessors]
    if not named:
        return Expectations(None, None)
    table = pd.read_csv(path) if path.is_file() else None
    return Expectations(named[0], None if table is None else table[table.chip == named[0].name])


def _predicted(path: Path, case: DeviceCase) -> str:
    """Say what roofline.csv expects of the kernels of a case at its dimension, whatever the chip."""
    import pandas as pd

    if case.kernel in _UNPREDICTED or not path.is_file():
        return ""
    table = pd.read_csv(path)
    mine = table[table.kernel.isin(_kernels_of(case.kernel)) & (table.d == case.d)]
    return mine.groupby(["chip", "kernel", "precision"]).expected.min().to_csv()


@dataclass(frozen=True)
class _Maker:
    """Writes rows about contenders."""

    case: DeviceCase
    known: Facts
    clocks: Clocks
    rounds: int

    def row(
        self, who: DeviceContender, statistic: str, found: Median | None, *, beside: str = "", note: str = ""
    ) -> Row:
        case, known = self.case, self.known
        value, low, high = found or (None, None, None)
        return Row(
            case.kernel, case.data, case.setting, case.n, case.d, who.name, who.backend, who.precision, statistic,
            beside, value, low, high, self.rounds if found else 0, note, case.seed, known.device, known.driver,
            self.clocks.sm_mhz, self.clocks.memory_mhz, known.torch, known.triton, known.cuda,
        )  # fmt: skip

    @property
    def pairs(self) -> float:
        return self.case.n * (self.case.n - 1) / 2

    def times(self, who: DeviceContender, seconds: NDArray[np.float64]) -> list[Row]:
        return [
            self.row(who, SECONDS, median(seconds), note=_version(who.library)),
            self.row(who, RATE, median(self.pairs / seconds / 1e6)),
        ]

    def ratios(self, who: DeviceContender, seconds: NDArray[np.float64], took: dict[DeviceContender, Any]) -> list[Row]:
        """Compare with the bare product at the same precision, with every peer at the same or at its only one."""
        rows = []
        for peer, theirs in took.items():
            if peer.name == BARE:
                if peer.precision == who.precision:
                    rows.append(self.row(who, OVER_PRODUCT, median(seconds / theirs), beside=BARE))
                    rows.append(self.row(who, OVER_HALF, median(2 * seconds / theirs), beside=BARE))
            elif peer.name != OURS and peer.precision in {who.precision, "float32"}:
                name = peer.name if peer.precision == who.precision else f"{peer.name}, {peer.precision}"
                rows.append(self.row(who, TIMES, median(theirs / seconds), beside=name))
        return rows

    def dense(self, who: DeviceContender, seconds: NDArray[np.float64], expected: Expectations) -> list[Row]:
        """Compare with the half product at the data sheet's rate, and say what was predicted of Triton's kernels."""
        if expected.chip is None or who.precision not in PRECISIONS or self.case.kernel in _UNPREDICTED:
            return []
        half = ideal_seconds(expected.chip, who.precision, self.case.n, self.case.d)
        rows = [self.row(who, OVER_DENSE, median(seconds / half), beside=expected.chip.name)]
        names = _kernels_of(self.case.kernel)
        name = names[0] if who.precision == "bfloat16" else names[1]
        value = expected.ratio(name, who.precision, self.case.d) if who.backend == "triton" else None
        if value is not None:
            rows.append(self.row(who, PREDICTED, Median(value, value, value), beside=expected.chip.name, note=name))
        return rows


def _kernels_of(kernel: str) -> tuple[str, str]:
    return _KERNELS.get(kernel, ("screen", "screen"))


def _version(library: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    if not library:
        return ""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


STUDY = Study(
    "gpu",
    "on a GPU beside the bare product, torch, faiss, cuVS, KeOps, and what was predicted",
    measure,
    units,
    conclude,
    reads=("roofline",),
    needs=needs_gpu,
    by_code=False,
    alone=True,
)
