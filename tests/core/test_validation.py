"""Refusals name the argument, what it was, and what it must be."""

import math
from typing import get_args

import numpy as np
import pytest

from geomkit.core.validation import (
    BackendName,
    Metric,
    Precision,
    check_choice,
    check_length,
    check_number,
    check_on_invalid,
    check_positive,
    check_threads,
    check_whole,
    name_rows,
)
from geomkit.errors import InvalidInputError
from geomkit.kernels import PRECISIONS, Backend
from geomkit.stats.neighbors import METRICS


def refused(message):
    return pytest.raises(InvalidInputError, match=f"^{message}$")


def test_names_of_rows():
    assert name_rows(np.array([4])) == "1 row (4)"
    assert name_rows(np.array([4, 7])) == "2 rows (first: 4, 7)"
    assert name_rows(np.arange(9)) == "9 rows (first: 0, 1, 2)"


def test_positive_numbers():
    for value in (1, 0.5, math.inf, np.float32(2), np.int64(3)):
        check_positive(value, "p")
    for value in (0, -1, -math.inf, math.nan, "1", None, True, 1j, [1]):
        with pytest.raises(InvalidInputError, match="p must be a number above 0; got"):
            check_positive(value, "p")


def test_choices():
    check_choice("a", "letter", ("a", "b"))
    with pytest.raises(InvalidInputError, match=r"letter must be one of \['a', 'b'\]; got 'c'"):
        check_choice("c", "letter", ("a", "b"))


def test_whole_numbers():
    for value in (2, 5, np.int64(3), np.uint8(4)):
        checked = check_whole(value, "k", 2, 5)
        assert checked == value
        assert type(checked) is int
    assert check_whole(10**30, "k", 2) == 10**30
    for value in (1, 6, 2.0, True, "3", None, np.float64(3), math.nan, [3]):
        with refused(r"k must be a whole number from 2 to 5; got .*"):
            check_whole(value, "k", 2, 5)
    with refused(r"k must be a whole number of at least 2; got 1"):
        check_whole(1, "k", 2)
    with refused(r"sample must be a whole number from k \+ 1 = 4 to n = 9, or None; got 3"):
        check_whole(3, "sample", 4, 9, low_is="k + 1", high_is="n", suffix=", or None")


def test_numbers_of_threads():
    check_threads(None)
    check_threads(3)
    with refused("threads must be a whole number of at least 1, or None; got 0"):
        check_threads(0)


@pytest.mark.parametrize(
    ("limits", "taken", "refusals", "message"),
    [
        ({"low": 0, "high": 1}, (0, 0.5, 1), (-0.1, 1.1), r"in \[0, 1\]"),
        ({"low": 0, "high": 1e12}, (1e12,), (2e12, 10**400, math.inf), r"in \[0, 1e\+12\]"),
        ({"low": 0, "high": 1, "open_low": True}, (1e-9, 1), (0, 2), "above 0 and at most 1"),
        ({"low": 0, "high": 1, "open_low": True, "open_high": True}, (0.5,), (0, 1), "above 0 and below 1"),
        ({"low": 0}, (0, 1e300, 10**400), (-1e-9, math.inf), "of at least 0"),
        ({"low": 0, "finite": False}, (math.inf,), (-math.inf,), "of at least 0"),
        ({"low": 1, "open_low": True}, (2, np.float32(3)), (1, math.inf), "above 1"),
    ],
)
def test_numbers_within_limits(limits, taken, refusals, message):
    for value in taken:
        check_number(value, "p", **limits)
    for value in (*refusals, math.nan, "1", None, True, 1j, [0.5]):
        with refused(f"p must be a number {message}; got .*"):
            check_number(value, "p", **limits)


def test_the_types_of_choices_hold_what_is_accepted():
    assert get_args(BackendName) == ("auto", *(backend.value for backend in Backend))
    assert set(get_args(Precision)) == set().union(*PRECISIONS.values())
    assert set(get_args(Metric)) == set(METRICS)


def test_lengths_and_invalid_rows():
    check_length(["a", "b"], "labels", 2)
    for n in (1, 3):
        with refused(f"labels has 2 entries; it must have one for each of the {n} rows"):
            check_length(["a", "b"], "labels", n)
    check_on_invalid("drop")
    with refused(r"on_invalid must be one of \['raise', 'drop'\]; got 'skip'"):
        check_on_invalid("skip")
