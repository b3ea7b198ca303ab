"""What every benchmark case is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bench.speed.limits import Work
from bench.speed.timing import Thunk
from geomkit.core.validation import Precision

OURS = "geomkit"
"""The contender that is this library."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to the answer of a case."""

    name: str
    """`OURS`, or what a peer is called in tables."""
    prepare: Callable[[], Thunk]
    """Runs it once, proves that answer right, and returns the call to be timed.

    Raises BackendUnavailableError where its library is missing or does not work here.
    """
    precision: str = "float32"
    """Of its products."""
    library: str = ""
    """Distribution that a peer comes from."""

    @property
    def label(self) -> str:
        """Name and precision."""
        return f"{self.name} {self.precision}"


class Case(Protocol):
    """A question about n rows of d coordinates, and those who answer it."""

    @property
    def n(self) -> int:
        """Rows."""

    @property
    def d(self) -> int:
        """Coordinates of a row."""

    @property
    def kernel(self) -> str:
        """Name of our public function."""

    @property
    def data(self) -> str:
        """What the rows are: a name in `bench.speed.cases.vectors`."""

    @property
    def setting(self) -> str:
        """Further arguments, as text."""

    def contenders(self) -> list[Contender]:
        """All who answer, ours first. Nothing is run before it is prepared."""

    def ours(self, precision: Precision = "float32", threads: int | None = None) -> Thunk:
        """Prove our answer and return the call to be timed."""

    def work(self, precision: str) -> Work | None:
        """Say what any answer at this precision costs at least; None where nothing is known of it."""
