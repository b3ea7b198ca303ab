"""The speed table of the README, written from results/speed.csv and nothing else."""

from pathlib import Path

import pandas as pd

START, END = "<!-- speed: written by `python -m bench`, from results/speed.csv -->", "<!-- end of speed -->"


def table(speed: pd.DataFrame) -> str:
    """Make the table in Markdown, a column a dimension."""
    shown = speed[speed.d.isin((50, 128, 300, 768, 1536, 4096))]
    lines = [
        "| dimension | " + " | ".join(f"{d:,}" for d in shown.d) + " |",
        "|---|" + "---:|" * len(shown),
        "| million pairs a second | " + " | ".join(f"{v:,.0f}" for v in shown.million_pairs_per_second) + " |",
        "| times chunked torch | " + " | ".join(f"{v:.1f}×" for v in shown.times_chunked_torch) + " |",
        "| share of the bare product's time | " + " | ".join(f"{v:.2f}" for v in shown.of_bare_product) + " |",
    ]
    return "\n".join(lines)


def refresh(readme: Path, speed: Path) -> None:
    """Put the table between its two marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    part = readme.with_suffix(".part")
    part.write_text(f"{before}{START}\n{table(pd.read_csv(speed))}\n{END}{after}", encoding="utf-8")
    part.replace(readme)
