"""Standardising against NumPy, and what it does with coordinates that hardly vary or do not at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from geomkit.transforms import Standardizing
from tests.transforms.cases import dyadic, rows


@pytest.mark.parametrize("n", [2, 3, 300, 5000])
def test_against_numpy_and_scikit_learn(n):
    x = rows(n)
    fitted = Standardizing().fit(x)
    np.testing.assert_allclose(fitted.mean_, x.mean(axis=0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(fitted.scale_, x.std(axis=0), rtol=1e-12)
    new = rows(50, seed=3)
    np.testing.assert_allclose(fitted.transform(new), (new - x.mean(axis=0)) / x.std(axis=0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(fitted.transform(new), StandardScaler().fit(x).transform(new), rtol=0, atol=1e-10)
    y = fitted.transform(x)
    assert np.abs(y.mean(axis=0)).max() < 1e-12
    np.testing.assert_allclose(y.std(axis=0), 1, rtol=1e-12)
    assert not fitted.constant_.any()


def test_constant_coordinates_are_named_and_keep_their_unit():
    x = rows()
    x[:, 1], x[:, 4] = 0.1, -1e9
    fitted = Standardizing().fit(x)
    assert fitted.constant_.tolist() == [False, True, False, False, True, False]
    assert fitted.scale_[[1, 4]].tolist() == [1, 1]
    assert not fitted.transform(x)[:, [1, 4]].any()
    assert fitted.transform(x[:1] + 2)[0, [1, 4]].tolist() == [2.1 - 0.1, 2.0]
    assert np.array_equal(fitted.inverse_transform(fitted.transform(x))[:, [1, 4]], x[:, [1, 4]])


def test_one_row_is_constant_all_over():
    fitted = Standardizing().fit([[1.0, -2.0]])
    assert fitted.constant_.all()
    assert fitted.transform([[2.0, 2.0]]).tolist() == [[1.0, 4.0]]


def test_the_last_digit_is_variance():
    x = np.ones((4, 2))
    x[::2, 0] = np.nextafter(1, 2)
    fitted = Standardizing().fit(x)
    assert fitted.constant_.tolist() == [False, True]
    assert fitted.scale_.tolist() == [2.0**-53, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(-900, 900), min_size=4, max_size=4))
def test_units_of_coordinates_do_not_matter(seed, powers):
    x = dyadic(40, 4, seed)
    scaled = np.ldexp(x, powers)
    assert np.array_equal(Standardizing().fit_transform(scaled), Standardizing().fit_transform(x))
    fitted = Standardizing().fit(scaled)
    assert np.array_equal(np.ldexp(fitted.scale_, np.negative(powers)), Standardizing().fit(x).scale_)
