"""A case timed with all its contenders, as tidy rows: one number a row."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.measures.tidy import NOT_MEASURED
from bench.speed.cases import OURS, Case, Contender
from bench.speed.limits import Limits, share
from bench.speed.timing import Pace, Spread, Thunk, interleaved, spread
from geomkit.core.threads import processors
from geomkit.core.validation import Precision
from geomkit.errors import BackendUnavailableError

if TYPE_CHECKING:
    import pandas as pd

SECONDS, RATE, TIMES, SHARE = "seconds", "million_pairs_per_second", "times_as_fast", "share_of_limit"
ONE_THREAD = "one thread"


@dataclass(frozen=True, slots=True)
class Row:
    """One number about one contender."""

    kernel: str
    data: str
    setting: str
    n: int
    d: int
    contender: str
    precision: str
    threads: int | None
    """Of ours; None for peers, which use what they use."""
    statistic: str
    """``seconds``; ``million_pairs_per_second``; ``times_as_fast`` as `beside`, its seconds over these, round by round;
    ``share_of_limit``, the least time that the machine could take over these seconds; or ``not measured``."""
    beside: str
    value: float | None
    """Median over rounds."""
    low: float | None
    """Least of the rounds."""
    high: float | None
    rounds: int
    note: str = ""


def contest(case: Case, limits: Limits, pace: Pace, only: Sequence[str] = ()) -> list[Row]:
    """Time all contenders of a case in turn, or those named.

    A peer that is missing or does not work here has a row that says why.
    """
    ready: list[tuple[Contender, Thunk]] = []
    rows: list[Row] = []
    for contender in case.contenders():
        if only and contender.name not in only:
            continue
        try:
            ready.append((contender, contender.prepare()))
        except BackendUnavailableError as missing:
            rows.append(not_measured(case, contender, str(missing)))
    took = interleaved([thunk for _, thunk in ready], pace)
    everyone = [contender for contender, _ in ready]
    for at, contender in enumerate(everyone):
        threads = processors() if contender.name == OURS else None
        maker = _Maker(case, contender, threads, len(took))
        rows += maker.times(took[:, at])
        if contender.name != OURS:
            continue
        for other, peer in enumerate(everyone):
            # Another function of ours is compared at the same precision, a peer with all of ours.
            if peer.name != OURS and (peer.library or peer.precision == contender.precision):
                rows.append(maker.row(TIMES, spread(took[:, other] / took[:, at]), beside=peer.name))
        rows += maker.shares(limits, took[:, at])
    return rows


def scaling(case: Case, precision: Precision, limits: Limits, pace: Pace) -> list[Row]:
    """Time ours with one thread and with as many as there are processors."""
    counts = (1, processors())
    contender = Contender(OURS, case.ours, precision)
    took = interleaved([case.ours(precision, threads) for threads in counts], pace)
    one = _Maker(case, contender, 1, len(took))
    rows = one.times(took[:, 0]) + list(one.shares(limits, took[:, 0]))
    many = _Maker(case, contender, counts[1], len(took))
    return [*rows, many.row(TIMES, spread(took[:, 0] / took[:, 1]), beside=ONE_THREAD)]


def not_measured(case: Case, contender: Contender, why: str) -> Row:
    """Make a row for a contender without figures."""
    maker = _Maker(case, contender, None, 0)
    return maker.row(NOT_MEASURED, None, note=" ".join(why.split()))


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Make the table results/speed.csv."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).astype({"threads": "Int64"})


@dataclass(frozen=True, slots=True)
class _Maker:
    """Writes rows about one contender."""

    case: Case
    contender: Contender
    threads: int | None
    rounds: int

    def row(self, statistic: str, found: Spread | None, *, beside: str = "", note: str = "") -> Row:
        case, who = self.case, self.contender
        value, low, high = found or (None, None, None)
        return Row(
            case.kernel, case.data, case.setting, case.n, case.d, who.name, who.precision, self.threads,
            statistic, beside, value, low, high, self.rounds, note,
        )  # fmt: skip

    def times(self, seconds: NDArray[np.float64]) -> list[Row]:
        pairs = self.case.n * (self.case.n - 1) / 2
        note = f"{self.contender.library} {version(self.contender.library)}" if self.contender.library else ""
        return [self.row(SECONDS, spread(seconds), note=note), self.row(RATE, spread(pairs / seconds / 1e6))]

    def shares(self, limits: Limits, seconds: NDArray[np.float64]) -> Iterator[Row]:
        work = self.case.work(self.contender.precision)
        found = [share(limits, work, float(each), self.threads or 1) for each in seconds]
        if None not in found:
            yield self.row(SHARE, spread(np.array(found, np.float64)))
