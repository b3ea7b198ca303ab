"""The tables of the README and of the pages in docs/, written from results/ and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from geomkit.core.atomic import written

START, END = "<!-- speed: written by `python -m bench`, from results/speed.csv -->", "<!-- end of speed -->"

GPU_START, GPU_END = "<!-- gpu: written by `python -m bench`, from results/gpu.csv -->", "<!-- end of gpu -->"

PLAN_START = "<!-- plan: written by `python -m bench`, from results/scale_plan.csv -->"
PLAN_END = "<!-- end of plan -->"

DIMS = (50, 128, 384, 768, 1536, 4096)
"""Columns: what of these was measured."""

GPU_DIMS = (64, 128, 384, 768, 1536, 4096)

OURS = "geomkit"


def table(speed: pd.DataFrame) -> str:
    """Make the table in Markdown, a column a dimension."""
    found = speed[(speed.contender == OURS) & (speed["data"] != "anisotropic") & speed.d.isin(DIMS)]
    cosine = found[found.kernel == "cosine_stats"]
    # The case beside KeOps and that of one thread against two have fewer rows.
    cosine = cosine[cosine.n == cosine[cosine.beside == "bare product"].n.max()]
    near = found[found.kernel == "neighbors"]
    shown = sorted(set(cosine.d))
    lines = ["| dimension | " + " | ".join(f"{d:,}" for d in shown) + " |", "|---|" + "---:|" * len(shown)]
    for precision in ("float32", "bfloat16"):
        rate = cosine[cosine.statistic == "million_pairs_per_second"]
        lines.append(_line(f"million pairs a second, {precision}", rate, precision, shown, "{:,.0f}"))
    for precision in ("float32", "bfloat16"):
        torch = cosine[cosine.beside == "chunked torch"]
        lines.append(_line(f"times chunked torch, {precision}", torch, precision, shown, "{:.1f}×"))
    for precision in ("float32", "bfloat16"):
        bare = cosine[cosine.beside == "bare product"]
        bare = bare.assign(value=1 / bare.value)
        lines.append(_line(f"share of the bare product's time, {precision}", bare, precision, shown, "{:.2f}"))
    for precision in ("float32", "bfloat16"):
        faiss = near[near.beside == "faiss"]
        lines.append(_line(f"10 neighbours: times faiss, {precision}", faiss, precision, shown, "{:.1f}×"))
    return "\n".join(lines)


def _line(name: str, rows: pd.DataFrame, precision: str, shown: list[int], form: str) -> str:
    values = rows[rows.precision == precision].set_index("d").value
    return f"| {name} | " + " | ".join(form.format(values[d]) if d in values else "—" for d in shown) + " |"


def gpu(path: Path) -> str:
    """Make the paragraph about GPUs: a table where results/gpu.csv exists, one sentence where none ran."""
    if not path.is_file():
        return "GPU: not measured. [Predicted, kernel by kernel](results/roofline.md)."
    found = pd.read_csv(path)
    ours = found[(found.contender == OURS) & (found.kernel == "cosine_stats") & (found.backend == "triton")]
    near = found[(found.contender == OURS) & (found.kernel == "neighbors") & (found.backend == "triton")]
    shown = [d for d in GPU_DIMS if d in set(ours.d)]
    about = found.iloc[0]
    said = (
        f"{about.device}, driver {about.driver}, {int(ours.n.max()):,} rows: Triton kernels beside torch's own product"
        " of all distinct pairs (the half product) at the same precision. [All cases and peers](results/gpu.csv),"
        " [predictions](results/roofline.md)."
    )
    lines = [
        said,
        "",
        "| dimension | " + " | ".join(f"{d:,}" for d in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for precision in ("bfloat16", "float32"):
        rate = ours[ours.statistic == "million_pairs_per_second"]
        lines.append(_line(f"million pairs a second, {precision}", rate, precision, shown, "{:,.0f}"))
    for precision in ("bfloat16", "float32"):
        half = ours[ours.statistic == "over_half_product"]
        lines.append(_line(f"time over the half product's, {precision}", half, precision, shown, "{:.2f}"))
    for statistic, name in (("over_dense_half_product", "measured"), ("predicted", "predicted")):
        dense = ours[ours.statistic == statistic]
        lines.append(
            _line(f"over the same at the data sheet's rate, bfloat16, {name}", dense, "bfloat16", shown, "{:.2f}")
        )
    for name, beside, rows in (("", "chunked torch", ours), ("10 neighbours: ", "torch chunked + topk", near)):
        peer = rows[(rows.statistic == "times_as_fast") & (rows.beside == beside)]
        lines.append(_line(f"{name}times {beside}, bfloat16", peer, "bfloat16", shown, "{:.1f}×"))
    return "\n".join(lines)


def plan(found: pd.DataFrame) -> str:
    """Make the table of forecasts: a line a measurement and number of machines."""
    lines = [
        "| measurement | machines | workers | wall time | waits for | panels × rows | tasks | read in all | returned |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in found.to_dict("records"):
        panels = f"{row['panels']:,} × {row['panel_rows']:,}" if row["panels"] else "—"
        lines.append(
            f"| {row['measurement']} | {row['machines']:,} | {row['workers']:,} | {_wall(row['hours'])} "
            f"| {row['bound']} | {panels} | {row['tasks']:,} "
            f"| {_size(row['bytes_read'])} | {_size(row['bytes_returned'])} |"
        )
    return "\n".join(lines)


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
