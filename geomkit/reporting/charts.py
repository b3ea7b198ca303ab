"""Charts for pages, from rows of data: Vega-Lite by way of Altair, in colours that follow the theme of the page."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.reporting.page import Chart

__all__ = ["COLOURS", "DASHES", "bars", "dots", "graph", "lines", "scatter", "steps"]

_Rows = Sequence[Mapping[str, Any]]

COLOURS = ("var(--blue)", "var(--orange)", "var(--green)", "var(--red)", "var(--purple)", "var(--grey)")
"""Of what is told apart, in this order: Wong's palette, darker or lighter as the theme asks."""

DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 1], [1, 3])
"""So that lines do without colour."""

_CONFIG: dict[str, Any] = {
    "background": "transparent",
    # The figure says what there is to see; marks one by one would drown that.
    "aria": False,
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "gridColor": "var(--line)",
        "domainColor": "var(--quiet)", "tickColor": "var(--quiet)", "labelFontSize": 12, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelLimit": {"expr": "max(110, containerSize()[0] / 4)"},
    },
    "axisX": {"tickCount": {"expr": "max(3, floor(containerSize()[0] / 80))"}},
    "legend": {
        "labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12, "orient": "bottom",
        "columns": {"expr": "max(1, floor(containerSize()[0] / 330))"}, "labelLimit": 280, "symbolStrokeWidth": 2.5,
        "symbolOpacity": 1,
    },
    "view": {"stroke": "transparent"},
    "rule": {"color": "var(--quiet)"},
    "text": {"color": "var(--ink)", "fontSize": 12},
}  # fmt: skip


_LINE = 26
"""Pixels of a name on an axis of names, ..."""

_KEY_LINE = 15
"""... and of one in a key."""


_FOLDED = "containerSize()[0] < 500 ? split(datum.label, ', ') : datum.label"
"""Where a chart is narrow, a name on an axis has a line for each of its parts."""


def _altair() -> Any:
    try:
        import altair as alt
    except ImportError as why:
        msg = f"charts need Altair, which cannot be imported ({why}): pip install 'geomkit[report]'"
        raise BackendUnavailableError(msg) from why
    return alt


def _finished(
    name: str, title: str, alt: str, note: str, chart: Any, params: Mapping[str, Any], height: int, **rows: _Rows
) -> Chart:
    sized = chart.properties(width="container", autosize={"type": "fit-x", "contains": "padding"})
    spec = sized.properties(height=height).to_dict()
    # Once, however many layers draw them.
    spec["datasets"] = {each: [dict(row) for row in found] for each, found in rows.items()}
    spec["config"] = _CONFIG
    spec.setdefault("params", [])
    spec["params"] += [{"name": each, "value": value} for each, value in params.items()]
    return Chart(name, title, alt, spec, note)


def _axis(
    alt: Any, kind: str, column: tuple[str, str], rows: _Rows, *, log: bool = False,
    zero: bool = False, also: Sequence[str] = (),
) -> Any:  # fmt: skip
    """Return an axis that holds all rows, so that it stays where it is while some of them are hidden."""
    values = [float(row[name]) for row in rows for name in (column[0], *also) if name in row]
    ends = [min([0.0, *values] if zero else values), max(values)]
    linear = {} if log else {"zero": zero, "nice": True}
    scale = alt.Scale(type="log" if log else "linear", domain=ends, **linear)
    axis = {"axis": alt.Axis(values=_ticks(*ends))} if log else {}
    return getattr(alt, kind)(f"{column[0]}:Q", title=column[1], scale=scale, **axis)


def _wide(alt: Any, values: Sequence[float], *, padding: int) -> dict[str, Any]:
    """Scale and axis of a log axis that ends where values do, with room for their marks."""
    low, high = min(values), max(values)
    scale = alt.Scale(type="log", domain=[low, high], nice=False, padding=padding)
    return {"scale": scale, "axis": alt.Axis(values=_ticks(low, high))}


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten on a log axis, with 2 and 5 between them where there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 4 else (1,)
    return [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]


def lines(
    name: str, title: str, alt: str, rows: _Rows, *, x: tuple[str, str], y: tuple[str, str],
    who: str = "who", order: Sequence[str] = (), dashed: Sequence[str] = (), interval: bool = False,
    when: str = "", params: Mapping[str, Any] | None = None, points: bool = False, log_x: bool = False,
    log_y: bool = False, detail: str = "", marked: str = "", colours: Mapping[str, str] | None = None,
    keyed: bool = False, height: int = 320, note: str = "",
) -> Chart:  # fmt: skip
    """Draw one line for each name in the column `who`.

    Parameters
    ----------
    name, title, alt, note
        As of `Chart`.
    rows : sequence of mappings
        With the columns of `x`, `y`, `who` and, where `interval`, ``low`` and ``high``.
    x, y : (column, title of the axis)
    order : sequence of str
        Names in the order of their colours.
    dashed : sequence of str
        Those that are drawn in grey and dashed: nulls.
    when : str
        A Vega expression over ``datum`` and the names in `params`: which rows are drawn.
    params : mapping
        Values of parameters at first; controls of the page with these names change them.
    detail : str
        A column that tells lines of one name apart.
    marked : str
        A parameter whose value on the x axis is marked by a rule.
    colours : mapping
        Of each name, if not one each; dashes tell names of one colour apart.
    keyed : bool
        Names of the lines that are drawn stand in the upper left corner, instead of all names in a legend.
    """
    altair = _altair()
    names = list(order) or list(dict.fromkeys(str(row[who]) for row in rows))
    strokes = _strokes(names, dashed, colours)
    colour = altair.Scale(domain=names, range=[each for each, _ in strokes])
    dash = altair.Scale(domain=names, range=[each for _, each in strokes])
    legend = None if keyed else altair.Legend(symbolType="stroke")
    base = altair.Chart(altair.NamedData("rows")).encode(
        x=_axis(altair, "X", x, rows, log=log_x),
        color=altair.Color(f"{who}:N", title=None, scale=colour, legend=legend),
    )
    if detail:
        base = base.encode(detail=f"{detail}:N")
    if when:
        base = base.transform_filter(when)
    drawn = base.mark_line(clip=True, point=points, strokeWidth=2).encode(
        y=_axis(altair, "Y", y, rows, log=log_y, also=("low", "high") if interval else ()),
        strokeDash=altair.StrokeDash(f"{who}:N", title=None, scale=dash, legend=legend),
        tooltip=[altair.Tooltip(f"{who}:N"), altair.Tooltip(f"{x[0]}:Q", title=x[1], format=".4g"),
                 altair.Tooltip(f"{y[0]}:Q", title=y[1], format=".4g")],
    )  # fmt: skip
    if interval:
        band = base.mark_area(opacity=0.2, clip=True).encode(
            y=_axis(altair, "Y", ("low", y[1]), rows, log=log_y, also=(y[0], "high")), y2="high:Q"
        )
        drawn = altair.layer(band, drawn)
    if keyed:
        drawn = altair.layer(
            drawn, *_key(altair, altair.Chart(altair.NamedData("rows")), who, when, names, colour, dash)
        )
    if marked:
        rule = altair.Chart(altair.Data(values=[{}])).transform_calculate(at=marked).mark_rule(strokeDash=[2, 2])
        drawn = altair.layer(drawn, rule.encode(x="at:Q"))
    return _finished(name, title, alt, note, drawn, params or {}, height, rows=rows)


def _strokes(
    names: Sequence[str], dashed: Sequence[str], colours: Mapping[str, str] | None
) -> list[tuple[str, list[int]]]:
    """Colour and dashes of each line."""
    found: list[tuple[str, list[int]]] = []
    often: Counter[str] = Counter()
    for name in names:
        if name in dashed:
            found.append(("var(--grey)", [5, 4]))
            continue
        colour = colours[name] if colours else COLOURS[often.total() % (len(COLOURS) - 1)]
        found.append((colour, DASHES[often[colour] % len(DASHES)]))
        often[colour] += 1
    return found


def _key(
    altair: Any, base: Any, who: str, when: str, names: Sequence[str], colour: Any, dash: Any
) -> tuple[Any, Any]:  # fmt: skip
    """List the lines that are drawn, a stroke and a name each: a legend that follows the controls."""
    order = f"indexof({json.dumps(list(names))}, datum['{who}'])"
    listed = base.transform_filter(when) if when else base
    listed = listed.transform_aggregate(groupby=[who]).transform_calculate(order=order)
    listed = listed.transform_window(line="row_number()", sort=[altair.SortField("order")])
    down = {"expr": f"{_KEY_LINE} * datum.line - 6"}
    both = {"color": altair.Color(f"{who}:N", scale=colour, legend=None), "y": altair.value(0)}
    stroke = listed.mark_rule(strokeWidth=2, yOffset=down).encode(
        **both,
        x=altair.value(8),
        x2=altair.value(34),
        strokeDash=altair.StrokeDash(f"{who}:N", scale=dash, legend=None),
    )
    name = listed.mark_text(align="left", fontSize=11, yOffset=down).encode(**both, x=altair.value(40), text=f"{who}:N")
    return stroke, name


def steps(
    name: str, title: str, alt: str, rows: _Rows, *, x: str, y: str, log_y: bool = False,
    height: int = 220, note: str = "",
) -> Chart:  # fmt: skip
    """Draw a histogram from its bins: columns left, right and height."""
    altair = _altair()
    drawn = (
        altair.Chart(altair.NamedData("rows"))
        .mark_bar(color="var(--blue)", stroke="var(--paper)", strokeWidth=0.5)
        .encode(
            x=altair.X("left:Q", title=x, bin="binned"),
            x2="right:Q",
            y=altair.Y("height:Q", title=y, scale=altair.Scale(type="symlog" if log_y else "linear")),
            tooltip=[altair.Tooltip("left:Q"), altair.Tooltip("right:Q"), altair.Tooltip("height:Q", title=y)],
        )
    )
    return _finished(name, title, alt, note, drawn, {}, height, rows=rows)


def dots(
    name: str, title: str, alt: str, rows: _Rows, *, x: tuple[str, str], y: str = "name",
    who: str, order: Sequence[str], colours: Sequence[str], limits: Sequence[float] = (), note: str = "",
) -> Chart:  # fmt: skip
    """Draw a dot for each row, a line for each name, on a symmetric log axis about 0.

    Parameters
    ----------
    x : (column, title of the axis)
    y : str
        Column of names, top to bottom in the order of the rows.
    who : str
        Column that gives colour and shape; its values in `order`.
    limits : sequence of float
        Where dashed lines stand.
    """
    altair = _altair()
    shapes = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
    names = list(dict.fromkeys(str(row[y]) for row in rows))
    scale = altair.Scale(type="symlog", zero=False)
    base = altair.Chart(altair.NamedData("rows")).encode(
        y=altair.Y(f"{y}:N", title=None, sort=names),
        color=altair.Color(f"{who}:N", title=None, scale=altair.Scale(domain=list(order), range=list(colours))),
    )
    values = [float(row[x[0]]) for row in rows]
    decades = [sign * 10.0**power for power in range(1, 13) for sign in (-1, 1)]
    ticks = sorted([0.0, *(each for each in decades if min([*values, -10]) <= each <= max([*values, 10]))])
    axis = altair.Axis(values=ticks, format="~s")
    layers = []
    for value, dash in [(0.0, [1, 0]), *((each, [4, 4]) for each in limits)]:
        mark = altair.Chart(altair.Data(values=[{"at": value}])).mark_rule(strokeDash=dash)
        layers.append(mark.encode(x=altair.X("at:Q", scale=scale)))
    layers.append(
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=altair.X(f"{x[0]}:Q", title=x[1], scale=scale, axis=axis),
            shape=altair.Shape(
                f"{who}:N", title=None, scale=altair.Scale(domain=list(order), range=shapes[: len(order)])
            ),
            tooltip=[altair.Tooltip(f"{y}:N"), altair.Tooltip(f"{who}:N"), altair.Tooltip(f"{x[0]}:Q", format=".4g")],
        )
    )
    return _finished(name, title, alt, note, altair.layer(*layers), {}, _LINE * len(names), rows=rows)


def bars(
    name: str, title: str, alt: str, rows: _Rows, *, x: tuple[str, str], y: str, who: str,
    order: Sequence[str], at: float, note: str = "",
) -> Chart:  # fmt: skip
    """Draw bars from `at` on a log axis, side by side for what `who` tells apart, with their intervals.

    A name has at most one row for each value of `who`.
    """
    altair = _altair()
    names = list(dict.fromkeys(str(row[y]) for row in rows))
    if len({(row[y], row[who]) for row in rows}) < len(rows):
        msg = f"bars of {name} lie on each other: each name and {who} must be there once"
        raise InvalidInputError(msg)
    ends = [at, *(float(row[each]) for row in rows for each in (x[0], "low", "high"))]
    wide = _wide(altair, ends, padding=8)
    base = altair.Chart(altair.NamedData("rows")).encode(
        y=altair.Y(f"{y}:N", title=None, sort=names, axis=altair.Axis(labelExpr=_FOLDED, labelLineHeight=11)),
        yOffset=altair.YOffset(f"{who}:N", sort=list(order)),
    )
    drawn = base.mark_bar().encode(
        x=altair.X(f"{x[0]}:Q", title=x[1], **wide),
        x2=altair.datum(at),
        color=altair.Color(
            f"{who}:N", title=None, scale=altair.Scale(domain=list(order), range=list(COLOURS)[: len(order)])
        ),
        tooltip=[altair.Tooltip(f"{y}:N"), altair.Tooltip(f"{who}:N"), altair.Tooltip(f"{x[0]}:Q", format=".4g")],
    )
    reach = base.mark_rule(color="var(--ink)").encode(x="low:Q", x2="high:Q")
    same = altair.Chart(altair.Data(values=[{"at": at}])).mark_rule().encode(x="at:Q")
    return _finished(name, title, alt, note, altair.layer(drawn, reach, same), {}, _LINE * len(names), rows=rows)


def scatter(
    name: str, title: str, alt: str, rows: _Rows, curve: _Rows, *,
    x: tuple[str, str], y: tuple[str, str], who: str, colours: Mapping[str, str], toggles: Mapping[str, str],
    when: str = "", params: Mapping[str, Any] | None = None, log_y: bool = False, height: int = 380, note: str = "",
) -> Chart:  # fmt: skip
    """Draw a point for each row over a log axis, beside a curve: a null.

    Parameters
    ----------
    colours : mapping
        Names of `who`, in their order, with the colour of each.
    toggles : mapping
        Parameters, true at first, by which points of one name of `who` are shown.
    when : str
        A Vega expression over ``datum`` and the names in `params`: which points, and which part of the curve, are
        drawn.
    params : mapping
        Values of its parameters at first.
    """
    altair = _altair()
    shapes = ["circle", "square", "triangle-up", "diamond"]
    ends = [each[x[0]] for each in (*rows, *curve)]
    wide = _wide(altair, ends, padding=12)
    null = (
        altair.Chart(altair.NamedData("curve"))
        .mark_line(color="var(--grey)", strokeDash=[5, 4])
        .encode(
            x=altair.X(f"{x[0]}:Q", title=x[1], **wide),
            y=_axis(altair, "Y", y, [*rows, *curve], log=log_y),
        )
    )
    points = (
        altair.Chart(altair.NamedData("rows"))
        .transform_filter(" || ".join(f"({name_} && datum.{who} == {title_!r})" for name_, title_ in toggles.items()))
        .mark_point(filled=True, size=55, opacity=0.9)
        .encode(
            x=altair.X(f"{x[0]}:Q", scale=wide["scale"]),
            y=f"{y[0]}:Q",
            color=altair.Color(
                f"{who}:N", title=None, scale=altair.Scale(domain=list(colours), range=list(colours.values()))
            ),
            shape=altair.Shape(f"{who}:N", title=None, scale=altair.Scale(domain=list(colours), range=shapes)),
            tooltip=["name:N", altair.Tooltip(f"{x[0]}:Q"), altair.Tooltip(f"{y[0]}:Q", format=".4g")],
        )
    )
    drawn = altair.layer(*(each.transform_filter(when) if when else each for each in (null, points)))
    first = dict.fromkeys(toggles, True) | dict(params or {})
    return _finished(name, title, alt, note, drawn, first, height, rows=rows, curve=curve)


def graph(
    name: str, title: str, alt: str, nodes: _Rows, edges: _Rows, *,
    order: Sequence[str], when: str, params: Mapping[str, Any], height: int = 460, note: str = "",
) -> Chart:  # fmt: skip
    """Draw a graph: nodes with x, y, name and who; edges with x, y, x2, y2 and similarity."""
    altair = _altair()
    no_axis = {"axis": None, "scale": altair.Scale(zero=False, padding=30)}
    links = (
        altair.Chart(altair.NamedData("edges"))
        .mark_rule(opacity=0.7)
        .encode(
            x=altair.X("x:Q", **no_axis), y=altair.Y("y:Q", **no_axis), x2="x2:Q", y2="y2:Q",
            strokeWidth=altair.StrokeWidth("similarity:Q", legend=None, scale=altair.Scale(range=[0.5, 3])),
        )
    )  # fmt: skip
    base = altair.Chart(altair.NamedData("nodes")).encode(x=altair.X("x:Q", **no_axis), y=altair.Y("y:Q", **no_axis))
    dot = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=altair.Color(
            "who:N", title=None, scale=altair.Scale(domain=list(order), range=list(COLOURS)[: len(order)])
        ),
        shape=altair.Shape("who:N", title=None, scale=altair.Scale(domain=list(order), range=["diamond", "circle"])),
        tooltip=[altair.Tooltip("name:N"), altair.Tooltip("cosine:Q", format=".3f"), altair.Tooltip("rank:Q")],
    )
    said = base.mark_text(dy=-11).encode(text="name:N")
    layers = [each.transform_filter(when) for each in (links, dot, said)]
    return _finished(name, title, alt, note, altair.layer(*layers), params, height, nodes=nodes, edges=edges)
