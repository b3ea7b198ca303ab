"""results/roofline.md: what `bench.gpu.roofline` predicts, in words; every number from the model or its constants."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.gpu import roofline as model
from bench.gpu.roofline import CHIPS, KERNELS, PRECISIONS, Chip, conflicts, occupied, predict
from bench.gpu.roofline_resources import Configured

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["AIM", "DIMS", "page"]

AIM = 1.25
"""Of value counting in bfloat16, over the half product, from `AIMED` coordinates on."""
AIMED = 768
DIMS = (64, 300, 768, 1024, 4096)
"""Columns: what of these was predicted."""

_PARTS = ("math", "operands", "cache", "memory", "atomics", "window", "arithmetic", "shuffles", "adds")


def page(table: "pd.DataFrame", made: Sequence[Configured]) -> str:
    """Write the whole page."""
    n = int(table.n.iloc[0])
    head = (
        f"# What the Triton kernels should take, n = {n:,}\n\nWritten by `python -m bench roofline`; nothing here was"
        " measured. Times are given as multiples of the **half product**: all distinct pairs once, at the dense rate of"
        " the data sheet, n(n - 1)/2 · 2d / rate. All numbers: [roofline.csv](roofline.csv)."
    )
    sections = [
        head,
        _answer(table),
        "## Chips\n\n" + _chips(),
        _formulae(),
        _assumptions(),
        "## Counting in bfloat16: where the clocks go\n\n" + _where(table),
        "## Every kernel and precision\n\nExpected time over the half product, in the configuration that is expected to"
        " be the fastest. The library counts with `count` in bfloat16, and in all other precisions with `tally`, which"
        " adds power sums.\n\n" + _every(table),
        "## What the compiler gives\n\n" + _compiler(made),
        "## How much hangs on what is assumed\n\n" + _sensitivity(table, made),
        _falsified(table),
    ]
    return "\n\n".join(sections) + "\n"


def _answer(table: "pd.DataFrame") -> str:
    shown = _dims(table)
    count = table[(table.kernel == "count") & (table.precision == "bfloat16")]
    rows = []
    for chip in CHIPS:
        mine = count[count.chip == chip.name]
        best = mine[mine.chosen].set_index("d")
        least = mine.groupby("d").overlapped.min()
        rows.append([f"{chip.name}, expected", *(f"{best.expected[d]:.2f}" for d in shown)])
        rows.append([f"{chip.name}, all parts at once", *(f"{least[d]:.2f}" for d in shown)])
        rows.append([f"{chip.name}, busiest part", *(best.busiest[d] for d in shown)])
    aimed = count[count.chosen & (count.d >= AIMED)]
    verdicts = []
    for chip in CHIPS:
        mine = aimed[aimed.chip == chip.name].sort_values("d")
        met = mine[mine.expected <= AIM].d.tolist()
        at = mine[mine.d == AIMED].iloc[0]
        verdict = "is met at every dimension" if len(met) == len(mine) else "is not met"
        if met and len(met) < len(mine):
            verdict = f"is met from d = {min(met):,} on"
        tried = count[(count.chip == chip.name) & (count.d == AIMED)]
        closest = tried.sort_values("overlapped").iloc[0]
        shared, cache = closest.operands + closest.atomics + closest.window, closest.cache + closest["adds"]
        verdicts.append(
            f"{chip.name}: {verdict}; at d = {AIMED} {at.expected:.2f} is expected, {at.configuration}. If all parts"
            f" worked at once, {closest.configuration} would come closest, with {closest.overlapped:.2f}: beside"
            f" {closest.math:,.0f} clocks of the product shared memory is busy for {shared:,.0f}, L2 for {cache:,.0f},"
            f" integer lanes for {closest.arithmetic:,.0f}."
        )
    return (
        f"## The aim\n\nValue counting in bfloat16 within {AIM} times the half product for d ≥ {AIMED}:\n\n"
        + "\n".join(f"- {each}" for each in verdicts)
        + "\n\nA library's product does not reach the dense rate either, so that the ratio to a measured `torch.mm` is"
        " smaller than these; results/gpu.csv has both.\n\n"
        + _table(["count, bfloat16", *(f"d = {d:,}" for d in shown)], rows)
    )


def _chips() -> str:
    def column(what: str, values: Iterable[str]) -> list[str]:
        return [what, *values]

    rows = [
        column("compute capability", (f"{chip.capability / 10:.1f}" for chip in CHIPS)),
        column("multiprocessors (SM)", (str(chip.multiprocessors) for chip in CHIPS)),
        column("boost clock, GHz", (f"{chip.clock / 1e9:.2f}" for chip in CHIPS)),
        *(
            column(f"dense {precision}, Tflop/s", (f"{chip.rate(precision) / 1e12:,.1f}" for chip in CHIPS))
            for precision in PRECISIONS
        ),
        column("HBM, TB/s", (f"{chip.memory / 1e12:.2f}" for chip in CHIPS)),
        column("L2, MB", (f"{chip.cache / 1e6:.0f}" for chip in CHIPS)),
        column("L2, B a clock", (f"{chip.cache_clock:,.0f}" for chip in CHIPS)),
        column("source", (chip.source for chip in CHIPS)),
    ]
    return (
        _table(["", *(chip.name for chip in CHIPS)], rows)
        + "\n\nThe rates are those of the data sheets without sparsity, at the boost clock that the tensor rates refer"
        " to; ratios do not depend on the clock but through HBM. The white paper gives the A100's L2 bandwidth; NVIDIA"
        " publishes none for the later chips, which are assumed to have as many bytes a clock."
    )


def _formulae() -> str:
    shuffled = f"{model.SHUFFLES:.0f}"
    return f"""## Formulae

A tile has M rows, N columns and takes steps of K coordinates; w is the width of a prepared row (d padded to 16),
D = ⌈w/K⌉·K, s the bytes of a coordinate, P = M·N its pairs. In clocks of one SM for one tile:

| part | clocks |
|---|---|
| `math`, the product | 2·P·D / (dense operations a clock) |
| `operands`, shared memory | (M + N + R)·D·s / {model.SHARED:.0f} B: copied in once, read R rows' worth |
| | R = wn·M + wm·N for mma.sync and for float32 (wm × wn warps), wn·M + ⌈M/64⌉·N for wgmma |
| `cache`, L2 | (M + N)·w·s / (L2 bytes a clock / SMs) |
| `memory`, HBM | traffic / tiles / (HBM bytes a clock / SMs) |
| | traffic: n·w·s where that fits into L2, else w·s·(S·G(G + 1)/2 + n), S = {model.GROUP}·N, G = ⌈n/S⌉ |
| `atomics`, shared memory | P / {model.LANES} · conflicts · {model.PASS:.0f} |
| `window`, shared memory | 2 · 4 B · {2 * model.HALF:,} counters · parts / {model.SHARED:.0f} B: to zero, and back |
| `arithmetic` | P · max(integers/{model.INTEGERS:.0f}, floats/(float lanes), all instructions/{model.ISSUE:.0f}) |
| `shuffles` | P · (by row · log₂ 4 / (columns of a lane) + by column · log₂ 8 / (rows of a lane)) / {shuffled} |
| | 16 lanes share a row and 2 a column in float32 |
| `adds`, L2 | 2 · bytes of what is added to global memory / (L2 bytes a clock / SMs) |

- **All parts at once**: max(`math`, `operands` + `atomics` + `window`, `cache` + `adds`, `memory`, `arithmetic`,
  `shuffles`); in float32 `math` has the float operations of the reduction added, for both run on the same lanes.
- **One after the other**: max(`math`, `operands`, `cache`, `memory`), since loads run stages ahead of the product, plus
  every part of the reduction.
- **Expected**: the former where registers and shared memory let an SM hold two programs of the launch or more, of which
  one multiplies while another reduces; the latter where it holds one.
- Over the half product: clocks · tiles / SMs / (n(n - 1)/2 · 2d / dense operations a clock / SMs). Tiles are those of
  the schedule that reach above the diagonal, whole."""


def _assumptions() -> str:
    rows = [
        [name, f"{what.integers:.0f}", f"{what.floats:.0f}", "1" if what.counted else "0", str(what.by_row),
         str(what.by_column), str(what.adds)]
        for name, what in KERNELS.items()
    ]  # fmt: skip
    pairs = 128 * 128
    passes = conflicts() * model.PASS
    return f"""## Assumptions

- **Atomics.** A warp adds to {model.LANES} counters at once. Values that lie close fill neighbouring counters, so banks
  are as good as random; the longest of {model.BANKS} queues of {model.LANES} lanes is {conflicts():.3f} long in the
  mean, from P(longest ≤ m) = 32!/32³² · [x³²] (Σ_(j≤m) xʲ/j!)³². A bank is taken to be busy for {model.PASS:.0f} clocks
  an add, to read and to write: {passes:.2f} clocks a warp, {model.LANES / passes:.2f} pairs a clock. This is the least
  certain number on this page. Equal values of a warp, which the hardware may merge, are counted one by one.
- **Counters that are not zero.** Of cosines that are normal with variance 1/d; {occupied(pairs, 768):,.0f} of
  {2 * model.HALF:,} for a tile of {pairs:,} pairs at d = 768. 8 bytes each; L2 reads and writes them.
- **Lanes.** {model.INTEGERS:.0f} a clock for integers, comparisons, selections and minima, as the CUDA programming
  guide's table of throughput has it for 8.0 and 9.0; float lanes from the dense float32 rate; {model.ISSUE:.0f} issued.
- **Operations of a pair**, counted from the source; the compiler may need a few more. A counter costs four instructions
  besides: the atomic, a branch around it, and what joins the lanes.

{_table(["kernel", "integers", "floats", "shared atomics", "reduced by row", "by column", "global adds"], rows)}

- `screen` and `above` are as they are when no entry beats a floor or reaches the threshold; what they append is left
  out. So are barriers, the fill of the pipeline at the start of a tile, launches, preparing the rows, and moving
  counters to the host. TF32 rows are multiplied as they are.
- Rows are those of random directions, whose mean is not taken out. Taking it out adds four columns in 16 bits, padded
  to 16 more: see below."""


def _where(table: "pd.DataFrame") -> str:
    count = table[(table.kernel == "count") & (table.precision == "bfloat16") & (table.d == AIMED)]
    rows = []
    for chip in CHIPS:
        for at in count.index[count.chip == chip.name]:
            row = count.loc[at]
            clocks = [f"{row[part]:,.0f}" for part in _PARTS]
            ratios = [f"{row.overlapped:.2f}", f"{row.serial:.2f}", f"{row.expected:.2f}{' *' if row.chosen else ''}"]
            rows.append([chip.name, str(row.configuration), str(row.programs), *clocks, *ratios])
    head = ["chip", "configuration", "programs an SM", *_PARTS, "at once", "one after the other", "expected"]
    said = f"Clocks of an SM for a tile at d = {AIMED}; ratios on the right. * is expected to win."
    return f"{said}\n\n{_table(head, rows)}"


def _every(table: "pd.DataFrame") -> str:
    """One table a chip, and a sentence for a chip whose table is that of another."""
    shown: dict[str, str] = {}
    sections = []
    for chip in CHIPS:
        made = _kernels(table, chip)
        body = made.split("\n", 1)[1]
        sections.append(f"{chip.name}: the same as {shown[body]}." if body in shown else made)
        shown.setdefault(body, f"for the {chip.name}")
    return "\n\n".join(sections)


def _kernels(table: "pd.DataFrame", chip: Chip) -> str:
    shown = _dims(table)
    best = table[(table.chip == chip.name) & table.chosen]
    rows = []
    for kernel in KERNELS:
        for precision in PRECISIONS:
            mine = best[(best.kernel == kernel) & (best.precision == precision)].set_index("d")
            if len(mine):
                values = [f"{mine.expected[d]:.2f}" for d in shown]
                rows.append([kernel, precision, *values, f"{1e3 * mine.expected_seconds[shown[-1]]:,.1f}"])
    return _table([chip.name, "precision", *(f"d = {d:,}" for d in shown), f"ms at d = {shown[-1]:,}"], rows)


def _compiler(made: Sequence[Configured]) -> str:
    short = [each for each in made if each.shape.resident < each.asked]
    spilled = [each for each in made if each.stack_bytes]
    kernels, chips = ({getattr(each, name) for each in made} for name in ("kernel", "capability"))
    lines = [f"{len(made)} configurations of {len(kernels)} kernels were compiled for {len(chips)} architectures."]
    for found, what in (
        (short, "hold fewer programs on an SM than the launch counts on, so that less overlaps, or nothing"),
        (spilled, "keep some registers in memory"),
    ):
        lines.append(f"{len(found)} {what}{':' if found else '.'}")
        alike: dict[str, list[str]] = {}
        for each in found:
            size = f"{each.shape.rows}x{each.shape.columns}x{each.shape.step}"
            uses = (
                f"{each.registers} registers a thread, {each.stack_bytes} bytes of stack, {each.shared_bytes:,} bytes"
                f" of shared memory: {each.shape.resident} of {each.asked} programs"
            )
            alike.setdefault(f"`{each.kernel}` sm_{each.capability} {size}, {{}}: {uses}", []).append(each.precision)
        if alike:
            lines.append("\n".join(f"- {line.format(' and '.join(names))}" for line, names in alike.items()))
    return "\n\n".join(lines)


def _sensitivity(table: "pd.DataFrame", made: Sequence[Configured]) -> str:
    """Vary one assumption at a time for counting in bfloat16 at the dimension of the aim."""
    n = int(table.n.iloc[0])
    tried = [each for each in made if each.kernel == "count" and each.precision == "bfloat16"]

    def least(chip: Chip, *, width: int = 0, clocks_a_pass: float = model.PASS, cache: float = 1.0) -> list[str]:
        faster = Chip(
            chip.name, chip.capability, chip.multiprocessors, chip.clock, chip.flops, chip.memory, chip.cache,
            chip.cache_clock * cache, chip.source,
        )  # fmt: skip
        found = [
            predict(faster, "count", "bfloat16", each.shape, n, AIMED, width=width, clocks_a_pass=clocks_a_pass)
            for each in tried
            if each.capability == chip.capability
        ]
        expected = min(each.expected for each in found)
        return [f"{expected:.2f} / {min(each.ratio(each.overlapped) for each in found):.2f}"]

    centred = -(-(AIMED + 4) // 16) * 16
    both = [
        ["as above", *(cell for chip in CHIPS for cell in least(chip))],
        ["an atomic add takes a bank 1 clock", *(cell for chip in CHIPS for cell in least(chip, clocks_a_pass=1.0))],
        ["no atomics at all", *(cell for chip in CHIPS for cell in least(chip, clocks_a_pass=0.0))],
        ["L2 gives twice the bytes", *(cell for chip in CHIPS for cell in least(chip, cache=2.0))],
        [f"rows less their mean, {centred} columns", *(cell for chip in CHIPS for cell in least(chip, width=centred))],
    ]
    return f"Counting in bfloat16 at d = {AIMED}: expected / all parts at once.\n\n" + _table(
        ["", *(chip.name for chip in CHIPS)], both
    )


def _falsified(table: "pd.DataFrame") -> str:
    count = table[(table.kernel == "count") & (table.precision == "bfloat16") & (table.d == AIMED)]
    lines = []
    for chip in CHIPS:
        mine = count[count.chip == chip.name]
        low, high, half = mine.overlapped.min(), mine.serial.min(), 1e3 * mine.half_product_seconds.iloc[0]
        lines.append(
            f"- {chip.name}: counting in bfloat16 at d = {AIMED} in less than {low * half:.2f} ms"
            f" (ratio {low:.2f}, all parts of some configuration at once) shows a part that is cheaper than assumed;"
            f" in more than {high * half:.2f} ms (ratio {high:.2f}, the fastest with nothing overlapped), one that is"
            " missing."
        )
    return (
        "## What would falsify this\n\n`python -m bench gpu` writes both ratios beside each other:"
        " `over_dense_half_product` and `predicted` in results/gpu.csv.\n\n"
        + "\n".join(lines)
        + "\n- The time that counting takes beyond the bare extremes (`row_extremes`) should not depend on d. If it"
        " grows with d, operands and atomics do not share a port as assumed.\n"
        "- Another winner among the configurations than the starred one says that overlap is worth more, or less, than"
        " two programs on an SM give it here.\n"
        "- On equal rows, whose pairs all fall into one counter, atomics take longer by a factor of up to"
        f" {model.LANES / conflicts():.1f}, or less time if the hardware merges equal addresses."
    )


def _dims(table: "pd.DataFrame") -> list[int]:
    return [d for d in DIMS if d in set(table.d)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
