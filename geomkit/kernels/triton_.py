"""The Triton kernels: products of rows reduced while they are in registers, on NVIDIA GPUs.

Memory, and what is done to rows one by one, is torch's. A tile is not computed but named: the two blocks of rows whose
products it holds, for a kernel to multiply and reduce in one launch. `triton_*` alone import triton.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geomkit.kernels.torch_ import as_working, to_numpy, zeros
from geomkit.kernels.triton_counts import count_products, tally_products
from geomkit.kernels.triton_nearest import candidates_of_products, extremes_of_products, places, products_above
from geomkit.kernels.triton_tiles import INTERPRETED

__all__ = [
    "COLUMNS", "COUNTER", "FUSED", "HOME", "KEY", "Product", "above", "as_working", "count", "entries", "missing",
    "places", "product", "row_extremes", "screen", "storage", "tally", "to_numpy", "zeros",
]  # fmt: skip

FUSED = True
"""Whether tiles are named, for kernels to compute, instead of computed."""

COLUMNS = 16
"""Rows are padded with zeros to a multiple of this many columns: 16 bytes at least, what a GPU copies at once."""

COUNTER = "int64"
"""Dtype of the banks that a tally counts in."""

KEY: dict[str, str] = {}
"""Dtype of the keys of candidates, where it is not int32."""

HOME = None if INTERPRETED else "cuda"
"""Where work happens unless a device is named."""


def missing() -> str | None:
    """Say what these kernels lack here, if anything."""
    if INTERPRETED or torch.cuda.is_available():
        return None
    built = "" if torch.version.cuda else f"; torch {torch.__version__} was built without CUDA"
    return f"an NVIDIA GPU that torch can use{built}"


def entries(dtype: str) -> str:
    """Dtype of the entries of tiles: the sums of products of rows of any dtype, before they are rounded."""
    return "float32"


def product(precision: str, operations: float) -> str:
    """Name of the matrix product that runs."""
    return "triton"


def storage(precision: str, operations: float) -> str:
    """Dtype in which rows are stored."""
    return "float32" if precision == "tf32" else precision


@dataclass(frozen=True)
class Product:
    """The tile of the products of the rows of `a` with the rows of `b`, which no one computes as a whole."""

    a: Tensor
    b: Tensor
    precision: str = "ieee"
    """Of products of float32 rows: ``"ieee"``, or ``"tf32"`` for those who asked for it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.a.shape[0], self.b.shape[0]

    @cached_property
    def largest(self) -> Tensor:
        """Bound on the magnitude of the entries, on the device: the product of the longest rows (Cauchy, Schwarz)."""
        longest = [torch.linalg.vector_norm(each, dim=1, dtype=torch.float32).amax() for each in (self.a, self.b)]
        return longest[0] * longest[1]


def count(tile: Product, diagonal: bool, counts: Tensor) -> None:
    """Count the bit patterns of the entries, each rounded to bfloat16."""
    count_products(tile.a, tile.b, diagonal, tile.precision, tile.largest, counts)


def tally(tile: Product, diagonal: bool, centre: float, counts: Tensor, sums: Tensor, extremes: Tensor) -> None:
    """Count the bfloat16 bit patterns of entries less `centre`; add their power sums; widen their extremes."""
    tally_products(tile.a, tile.b, diagonal, tile.precision, tile.largest, centre, counts, sums, extremes)


def row_extremes(tile: Product, diagonal: bool, rows: Tensor, cols: Tensor) -> None:
    """Update (least, largest) of each row of the full matrix of pairs from one tile, for both triangles."""
    for state, found in zip((rows, cols), extremes_of_products(tile.a, tile.b, diagonal, tile.precision), strict=True):
        wide = found.to(state.dtype)
        torch.minimum(state[0], wide[0], out=state[0])
        torch.maximum(state[1], wide[1], out=state[1])


def above(tile: Product, diagonal: bool, threshold: float) -> Tensor:
    """Rows and columns of the entries of at least `threshold`, (2, m)."""
    # The least float32 that is not below it: no float32 lies between.
    least = np.float32(threshold)
    if float(least) < threshold:
        least = np.nextafter(least, np.float32(np.inf))
    return products_above(tile.a, tile.b, diagonal, tile.precision, float(least))


def screen(tile: Product, diagonal: bool, i0: int, j0: int, lists: Tensor, dropped: Tensor, floor: Tensor) -> None:
    """Keep the best candidates of each row from one tile, for both triangles; keys are those of float32 entries."""
    candidates_of_products(tile.a, tile.b, diagonal, tile.precision, i0, j0, lists, dropped, floor)
