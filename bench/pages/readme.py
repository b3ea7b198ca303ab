"""The tables of the README and of the pages in docs/, written from results/ and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.harness.markdown import markdown_table
from geomkit.core.atomic import written

START, END = "<!-- speed: written by `python -m bench`, from results/speed.csv -->", "<!-- end of speed -->"

GPU_START, GPU_END = "<!-- gpu: written by `python -m bench`, from results/gpu.csv -->", "<!-- end of gpu -->"

PLAN_START = "<!-- plan: written by `python -m bench`, from results/scale_plan.csv -->"
PLAN_END = "<!-- end of plan -->"

DIMS = (50, 128, 384, 768, 1536, 4096)
"""Columns: what of these was measured."""

GPU_DIMS = (64, 128, 384, 768, 1536, 4096)

OURS = "geomkit"
_PRECISIONS = ("bfloat16", "float32")


def table(speed: pd.DataFrame) -> str:
    """Make the table in Markdown, a column a dimension."""
    ours = speed[(speed.contender == OURS) & (speed["data"] != "anisotropic") & speed.d.isin(DIMS)]
    cosine = ours[ours.kernel == "cosine_stats"]
    # The case beside KeOps and that of one thread against two have fewer rows.
    cosine = cosine[cosine.n == cosine[cosine.beside == "bare product"].n.max()]
    bare = cosine[cosine.beside == "bare product"]
    lines = (
        ("million pairs a second", cosine[cosine.statistic == "million_pairs_per_second"], "{:,.0f}"),
        ("times chunked torch", cosine[cosine.beside == "chunked torch"], "{:.1f}×"),
        ("share of the bare product's time", bare.assign(value=1 / bare.value), "{:.2f}"),
        ("10 neighbours: times faiss", ours[(ours.kernel == "neighbors") & (ours.beside == "faiss")], "{:.1f}×"),
    )
    return _by_dimension(
        sorted(set(cosine.d)),
        [
            (f"{name}, {precision}", rows[rows.precision == precision], form)
            for name, rows, form in lines
            for precision in ("float32", "bfloat16")
        ],
    )


def _by_dimension(dims: list[int], lines: list[tuple[str, pd.DataFrame, str]]) -> str:
    """Make a table with a column a dimension of lines that have a name, rows and a format."""
    cells = []
    for name, rows, form in lines:
        values = rows.set_index("d").value
        cells.append([name, *(form.format(values[d]) if d in values else "—" for d in dims)])
    return markdown_table(["dimension", *(f"{d:,}" for d in dims)], cells)


def gpu(path: Path) -> str:
    """Make the paragraph about GPUs: a table where results/gpu.csv exists, one sentence where none ran."""
    if not path.is_file():
        return "GPU: not measured. [Predicted, kernel by kernel](results/roofline.md)."
    measured = pd.read_csv(path)
    triton = measured[(measured.contender == OURS) & (measured.backend == "triton")]
    ours, near = triton[triton.kernel == "cosine_stats"], triton[triton.kernel == "neighbors"]
    device = measured.iloc[0]
    introduction = (
        f"{device.device}, driver {device.driver}, {int(ours.n.max()):,} rows: Triton kernels beside torch's own"
        " product of all distinct pairs (the half product) at the same precision. [All cases and"
        " peers](results/gpu.csv), [predictions](results/roofline.md)."
    )

    def of(rows: pd.DataFrame, statistic: str, precision: str = "bfloat16", beside: str = "") -> pd.DataFrame:
        chosen = rows[(rows.statistic == statistic) & (rows.precision == precision)]
        return chosen[chosen.beside == beside] if beside else chosen

    pairs, half, dense = (
        "million pairs a second",
        "time over the half product's",
        "over the same at the data sheet's rate",
    )
    lines = [
        *((f"{pairs}, {name}", of(ours, "million_pairs_per_second", name), "{:,.0f}") for name in _PRECISIONS),
        *((f"{half}, {name}", of(ours, "over_half_product", name), "{:.2f}") for name in _PRECISIONS),
        (f"{dense}, bfloat16, measured", of(ours, "over_dense_half_product"), "{:.2f}"),
        (f"{dense}, bfloat16, predicted", of(ours, "predicted"), "{:.2f}"),
        *(
            (f"{name}times {beside}, bfloat16", of(rows, "times_as_fast", beside=beside), "{:.1f}×")
            for name, beside, rows in (("", "chunked torch", ours), ("10 neighbours: ", "torch chunked + topk", near))
        ),
    ]
    return f"{introduction}\n\n{_by_dimension([d for d in GPU_DIMS if d in set(ours.d)], lines)}"


def plan(forecasts: pd.DataFrame) -> str:
    """Make the table of forecasts: a line a measurement and number of machines."""
    rows = [
        [
            row["measurement"], f"{row['machines']:,}", f"{row['workers']:,}", _wall(row["hours"]), row["bound"],
            f"{row['panels']:,} × {row['panel_rows']:,}" if row["panels"] else "—", f"{row['tasks']:,}",
            _size(row["bytes_read"]), _size(row["bytes_returned"]),
        ]
        for row in forecasts.to_dict("records")
    ]  # fmt: skip
    head = "measurement, machines, workers, wall time, waits for, panels × rows, tasks, read in all, returned"
    return markdown_table(head.split(", "), rows, "lrrrlrrrr")


def _wall(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:,.0f} days"
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.0f} min"


def _size(count: float) -> str:
    unit = next(unit for unit in (1e15, 1e12, 1e9, 0.0) if count >= unit)
    return f"{count / (unit or 1e6):,.1f} {({1e15: 'PB', 1e12: 'TB', 1e9: 'GB', 0.0: 'MB'})[unit]}"


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a page that a study writes."""

    page: str
    """From the root of the project."""
    start: str
    end: str
    """Marks."""
    results: str
    """The table in results/ that it is made from."""
    written: Callable[[Path], str]
    without: bool = False
    """Whether there is something to say where there is no table."""


BLOCKS = {
    "speed": Block("README.md", START, END, "speed.csv", lambda path: table(pd.read_csv(path))),
    "gpu": Block("README.md", GPU_START, GPU_END, "gpu.csv", gpu, without=True),
    "scale": Block("docs/scale.md", PLAN_START, PLAN_END, "scale_plan.csv", lambda path: plan(pd.read_csv(path))),
}
"""What is written into pages, by the study whose table it is made from."""


def refresh(root: Path, results: Path, study: str) -> None:
    """Put a table between its two marks, in its page under `root`; nothing is written where it is there already.

    Where the table of a study is not there, what the page says of an earlier one stays.
    """
    block = BLOCKS[study]
    page = root / block.page
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(block.start)
    after = rest.split(block.end)[1]
    if not (results / block.results).is_file() and not block.without:
        return
    made = f"{before}{block.start}\n{block.written(results / block.results)}\n{block.end}{after}"
    if made != text:
        with written(page) as part:
            part.write_text(made, encoding="utf-8")
