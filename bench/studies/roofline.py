"""What each Triton kernel should take on each GPU, predicted before it was measured: bytes and operations of a tile."""

import re
from typing import TYPE_CHECKING, Any

from bench.gpu import roofline_page
from bench.gpu.roofline import CHIPS, Chip, Prediction, Shape, ideal_seconds, predict
from bench.gpu.roofline_resources import Configured, configured, needs_triton
from bench.harness.study import Context, Study, Tables, Unit

if TYPE_CHECKING:
    import pandas as pd

N = 50_000
DIMS = (64, 128, 300, 384, 768, 1024, 1536, 2048, 4096)
DIMS_QUICK = (64, 768)


def measure(context: Context, unit: Unit) -> Tables:
    """Compile and predict: roofline.csv, of the counting kernel alone in a quick run."""
    del unit
    capabilities = sorted({chip.capability for chip in CHIPS})
    made = configured(capabilities, ("count",)) if context.quick else configured(capabilities)
    return {"roofline.csv": predictions(made, DIMS_QUICK if context.quick else DIMS)}


def conclude(context: Context) -> None:
    """Say in words what the table holds: roofline.md."""
    table = context.read("roofline.csv")
    context.text("roofline.md", roofline_page.page(table, compiled(table)))


def predictions(made: list[Configured], dims: tuple[int, ...]) -> "pd.DataFrame":
    """Make a row for each chip, configuration and dimension; the fastest expected of a kernel is `chosen`."""
    import pandas as pd

    rows = [
        _row(chip, each, d, predict(chip, each.kernel, each.precision, each.shape, N, d))
        for chip in CHIPS
        for each in made
        if each.capability == chip.capability
        for d in dims
    ]
    table = pd.DataFrame(rows)
    best = table.groupby(["chip", "kernel", "precision", "d"]).expected.idxmin()
    return table.assign(chosen=table.index.isin(best))


def _row(chip: Chip, made: Configured, d: int, found: Prediction) -> dict[str, Any]:
    shape, half = made.shape, ideal_seconds(chip, made.precision, N, d)
    return {
        "chip": chip.name, "kernel": made.kernel, "precision": made.precision, "n": N, "d": d,
        "configuration": say(made), "registers": made.registers, "stack_bytes": made.stack_bytes,
        "shared_bytes": made.shared_bytes, "programs_asked": made.asked, "programs": shape.resident,
        "math": found.math, "operands": found.operands, "cache": found.cache, "memory": found.memory,
        "atomics": found.atomics, "window": found.window, "arithmetic": found.arithmetic,
        "shuffles": found.shuffles, "adds": found.adds, "tiles": found.tiles, "busiest": found.limit,
        "overlapped": found.ratio(found.overlapped), "serial": found.ratio(found.serial), "expected": found.expected,
        "half_product_seconds": half, "expected_seconds": found.expected * half,
    }  # fmt: skip


def say(made: Configured) -> str:
    """Name a configuration."""
    shape = made.shape
    return f"{shape.rows}x{shape.columns}x{shape.step}, {shape.warps} warps, {shape.stages} stages, {shape.parts} parts"


def compiled(table: "pd.DataFrame") -> list[Configured]:
    """Read from a table what was compiled for it: the rows of one dimension, of a chip of each capability."""
    chips = {chip.capability: chip for chip in reversed(CHIPS)}
    found = []
    for capability in sorted(chips):
        mine = table[(table.chip == chips[capability].name) & (table.d == table.d.min())]
        for row in mine.itertuples():
            rows, columns, step, warps, stages, parts = map(int, re.findall(r"\d+", row.configuration))
            shape = Shape(rows, columns, step, warps, stages, parts, int(row.programs))
            uses = (int(each) for each in (row.programs_asked, row.registers, row.stack_bytes, row.shared_bytes))
            found.append(Configured(row.kernel, row.precision, capability, shape, *uses))
    return found


STUDY = Study(
    "roofline", "what each Triton kernel should take on each GPU, predicted from bytes and operations", measure,
    conclude=conclude, needs=needs_triton,
)  # fmt: skip
