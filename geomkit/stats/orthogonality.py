"""How nearly orthogonal the rows are to each other, beside directions uniform on the sphere."""

import math
from dataclasses import dataclass
from typing import Any

from geomkit import nulls
from geomkit.core.devices import Device
from geomkit.core.result import Result
from geomkit.core.validation import BackendName, OnInvalid, Precision, check_number
from geomkit.stats.cosine import CosineStats, cosine_stats

__all__ = ["Null", "Orthogonality", "orthogonality", "orthogonality_of"]


@dataclass(frozen=True, slots=True)
class Null(Result):
    """What random vectors of the same n and d would give for one statistic."""

    mean: float
    std: float
    z: float
    """(value - mean) / std; NaN where the null has no spread."""


@dataclass(frozen=True, slots=True)
class Orthogonality(Result):
    """Summary of |cosine| over all distinct pairs of rows. Everything is dimensionless."""

    n: int
    d: int
    eps: float
    coherence: float
    """Largest |cosine|, in [0, 1]."""
    welch_bound: float
    """Least coherence that any n vectors in R^d can have: √((n-d)/(d(n-1))) for n > d, else 0 (Welch 1974)."""
    mean_abs: float
    """Mean |cosine|."""
    rms: float
    """Root mean square cosine."""
    within_fraction: float
    """Share of pairs with ``|cosine| <= eps``."""
    mean: float
    """Mean cosine."""
    nulls: dict[str, Null]
    """For each of `coherence`, `mean_abs`, `rms`, `within_fraction` and `mean`: what directions uniform on the sphere
    would give."""
    error_bound: float
    """Proven bound on the error of any single cosine."""
    backend: str
    precision: str
    n_dropped: int

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar by name, the nulls as ``<statistic>_null_mean``, ``_null_std`` and ``_z``."""
        flat = Result.to_dict(self)
        for name, null in flat.pop("nulls").items():
            flat |= {f"{name}_null_mean": null.mean, f"{name}_null_std": null.std, f"{name}_z": null.z}
        return flat


def orthogonality(
    x: Any,
    *,
    eps: float = 0.1,
    backend: BackendName = "auto",
    device: Device = None,
    precision: Precision = "float32",
    on_invalid: OnInvalid = "raise",
    threads: int | None = None,
) -> Orthogonality:
    """How nearly orthogonal the rows are, each figure beside what the uniform sphere would give.

    Parameters
    ----------
    x : array_like (n, d)
        Rows to measure: float16, bfloat16, float32, float64 or integers; dense or scipy sparse; n >= 2, finite, no
        zero row. They are read where they lie, block by block.
    eps : float
        Pairs with ``|cosine| <= eps`` count as nearly orthogonal; in [0, 1].
    backend : {"auto", "cpu", "torch", "triton", "reference"}
        Which kernels run; ``"auto"`` is torch for work on an accelerator and the CPU kernels otherwise.
    device : str, torch.device or a list of these, optional
        Where work happens, such as ``"cuda"``, ``"cuda:1"`` or ``"cpu"``; where the data lies unless given. Several
        devices share the work.
    precision : {"float32", "bfloat16", "float64"}; of Triton {"float32", "bfloat16", "float16", "tf32"}
        Precision of the products; `error_bound` says what it cost.
    on_invalid : {"raise", "drop"}
        What to do with rows that are not finite or zero.
    threads : int, optional
        Worker threads of the CPU backend; all processors of this process unless given.

    Returns
    -------
    Orthogonality
        `coherence` is the largest |cosine|, and `nulls` says for each figure what the sphere would give.

    Raises
    ------
    InvalidInputError
        `x` cannot be measured, or an argument is not one of its choices.
    BackendUnavailableError
        The library behind the backend, or the device, is missing.
    DeviceMemoryError
        A device has no room for the smallest tile of pairs.

    Notes
    -----
    One sweep over all pairs, O(n² d). On the sphere any two pairs are independent, so the null variances are exact.

    Examples
    --------
    >>> import numpy as np
    >>> import geomkit
    >>> x = np.random.default_rng(0).standard_normal((200, 8))
    >>> found = geomkit.orthogonality(x)
    >>> print(f"{found.coherence:.3f} beside {found.nulls['coherence'].mean:.3f}")
    0.963 beside 0.962
    """
    check_number(eps, "eps", 0, 1)
    found = cosine_stats(x, backend=backend, device=device, precision=precision, on_invalid=on_invalid, threads=threads)
    return orthogonality_of(found, eps)


def orthogonality_of(found: CosineStats, eps: float) -> Orthogonality:
    """Read orthogonality from a cosine distribution that is there already."""
    n, d = found.n, found.d
    sphere = nulls.sphere(d)
    largest = sphere.coherence(n)
    values = {
        "coherence": max(abs(found.min), abs(found.max)),
        "mean_abs": found.mean_abs,
        "rms": found.rms,
        "within_fraction": found.within_fraction(eps),
        "mean": found.mean,
    }
    expected = {
        "coherence": (largest.mean, largest.std),
        "mean_abs": (sphere.mean_abs, sphere.mean_abs_std(n)),
        # The root of a mean square, to first order.
        "rms": (sphere.std, sphere.mean_square_std(n) / (2 * sphere.std)),
        "within_fraction": (sphere.within_fraction(eps), sphere.within_fraction_std(eps, n)),
        "mean": (0.0, sphere.mean_std(n)),
    }
    beside = {name: Null(*expected[name], nulls.z(value, *expected[name])) for name, value in values.items()}
    return Orthogonality(
        n=n,
        d=d,
        eps=float(eps),
        welch_bound=math.sqrt((n - d) / (d * (n - 1))) if n > d else 0.0,
        nulls=beside,
        error_bound=found.error_bound,
        backend=found.backend,
        precision=found.precision,
        n_dropped=found.n_dropped,
        **values,
    )
