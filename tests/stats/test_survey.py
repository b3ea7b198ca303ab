import numpy as np
import pytest
import scipy.sparse

from geomkit.errors import InvalidInputError
from geomkit.kernels import cpu_product
from geomkit.stats import survey as module
from geomkit.stats.cosine import cosine_stats
from geomkit.stats.neighbors import neighbors
from geomkit.stats.survey import survey
from tests.bounds import assert_within
from tests.stats.oracle import BFLOAT16, DATA, data, force
from tests.stats.test_squared_distance import GRID

SHAPE = (230, 24)


def gram(x):
    x = np.asarray(x, np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def check(found, x, tolerance):
    full = gram(x)
    apart = full[~np.eye(len(full), dtype=bool)].reshape(len(full), -1)
    assert_within(found.least, apart.min(axis=1), found.cosine.error_bound)
    assert_within(found.largest, apart.max(axis=1), found.cosine.error_bound)
    # A pair on the very edge may fall on either side of it in float64.
    surely, perhaps = (
        {tuple(pair) for pair in np.argwhere(np.triu(full, 1) >= 1 - tolerance + edge)} for edge in (1e-13, -1e-13)
    )
    got = {tuple(pair) for pair in found.duplicates}
    assert len(got) == len(found.duplicates)
    assert surely <= got <= perhaps


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("backend", "precision", "product"), GRID)
def test_matches_brute_force(monkeypatch, backend, precision, product, name):
    force(monkeypatch, product)
    x = data(name, *SHAPE)
    found = survey(x, k=7, backend=backend, precision=precision, duplicate_tolerance=0.02)
    check(found, x, 0.02)
    assert (len(found.duplicates) > 0) == (name not in {"gaussian", "whole_numbers"})


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_one_sweep_gives_what_each_gives_alone(precision):
    x = data("clustered", 900, 16)
    found = survey(x, k=5, precision=precision, threads=2)
    alone = cosine_stats(x, precision=precision, threads=2)
    assert np.array_equal(found.cosine.distribution.counts, alone.distribution.counts)
    assert found.cosine.to_dict() == alone.to_dict()
    near = neighbors(x, 5, precision=precision, threads=2)
    assert np.array_equal(found.neighbors.indices, near.indices)
    assert np.array_equal(found.neighbors.distances, near.distances)


@pytest.mark.parametrize(("size", "threads"), [(1, 1), (31, 2), (64, 3), (230, 1), (231, 2)])
def test_answers_ignore_tiles_and_threads(monkeypatch, size, threads):
    monkeypatch.setattr("geomkit.pairwise.tiles.TILE", size)
    x = data("duplicated", *SHAPE)
    check(survey(x, k=3, threads=threads), x, 1e-6)


def test_sparse_rows():
    x = data("duplicated", *SHAPE) * (np.random.default_rng(1).random(SHAPE[1]) < 0.5)
    check(survey(scipy.sparse.csr_array(x), k=3), x, 1e-6)


def test_dropped_rows_keep_the_numbers_of_the_input():
    x = data("duplicated", 60, 8)
    spoilt = np.insert(x, [0, 30], np.nan, axis=0)
    plain, found = survey(x, k=3), survey(spoilt, k=3, on_invalid="drop")
    number = np.delete(np.arange(62), [0, 31])
    assert np.array_equal(found.duplicates, number[plain.duplicates])
    assert np.array_equal(found.neighbors.indices, number[plain.neighbors.indices])


@pytest.mark.parametrize("product", [*BFLOAT16, "numpy in float32"])
@pytest.mark.parametrize("tolerance", [0.0, 0.3, 0.5, 1.0])
def test_thresholds_of_every_size(monkeypatch, tolerance, product):
    monkeypatch.setattr(cpu_product, "_chosen", {"bfloat16": product})
    for name in ("gaussian", "anisotropic"):
        x = data(name, 90, 6)
        for precision in ("float32", "bfloat16", "float64"):
            check(survey(x, k=1, duplicate_tolerance=tolerance, precision=precision), x, tolerance)


def test_too_many_duplicates_are_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST_DUPLICATES", 100)
    with pytest.raises(InvalidInputError, match="more than 100 pairs are as near as duplicates; drop repeated rows"):
        survey(np.ones((20, 3)))
    assert len(survey(np.ones((14, 3))).duplicates) == 91


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, "0.1", None, True, float("nan")])
def test_tolerance_must_be_a_share(tolerance):
    with pytest.raises(InvalidInputError, match=r"duplicate_tolerance must be a number in \[0, 1\]; got"):
        survey(np.eye(3), k=1, duplicate_tolerance=tolerance)


def test_printing_shows_every_scalar():
    found = survey(data("gaussian", 9, 3), k=2)
    assert found.to_dict()["n_duplicate_pairs"] == 0
    assert len(str(found).splitlines()) == len(found.to_dict())
