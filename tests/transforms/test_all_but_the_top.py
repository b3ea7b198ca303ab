"""All-but-the-top against a singular value decomposition, and what it leaves of variance and of squared cosines."""

import numpy as np
import pytest

from geomkit.errors import InvalidInputError
from geomkit.transforms import AllButTheTop, Centering
from tests.transforms.cases import rows


def by_svd(x, new, k):
    """Mu & Viswanath's algorithm 1 from the singular vectors of the centred corpus."""
    mean = x.mean(axis=0)
    top = np.linalg.svd(x - mean, full_matrices=False)[2][:k]
    return new - mean - (new - mean) @ top.T @ top


def mean_squared_cosine(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return (np.square(unit.T @ unit).sum() - len(x)) / (len(x) * (len(x) - 1))


@pytest.mark.parametrize(("n", "d", "k"), [(300, 6, 1), (300, 6, 3), (300, 6, 5), (10, 40, 4), (9, 40, 8), (2, 3, 1)])
def test_against_the_singular_vectors(n, d, k):
    x, new = rows(n, d), rows(20, d, seed=7)
    fitted = AllButTheTop(k).fit(x)
    for each in (x, new):
        np.testing.assert_allclose(fitted.transform(each), by_svd(x, each, k), rtol=0, atol=1e-9)
    assert fitted.components_.shape == (k, d)


@pytest.mark.parametrize(("d", "k"), [(2, 1), (99, 1), (149, 1), (151, 2), (251, 3)])
def test_a_hundredth_of_the_directions_unless_told(d, k):
    assert AllButTheTop().fit(rows(30, d)).components_.shape == (k, d)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_no_variance_is_left_along_what_was_taken_out(k):
    x = rows()
    fitted = AllButTheTop(k).fit(x)
    for each in (x, rows(50, seed=9) * 100):
        left = fitted.transform(each)
        assert np.abs(left @ fitted.components_.T).max() < 1e-13 * np.abs(each).max()
        np.testing.assert_allclose(fitted.transform(left + fitted.mean_), left, rtol=0, atol=1e-12)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    left = np.linalg.eigvalsh(np.cov(fitted.transform(x).T))[::-1]
    np.testing.assert_allclose(left[: 6 - k], values[k:], rtol=1e-10)
    assert np.abs(left[6 - k :]).max() < 1e-14


def test_0_directions_is_centring():
    x = rows()
    assert np.array_equal(AllButTheTop(0).fit_transform(x), Centering().fit_transform(x))


def test_squared_cosines_fall_to_those_of_the_other_directions():
    """Over Gaussian rows the mean of cos² is near Σλ²/(Σλ)², of the directions that are left."""
    n, d, k = 4000, 200, 2
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    spread = np.concatenate([[8.0, 6.0], np.linspace(1.2, 0.8, d - k)])
    x = (rng.standard_normal((n, d)) * spread) @ turn + 0.5
    left = spread[k:] ** 2
    want = np.square(left).sum() / left.sum() ** 2
    fitted = AllButTheTop().fit(x)
    assert len(fitted.components_) == k
    assert mean_squared_cosine(Centering().fit_transform(x)) > 5 * want
    assert mean_squared_cosine(fitted.transform(x)) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("k", [-1, 6, 7, 1.0, "1", True, np.float64(1)])
def test_refused_components(k):
    with pytest.raises(InvalidInputError, match=r"n_components must be a whole number from 0 to 5, or None; got"):
        AllButTheTop(k).fit(rows())


def test_directions_that_the_corpus_does_not_have_are_not_made_up():
    flat = rows()[:, :1] * np.ones((1, 6))
    with pytest.raises(InvalidInputError, match="X varies along 1 of the 2 directions that are to be taken out"):
        AllButTheTop(2).fit(flat)
    assert np.abs(AllButTheTop(1).fit_transform(flat)).max() < 1e-14
    with pytest.raises(InvalidInputError, match="X varies along 2 of the 3 directions"):
        AllButTheTop().fit(rows(3, 251))
    with pytest.raises(InvalidInputError, match="X varies along 0 of the 1 directions"):
        AllButTheTop().fit(np.ones((5, 6)))


@pytest.mark.parametrize(("shape", "message"), [((1, 6), "1 sample"), ((6, 1), "1 feature")])
def test_one_row_or_one_column_has_nothing_to_take_out(shape, message):
    with pytest.raises(InvalidInputError, match=message):
        AllButTheTop().fit(rows(*shape))
