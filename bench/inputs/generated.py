"""Rows that are drawn when they are read: as many as there need be, in no memory and on no disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.io.shards.shard import Kept, Part, pieces_of
from geomkit.io.shards.shards import Shards

_PIECE = 2**13
_CACHE_BYTES = 64 * 2**20


@dataclass(kw_only=True)
class _Drawn(Part):
    seed: int

    def decode(self, piece: int, kept: Kept) -> NDArray[Any]:
        """Draw a piece: the same one whoever asks, and whichever was asked for before."""
        del kept
        rows = int(self.bounds[piece + 1] - self.bounds[piece])
        draw = np.random.Generator(np.random.SFC64([self.seed, piece]))
        found = draw.standard_normal((rows, self.d), np.float32)
        # Not isotropic, and not about zero, as embeddings are not.
        found *= np.linspace(0.5, 1.5, self.d, dtype=np.float32)
        found += np.float32(0.25)
        return found

    def content(self) -> str:
        """Return what the rows follow from."""
        return f"drawn from seed {self.seed}"


def generated(n: int, d: int, seed: int, max_memory: int | None = None) -> Shards:
    """Return normal rows with standard deviations from 0.5 to 1.5 by column and mean 0.25, float32."""
    part = _Drawn(
        label=f"{n} rows drawn from seed {seed}", last="drawn", resolved=f"drawn:{seed}:{n}:{d}", rows=n, d=d,
        dtype=np.dtype(np.float32), bytes=0, bounds=pieces_of(n, _PIECE), mapped=False, seed=seed,
    )  # fmt: skip
    return Shards([part], max_memory, _CACHE_BYTES)
