import sys

import ml_dtypes
import numpy as np
import pytest

from geomkit.kernels import cpu_product
from geomkit.kernels.cpu_product import PRODUCTS, bfloat16_product, gram, product, storage
from tests.bounds import assert_within, gamma, unit

NAMES = {"numpy", "torch"}


@pytest.fixture
def measured(monkeypatch):
    """What was measured, for a process that has measured nothing yet."""
    seen = []
    monkeypatch.setattr(cpu_product, "_chosen", {})
    monkeypatch.setattr(cpu_product, "_fastest", lambda precision: seen.append(precision) or "torch")
    return seen


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_products_agree(dtype):
    a = np.random.default_rng(1).standard_normal((9, 100)).astype(dtype)
    want = a.astype(np.float64) @ a.T.astype(np.float64)
    bound = (gamma(100, dtype) + gamma(100, "float64")) * (np.abs(a).astype(np.float64) @ np.abs(a.T))
    assert set(PRODUCTS) == NAMES
    for multiply in PRODUCTS.values():
        out = np.full((9, 9), 7, dtype)
        multiply(a, a, out)
        assert_within(out, want, bound)


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 31, 33, 300, 4096])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (33, 65)])
def test_bfloat16_products_are_added_up_in_float32_and_rounded_once(shape, dim):
    rng = np.random.default_rng(dim)
    a, b = (rng.standard_normal((rows, dim)).astype(ml_dtypes.bfloat16) for rows in shape)
    out = np.full(shape, 7, np.uint16)
    bfloat16_product(a.view(np.uint16), b.view(np.uint16), out)
    a, b = a.astype(np.float64), b.astype(np.float64)
    want, size = a @ b.T, np.abs(a) @ np.abs(b.T)
    summing = gamma(dim, "float32") * size
    bound = summing + unit("bfloat16") * (np.abs(want) + summing) + gamma(dim, "float64") * size
    assert_within(out.view(ml_dtypes.bfloat16).astype(np.float64), want, bound)


def test_a_product_is_measured_once_and_only_for_large_work(measured):
    assert "torch" in sys.modules
    worth = cpu_product._WORTH_MEASURING
    assert product("float32", 0.99 * worth) == "numpy"
    assert measured == []
    assert product("float32", 1.01 * worth) == "torch"
    assert product("float32", 1.0) == "torch"
    assert measured == ["float32"]
    assert product("bfloat16", 0.99 * worth) == "torch in float32"
    assert product("bfloat16", 1.01 * worth) == "torch"
    assert measured == ["float32", "bfloat16"]


def test_torch_is_imported_for_larger_work_only(measured, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert cpu_product._WORTH_IMPORTING > cpu_product._WORTH_MEASURING
    assert product("float32", 0.99 * cpu_product._WORTH_IMPORTING) == "numpy"
    assert measured == []
    assert product("float32", 1.01 * cpu_product._WORTH_IMPORTING) == "torch"


def test_without_torch_numpy_it_is(measured, monkeypatch):
    monkeypatch.setattr(cpu_product.importlib.util, "find_spec", lambda _: None)
    assert product("float32", 1e20) == "numpy"
    assert product("bfloat16", 1e20) == "numpy in float32"
    assert measured == []


@pytest.mark.parametrize("chosen", ["numpy in float32", "torch in float32", "torch"])
def test_bfloat16_rows_are_stored_for_the_product_that_was_chosen(measured, monkeypatch, chosen):
    assert storage("bfloat16", 1.0) == "float32"
    assert storage("float32", 1.0) == "float32"
    assert storage("float64", 1.0) == "float64"
    monkeypatch.setitem(cpu_product._chosen, "bfloat16", chosen)
    assert storage("bfloat16", 1.0) == ("bfloat16" if chosen == "torch" else "float32")
    assert product("bfloat16", 1.0) == chosen


@pytest.mark.parametrize("chosen", sorted(NAMES))
def test_the_product_that_was_chosen_is_the_one_that_runs(measured, monkeypatch, chosen):
    ran = []
    for name in NAMES:
        monkeypatch.setitem(PRODUCTS, name, lambda *_, name=name: ran.append(name))
    monkeypatch.setattr(cpu_product, "bfloat16_product", lambda *_: ran.append("bfloat16"))
    monkeypatch.setitem(cpu_product._chosen, "float32", chosen)
    for dtype in ("float32", "float64", "uint16"):
        gram(np.ones((2, 3), dtype), np.ones((2, 3), dtype), np.ones((2, 2), dtype))
    assert ran == [chosen, "numpy", "bfloat16"]


@pytest.mark.parametrize("fastest", [None, "numpy in float32", "torch in float32"])
@pytest.mark.parametrize("single", [None, "numpy", "torch"])
def test_a_product_in_float32_is_named_after_the_library_that_runs_it(measured, monkeypatch, single, fastest):
    ran = []
    for name in NAMES:
        monkeypatch.setitem(PRODUCTS, name, lambda *_, name=name: ran.append(name))
    if single:
        monkeypatch.setitem(cpu_product._chosen, "float32", single)
    if fastest:
        monkeypatch.setitem(cpu_product._chosen, "bfloat16", fastest)
    said = product("bfloat16", 1.0)
    gram(np.ones((2, 3), "float32"), np.ones((2, 3), "float32"), np.ones((2, 2), "float32"))
    assert said == f"{ran[0]} in float32"
    assert single in {None, ran[0]}


def test_measuring_the_products_names_one_of_them():
    assert cpu_product._fastest("float32") in NAMES
    assert cpu_product._fastest("bfloat16") in {"torch", *(f"{name} in float32" for name in NAMES)}
