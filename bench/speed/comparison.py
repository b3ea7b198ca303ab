"""A case timed with all its contenders, as tidy rows: one number a row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.measures.tidy import NOT_MEASURED
from bench.speed.cases import OURS, Case, Contender
from bench.speed.limits import Limits, share
from bench.speed.timing import Pace, Spread, Thunk, interleaved, spread
from geomkit.core.devices import is_out_of_memory
from geomkit.core.threads import processors
from geomkit.errors import BackendUnavailableError, DeviceMemoryError

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
    """Of ours; None for peers, which use what they use, and on a device."""
    statistic: str
    """``seconds``; ``million_pairs_per_second``; ``times_as_fast`` as `beside`, its seconds over these, round by round;
    ``share_of_limit``, the least time that the machine could take over these seconds; or ``not measured``. On a GPU
    those of `bench.studies.gpu` too."""
    beside: str
    value: float | None
    """Median over rounds."""
    low: float | None
    """Least of the rounds, or the lower end of an interval of the median."""
    high: float | None
    rounds: int
    note: str = ""
    backend: str = ""
    """Of ours on a device."""


def prepared(contenders: Sequence[Contender]) -> tuple[dict[Contender, Thunk], dict[Contender, str]]:
    """Prove contenders; return the calls of those that work here, and of the others why they do not."""
    ready: dict[Contender, Thunk] = {}
    missing: dict[Contender, str] = {}
    for contender in contenders:
        try:
            ready[contender] = contender.prepare()
        except (BackendUnavailableError, DeviceMemoryError) as why:
            missing[contender] = " ".join(str(why).split())
        except RuntimeError as why:
            if not is_out_of_memory(why):
                raise
            missing[contender] = "the device has no memory for it"
    return ready, missing


def contest(case: Case, limits: Limits, pace: Pace, only: Sequence[str] = ()) -> list[Row]:
    """Time all contenders of a case in turn, or those named.

    A peer that is missing or does not work here has a row that says why.
    """
    ready, missing = prepared([one for one in case.contenders() if not only or one.name in only])
    rows = [Recorder(case, contender).row(NOT_MEASURED, note=why) for contender, why in missing.items()]
    took = dict(zip(ready, interleaved(list(ready.values()), pace).T, strict=True))
    for contender, seconds in took.items():
        ours = contender.name == OURS
        recorder = Recorder(case, contender, processors() if ours else None)
        rows += recorder.times(seconds)
        if ours:
            # Another function of ours is compared at the same precision, a peer with all of ours.
            rows += [
                recorder.row(TIMES, theirs / seconds, beside=peer.name)
                for peer, theirs in took.items()
                if peer.name != OURS and (peer.library or peer.precision == contender.precision)
            ]
            rows += recorder.shares(limits, seconds)
    return rows


def scaling(case: Case, precision: str, limits: Limits, pace: Pace) -> list[Row]:
    """Time ours with one thread and with as many as there are processors."""
    counts = (1, processors())
    contender = Contender(OURS, case.ours, precision)
    one, many = interleaved([case.ours(precision, threads) for threads in counts], pace).T
    alone, together = (Recorder(case, contender, threads) for threads in counts)
    return [*alone.times(one), *alone.shares(limits, one), together.row(TIMES, one / many, beside=ONE_THREAD)]


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Make the table results/speed.csv."""
    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows]).astype({"threads": "Int64"}).drop(columns="backend")


@dataclass(frozen=True, slots=True)
class Recorder:
    """Writes rows about one contender."""

    case: Case
    contender: Contender
    threads: int | None = None
    summary: Callable[[NDArray[np.float64]], Spread] = spread
    """Of values over rounds."""

    def row(
        self, statistic: str, values: NDArray[np.float64] | None = None, *, beside: str = "", note: str = ""
    ) -> Row:
        """Summarise values over rounds; without values there is a note alone."""
        case, contender = self.case, self.contender
        value, low, high = (None, None, None) if values is None else self.summary(values)
        return Row(
            case.kernel, case.data, case.setting, case.n, case.d, contender.name, contender.precision, self.threads,
            statistic, beside, value, low, high, 0 if values is None else len(values), note, contender.backend,
        )  # fmt: skip

    def times(self, seconds: NDArray[np.float64]) -> list[Row]:
        """Make rows of seconds and of pairs a second."""
        pairs, library = self.case.n * (self.case.n - 1) / 2, self.contender.library
        try:
            note = f"{library} {version(library)}" if library else ""
        except PackageNotFoundError:
            note = library
        return [self.row(SECONDS, seconds, note=note), self.row(RATE, pairs / seconds / 1e6)]

    def shares(self, limits: Limits, seconds: NDArray[np.float64]) -> Iterator[Row]:
        """Make a row of the share of the machine's limit, where one is known."""
        work = self.case.work(self.contender.precision)
        shares = [share(limits, work, float(took), self.threads or 1) for took in seconds]
        if None not in shares:
            yield self.row(SHARE, np.array(shares, np.float64))
