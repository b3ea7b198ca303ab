import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.core.matrix import Matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import cpu_product
from geomkit.stats.cosine import cosine_similarity
from tests.bounds import assert_within, cosine_bound
from tests.precision import STRICT, permissions
from tests.stats.oracle import BACKENDS, GRID, data, ran


@pytest.mark.parametrize(("backend", "precision"), GRID)
def test_similarity_matrix(backend, precision):
    x, y = data("gaussian", 30, 17), data("clustered", 11, 17)
    unit_x, unit_y = (a / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True) for a in (x, y))
    bound = cosine_bound(17, precision) + cosine_bound(17, "float64")
    for left in (x, scipy.sparse.csr_array(x)):
        for right in (y, scipy.sparse.csr_array(y)):
            got = cosine_similarity(left, right, backend=backend, precision=precision)
            assert got.dtype == ran(backend, precision)
            assert_within(got, unit_x @ unit_y.T, bound)
        own = cosine_similarity(left, backend=backend, precision=precision)
        assert_within(own, unit_x @ unit_x.T, bound)
        assert own.max() <= 1


def test_similarity_of_one_row():
    assert cosine_similarity([[3.0, 4.0]], [[1.0, 0.0]]).shape == (1, 1)
    assert_within(cosine_similarity([[3.0, 4.0]], [[1.0, 0.0]]), [[0.6]], 1e-6)


def test_similarity_comes_back_as_it_was_given():
    x = data("gaussian", 6, 4)
    for backend in BACKENDS:
        assert isinstance(cosine_similarity(x, backend=backend), np.ndarray)
        assert isinstance(cosine_similarity(torch.from_numpy(x), backend=backend), torch.Tensor)
        assert isinstance(cosine_similarity(scipy.sparse.csr_array(x), backend=backend), np.ndarray)


def test_similarity_goes_where_it_is_told_and_comes_back():
    x, y = data("gaussian", 6, 4), data("gaussian", 5, 4, seed=1)
    want = cosine_similarity(x, y, backend="torch")
    for left in (x, torch.from_numpy(x)):
        for right in (y, torch.from_numpy(y)):
            got = cosine_similarity(left, right, backend="torch", device="cpu")
            assert isinstance(got, type(left))
            assert np.array_equal(got, want)


def test_similarity_of_what_lies_apart_needs_a_place(monkeypatch):
    x = data("gaussian", 6, 4)
    where = property(lambda matrix: torch.device("cuda:1" if matrix.name == "y" and not matrix.places else "cpu"))
    monkeypatch.setattr(Matrix, "device", where)
    with pytest.raises(InvalidInputError, match=r"x and y must be on one device, or device must say .* cpu and cuda:1"):
        cosine_similarity(x, x)
    assert cosine_similarity(x, x, backend="torch", device="cpu").shape == (6, 6)


def test_similarity_names_the_argument_that_is_wrong():
    x = data("gaussian", 4, 3)
    with pytest.raises(InvalidInputError, match="x and y must have the same number of columns; got 3 and 2"):
        cosine_similarity(x, x[:, :2])
    with pytest.raises(InvalidInputError, match=r"y has 1 row \(2\) that are zero and have no direction"):
        cosine_similarity(x, x * [[1], [1], [0], [1]])
    with pytest.raises(InvalidInputError, match="y has 1 dimensions"):
        cosine_similarity(x, x[0])


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_similarity_is_as_exact_as_its_rows_whatever_the_process_allows(permissive, monkeypatch, backend):
    seen, before, multiply = [], permissions(), torch.mm
    monkeypatch.setitem(cpu_product._chosen, "float32", "torch")
    monkeypatch.setattr(torch, "mm", lambda *given, **out: seen.append(permissions()) or multiply(*given, **out))
    cosine_similarity(data("gaussian", 30, 17), backend=backend)
    assert seen == [STRICT]
    assert permissions() == before


def test_similarity_has_no_bfloat16():
    with pytest.raises(InvalidInputError, match=r"precision must be one of .*float32.*; got 'bfloat16'"):
        cosine_similarity(data("gaussian", 4, 3), precision="bfloat16")
