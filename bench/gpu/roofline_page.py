"""results/roofline.md: what `bench.gpu.roofline` predicts, in words; every number from the model or its constants.

The prose stands in roofline_page.md; the functions here make its tables and the sentences that depend on results.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.gpu import roofline as model
from bench.gpu.ahead import Compiled
from bench.gpu.roofline import CHIPS, KERNELS, PARTS, PRECISIONS, Chip, conflicts, occupied, predict
from bench.harness.markdown import markdown_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AIM", "DIMS", "page"]

AIM = 1.25
"""Of value counting in bfloat16, over the half product, from `AIMED` coordinates on."""
AIMED = 768
DIMS = (64, 300, 768, 1024, 4096)
"""Columns: what of these was predicted."""


def page(table: "pd.DataFrame", compiled: Sequence[Compiled]) -> str:
    """Write the whole page."""
    dims = [d for d in DIMS if d in set(table.d)]
    count = table[(table.kernel == "count") & (table.precision == "bfloat16")]
    counts = [(chip, count[count.chip == chip.name]) for chip in CHIPS]
    aimed = [(chip, rows[rows.d == AIMED]) for chip, rows in counts]
    template = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    return template.format(
        model=model, n=int(table.n.iloc[0]), aim=AIM, aimed=AIMED, counters=2 * model.HALF,
        conflicts=conflicts(), passes=conflicts() * model.PASS,
        pairs_a_clock=model.LANES / (conflicts() * model.PASS), occupied=occupied(128 * 128, 768), pairs=128 * 128,
        equal_rows=model.LANES / conflicts(),
        verdicts="\n".join(_verdict(chip, rows) for chip, rows in counts),
        counting=_counting(counts, dims), chips=_chips(), operations=_operations(), clocks=_clocks(aimed),
        kernels=_kernels(table, dims), compiler=_compiler(compiled),
        sensitivity=_sensitivity(int(table.n.iloc[0]), compiled),
        limits="\n".join(_falsified(chip, rows) for chip, rows in aimed),
    )  # fmt: skip


def _verdict(chip: Chip, count: "pd.DataFrame") -> str:
    chosen = count[count.chosen & (count.d >= AIMED)].sort_values("d")
    met = chosen[chosen.expected <= AIM].d.tolist()
    verdict = "is met at every dimension" if len(met) == len(chosen) else "is not met"
    if met and len(met) < len(chosen):
        verdict = f"is met from d = {min(met):,} on"
    best = chosen[chosen.d == AIMED].iloc[0]
    closest = count[count.d == AIMED].sort_values("overlapped").iloc[0]
    shared, cache = closest.operands + closest.atomics + closest.window, closest.cache + closest["adds"]
    return (
        f"- {chip.name}: {verdict}; at d = {AIMED} {best.expected:.2f} is expected, {best.configuration}. If all parts"
        f" worked at once, {closest.configuration} would come closest, with {closest.overlapped:.2f}: beside"
        f" {closest.math:,.0f} clocks of the product shared memory is busy for {shared:,.0f}, L2 for {cache:,.0f},"
        f" integer lanes for {closest.arithmetic:,.0f}."
    )


def _counting(counts: "list[tuple[Chip, pd.DataFrame]]", dims: Sequence[int]) -> str:
    rows = []
    for chip, count in counts:
        best, least = count[count.chosen].set_index("d"), count.groupby("d").overlapped.min()
        rows.append([f"{chip.name}, expected", *(f"{best.expected[d]:.2f}" for d in dims)])
        rows.append([f"{chip.name}, all parts at once", *(f"{least[d]:.2f}" for d in dims)])
        rows.append([f"{chip.name}, busiest part", *(best.busiest[d] for d in dims)])
    return markdown_table(["count, bfloat16", *(f"d = {d:,}" for d in dims)], rows)


def _chips() -> str:
    facts: dict[str, Callable[[Chip], str]] = {
        "compute capability": lambda chip: f"{chip.capability / 10:.1f}",
        "multiprocessors (SM)": lambda chip: str(chip.multiprocessors),
        "boost clock, GHz": lambda chip: f"{chip.clock / 1e9:.2f}",
        **{
            f"dense {name}, Tflop/s": lambda chip, name=name: f"{chip.rate(name) / 1e12:,.1f}"  # type: ignore[misc]
            for name in PRECISIONS
        },
        "HBM, TB/s": lambda chip: f"{chip.memory / 1e12:.2f}",
        "L2, MB": lambda chip: f"{chip.cache / 1e6:.0f}",
        "L2, B a clock": lambda chip: f"{chip.cache_clock:,.0f}",
        "source": lambda chip: chip.source,
    }
    rows = [[name, *(fact(chip) for chip in CHIPS)] for name, fact in facts.items()]
    return markdown_table(["", *(chip.name for chip in CHIPS)], rows)


def _operations() -> str:
    head = ["kernel", "integers", "floats", "shared atomics", "reduced by row", "by column", "global adds"]
    counted = [
        (kernel.integers, kernel.floats, kernel.counted, kernel.by_row, kernel.by_column, kernel.adds)
        for kernel in KERNELS.values()
    ]
    return markdown_table(
        head, [[name, *(f"{n:.0f}" for n in row)] for name, row in zip(KERNELS, counted, strict=True)]
    )


def _clocks(aimed: "list[tuple[Chip, pd.DataFrame]]") -> str:
    rows = [
        [
            chip.name, str(row["configuration"]), str(row["programs"]), *(f"{row[part]:,.0f}" for part in PARTS),
            f"{row['overlapped']:.2f}", f"{row['serial']:.2f}", f"{row['expected']:.2f}{' *' if row['chosen'] else ''}",
        ]
        for chip, table in aimed for row in table.to_dict("records")
    ]  # fmt: skip
    head = ["chip", "configuration", "programs an SM", *PARTS, "at once", "one after the other", "expected"]
    return markdown_table(head, rows)


def _kernels(table: "pd.DataFrame", dims: Sequence[int]) -> str:
    """One table a chip, and a sentence for a chip whose table is that of another."""
    first_with: dict[str, str] = {}
    sections = []
    for chip in CHIPS:
        rows = []
        best = table[(table.chip == chip.name) & table.chosen]
        for (kernel, precision), chosen in best.set_index("d").groupby(["kernel", "precision"], sort=False):
            milliseconds = f"{1e3 * chosen.expected_seconds[dims[-1]]:,.1f}"
            rows.append([str(kernel), str(precision), *(f"{chosen.expected[d]:.2f}" for d in dims), milliseconds])
        head = [chip.name, "precision", *(f"d = {d:,}" for d in dims), f"ms at d = {dims[-1]:,}"]
        body = str(rows)
        twin = first_with.setdefault(body, chip.name)
        same = f"{chip.name}: the same as for the {twin}."
        sections.append(markdown_table(head, rows) if twin == chip.name else same)
    return "\n\n".join(sections)


def _compiler(compiled: Sequence[Compiled]) -> str:
    kernels, capabilities = ({getattr(one, name) for one in compiled} for name in ("kernel", "capability"))
    lines = [
        f"{len(compiled)} configurations of {len(kernels)} kernels were compiled for {len(capabilities)} architectures."
    ]
    lacking = "hold fewer programs on an SM than the launch counts on, so that less overlaps, or nothing"
    for concerned, problem in (
        ([one for one in compiled if one.shape.resident < one.launched], lacking),
        ([one for one in compiled if one.stack_bytes], "keep some registers in memory"),
    ):
        lines.append(f"{len(concerned)} {problem}{':' if concerned else '.'}")
        precisions: dict[str, list[str]] = {}
        for one in concerned:
            size = f"{one.shape.rows}x{one.shape.columns}x{one.shape.step}"
            line = (
                f"`{one.kernel}` sm_{one.capability} {size}, {{}}: {one.registers} registers a thread,"
                f" {one.stack_bytes} bytes of stack, {one.shared_bytes:,} bytes of shared memory: {one.shape.resident}"
                f" of {one.launched} programs"
            )
            precisions.setdefault(line, []).append(one.precision)
        if concerned:
            lines.append("\n".join(f"- {line.format(' and '.join(names))}" for line, names in precisions.items()))
    return "\n\n".join(lines)


def _sensitivity(n: int, compiled: Sequence[Compiled]) -> str:
    """Vary one assumption at a time for counting in bfloat16 at the dimension of the aim."""
    counting = [one for one in compiled if one.kernel == "count" and one.precision == "bfloat16"]

    def least(chip: Chip, *, width: int = 0, clocks_a_pass: float = model.PASS, cache: float = 1.0) -> str:
        varied = replace(chip, cache_clock=chip.cache_clock * cache)
        predictions = [
            predict(varied, "count", "bfloat16", one.shape, n, AIMED, width=width, clocks_a_pass=clocks_a_pass)
            for one in counting
            if one.capability == chip.capability
        ]
        overlapped = min(prediction.ratio(prediction.overlapped) for prediction in predictions)
        return f"{min(prediction.expected for prediction in predictions):.2f} / {overlapped:.2f}"

    centred = -(-(AIMED + 4) // 16) * 16
    rows = [
        ["as above", *(least(chip) for chip in CHIPS)],
        ["an atomic add takes a bank 1 clock", *(least(chip, clocks_a_pass=1.0) for chip in CHIPS)],
        ["no atomics at all", *(least(chip, clocks_a_pass=0.0) for chip in CHIPS)],
        ["L2 gives twice the bytes", *(least(chip, cache=2.0) for chip in CHIPS)],
        [f"rows less their mean, {centred} columns", *(least(chip, width=centred) for chip in CHIPS)],
    ]
    return markdown_table(["", *(chip.name for chip in CHIPS)], rows)


def _falsified(chip: Chip, aimed: "pd.DataFrame") -> str:
    low, high, half = aimed.overlapped.min(), aimed.serial.min(), 1e3 * aimed.half_product_seconds.iloc[0]
    return (
        f"- {chip.name}: counting in bfloat16 at d = {AIMED} in less than {low * half:.2f} ms (ratio {low:.2f}, all"
        f" parts of some configuration at once) shows a part that is cheaper than assumed; in more than"
        f" {high * half:.2f} ms (ratio {high:.2f}, the fastest with nothing overlapped), one that is missing."
    )
