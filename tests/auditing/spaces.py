"""Spaces with one thing wrong, and spaces with nothing in them."""

import numpy as np


def sphere(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def gaussian(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def noise(n, d, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, d)).astype(np.float32)


def clusters(n, d, seed=0, *, spread=0.5, centres=20):
    """Rows about centres, as embeddings are: near rows are much nearer than others."""
    rng = np.random.default_rng(seed)
    where = rng.standard_normal((centres, d))
    return (where[rng.integers(centres, size=n)] + spread * rng.standard_normal((n, d))).astype(np.float32)


def healthy(n, d, seed=0):
    """Directions of falling variance and loose clusters, about the origin."""
    falling = 1 / np.sqrt(1 + np.arange(d) / 8)
    return (clusters(n, d, seed, spread=1.0, centres=300) * falling).astype(np.float32)


def anisotropic(n, d, seed=0):
    """A direction that all rows share."""
    return gaussian(n, d, seed) + np.float32(1.0)


def collapsed(n, d, seed=0):
    """All rows in few directions."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, 3)) @ rng.standard_normal((3, d)) + 0.01 * rng.standard_normal((n, d))).astype(
        np.float32
    )


def hubs(n, d, seed=0):
    """A few rows that have a part of everything in them, and so are near to all."""
    x = gaussian(n, d, seed)
    x[:5] = 0.02 * x[:5] + 1.0
    return x + np.float32(0.5)


def repeated(n, d, seed=0, share=0.3):
    """Some rows are there twice."""
    x = gaussian(n, d, seed)
    m = int(n * share / 2)
    x[-m:] = x[:m]
    return x
