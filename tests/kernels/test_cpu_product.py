import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from numba.core import config
from threadpoolctl import threadpool_info

from geomkit.kernels import cpu_bfloat16, cpu_cache, cpu_product, cpu_timings
from geomkit.kernels.cpu_product import PRODUCTS, bfloat16_product, gram, product, storage
from tests.bounds import assert_within, gamma, unit

NAMES = {"numpy", "torch"}


BFLOAT16 = {"numpy in float32": 3e-3, "torch in float32": 4e-3, "torch": 1e-3}


WITH_OWN = {"numpy in float32": 3e-3, "torch in float32": 4e-3, "torch": 1e-3, "numba": 2e-3}

WITHOUT_TORCH = {"numpy in float32": 3e-3, "numba": 2e-3}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What was measured, for a process that has measured nothing yet on a machine that remembers nothing.

    The processor has no bfloat16 instructions.
    """
    seen = []

    def timed(what):
        seen.append(what)
        everything = BFLOAT16 if what == "bfloat16" else {"numpy": 3e-3, "torch": 2e-3}
        return WITHOUT_TORCH if what == "bfloat16 without torch" else everything

    monkeypatch.setattr(cpu_product, "_chosen", {})
    monkeypatch.setattr(cpu_product, "_without_torch", {})
    monkeypatch.setattr(cpu_product, "_timed", timed)
    monkeypatch.setattr(cpu_bfloat16, "available", lambda: False)
    monkeypatch.setattr(cpu_cache, "folder", lambda: tmp_path)
    return seen


@pytest.fixture
def instructed(measured, monkeypatch):
    """Do the same for a processor that has them, and a process that has not imported torch."""
    monkeypatch.setattr(cpu_bfloat16, "available", lambda: True)
    timed = cpu_product._timed
    monkeypatch.setattr(cpu_product, "_timed", lambda what: timed(what) | (WITH_OWN if what == "bfloat16" else {}))
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(cpu_product.importlib, "import_module", lambda name: measured.append(f"import {name}"))
    monkeypatch.setattr(cpu_product.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    return measured


def work(seconds):
    """Operations that take so long at the rate of a timed product of a second, on two processors."""
    blocks, rows, columns = cpu_product._TIMED
    return 2 * seconds * blocks * rows * rows * columns


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
    # The library itself does not bear a second import.
    monkeypatch.setattr(cpu_product.importlib, "import_module", lambda _: None)
    assert product("float32", 1e20) == "torch"
    assert measured == ["float32"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_torch_is_imported_where_it_saves_more_than_that_takes(measured, monkeypatch, precision):
    seconds = cpu_product._timed(precision)
    cpu_timings.remember(precision, seconds)
    measured.clear()
    imported = []
    monkeypatch.setattr(cpu_product.importlib, "import_module", imported.append)
    monkeypatch.setattr(cpu_product.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    best = min(seconds[name] for name in seconds if name.startswith("numpy"))
    blocks, rows, columns = cpu_product._TIMED
    assert blocks == 2
    saved = (best - seconds["torch"]) / (2 * rows * rows * columns) / 3
    enough = cpu_product._IMPORT / saved
    monkeypatch.delitem(sys.modules, "torch")
    numpy = "numpy" if precision == "float32" else "numpy in float32"
    assert product(precision, 0.99 * enough) == numpy
    assert (imported, cpu_product._chosen) == ([], {})
    assert product(precision, 1.01 * enough) == "torch"
    assert (imported, measured) == (["torch"], [])
    # From now on, and for any work.
    assert product(precision, 1.0) == "torch"


def test_torch_that_is_there_is_used_for_any_work_that_is_worth_a_choice(measured):
    assert "torch" in sys.modules
    assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == "torch"


def test_the_fastest_is_remembered(measured, monkeypatch):
    assert product("bfloat16", 1e20) == "torch"
    assert product("float32", 1e20) == "torch"
    assert measured == ["bfloat16", "float32"]
    monkeypatch.setattr(cpu_product, "_chosen", {})
    assert product("bfloat16", 1e20) == "torch"
    assert product("float32", 1e20) == "torch"
    assert measured == ["bfloat16", "float32"]
    # Another precision is another product.
    assert product("float64", 1e20) == "torch"
    assert measured == ["bfloat16", "float32", "float64"]


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


def test_our_own_product_needs_no_torch(instructed, monkeypatch):
    large = 1.01 * cpu_product._WORTH_MEASURING
    assert product("bfloat16", 0.99 * cpu_product._WORTH_MEASURING) == "numpy in float32"
    assert instructed == []
    assert product("bfloat16", large) == "numba"
    assert storage("bfloat16", large) == "bfloat16"
    assert instructed == ["bfloat16 without torch"]
    # Small work still goes through NumPy, and work that torch might repay may still go through that.
    assert storage("bfloat16", 1.0) == "float32"
    assert cpu_product._chosen == {}
    # A later process remembers.
    monkeypatch.setattr(cpu_product, "_without_torch", {})
    assert product("bfloat16", large) == "numba"
    assert instructed == ["bfloat16 without torch"]


def test_our_own_product_is_timed_once_where_nothing_can_be_kept(instructed, monkeypatch):
    monkeypatch.setattr(cpu_cache, "folder", lambda: None)
    for _ in range(3):
        assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == "numba"
    assert instructed == ["bfloat16 without torch"]


def test_our_own_product_is_for_bfloat16_rows(instructed):
    for precision in ("float32", "float64"):
        assert product(precision, 0.99 * cpu_product._WORTH_IMPORTING) == "numpy"
    assert instructed == []


def test_our_own_product_is_left_where_numpy_is_faster(instructed, monkeypatch):
    monkeypatch.setattr(cpu_product, "_timed", lambda _: {"numpy in float32": 1e-3, "numba": 2e-3})
    assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == "numpy in float32"
    monkeypatch.setitem(cpu_product._chosen, "float32", "torch")
    assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == "torch in float32"


def test_torch_is_timed_only_where_it_might_save_more_than_its_import_takes(instructed):
    enough = work(cpu_product._IMPORT) / WITHOUT_TORCH["numba"]
    assert enough > cpu_product._WORTH_IMPORTING
    assert product("bfloat16", 0.99 * enough) == "numba"
    assert instructed == ["bfloat16 without torch"]
    # It takes half as long here: its timing costs an import, but not its use, which would not repay it yet.
    assert product("bfloat16", 1.01 * enough) == "numba"
    assert instructed == ["bfloat16 without torch", "bfloat16"]
    assert product("bfloat16", 1.98 * enough) == "numba"
    assert cpu_product._chosen == {}
    assert product("bfloat16", 2.02 * enough) == "torch"
    assert instructed == ["bfloat16 without torch", "bfloat16", "import torch"]
    assert product("bfloat16", 1.0) == "torch"


def test_no_work_below_a_threshold_is_worth_a_timing_of_torch(instructed, monkeypatch):
    monkeypatch.setattr(cpu_product, "_IMPORT", 0.0)
    assert product("bfloat16", 0.99 * cpu_product._WORTH_IMPORTING) == "numba"
    assert instructed == ["bfloat16 without torch"]
    assert product("bfloat16", 1.01 * cpu_product._WORTH_IMPORTING) == "torch"


@pytest.mark.parametrize(("took", "said"), [(1e-3, "torch"), (3e-3, "numba")])
def test_all_are_timed_where_torch_is_imported_already(instructed, monkeypatch, took, said):
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(WITH_OWN, "torch", took)
    assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == said
    assert instructed[:1] == ["bfloat16"]
    assert cpu_product._chosen == {"bfloat16": said}
    assert cpu_timings.recall("bfloat16", list(WITH_OWN)) == WITH_OWN
    assert storage("bfloat16", 1.0) == "bfloat16"


def test_what_all_took_is_known_without_torch_too(instructed):
    cpu_timings.remember("bfloat16", WITH_OWN)
    assert product("bfloat16", 1.01 * cpu_product._WORTH_MEASURING) == "numba"
    assert instructed == []


@pytest.mark.parametrize("numpy", [1e-3, 3e-3])
def test_without_torch_our_own_product_needs_none(instructed, monkeypatch, numpy):
    monkeypatch.setattr(cpu_product.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(WITHOUT_TORCH, "numpy in float32", numpy)
    said = "numba" if numpy > WITHOUT_TORCH["numba"] else "numpy in float32"
    assert product("bfloat16", 1e20) == said
    assert instructed == ["bfloat16 without torch"]
    assert cpu_product._chosen["bfloat16"] == said
    assert product("float32", 1e20) == "numpy"


@pytest.mark.parametrize("chosen", [None, "numba", "numpy in float32", "torch"])
@pytest.mark.parametrize("there", [True, False])
def test_bfloat16_rows_go_through_our_own_product_unless_torch_was_chosen(measured, monkeypatch, chosen, there):
    ran = []
    monkeypatch.setattr(cpu_bfloat16, "available", lambda: there)
    monkeypatch.setattr(cpu_bfloat16, "multiply", lambda *_: ran.append("numba"))
    monkeypatch.setattr(cpu_product, "bfloat16_product", lambda *_: ran.append("torch"))
    if chosen:
        monkeypatch.setitem(cpu_product._chosen, "bfloat16", chosen)
    gram(np.ones((2, 3), "uint16"), np.ones((2, 3), "uint16"), np.ones((2, 2), "uint16"))
    assert ran == ["numba" if there and chosen != "torch" else "torch"]


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


def test_every_product_is_timed():
    for precision, names in (("float32", NAMES), ("float64", NAMES), ("bfloat16", set(BFLOAT16))):
        seconds = cpu_product._timed(precision)
        assert set(seconds) == set(cpu_product._names(precision))
        assert set(seconds) - {"numba"} == names
        assert ("numba" in seconds) == (precision == "bfloat16" and cpu_bfloat16.available())
        assert all(0 < each < 60 for each in seconds.values())


OWN_CODE = """
import sys
from geomkit.kernels import cpu_bfloat16, cpu_product
cpu_bfloat16.available = lambda: True
cpu_bfloat16.multiply = lambda *_: None
seconds = cpu_product._timed("bfloat16 without torch")
print(cpu_product.product("bfloat16", 6e9), *sorted(seconds), all(0 < each < 60 for each in seconds.values()))
print("torch" in sys.modules, cpu_product._chosen)
"""


def test_our_own_product_is_timed_without_torch(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", OWN_CODE], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[:2] == ["numba numba numpy in float32 True", "False {}"]


def test_products_are_timed_in_one_thread(monkeypatch):
    seen = set()

    def look(*_):
        blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        seen.add((torch.get_num_threads(), *blas))

    for name in NAMES:
        monkeypatch.setitem(PRODUCTS, name, look)
    before = torch.get_num_threads()
    cpu_product._timed("float32")
    assert {count for each in seen for count in each} == {1}
    assert torch.get_num_threads() == before


CODE = """
import sys
from geomkit.kernels import cpu_product
import geomkit.kernels.cpu
print(cpu_product.product("float32", 1e12), "torch" in sys.modules)
"""


@pytest.mark.parametrize(("numpy", "said"), [(1e-3, "numpy False"), (10.0, "torch True")])
def test_a_later_process_neither_measures_nor_imports_torch_for_nothing(tmp_path, monkeypatch, numpy, said):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert cpu_cache.folder().is_relative_to(tmp_path)
    cpu_timings.remember("float32", {"numpy": numpy, "torch": 2e-3})
    code = "from geomkit.kernels import cpu_product as c; c._timed = None" + CODE
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == said
