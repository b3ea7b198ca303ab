"""Every transform in the ways that it can be made, and rows of every temper."""

import numpy as np

from geomkit.transforms import AllButTheTop, Centering, Standardizing, Whitening

VARIANTS = [
    Centering(),
    Standardizing(),
    AllButTheTop(),
    AllButTheTop(n_components=0),
    AllButTheTop(n_components=2),
    Whitening(),
    Whitening(ridge=0.0),
    Whitening(kind="pca"),
    Whitening(ridge=0.1, n_components=2),
    Whitening(ridge=np.float32(0.1), n_components=np.int64(2), kind="pca"),
]
INVERTIBLE = [each for each in VARIANTS if hasattr(each, "inverse_transform")]


def named(transform):
    """Name a variant in a test's id."""
    return repr(transform).replace(" ", "")


def rows(n=300, d=6, seed=0, dtype=np.float64):
    """Anisotropic rows off the origin, their spectrum a geometric one."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return ((rng.standard_normal((n, d)) * 2.0 ** -np.arange(d)) @ turn + rng.standard_normal(d)).astype(dtype)


def dyadic(n=300, d=6, seed=0):
    """Multiples of 2⁻¹⁶ in [-4, 4), so that adding 10⁶ rounds nothing."""
    rng = np.random.default_rng(seed)
    wide = 2 ** (18 - np.arange(d) % 4)
    return rng.integers(-wide, wide, (n, d)) / 2.0**16


def stretch(fitted):
    """Most that a difference of two rows can grow by."""
    if isinstance(fitted, Whitening):
        return float(1 / np.sqrt(fitted.eigenvalues_[-1] + fitted.ridge_))
    return float(1 / fitted.scale_.min()) if isinstance(fitted, Standardizing) else 1.0
