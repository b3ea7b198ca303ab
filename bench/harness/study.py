"""A study: a question, the units that it is divided into, and the functions that answer it with tables and figures."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from geomkit.core.atomic import written
from geomkit.errors import BackendUnavailableError, InvalidInputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["RESULTS", "ROOT", "Context", "Study", "Tables", "Unit", "whole"]

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"

Tables = dict[str, "pd.DataFrame"]
"""Tables by the names of their files."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a study that is measured, kept and redone by itself."""

    name: str
    sources: tuple[str, ...] = ()
    """Sources of vectors that it reads: their data and the code that makes them are part of its key."""
    absent: str = ""
    """Why its source is not attempted in this run; empty where it is. Its tables then say so."""
    given: str = ""
    """What else its numbers depend on, such as the digest of rows of a table of another study."""
    shares: str = ""
    """Names what takes long to make, and is made by whichever unit needs it first, such as the states of a language
    model: no other unit that shares it starts before that one is done."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a study is run with, and where its files are."""

    study: str
    out: Path
    quick: bool = False
    everything: bool = False
    """Attempt optional sources that are not cached."""
    seed: int = 0
    files: list[Path] = field(default_factory=list)
    """What has been written so far."""

    def say(self, message: str) -> None:
        """Tell the person at the terminal."""
        print(f"{self.study}: {message}", file=sys.stderr, flush=True)

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Write a table as CSV, floats to seven significant digits."""
        with self.file(name) as path:
            write_table(path, frame)

    def read(self, name: str) -> "pd.DataFrame":
        """Read a table that was written before."""
        import pandas as pd

        if not (self.out / name).is_file():
            msg = f"there is no {name} in {self.out}; run the study that writes it first"
            raise InvalidInputError(msg)
        return pd.read_csv(self.out / name)

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        with self.file(name) as path:
            path.write_text(text, encoding="utf-8")

    def figure(self, name: str, figure: "Figure") -> None:
        """Write a figure as SVG, which README and the report show."""
        from matplotlib import pyplot as plt

        from geomkit.reporting.style import save

        with self.file(f"{name}.svg") as path:
            save(figure, path, "svg")
        plt.close(figure)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Give a temporary name beside the final one, and rename it when it is complete."""
        final = self.out / name
        final.parent.mkdir(parents=True, exist_ok=True)
        with written(final) as part:
            yield part
        if final not in self.files:
            self.files.append(final)


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table as every table of this project is written."""
    frame.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")


def whole(context: Context) -> Sequence[Unit]:
    """Return the one unit of a study that is not divided."""
    del context
    return (Unit("all"),)


def nothing() -> None:
    """Need nothing that not every machine has."""


@dataclass(frozen=True, slots=True)
class Study:
    """A question, and the functions that answer it."""

    name: str
    about: str
    measure: Callable[[Context, Unit], Tables] | None = None
    """Measures one unit. The tables of all units, one below the other in their order, are the study's. None where it
    only concludes from the tables of others."""
    units: Callable[[Context], Sequence[Unit]] = whole
    conclude: Callable[[Context], None] | None = None
    """Writes what follows from the whole tables, such as a correlation over all units."""
    draw: Callable[[Context], None] | None = None
    """Draws its figures from its tables alone, so that a change of a figure measures nothing again."""
    reads: tuple[str, ...] = ()
    """Studies whose tables its units, or what it concludes and draws, are made from. They run before it; of tables that
    are not there it says so. Where units read them, their keys hold it: see `Unit.given`."""
    by_code: bool = True
    """Whether a change of the code makes it stale. Not timings, which say machine, version and commit instead, and not
    what is simulated once."""
    alone: bool = False
    """Whether nothing may run beside it, as a timing asks."""
    version: int = 1
    """Raised by hand where its numbers must be measured again though no code that it reaches has changed."""
    needs: Callable[[], None] = nothing
    """Raises BackendUnavailableError where this machine lacks what not every machine has, such as a GPU."""

    def lacking(self) -> str:
        """Say what this machine lacks for it; empty where it lacks nothing."""
        try:
            self.needs()
        except BackendUnavailableError as why:
            return str(why)
        return ""
