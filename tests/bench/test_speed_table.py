"""The README's speed table says what results/speed.csv says, a column a dimension."""

import pandas as pd

from bench.pages import readme


def row(statistic, value, *, d=768, beside="", precision="float32", kernel="cosine_stats", n=100, data="isotropic"):
    return {
        "kernel": kernel, "data": data, "setting": "", "n": n, "d": d, "contender": "geomkit", "precision": precision,
        "statistic": statistic, "beside": beside, "value": value,
    }  # fmt: skip


ROWS = [
    row("million_pairs_per_second", 1234.5),
    row("million_pairs_per_second", 2345.6, precision="bfloat16"),
    row("times_as_fast", 5.55, beside="chunked torch"),
    row("times_as_fast", 2.0, beside="bare product"),
    row("times_as_fast", 4.0, beside="bare product", precision="bfloat16"),
    row("times_as_fast", 3.21, beside="faiss", kernel="neighbors", data="factors", n=50),
    row("million_pairs_per_second", 999.0, d=50),
    row("times_as_fast", 1.25, beside="bare product", d=50),
    # None of these belongs into the table.
    row("million_pairs_per_second", 777.0, data="anisotropic"),
    row("million_pairs_per_second", 777.0, n=10),
    row("million_pairs_per_second", 777.0, d=63),
]


def test_a_column_a_dimension_and_a_dash_for_what_was_not_measured():
    lines = readme.table(pd.DataFrame(ROWS)).splitlines()
    assert lines[0] == "| dimension | 50 | 768 |"
    assert "| million pairs a second, float32 | 999 | 1,234 |" in lines
    assert "| million pairs a second, bfloat16 | — | 2,346 |" in lines
    assert (
        "| times chunked torch, float32 | — | 5.5× |" in lines or "| times chunked torch, float32 | — | 5.6× |" in lines
    )
    assert "| share of the bare product's time, float32 | 0.80 | 0.50 |" in lines
    assert "| share of the bare product's time, bfloat16 | — | 0.25 |" in lines
    assert "| 10 neighbours: times faiss, float32 | — | 3.2× |" in lines
    assert "777" not in "".join(lines)
