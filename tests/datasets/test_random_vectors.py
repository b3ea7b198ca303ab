"""Random sources: of the laws that they are named after, and the same for the same seed."""

import numpy as np
import pytest

from geomkit.datasets import GRID, load, names
from geomkit.errors import InvalidInputError

N = 400


@pytest.mark.parametrize("name", names(family="random"))
def test_shape_dtype_and_labels(name):
    got = load(name, n=3, seed=5)

    assert got.vectors.shape == (3, got.dim)
    assert got.vectors.dtype == np.float32
    assert got.vectors.flags.c_contiguous
    assert list(got.labels) == ["0", "1", "2"]
    assert got.categories is None
    assert got.seed == 5
    assert (got.name, got.family) == (name, "random")


def test_three_kinds_at_every_dimension():
    assert set(names(family="random")) == {f"{what}-{dim}" for what in ("sphere", "gaussian", "cube") for dim in GRID}


@pytest.mark.parametrize("what", ["sphere", "gaussian", "cube"])
def test_a_seed_means_one_matrix(what):
    first, same, other = (load(f"{what}-128", n=50, seed=seed).vectors for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("what", ["sphere", "gaussian", "cube"])
def test_global_state_is_neither_read_nor_changed(what):
    np.random.seed(1)  # noqa: NPY002 - the point of this test
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = load(f"{what}-50", n=5).vectors
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(load(f"{what}-50", n=5).vectors, first)


@pytest.mark.parametrize("dim", [50, 4096])
def test_sphere_has_unit_norms_and_cosines_of_variance_one_over_d(dim):
    x = load(f"sphere-{dim}", n=N).vectors.astype(np.float64)
    cosines = (x @ x.T)[np.triu_indices(N, 1)]

    # One rounding of the norm and one of the quotient: 2 units in the last place, 2**-24 each, doubled for margin.
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=4 * 2**-24)
    assert abs(cosines.mean()) < 5 / np.sqrt(dim * len(cosines))
    # The variance over n(n-1)/2 almost independent pairs has a relative standard error of sqrt(2/pairs).
    assert abs(cosines.var() * dim - 1) < 5 * np.sqrt(2 / len(cosines))


def test_gaussian_has_standard_normal_coordinates():
    x = load("gaussian-768", n=N).vectors.astype(np.float64)

    assert abs(x.mean()) < 5 / np.sqrt(x.size)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / x.size)
    assert abs((x**4).mean() - 3) < 5 * np.sqrt(96 / x.size)  # kurtosis 3: not uniform; Var(z^4) = 105 - 9


def test_cube_is_uniform_on_the_unit_interval():
    x = load("cube-768", n=N).vectors.astype(np.float64)

    assert x.min() >= 0
    assert x.max() < 1
    assert abs(x.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / x.size)
    assert abs(x.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / x.size)  # Var((u - 1/2)^2) = 1/80 - 1/144 = 1/180


def test_refuses_to_guess_how_many():
    with pytest.raises(InvalidInputError, match=r"sphere-768 is random.*give n"):
        load("sphere-768")
    with pytest.raises(InvalidInputError, match="whole number"):
        load("sphere-768", n=0)
