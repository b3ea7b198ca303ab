"""What a claim is, and what is found about it."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.harness.study import Context

Z95 = 1.96
"""Standard errors on either side of a figure in its 95 % interval."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was measured about one claim."""

    figure: list[str]
    """What was measured, an entry a source, after an entry that says what it is."""
    null: list[str]
    """What chance or random vectors give, in the same order."""
    interval: list[str]
    verdict: str


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, the instrument that measures it, and the function that does, if there is one yet."""

    number: str
    text: str
    instrument: str
    measure: Callable[[Context], Finding]
    reads: str
    """Table that it is read from."""
    study: str
    """The study that writes it."""
