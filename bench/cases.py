"""Benchmark cases: inputs prepared, code compiled, the answer proved right, and then a thunk for the timer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import geomkit
from bench import peers
from geomkit import nulls


@dataclass(frozen=True, slots=True)
class CosineCase:
    """All-pair cosine statistics of n directions uniform on the sphere of R^d."""

    n: int
    d: int
    seed: int = 0

    def vectors(self) -> NDArray[np.float32]:
        """Return the input, (n, d)."""
        return np.random.default_rng(self.seed).standard_normal((self.n, self.d), dtype=np.float32)

    def ours(self, backend: str = "auto") -> Callable[[], object]:
        """Return our call, having shown that its answer is right on this input."""
        x = self.vectors()
        found = geomkit.cosine_stats(x, backend=backend)
        sphere = nulls.sphere(self.d)
        assert int(found.distribution.counts.sum()) == self.n * (self.n - 1) // 2
        assert abs(found.mean) <= 6 * sphere.mean_sd(self.n)
        assert abs(found.rms**2 - 1 / self.d) <= 6 * sphere.mean_square_sd(self.n)
        few = x[:: max(1, self.n // 256)]
        exact = geomkit.cosine_stats(few, backend="reference")
        near = geomkit.cosine_stats(few, backend=backend)
        assert abs(near.max - exact.max) <= near.error_bound
        assert abs(near.min - exact.min) <= near.error_bound
        return lambda: geomkit.cosine_stats(x, backend=backend)

    def torch_chunked(self) -> Callable[[], object]:
        """Return the peer, having shown that it measures the same thing."""
        x = self.vectors()
        mean, variance, _ = peers.torch_chunked(x)
        sphere = nulls.sphere(self.d)
        assert abs(mean) <= 6 * sphere.mean_sd(self.n) + 1e-5
        assert abs(variance - 1 / self.d) <= 6 * sphere.mean_square_sd(self.n) + 1e-5
        return lambda: peers.torch_chunked(x)

    def bare_product(self) -> Callable[[], object]:
        """Return the product alone, all n² entries."""
        import torch

        x, out = self.vectors(), torch.empty((self.n, self.n))
        return lambda: peers.bare_product(x, out)


def interleaved(thunks: Sequence[Callable[[], object]], rounds: int) -> NDArray[np.float64]:
    """Seconds of each thunk, (rounds, thunks): taken in turn, so that a drift of the machine's speed hits all alike."""
    for thunk in thunks:
        thunk()
    took = np.empty((rounds, len(thunks)))
    for each in took:
        for at, thunk in enumerate(thunks):
            start = time.perf_counter()
            thunk()
            each[at] = time.perf_counter() - start
    return took
