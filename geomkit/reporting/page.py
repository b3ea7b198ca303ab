"""What a page consists of, and how it becomes one HTML file that asks the network for nothing."""

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from geomkit.core.atomic import written
from geomkit.errors import BackendUnavailableError, InvalidInputError

__all__ = [
    "Cell",
    "Chart",
    "Column",
    "Control",
    "Page",
    "Panel",
    "Section",
    "Table",
    "Text",
    "check_out",
    "render",
    "write",
]

_HERE = Path(__file__).parent

LONGEST = 160
"""Characters of a text that a page shows; the rest is counted."""

SHORT = 14
"""Characters of a cell that is never broken."""


def clipped(text: str, longest: int = LONGEST) -> str:
    """Return the beginning of a text in one line, and how long it is where it is longer."""
    line = " ".join(text[: 2 * longest].split())
    if len(text) <= longest:
        return line
    return f"{line[:longest]}… ({len(text):,} characters)"


@dataclass(frozen=True, slots=True)
class Cell:
    """What a table shows, and what it sorts by."""

    shown: str
    key: float | str
    """Numbers sort before text; NaN comes last either way."""
    mark: str = ""
    """A word that gives the cell a colour: a verdict, say. It is never told by colour alone."""

    @property
    def sort_key(self) -> str:
        """As an attribute of the cell."""
        return self.key if isinstance(self.key, str) else f"{self.key:.17g}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    heading: str
    number: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that a reader can sort by any column."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    kind: str = field(default="table", init=False)

    @property
    def styles(self) -> list[str]:
        """How each column is set: numbers to the right, words of a line as narrow as they are, text wide enough."""
        cells = [[row[at].shown for row in self.rows] for at in range(len(self.columns))]
        short = [max(map(len, column), default=0) <= SHORT for column in cells]
        return [
            "number" if column.number else "short" if narrow else "text"
            for column, narrow in zip(self.columns, short, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Chart:
    """A Vega-Lite chart; `geomkit.reporting.charts` makes them."""

    name: str
    title: str
    """States what is to be seen."""
    alt: str
    """The same for whoever does not see it."""
    spec: Mapping[str, Any]
    note: str = ""
    kind: str = field(default="chart", init=False)


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, or points of a list."""

    lines: Sequence[str]
    points: bool = False
    kind: str = field(default="text", init=False)


@dataclass(frozen=True, slots=True)
class Control:
    """Sets a parameter of all charts of its section, and shows the panels that are for its value."""

    name: str
    """Of the parameter in the charts."""
    label: str
    options: Sequence[tuple[Any, str]]
    """Values and what they are called; for a toggle true and false are implied."""
    how: str = "choice"
    """``"choice"``, ``"range"`` (a slider over the options in their order) or ``"toggle"``."""
    start: Any = None
    """Value at first; the first option, or on, unless given."""

    def __post_init__(self) -> None:
        if self.how not in {"choice", "range", "toggle"}:
            msg = f"how must be choice, range or toggle; got {self.how!r}"
            raise InvalidInputError(msg)

    @property
    def at(self) -> int:
        """Number of the option at first."""
        values = [value for value, _ in self.options]
        return 0 if self.start is None else values.index(self.start)


@dataclass(frozen=True, slots=True)
class Panel:
    """Elements that are shown while a control has a certain value."""

    control: str
    value: Any
    elements: Sequence["Element"]
    kind: str = field(default="panel", init=False)


Element = Table | Chart | Text | Panel


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page under a heading of its own."""

    name: str
    title: str
    elements: Sequence[Element]
    controls: Sequence[Control] = ()
    lead: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A report."""

    title: str
    lead: str
    sections: Sequence[Section]
    verdict: str = ""
    facts: Sequence[tuple[str, str]] = ()
    """How it was made."""

    @property
    def charts(self) -> list[Chart]:
        """All charts, those in panels too."""
        return [each for section in self.sections for each in _charts(section.elements)]


def _charts(elements: Sequence[Element]) -> list[Chart]:
    found: list[Chart] = []
    for each in elements:
        if isinstance(each, Chart):
            found.append(each)
        elif isinstance(each, Panel):
            found += _charts(each.elements)
    return found


def render(page: Page) -> str:
    """Return the page as HTML.

    Raises
    ------
    BackendUnavailableError
        Jinja2, Altair or vl-convert is not installed.
    """
    try:
        import jinja2
    except ImportError as why:
        raise _missing(str(why.name)) from why
    charts = page.charts
    names = [each.name for each in charts]
    if len(set(names)) < len(names):
        msg = f"each chart of a page must have a name of its own; got {names}"
        raise InvalidInputError(msg)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["clipped"] = clipped
    from geomkit._version import __version__

    return environment.get_template("page.html.j2").render(
        page=page,
        version=__version__,
        style=_read("page.css"),
        script=_read("page.js"),
        library=_library() if charts else "",
        specs=_inert({each.name: each.spec for each in charts}),
    )


def _read(name: str) -> Any:
    from markupsafe import Markup

    return Markup((_HERE / name).read_text(encoding="utf-8"))  # noqa: S704 - our own files


def _inert(value: Any) -> Any:
    """Return JSON that no text in it can end or leave: within a script element, only < could."""
    from markupsafe import Markup

    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704 - no markup is left


@cache
def _library() -> Any:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    from markupsafe import Markup

    try:
        import altair as alt
        import vl_convert
    except ImportError as why:
        raise _missing(str(why.name)) from why
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    # Its stubs ask for a snippet of one's own, which it does without.
    bundle: Any = vl_convert.javascript_bundle
    script = bundle(vl_version=version)
    # An HTML parser ends a script at this, even within a string.
    return Markup(script.replace("</script", "<\\/script"))  # noqa: S704 - a library's own script


def _missing(name: str) -> BackendUnavailableError:
    return BackendUnavailableError(
        f"HTML needs Altair, vl-convert and Jinja2; {name} is not installed: pip install 'geomkit[report]'"
    )


def check_out(path: str | os.PathLike[str]) -> Path:
    """Return where a page will be written, before anything is measured for it.

    Raises
    ------
    InvalidInputError
        It is no .html file in a folder that exists.
    BackendUnavailableError
        What pages are made with is not installed.
    """
    out = Path(path)
    if out.suffix.lower() not in {".html", ".htm"} or not out.parent.is_dir() or out.is_dir():
        msg = f"--html must be an .html file in a folder that exists; got {out}"
        raise InvalidInputError(msg)
    for name in ("altair", "vl_convert", "jinja2"):
        if importlib.util.find_spec(name) is None:
            raise _missing(name)
    return out


def write(page: Page, path: str | os.PathLike[str]) -> None:
    """Write a page under a temporary name, and rename the complete file.

    Raises
    ------
    InvalidInputError
        `path` is no .html file in a folder that exists.
    StorageError
        It cannot be written.
    """
    out = check_out(path)
    text = render(page)
    with written(out) as part:
        part.write_text(text, encoding="utf-8")
