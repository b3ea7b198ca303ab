"""What each Triton kernel should take on each GPU, predicted before it was measured: bytes and operations of a tile."""

import re
from typing import TYPE_CHECKING, Any

from bench.gpu import roofline_page
from bench.gpu.ahead import Compiled, compiled, needs_triton
from bench.gpu.roofline import CHIPS, PARTS, Chip, Shape, ideal_seconds, predict
from bench.harness.study import Context, Study, Tables, Unit

if TYPE_CHECKING:
    import pandas as pd

N = 50_000
DIMS = (64, 128, 300, 384, 768, 1024, 1536, 2048, 4096)
DIMS_QUICK = (64, 768)


def measure(context: Context, unit: Unit) -> Tables:
    """Compile and predict: roofline.csv, of the counting kernel alone in a quick run."""
    del unit
    configurations = compiled(kernels=("count",)) if context.quick else compiled()
    return {"roofline.csv": predictions(configurations, DIMS_QUICK if context.quick else DIMS)}


def conclude(context: Context) -> None:
    """Say in words what the table holds: roofline.md."""
    table = context.read("roofline.csv")
    context.text("roofline.md", roofline_page.page(table, read_back(table)))


def predictions(configurations: list[Compiled], dims: tuple[int, ...]) -> "pd.DataFrame":
    """Make a row for each chip, configuration and dimension; the fastest expected of a kernel is `chosen`."""
    import pandas as pd

    table = pd.DataFrame(
        [
            _row(chip, configuration, d)
            for chip in CHIPS
            for configuration in configurations
            if configuration.capability == chip.capability
            for d in dims
        ]
    )
    best = table.groupby(["chip", "kernel", "precision", "d"]).expected.idxmin()
    return table.assign(chosen=table.index.isin(best))


def _row(chip: Chip, compiled: Compiled, d: int) -> dict[str, Any]:
    shape = compiled.shape
    prediction = predict(chip, compiled.kernel, compiled.precision, shape, N, d)
    half = ideal_seconds(chip, compiled.precision, N, d)
    sizes = f"{shape.rows}x{shape.columns}x{shape.step}"
    return {
        "chip": chip.name, "kernel": compiled.kernel, "precision": compiled.precision, "n": N, "d": d,
        "configuration": f"{sizes}, {shape.warps} warps, {shape.stages} stages, {shape.parts} parts",
        "registers": compiled.registers, "stack_bytes": compiled.stack_bytes, "shared_bytes": compiled.shared_bytes,
        "programs_asked": compiled.launched, "programs": shape.resident,
        **{part: getattr(prediction, part) for part in PARTS},
        "tiles": prediction.tiles, "busiest": prediction.limit, "overlapped": prediction.ratio(prediction.overlapped),
        "serial": prediction.ratio(prediction.serial), "expected": prediction.expected, "half_product_seconds": half,
        "expected_seconds": prediction.expected * half,
    }  # fmt: skip


def read_back(table: "pd.DataFrame") -> list[Compiled]:
    """Read from a table what was compiled for it: the rows of one dimension, of a chip of each capability."""
    chips = {chip.name: chip.capability for chip in {chip.capability: chip for chip in reversed(CHIPS)}.values()}
    first = table[table.chip.isin(chips) & (table.d == table.d.min())]
    return [
        Compiled(
            row.kernel, row.precision, chips[row.chip],
            Shape(*map(int, [*re.findall(r"\d+", row.configuration), row.programs])),
            int(row.programs_asked), int(row.registers), int(row.stack_bytes), int(row.shared_bytes),
        )
        for row in first.itertuples()
    ]  # fmt: skip


STUDY = Study(
    "roofline", "what each Triton kernel should take on each GPU, predicted from bytes and operations", measure,
    conclude=conclude, needs=needs_triton,
)  # fmt: skip
