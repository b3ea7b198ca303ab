"""The tables of the README, written from results/speed.csv and results/gpu.csv and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

START, END = "<!-- speed: written by `python -m bench`, from results/speed.csv -->", "<!-- end of speed -->"

GPU_START, GPU_END = "<!-- gpu: written by `python -m bench`, from results/gpu.csv -->", "<!-- end of gpu -->"

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
    for name, beside, rows in (("", "torch chunked + histc", ours), ("10 neighbours: ", "torch chunked + topk", near)):
        peer = rows[(rows.statistic == "times_as_fast") & (rows.beside == beside)]
        lines.append(_line(f"{name}times {beside}, bfloat16", peer, "bfloat16", shown, "{:.1f}×"))
    return "\n".join(lines)


BLOCKS: dict[str, tuple[str, str, Callable[[Path], str]]] = {
    "speed": (START, END, lambda path: table(pd.read_csv(path))),
    "gpu": (GPU_START, GPU_END, gpu),
}
"""Marks of each block, and what is written between them, by the study whose table it is made from."""


def refresh(readme: Path, results: Path, block: str = "speed") -> None:
    """Put a table between its two marks."""
    start, end, written = BLOCKS[block]
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(start)
    after = rest.split(end)[1]
    part = readme.with_suffix(".part")
    part.write_text(f"{before}{start}\n{written(results)}\n{end}{after}", encoding="utf-8")
    part.replace(readme)
