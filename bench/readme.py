"""The speed table of the README, written from results/speed.csv and nothing else."""

from pathlib import Path

import pandas as pd

START, END = "<!-- speed: written by `python -m bench`, from results/speed.csv -->", "<!-- end of speed -->"

DIMS = (50, 128, 384, 768, 1536, 4096)
"""Columns: what of these was measured."""

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


def refresh(readme: Path, speed: Path) -> None:
    """Put the table between its two marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    part = readme.with_suffix(".part")
    part.write_text(f"{before}{START}\n{table(pd.read_csv(speed))}\n{END}{after}", encoding="utf-8")
    part.replace(readme)
