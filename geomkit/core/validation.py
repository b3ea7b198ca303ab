"""Checks of arguments. Each refusal says which argument it is about, what it was, and what it must be."""

import math
from collections.abc import Sequence, Sized
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from geomkit.errors import InvalidInputError

__all__ = [
    "BackendName",
    "Metric",
    "OnInvalid",
    "Precision",
    "check_choice",
    "check_length",
    "check_number",
    "check_on_invalid",
    "check_positive",
    "check_threads",
    "check_whole",
    "is_number",
    "is_whole",
    "name_rows",
]

BackendName = Literal["auto", "reference", "cpu", "torch", "triton"]
"""Where the arithmetic runs; ``"auto"`` follows the rows."""

Metric = Literal["cosine", "euclidean", "dot"]
"""By what neighbours are near."""

OnInvalid = Literal["raise", "drop"]
"""What happens to rows that cannot be measured."""

Precision = Literal["bfloat16", "float32", "float64", "float16", "tf32"]
"""What products of rows are computed in; each backend and statistic takes some of them."""


def is_whole(value: object) -> bool:
    """Return whether a value is an integer of Python or NumPy; booleans are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a real number of Python or NumPy; booleans are none."""
    return is_whole(value) or isinstance(value, (float, np.floating))


def check_choice(value: object, name: str, choices: Sequence[str]) -> None:
    """Refuse a value that is not one of the choices."""
    if value not in choices:
        msg = f"{name} must be one of {list(choices)}; got {value!r}"
        raise InvalidInputError(msg)


def check_on_invalid(on_invalid: object) -> None:
    """Refuse what is not one of `OnInvalid`."""
    check_choice(on_invalid, "on_invalid", get_args(OnInvalid))


def check_whole(
    value: Any,
    name: str,
    low: int,
    high: int | None = None,
    *,
    low_is: str = "",
    high_is: str = "",
    suffix: str = "",
) -> int:
    """Return a whole number from `low` to `high` as an int, and refuse anything else.

    Parameters
    ----------
    value : object
        The argument.
    name : str
        What messages call it.
    low : int
        The least value that is allowed.
    high : int, optional
        The largest value that is allowed.
    low_is, high_is : str
        What the limits are, such as ``"n - 1"``, which the message then says beside their values.
    suffix : str
        What the message says after the limits, such as ``", or None"``.

    Raises
    ------
    InvalidInputError
        `value` is no integer, or outside the limits.
    """
    if not is_whole(value) or value < low or (high is not None and value > high):
        least, most = (f"{what} = {limit}" if what else limit for what, limit in ((low_is, low), (high_is, high)))
        limits = f"of at least {least}" if high is None else f"from {least} to {most}"
        msg = f"{name} must be a whole number {limits}{suffix}; got {value!r}"
        raise InvalidInputError(msg)
    return int(value)


def check_threads(threads: object) -> None:
    """Refuse a number of threads that is neither None nor a whole number of at least 1."""
    if threads is not None:
        check_whole(threads, "threads", 1, suffix=", or None")


def check_number(
    value: Any,
    name: str,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    finite: bool = True,
) -> None:
    """Refuse what is not a number from `low` to `high`.

    Parameters
    ----------
    value : object
        The argument.
    name : str
        What messages call it.
    low, high : float
        The limits.
    open_low, open_high : bool
        Whether a limit itself is refused.
    finite : bool
        Whether infinity is refused where `high` is infinite.

    Raises
    ------
    InvalidInputError
        `value` is no number, NaN, or outside the limits.
    """
    inside = is_number(value) and (low < value if open_low else low <= value)
    if inside and (value < high if open_high or (finite and math.isinf(high)) else value <= high):
        return
    if not open_low and not open_high and math.isfinite(high):
        limits = f"in [{low:g}, {high:g}]"
    else:
        most = "" if math.isinf(high) else f" and {'below' if open_high else 'at most'} {high:g}"
        limits = f"{'above' if open_low else 'of at least'} {low:g}{most}"
    msg = f"{name} must be a number {limits}; got {value!r}"
    raise InvalidInputError(msg)


def check_positive(value: Any, name: str) -> None:
    """Refuse what is not a number above 0; infinity is one."""
    check_number(value, name, 0, open_low=True, finite=False)


def check_length(values: Sized, name: str, n: int) -> None:
    """Refuse a sequence that does not have one entry for each of n rows."""
    if len(values) != n:
        msg = f"{name} has {len(values)} entries; it must have one for each of the {n} rows"
        raise InvalidInputError(msg)


def name_rows(rows: NDArray[Any]) -> str:
    """Say how many rows, and the first few: ``3 rows (first: 17, 40, 41)``."""
    first = ", ".join(str(int(row)) for row in rows[:3])
    return f"1 row ({first})" if len(rows) == 1 else f"{len(rows)} rows (first: {first})"
