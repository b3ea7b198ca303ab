"""What all transforms do with rows: dtypes, layouts, blocks, far origins, and what they refuse."""

import runpy
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import geomkit.core.blocks
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.transforms import AllButTheTop, Centering, Standardizing, Transform, Whitening, base
from tests.transforms.cases import INVERTIBLE, VARIANTS, dyadic, named, rows, stretch

ALL_VARIANTS = pytest.mark.parametrize("variant", VARIANTS, ids=named)
U = 2.0**-53


def fit(variant, x):
    return clone(variant).fit(x)


@ALL_VARIANTS
@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float32"),
        (ml_dtypes.bfloat16, "float32"),
        ("int8", "float32"),
        ("uint16", "float32"),
        ("int32", "float64"),
        ("int64", "float64"),
        (">f4", "float32"),
        ("object", "float64"),
    ],
    ids=str,
)
def test_dtypes(variant, given, out):
    x = (20 * rows() + 60).astype(given)
    exact = x.astype(np.float64)
    fitted, want = fit(variant, x), fit(variant, exact)
    for name in want.learned:
        assert np.array_equal(getattr(fitted, name), getattr(want, name)), name
        assert getattr(fitted, name).dtype == want.learned[name].dtype
    got = fitted.transform(x)
    assert got.dtype == out
    assert np.array_equal(got, want.transform(exact).astype(out))  # rounded once, from float64
    if variant in INVERTIBLE:
        assert fitted.inverse_transform(got).dtype == out
    assert fitted.transform(rows(4, dtype=np.float32)).dtype == np.float32
    assert fitted.transform(rows(4)).dtype == np.float64


@ALL_VARIANTS
def test_layouts(variant, tmp_path):
    x = rows(dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    strided = np.zeros((600, 12), np.float32)
    strided[::2, ::2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    same = {
        "fortran": np.asfortranarray(x),
        "strided": strided[::2, ::2],
        "backwards": x[::-1, ::-1].copy()[::-1, ::-1],
        "frozen": frozen,
        "memory map": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "frame": pd.DataFrame(x),
        "torch": torch.from_numpy(x),
        "unmasked": np.ma.MaskedArray(x),
    }
    want = fit(variant, x).transform(x)
    for name, each in same.items():
        assert np.array_equal(fit(variant, each).transform(each), want), name
    assert np.array_equal(x, rows(dtype=np.float32))
    assert np.array_equal(fit(variant, x.tolist()).transform(x), want)


@ALL_VARIANTS
def test_blocks_do_not_matter(variant, monkeypatch):
    x = rows()
    want = fit(variant, x)
    there = want.transform(x)
    for size in (1, 7 * 6, 299 * 6):
        monkeypatch.setattr(geomkit.core.blocks, "BLOCK_ENTRIES", size)
        got = fit(variant, x)
        for name in want.learned:
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-10, atol=1e-13, err_msg=name)
        np.testing.assert_allclose(got.transform(x), there, rtol=0, atol=1e-12 * stretch(want))


@ALL_VARIANTS
def test_the_order_of_rows_does_not_matter(variant):
    x = rows()
    order = np.random.default_rng(2).permutation(len(x))
    fitted, other = fit(variant, x), fit(variant, x[order])
    np.testing.assert_allclose(other.transform(x), fitted.transform(x), rtol=0, atol=1e-12 * stretch(fitted))


@ALL_VARIANTS
@pytest.mark.parametrize("shift", [1e6, -1e6])
def test_a_far_origin_costs_no_digits(variant, shift):
    x = dyadic()
    away = x + shift
    assert np.array_equal(away - shift, x)
    near, far = fit(variant, x), fit(variant, away)
    for name in set(near.learned) - {"mean_"}:
        np.testing.assert_allclose(getattr(far, name), getattr(near, name), rtol=1e-10, atol=1e-13, err_msg=name)
    # The mean itself is rounded, to half a unit in the last place of 10⁶.
    room = 16 * (1e6 * U + 4 * U) * stretch(near)
    np.testing.assert_allclose(far.transform(away), near.transform(x), rtol=0, atol=room)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 40), d=st.integers(2, 9), which=st.sampled_from(VARIANTS))
def test_rotations_go_through(seed, n, d, which):
    """Whatever treats all directions alike may be done before or after a rotation."""
    if isinstance(which, Standardizing) or getattr(which, "n_components", None) == 2 or getattr(which, "ridge", 1) == 0:
        which = Whitening(ridge=0.5)
    x = np.random.default_rng(seed).standard_normal((n, d)) * 3.0 ** -np.arange(d) + 1
    turn = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((d, d)))[0]
    here, there = fit(which, x).transform(x), fit(which, x @ turn).transform(x @ turn)
    np.testing.assert_allclose(here @ here.T, there @ there.T, rtol=0, atol=1e-9 * max(1.0, np.abs(here).max() ** 2))
    if getattr(which, "kind", "zca") == "zca":
        np.testing.assert_allclose(here @ turn, there, rtol=0, atol=1e-9 * max(1.0, np.abs(here).max()))


@pytest.mark.parametrize("variant", INVERTIBLE, ids=named)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_way_back(variant, dtype):
    x, new = rows(dtype=dtype), rows(20, seed=0, dtype=dtype)[::-1] + 1
    fitted = fit(variant, x)
    back = fitted.inverse_transform(fitted.transform(new))
    if isinstance(variant, Whitening) and variant.n_components:
        v = fitted.components_
        new = (new - fitted.mean_) @ v.T @ v + fitted.mean_  # the rest is at the mean
    np.testing.assert_allclose(back, new, rtol=0, atol=200 * np.finfo(dtype).eps * np.abs(new).max())
    assert back.dtype == dtype
    assert fitted.inverse_transform(fitted.transform(new)[:1]).shape == (1, 6)


def test_what_is_lost_has_no_way_back():
    assert not hasattr(AllButTheTop(), "inverse_transform")


@ALL_VARIANTS
def test_widths_are_named(variant):
    fitted = fit(variant, rows())
    with pytest.raises(InvalidInputError, match=r"X has 5 features, but .* is expecting 6 features"):
        fitted.transform(rows(d=5))
    if hasattr(fitted, "inverse_transform"):
        width = fitted.transform(rows()).shape[1]
        with pytest.raises(InvalidInputError, match=f"X has 9 features, but .* puts out {width}$"):
            fitted.inverse_transform(rows(d=9))


BAD = {
    "nan": (np.where(np.eye(6) > 0, np.nan, 1.0), r"X has 6 rows \(first: 0, 1, 2\) with NaN or infinity"),
    "infinity": (np.vstack([np.ones(6), [1.0, 2, 3, 4, 5, -np.inf]]), r"X has 1 row \(1\) with NaN or infinity"),
    "one dimension": (np.ones(6), "Reshape your data"),
    "three dimensions": (np.ones((2, 3, 4)), "dim 3"),
    "no rows": (np.ones((0, 6)), "0 sample"),
    "no columns": (np.ones((6, 0)), r"0 feature\(s\)"),
    "complex": (np.ones((6, 6), complex), "Complex data not supported"),
    "text": (np.full((6, 6), "a"), "dtype"),
    "text objects": (np.full((6, 6), "a", object), "not numbers"),
    "dates": (np.ones((6, 6), "datetime64[s]"), "dtype datetime64"),
    "ragged": ([[1.0, 2.0], [3.0]], "inhomogeneous"),
    "matrix": (np.asmatrix(np.ones((6, 6))), "np.matrix"),
    "sparse": (scipy.sparse.csr_array(np.eye(6)), r"sparse csr_array.*toarray\(\)"),
    "sparse matrix": (scipy.sparse.coo_matrix(np.eye(6)), r"sparse coo_matrix.*toarray\(\)"),
    "sparse frame": (pd.DataFrame(np.eye(6)).astype(pd.SparseDtype("float64", 0)), "[Ss]parse"),
    "masked": (np.ma.MaskedArray(np.ones((6, 6)), np.eye(6) > 0), "6 masked entries"),
    "mixed names": (pd.DataFrame(rows(), columns=["a", 1, "b", 2, "c", 3]), "[Ff]eature names"),
    "far apart": (np.array([[1.7e308] * 6, [-1.7e308] * 6, [0.0] * 6]), "far apart|1.8e\\+308"),
}


@ALL_VARIANTS
@pytest.mark.parametrize("name", BAD)
def test_refusals(variant, name):
    bad, message = BAD[name]
    fitted = fit(variant, rows())
    before = {k: np.copy(v) for k, v in vars(fitted).items() if k.endswith("_")}
    with pytest.raises(InvalidInputError, match=message):
        fitted.fit(bad)
    after = {k: v for k, v in vars(fitted).items() if k.endswith("_")}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[k], after[k]) for k in before)
    if name != "far apart":
        with pytest.raises(InvalidInputError, match=message):
            fitted.transform(bad)
    if (
        name in {"nan", "sparse", "masked", "one dimension"}
        and hasattr(fitted, "inverse_transform")
        and fitted._n_features_out == 6
    ):
        with pytest.raises(InvalidInputError, match=message):
            fitted.inverse_transform(bad)


def test_rows_are_numbered_through_all_blocks(monkeypatch):
    x = rows()
    fitted = Centering().fit(x)
    x[[123, 250], 2] = np.nan
    monkeypatch.setattr(geomkit.core.blocks, "BLOCK_ENTRIES", 6 * 50)
    for call in (fitted.transform, fitted.inverse_transform, Standardizing().fit):
        with pytest.raises(InvalidInputError, match=r"X has 2 rows \(first: 123, 250\)|X has 1 row \(123\)"):
            call(x)


def test_a_result_that_does_not_fit_is_refused():
    fitted = Centering().fit(np.array([[-3e38, 0], [-3e38, 1]], np.float32))
    with pytest.raises(InvalidInputError, match=r"X has 1 row \(1\) whose result is larger than float32 holds"):
        fitted.transform(np.array([[0, 0], [3e38, 0]], np.float32))
    assert fitted.transform(np.array([[3e38, 0]])).item(0) > 5e38


def test_objects_that_are_no_numbers_are_a_type_error_as_scikit_learn_has_it():
    with pytest.raises(TypeError, match=r"must be a string or a real number"):
        Centering().fit(np.array([[{}, 1], [2, 3]], object))


@pytest.mark.parametrize("variant", [Centering(), Standardizing(), AllButTheTop(), Whitening()], ids=named)
def test_memory_beyond_the_rows_is_bounded(variant, tmp_path, monkeypatch):
    monkeypatch.setattr(geomkit.core.blocks, "BLOCK_ENTRIES", 2**14)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (100_000, 16))
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    tracemalloc.start()
    try:
        fitted = clone(variant).fit(x)
        fitting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        fitted.transform(x)
        applying = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fitting < x.nbytes / 6
    assert applying < x.nbytes * (1 + 1 / 6)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'scikit-learn>=1\.6'"):
        runpy.run_path(base.__file__)


def test_a_transform_says_what_it_lacks():
    with pytest.raises(NotImplementedError):
        Transform().fit(rows())
