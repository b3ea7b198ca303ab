"""Brute force in float64 over all pairs, data of every temper, and brackets for what a statistic may come to."""

import numpy as np

from geomkit.kernels import Backend, cpu_bfloat16, cpu_product
from tests.bounds import gamma, unit

BACKENDS = [backend.value for backend in Backend if backend is not Backend.TRITON]
"""Backends that have everything; Triton has kernels for the products of scores alone."""

PRECISIONS = ["float32", "float64"]
GRID = [(backend, precision) for backend in BACKENDS for precision in PRECISIONS]

BFLOAT16 = ("torch", "numba") if cpu_bfloat16.available() else ("torch",)
"""Products of bfloat16 rows that this processor has."""

SCREENS = [
    *((*each, "") for each in GRID),
    ("torch", "bfloat16", ""),
    ("cpu", "bfloat16", ""),
    *(("cpu", "bfloat16", product) for product in BFLOAT16),
    *(("triton", precision, "") for precision in ("bfloat16", "float16", "tf32", "float32")),
]
"""What products of scores run in, and the product of bfloat16 that is forced on the CPU backend."""

SCREENED = [each for each in SCREENS if each[:2] != ("reference", "float32")]
"""The same without what runs in float64 all the same."""

SETTLED = [each for each in SCREENED if each[:2] not in {("triton", "tf32"), ("triton", "float32")}]
"""The same without what takes the interpreter long and has nothing of its own after screening."""

SUMS = 768 + 8
"""Longest run of a tally in the dtype of its tile, with what is added to it."""


def ran(backend, precision):
    """The reference always computes in float64."""
    return "float64" if backend == "reference" else precision


def force(monkeypatch, product):
    """Make the CPU backend believe that this product of bfloat16 was found the fastest, and nothing else measured."""
    monkeypatch.setattr(cpu_product, "_chosen", {"bfloat16": product} if product else {})


def summed(found):
    """Dtype in which the power sums of a result were added up: bfloat16 tiles are counted, and the counts added up."""
    if found.precision == "bfloat16":
        return "float32" if found.matmul.endswith("in float32") else "float64"
    if found.precision in {"float16", "tf32"}:
        return "float32"
    return found.precision


def upper(matrix):
    return matrix[np.triu_indices(len(matrix), 1)]


def cosines(x):
    x = np.asarray(x, np.float64)
    x = x / np.abs(x).max(axis=1, keepdims=True)
    x /= np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    return upper(x @ x.T)


def gaussian(rng, n, d):
    return rng.standard_normal((n, d))


def clustered(rng, n, d):
    return 3 * rng.standard_normal((4, d))[rng.integers(0, 4, n)] + 0.3 * rng.standard_normal((n, d))


def duplicated(rng, n, d):
    return rng.standard_normal((n // 3 + 1, d))[np.arange(n) % (n // 3 + 1)]


def anisotropic(rng, n, d):
    """Mean cosine 0.996 and a spread of about 0.002, as in a middle layer of a language model."""
    return 5 * np.eye(d)[0] * np.sqrt(d) + 0.318 * rng.standard_normal((n, d)) * rng.uniform(0.6, 1.4, (n, 1))


def whole_numbers(rng, n, d):
    return rng.integers(-3, 4, (n, d)) + np.eye(d, dtype=int)[0]


DATA = {each.__name__: each for each in (gaussian, clustered, duplicated, anisotropic, whole_numbers)}


def data(name, n, d, *, seed=1):
    """Rows that float32 holds exactly, so that every backend and the oracle see the same numbers."""
    x = DATA[name](np.random.default_rng(seed), n, d)
    return x if name == "whole_numbers" else x.astype(np.float32)


def spread_error(values, error, dtype):
    """Error of the standard deviation of values that are each off by at most `error`.

    It is a seminorm, so it moves by at most the error; the power sums about a centre within `error` of the mean err by
    ``gamma`` relative to the mean square about it, and the variance by at most 3.1 of these.
    """
    std = float(np.std(values))
    about = std * std + error * error
    return error + 3.1 * gamma(SUMS, dtype) * about / max(std - error, 1e-300) if std > error else 10 * error


def counter_reach(value, middle, error, share=2**-8):
    """How far a value read from its counter may lie from the true one: 2^-8 of its distance from the centre.

    The centre may be rounded to float32, and the least counters have the width of a subnormal bfloat16.
    """
    return error + (1 + 2**-14) * share * (np.abs(value - middle) + error + 2**-23 * abs(middle)) + 2.0**-133


def quantile_bracket(values, q, middle, error):
    """Between the order statistics around the rank, each as far off as its counter allows."""
    low, high = np.quantile(values, q, method="lower"), np.quantile(values, q, method="higher")
    return low - counter_reach(low, middle, error), high + counter_reach(high, middle, error)


def cumulative_bracket(values, at, middle, error):
    """Number of values at or below `at`, those that may share a counter with it (2^-7 wide) falling on either side."""
    reach = counter_reach(values, middle, error, 2**-7)
    at = np.asarray(at)[..., None]
    return np.sum(values + reach < at, axis=-1), np.sum(values - reach <= at, axis=-1)


def standardised_brackets(values, error, dtype):
    """Brackets for skewness and excess kurtosis of values that are each off by `error`, from Minkowski's inequality."""
    std = float(np.std(values))
    z = (values - values.mean()) / std
    slack = 2 * error / std + 8 * gamma(SUMS, dtype) * float(np.mean(z**4))
    assert slack < 0.1
    fourth = float(np.mean(z**4)) ** 0.25
    kurtosis = ((fourth - slack) / (1 + slack)) ** 4 - 3, ((fourth + slack) / (1 - slack)) ** 4 - 3
    skewness = float(np.mean(z**3))
    moved = 3 * slack * (1 + slack) ** 2
    ends = [(skewness + side * moved) * (1 + way * slack) ** -3 for side in (-1, 1) for way in (-1, 1)]
    return (min(ends), max(ends)), kurtosis


def squared_norms(x):
    return np.square(x).sum(axis=1)


def distance_brackets(x, p, dtype):
    """Least and largest value that each pair's distance may be measured as, and the exact distances, (n, n).

    `x` is float64. Rows are centred in float64 and rounded once to `dtype`; then distances come from the product for
    p = 2, and from differences otherwise.
    """
    y = x - x.mean(axis=0)
    differences = np.abs(x[:, None] - x[None])
    if np.isinf(p):
        exact = differences.max(axis=2)
    else:
        largest = np.where(differences.max(axis=2) > 0, differences.max(axis=2), 1)
        exact = largest * np.sum((differences / largest[..., None]) ** p, axis=2) ** (1 / p)
    # Centring and rounding move each coordinate by at most a unit roundoff of its size; scaling is exact.
    u = unit(dtype) + 8 * 2.0**-53
    moved = u * (np.abs(y)[:, None] + np.abs(y)[None]) + 2.0**-52 * np.abs(x.mean(axis=0))
    if np.isinf(p):
        shift = moved.max(axis=2)
        low, high = exact - shift, exact + shift
    elif p >= 1:
        shift = np.sum(moved**p, axis=2) ** (1 / p)
        low, high = exact - shift, exact + shift
    else:
        # Below 1, sums of powers are subadditive and their roots are not.
        shift = np.sum(moved**p, axis=2)
        low, high = np.maximum(exact**p - shift, 0) ** (1 / p), (exact**p + shift) ** (1 / p)
    return np.maximum(low, 0), high, exact


def through_product(x, low, high, dtype):
    """The same brackets after the error of the product: ``gamma_{d+10}`` times the sum of the squared norms."""
    squares = squared_norms(x - x.mean(axis=0)) * (1 + 2 * unit(dtype)) ** 2
    error = gamma(x.shape[1] + 10, dtype) * (squares[:, None] + squares)
    rounding = 1 + 4 * unit(dtype)
    return np.sqrt(np.maximum(low**2 - error, 0)) / rounding, np.sqrt(high**2 + error) * rounding
