"""Codes against their definition, faiss's scalar quantiser, and what must be refused."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.interpret.quantise import BITS, quantiser


def rows(n=200, d=13, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * rng.uniform(0.1, 30, d) + rng.uniform(-5, 5, d)).astype(np.float32)


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("d", [1, 2, 7, 8, 13])
def test_codes_are_as_short_as_they_say(kind, d):
    x = rows(d=d)
    code = quantiser(x, kind)
    codes = code.encode(x)
    assert codes.dtype == np.uint8
    assert codes.shape == (200, code.bytes_per_vector)
    assert code.bytes_per_vector == int(np.ceil(d * BITS[kind] / 8))
    assert code.decode(codes).shape == x.shape
    assert code.name == kind


@pytest.mark.parametrize(("kind", "levels"), [("int8", 256), ("int4", 16)])
def test_levels_are_even_from_least_to_largest(kind, levels):
    x = rows()
    code = quantiser(x, kind)
    got = code.decode(code.encode(x)).astype(float)
    low, high = x.min(axis=0).astype(float), x.max(axis=0).astype(float)
    step = (high - low) / (levels - 1)
    assert (np.abs(got - x) <= step / 2 * (1 + 1e-4)).all()
    place = (got - low) / step
    assert np.abs(place - np.rint(place)).max() < 1e-3
    assert place.min() == pytest.approx(0, abs=1e-3)
    assert place.max() == pytest.approx(levels - 1, rel=1e-4)


def test_one_bit_is_the_side_of_the_mean():
    x = rows()
    code = quantiser(x, "sign")
    got = code.decode(code.encode(x))
    for column in range(x.shape[1]):
        above = x[:, column] > x[:, column].astype(float).mean()
        assert got[above, column] == pytest.approx(x[above, column].mean(), rel=1e-5)
        assert got[~above, column] == pytest.approx(x[~above, column].mean(), rel=1e-5)


def test_floats_are_those_of_numpy():
    x = rows()
    assert (quantiser(x, "float32").decode(quantiser(x, "float32").encode(x)) == x).all()
    half = quantiser(x, "float16")
    assert (half.decode(half.encode(x)) == x.astype(np.float16).astype(np.float32)).all()


@pytest.mark.parametrize(("kind", "peer"), [("int8", "QT_8bit"), ("int4", "QT_4bit")])
def test_errors_are_those_of_faiss(kind, peer):
    faiss = importlib.import_module("faiss")
    x, new = rows(800)[:500], rows(800)[500:]
    theirs = faiss.ScalarQuantizer(x.shape[1], getattr(faiss.ScalarQuantizer, peer))
    theirs.train(x)
    ours = quantiser(x, kind)
    mine, other = (np.square(back - new).mean(axis=0) for back in
                   (ours.decode(ours.encode(new)), theirs.decode(theirs.compute_codes(new))))  # fmt: skip
    assert ours.bytes_per_vector == theirs.code_size
    # Its levels are the middles of as many equal parts, which are narrower by (levels - 1)/levels.
    assert mine == pytest.approx(other, rel=0.35)


def test_directions_are_those_of_least_error():
    x = rows(d=6)
    whole = x.astype(float) - x.mean(axis=0, dtype=float)
    u, s, v = np.linalg.svd(whole, full_matrices=False)
    for k in (1, 3, 6):
        code = quantiser(x, "float32", directions=k)
        best = (u[:, :k] * s[:k]) @ v[:k] + x.mean(axis=0, dtype=float)
        assert code.decode(code.encode(x)) == pytest.approx(best, abs=1e-3)
        assert code.bytes_per_vector == 4 * k
        assert code.name == f"pca-{k} float32"


def test_what_is_fitted_does_not_depend_on_what_is_coded():
    x = rows()
    code = quantiser(x[:100], "int8")
    alone = code.encode(x[150:151])
    assert (code.encode(x[100:])[50:51] == alone).all()


def test_values_beyond_the_range_are_counted():
    code = quantiser(np.array([[0.0, 0.0], [1.0, 1.0]]), "int8")
    beyond = np.array([[2.0, 0.5], [-1.0, 0.5]])
    assert code.outside(beyond) == 0.5
    assert code.decode(code.encode(beyond))[:, 0] == pytest.approx([1.0, 0.0])
    assert quantiser(beyond, "float16").outside(beyond * 9) == 0.0


@pytest.mark.parametrize("kind", BITS)
def test_a_constant_column_comes_back(kind):
    x = rows()
    x[:, 2] = 3.25
    code = quantiser(x, kind)
    assert (code.decode(code.encode(x))[:, 2] == 3.25).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(BITS)), st.integers(1, 9))
def test_what_comes_back_codes_the_same(seed, kind, d):
    x = rows(20, d, seed)
    code = quantiser(x, kind)
    once = code.encode(x)
    assert (code.encode(code.decode(once)) == once).all() or kind == "sign"


def test_more_bits_lose_less():
    x = rows()
    lost = [np.square(code.decode(code.encode(x)) - x).sum() for code in (quantiser(x, kind) for kind in BITS)]
    assert lost == sorted(lost)


def test_bad_input_is_refused():
    x = rows()
    with pytest.raises(InvalidInputError, match="kind must be"):
        quantiser(x, "int2")
    with pytest.raises(InvalidInputError, match="directions must be a whole number from 1 to 13"):
        quantiser(x, "int8", directions=14)
    bad = x.copy()
    bad[7, 3] = np.nan
    with pytest.raises(InvalidInputError, match="not finite"):
        quantiser(bad, "int8")
    code = quantiser(x, "int8")
    with pytest.raises(InvalidInputError, match="not finite"):
        code.encode(bad)
    with pytest.raises(InvalidInputError, match="12 columns"):
        code.encode(x[:, :12])
    with pytest.raises(InvalidInputError, match="codes must be uint8"):
        code.decode(code.encode(x)[:, :5])
    with pytest.raises(InvalidInputError, match="float16 cannot hold"):
        quantiser(x, "float16").encode(x * 1e5)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_coordinate_that_never_varied_is_read_as_it_was(kind):
    code = quantiser(np.array([[1.0, 5.0], [4.0, 5.0]]), kind)
    other = np.array([[2.0, 7.0], [9.0, 4.0]])
    assert (code.decode(code.encode(other))[:, 1] == 5).all()
    assert code.outside(other) == 3 / 4
