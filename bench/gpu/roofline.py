"""A roofline for each Triton kernel: what a tile costs each part of a GPU, and what share of the half product that is.

Costs are clocks of one multiprocessor for one tile. Two ways to add them up enclose what can happen: all parts at work
at once (`Prediction.overlapped`, the most that two programs on a multiprocessor can reach), and the reduction of a tile
after its product (`Prediction.serial`, what one program does). Formulae, assumptions and what would falsify them:
results/roofline.md, which `bench.gpu.roofline_page` writes.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = [
    "CHIPS", "GROUP", "HALF", "ISSUE", "KERNELS", "LANES", "PARTS", "PASS", "PRECISIONS", "SHARED", "Chip",
    "Prediction", "Reduction", "Shape", "conflicts", "ideal_seconds", "kind", "occupied", "predict", "warps_of",
]  # fmt: skip

LANES = BANKS = 32
SHARED = 128.0
"""Bytes that shared memory reads or writes a clock: 4 from each bank."""
ISSUE = 128.0
"""Lanes to which a multiprocessor issues a clock: four schedulers, a warp each."""
INTEGERS = 64.0
"""Lanes a clock of integer, logic, comparison, selection and minimum."""
SHUFFLES = 32.0
"""Lanes a clock that exchange registers."""
PASS = 2.0
"""Clocks of a bank for one atomic add: it reads, and writes. Assumed; 1 would be the least."""
GROUP = 8
"""Columns of tiles that the schedule takes together: `triton_tiles.GROUP`."""
HALF = 2048
"""Counters of the window for each sign: `triton_counts.HALF`."""


@dataclass(frozen=True)
class Chip:
    """A GPU by its maker's tables."""

    name: str
    capability: int
    multiprocessors: int
    clock: float
    """Hertz at which the rates hold."""
    flops: dict[str, float]
    """Dense operations of a multiprocessor a clock by `kind`: a multiplication and an addition are two."""
    memory: float
    """Bytes a second from HBM."""
    cache: float
    """Bytes of L2."""
    cache_clock: float
    """Bytes that L2 gives a clock, to all multiprocessors together."""
    source: str

    def rate(self, precision: str) -> float:
        """Dense operations a second."""
        return self.flops[kind(precision)] * self.multiprocessors * self.clock


_AMPERE = {"16 bits": 2048.0, "tf32": 1024.0, "ieee": 128.0}
_HOPPER = {"16 bits": 4096.0, "tf32": 2048.0, "ieee": 256.0}

CHIPS = (
    Chip("A100", 80, 108, 1.41e9, _AMPERE, 2.039e12, 40e6, 5120.0, "A100 80GB SXM data sheet; Ampere white paper"),
    Chip("H100", 90, 132, 1.83e9, _HOPPER, 3.35e12, 50e6, 5120.0, "H100 SXM data sheet; Hopper white paper"),
    Chip("H200", 90, 132, 1.83e9, _HOPPER, 4.8e12, 50e6, 5120.0, "H200 SXM data sheet; die of the H100"),
)

_KINDS = {"bfloat16": "16 bits", "float16": "16 bits", "tf32": "tf32", "float32": "ieee"}
PRECISIONS = tuple(_KINDS)


def kind(precision: str) -> str:
    """Return which of the configurations of `triton_tiles` a precision has."""
    return _KINDS[precision]


@dataclass(frozen=True)
class Shape:
    """A configuration of a kernel, and how many of its programs a multiprocessor holds."""

    rows: int
    columns: int
    step: int
    warps: int
    stages: int
    parts: int
    resident: int


@dataclass(frozen=True)
class Reduction:
    """What a kernel does with the products of a tile, counted from its source: operations for each pair."""

    integers: float
    """Integer, logic, comparison, selection, minimum: rounding, masks, the window, the place of a counter."""
    floats: float = 0.0
    counted: bool = False
    """Whether each pair is one atomic add in shared memory."""
    by_row: int = 0
    """Values reduced along each row of a tile, by shuffles between the lanes that share it ..."""
    by_column: int = 0
    """... and along each column."""
    adds: int = 0
    """Global atomics for each row and each column of a tile."""


# To bfloat16: shift, and, three-way addition, shift, narrow. Window: and, subtract, 2 comparisons. Counter: shift,
# multiply-add, address. Far values: comparison, or. Only tiles at an edge are masked.
_COUNT = 5 + 4 + 3 + 2
KERNELS = {
    "count": Reduction(integers=_COUNT, counted=True),
    # seen: 2 comparisons, select. Rounds in two steps; besides selects for minimum, maximum and deviation, and both of
    # the former. Floats: less the centre; three products; four sums. Values by row: four sums, least, largest.
    "tally": Reduction(integers=_COUNT + 3 - 2 + 5, floats=8, counted=True, by_row=6),
    # seen; two comparisons with floors, or, and; largest of the flags. Nothing beats the floors.
    "screen": Reduction(integers=2 + 4 + 1),
    # seen; two selects; minimum and maximum along rows and along columns.
    "row_extremes": Reduction(integers=2 + 2 + 4, by_row=2, by_column=2, adds=2),
    # seen; comparison, and; largest of the flags. Nothing reaches the threshold.
    "above": Reduction(integers=2 + 2 + 1),
}


@dataclass(frozen=True)
class Prediction:
    """What a kernel takes over all pairs of n rows, in clocks of a multiprocessor for a tile unless said otherwise."""

    math: float
    """The product at the dense rate, coordinates padded to whole steps."""
    operands: float
    """Shared memory: operands in, and out to the tensor cores as often as the warps share them."""
    cache: float
    """L2: operands of the tile, and this multiprocessor's share of its bandwidth."""
    memory: float
    """HBM: rows as often as the schedule brings them."""
    atomics: float
    """Shared memory: a counter for each pair."""
    window: float
    """Shared memory: counters set to zero and read back."""
    arithmetic: float
    """The slowest of integer lanes, float lanes and issue."""
    shuffles: float
    adds: float
    """L2: counters that are not zero, or extremes, added in global memory."""
    floats: float
    """Float lanes, already in `arithmetic`: the product's own where there are no tensor cores."""
    fused: bool
    """Whether the product runs on the float lanes."""
    tiles: float
    """Of the schedule."""
    resident: int
    ideal: float
    """Clocks of a multiprocessor for the half product, all pairs once at the dense rate."""
    multiprocessors: int

    @property
    def product(self) -> float:
        """The product of a tile: its loads run ahead of it, so that the slowest part counts."""
        return max(self.math, self.operands, self.cache, self.memory)

    @property
    def busy(self) -> dict[str, float]:
        """Clocks of each part of a multiprocessor, the float lanes with the product where they make it."""
        return {
            "product": self.math + (self.floats if self.fused else 0.0),
            "shared memory": self.operands + self.atomics + self.window,
            "L2": self.cache + self.adds,
            "HBM": self.memory,
            "arithmetic": self.arithmetic,
            "shuffles": self.shuffles,
        }

    @property
    def overlapped(self) -> float:
        """Everything at once: the busiest part counts."""
        return max(self.busy.values())

    @property
    def serial(self) -> float:
        """The product, and then each step of the reduction."""
        return self.product + self.atomics + self.window + self.arithmetic + self.shuffles + self.adds

    def ratio(self, clocks: float) -> float:
        """Time over that of the half product at the dense rate, where a tile takes so many clocks."""
        return clocks * self.tiles / self.multiprocessors / self.ideal

    @property
    def expected(self) -> float:
        """Ratio to the half product: overlapped where a multiprocessor holds several programs, else serial."""
        return self.ratio(self.overlapped if self.resident > 1 else self.serial)

    @property
    def limit(self) -> str:
        """Name the part that is busiest."""
        return max(self.busy, key=self.busy.__getitem__)


PARTS = ("math", "operands", "cache", "memory", "atomics", "window", "arithmetic", "shuffles", "adds")
"""Fields of a `Prediction` that are clocks of one part."""


def predict(
    chip: Chip,
    kernel: str,
    precision: str,
    shape: Shape,
    n: int,
    d: int,
    *,
    width: int = 0,
    clocks_a_pass: float = PASS,
) -> Prediction:
    """Predict one kernel in one configuration over all pairs of n rows of d coordinates.

    Parameters
    ----------
    width : int
        Columns of the prepared rows, d padded to a multiple of 16 unless given: rows less their mean have further ones.
    clocks_a_pass : float
        `PASS`, or another assumption in its place.
    """
    reduction, item = KERNELS[kernel], 2 if kind(precision) == "16 bits" else 4
    width = width or -(-d // 16) * 16
    depth = -(-width // shape.step) * shape.step
    pairs = shape.rows * shape.columns
    wm, wn = warps_of(chip.capability, precision, shape)
    read = _rows_read(chip.capability, precision, shape, wm, wn)
    share = chip.cache_clock / chip.multiprocessors
    tiles = tiles_of(n, shape)
    traffic = memory_traffic(chip, n, width, item, shape)
    per_clock = chip.memory / chip.clock / chip.multiprocessors
    # On 32 values a thread of a tensor core's tile, four lanes share a row and eight a column.
    across, down = (4, 8) if kind(precision) != "ieee" else (16, 2)
    columns = shape.columns / wn / across
    rows = max(1.0, shape.rows / wm / down)
    shuffles = pairs * (reduction.by_row * math.log2(across) / columns + reduction.by_column * math.log2(down) / rows)
    floats = chip.flops["ieee"] / 2
    # A counter: its atomic, and the branch around it with what joins the lanes again.
    issued = reduction.integers + reduction.floats + (4 if reduction.counted else 0)
    if reduction.counted:
        added = shape.parts * occupied(pairs // shape.parts, d)
        window = 2 * 4 * 2 * HALF * shape.parts / SHARED
    else:
        added, window = reduction.adds * (shape.rows + shape.columns), 0.0
    return Prediction(
        math=2.0 * pairs * depth / chip.flops[kind(precision)],
        operands=(read + shape.rows + shape.columns) * depth * item / SHARED,
        cache=(shape.rows + shape.columns) * width * item / share,
        memory=traffic / tiles / per_clock,
        atomics=pairs * clocks_a_pass * conflicts() / LANES if reduction.counted else 0.0,
        window=window,
        arithmetic=pairs * max(reduction.integers / INTEGERS, reduction.floats / floats, issued / ISSUE),
        shuffles=shuffles / SHUFFLES,
        # A counter is 8 bytes, an extreme 4; L2 reads and writes it.
        adds=2 * added * (8 if reduction.counted else 4) / share,
        floats=pairs * reduction.floats / floats,
        fused=kind(precision) == "ieee",
        tiles=tiles,
        resident=shape.resident,
        ideal=n * (n - 1) / 2 * 2 * d / chip.flops[kind(precision)] / chip.multiprocessors,
        multiprocessors=chip.multiprocessors,
    )


def ideal_seconds(chip: Chip, precision: str, n: int, d: int) -> float:
    """Seconds of the half product: every pair once, at the dense rate."""
    return n * (n - 1) / 2 * 2 * d / chip.rate(precision)


def warps_of(capability: int, precision: str, shape: Shape) -> tuple[int, int]:
    """Return along how many rows and columns of warps a tile is split, as Triton 3 splits it."""
    if kind(precision) == "ieee":
        return shape.warps, 1
    if capability >= 90:
        # Groups of four warps take 64 rows each, and share out columns where there are more groups than such rows.
        wm = 4 * min(shape.rows // 64, shape.warps // 4)
        return wm, shape.warps // wm
    wm = wn = 1
    while wm * wn < shape.warps:
        if shape.rows / 16 / wm > shape.columns / 16 / wn:
            wm *= 2
        else:
            wn *= 2
    return wm, wn


def _rows_read(capability: int, precision: str, shape: Shape, wm: int, wn: int) -> float:
    """Rows of either operand that leave shared memory for one tile, counted as often as they do."""
    if capability >= 90 and kind(precision) != "ieee":
        # wgmma: 64 rows of the left by the columns of a group, which all four warps share.
        return wn * shape.rows + shape.rows / 64 * shape.columns
    return wn * shape.rows + wm * shape.columns


def tiles_of(n: int, shape: Shape) -> int:
    """Tiles of the schedule that reach above the diagonal."""
    i0 = np.arange(0, n, shape.rows)
    last = np.arange(0, n, shape.columns) + shape.columns - 1
    return int((len(last) - np.searchsorted(last, i0, side="right")).sum())


def memory_traffic(chip: Chip, n: int, width: int, item: int, shape: Shape) -> float:
    """Bytes from HBM: all rows once where they fit into L2; else for each group of columns the rows above its last."""
    once = float(n) * width * item
    if once <= chip.cache:
        return once
    side = GROUP * shape.columns
    groups = -(-n // side)
    return width * item * (side * groups * (groups + 1) / 2 + n)


@cache
def conflicts() -> float:
    """Mean length of the longest queue where 32 lanes choose among 32 banks at random.

    P(longest <= m) = 32! / 32^32 [x^32] (sum over j <= m of x^j / j!)^32.
    """
    total, mean = math.factorial(LANES) / BANKS**LANES, 0.0
    for most in range(LANES):
        one = np.array([1 / math.factorial(j) for j in range(most + 1)])
        power = np.array([1.0])
        for _ in range(BANKS):
            power = np.convolve(power, one)[: LANES + 1]
        mean += 1 - total * (power[LANES] if len(power) > LANES else 0.0)
    return mean


@cache
def occupied(pairs: int, d: int) -> float:
    """Mean number of counters that so many cosines of random directions in d dimensions reach.

    Cosines are taken as normal with variance 1/d; counters are the bfloat16 values below 1 in magnitude, 16 octaves.
    """
    exponents, mantissas = np.meshgrid(np.arange(-16, 0), 1 + np.arange(128) / 128, indexing="ij")
    low = np.ldexp(mantissas, exponents).ravel()
    high = np.ldexp(mantissas + 1 / 128, exponents).ravel()
    scale = math.sqrt(d / 2)
    # erfc keeps the digits of small tails.
    inside = np.array([math.erfc(a * scale) - math.erfc(b * scale) for a, b in zip(low, high, strict=True)]) / 2
    return float(2 * (1 - np.exp(pairs * np.log1p(-inside))).sum())
