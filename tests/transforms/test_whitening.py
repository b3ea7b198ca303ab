"""Whitening against NumPy's eigenvectors: the covariance it leaves, its ridge, its two kinds, singular corpora."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from geomkit.errors import InvalidInputError
from geomkit.transforms import Centering, Whitening
from tests.transforms.cases import rows
from tests.transforms.test_all_but_the_top import mean_squared_cosine


def by_numpy(x, new, ridge, k=None):
    """ZCA from the definition."""
    covariance = np.cov(x.T)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    rho = ridge * covariance.trace() / len(covariance)
    return (new - x.mean(axis=0)) @ (vectors / np.sqrt(values + rho)) @ vectors.T


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.5, 100])
@pytest.mark.parametrize("k", [None, 1, 4, 6])
def test_against_numpy(ridge, k):
    x, new = rows(), rows(40, seed=2)
    fitted = Whitening(ridge, k).fit(x)
    for each in (x, new):
        np.testing.assert_allclose(fitted.transform(each), by_numpy(x, each, ridge, k), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["zca", "pca"])
@pytest.mark.parametrize(
    ("n", "d", "ridge"), [(300, 6, 0.0), (300, 6, 1e-3), (300, 6, 2.0), (8, 30, 1e-3), (8, 30, 2.0)]
)
def test_the_covariance_that_is_left(ridge, kind, n, d):
    x = rows(n, d)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    values = np.maximum(values[::-1], 0)
    rho = ridge * values.mean()
    fitted = Whitening(ridge, kind=kind).fit(x)
    y = fitted.transform(x)
    basis = fitted.components_.T if kind == "zca" else np.eye(d)
    np.testing.assert_allclose(basis.T @ np.cov(y.T) @ basis, np.diag(values / (values + rho)), rtol=0, atol=1e-10)
    assert np.abs(y.mean(axis=0)).max() < 1e-12
    assert fitted.ridge_ == pytest.approx(rho, rel=1e-12)
    np.testing.assert_allclose(fitted.eigenvalues_, values, rtol=1e-9, atol=1e-13)
    if n > d:
        np.testing.assert_allclose(np.abs(fitted.components_ @ vectors[:, ::-1]), np.eye(d), rtol=0, atol=1e-10)


def test_pca_is_scikit_learns_but_for_signs():
    x, new = rows(), rows(40, seed=2)
    want = PCA(3, whiten=True, svd_solver="full").fit(x).transform(new)
    got = Whitening(0.0, 3, "pca").fit(x).transform(new)
    assert got.shape == (40, 3)
    np.testing.assert_allclose(np.abs(got), np.abs(want), rtol=0, atol=1e-10)


@pytest.mark.parametrize("k", [None, 3])
def test_both_kinds_have_the_same_inner_products(k):
    x, new = rows(), rows(40, seed=2)
    zca, pca = (Whitening(0.01, k, kind).fit(x).transform(new) for kind in ("zca", "pca"))
    assert (zca.shape, pca.shape) == ((40, 6), (40, k or 6))
    np.testing.assert_allclose(zca @ zca.T, pca @ pca.T, rtol=0, atol=1e-10)


def test_zca_stays_nearest_to_the_coordinates():
    """Its matrix is symmetric and positive, which makes it the nearest of all whitenings (Kessy et al. 2018)."""
    x = rows()
    fitted = Whitening(0.0).fit(x)
    matrix = fitted.transform(np.eye(6) + fitted.mean_)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=1e-9)
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**300])
def test_the_scale_of_the_data_does_not_matter(scale):
    x = rows()
    np.testing.assert_allclose(
        Whitening(0.01).fit_transform(x * scale), Whitening(0.01).fit_transform(x), rtol=0, atol=1e-12
    )


def test_squared_cosines_fall_to_those_of_random_rows():
    """Over Gaussian rows the mean of cos² is near Σλ²/(Σλ)²; with all variances equal that is 1/d."""
    n, d = 6000, 100
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    values = np.linspace(4, 0.1, d)
    x = (rng.standard_normal((n, d)) * np.sqrt(values)) @ turn + 3
    before = mean_squared_cosine(Centering().fit_transform(x))
    assert before == pytest.approx(np.square(values).sum() / values.sum() ** 2, rel=0.03)
    fitted = Whitening(0.0).fit(x)
    # Σ (y_i·y_j)² is (n - 1)² d exactly, n terms of which, of near d² each, are no pairs.
    assert mean_squared_cosine(fitted.transform(x)) == pytest.approx((1 - d / n) / d, rel=0.002)
    fresh = (rng.standard_normal((n, d)) * np.sqrt(values)) @ turn + 3
    assert mean_squared_cosine(fitted.transform(fresh)) == pytest.approx(1 / d, rel=2 * d / n)
    half = values / (values + values.mean())
    damped = mean_squared_cosine(Whitening(1.0).fit_transform(x))
    assert damped == pytest.approx(np.square(half).sum() / half.sum() ** 2, rel=0.03)


def test_a_ridge_makes_up_for_what_a_corpus_lacks():
    x, new = rows(8, 30), rows(5, 30, seed=4)
    fitted = Whitening(1e-3).fit(x)
    assert (fitted.eigenvalues_[7:] == 0).all()
    assert fitted.eigenvalues_[6] > 0
    np.testing.assert_allclose(fitted.transform(new), by_numpy(x, new, 1e-3), rtol=0, atol=1e-9)
    for ridge in (0, 1e-18):
        with pytest.raises(InvalidInputError, match=r"varies along 7 of the 30 .* ridge=.* n_components to at most 7"):
            Whitening(ridge).fit(x)
    whole = Whitening(0, 7, "pca").fit_transform(x)
    np.testing.assert_allclose(np.cov(whole.T), np.eye(7), rtol=0, atol=1e-9)


def test_one_column():
    x = rows(d=1)
    np.testing.assert_allclose(Whitening(0).fit_transform(x), (x - x.mean()) / x.std(ddof=1), rtol=0, atol=1e-12)


REFUSED = {
    "negative": ({"ridge": -1e-9}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "not a number": ({"ridge": np.nan}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "endless": ({"ridge": np.inf}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "immense": ({"ridge": 10**400}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "text": ({"ridge": "1e-3"}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "truth": ({"ridge": True}, "ridge must be a number in \\[0, 1e\\+12\\]"),
    "none kept": ({"n_components": 0}, "n_components must be a whole number from 1 to 6, or None; got 0"),
    "too many": ({"n_components": 7}, "n_components must be a whole number from 1 to 6, or None; got 7"),
    "half": ({"n_components": 2.5}, "n_components must be a whole number from 1 to 6, or None; got 2.5"),
    "kind": ({"kind": "cholesky"}, "kind must be one of"),
    "kind in a list": ({"kind": ["zca"]}, "kind must be one of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_parameters(name):
    parameters, message = REFUSED[name]
    with pytest.raises(InvalidInputError, match=message):
        Whitening(**parameters).fit(rows())


def test_a_corpus_that_does_not_vary_is_refused():
    with pytest.raises(InvalidInputError, match="X has 5 equal rows; whitening needs variance"):
        Whitening().fit(np.full((5, 6), 0.1))
    with pytest.raises(InvalidInputError, match="1 sample"):
        Whitening().fit(rows(1))
