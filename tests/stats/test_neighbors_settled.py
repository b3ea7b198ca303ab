"""That answers depend on nothing but the rows: not on precision, threads, tiles, memory, or what screening kept."""

import itertools

import numpy as np
import pytest
import torch

from geomkit.core import blocks, memory
from geomkit.core.matrix import as_matrix
from geomkit.kernels import cpu_product
from geomkit.pairwise import rescoring, search, tiles
from geomkit.pairwise.search import candidates_of, settled
from geomkit.pairwise.tiles import Tiles
from geomkit.stats import neighbors as module
from geomkit.stats.neighbors import neighbors
from tests.precision import STRICT, permissions
from tests.stats.nearest import METRICS, assert_nearest, keep_fewer, rows_of, same
from tests.stats.oracle import BFLOAT16, SETTLED, force

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

SHAPE = (130, 20)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("backend", "name"),
    [("cpu", each) for each in ("clustered", "many equal", "identical", "tight", "anisotropic")]
    + [(each, "many equal") for each in ("reference", "torch")],
)
def test_answers_are_the_same_to_the_bit_whatever_they_are_screened_with(monkeypatch, backend, metric, name):
    x, k = rows_of(name, 100, 33), 6
    want = neighbors(x, k, metric=metric, backend=backend, precision="float64", threads=1)
    ways = [
        ("float32", "", 1, 768),
        ("float32", "", 3, 29),
        ("float64", "", None, 50),
        ("bfloat16", "", 3, 29),
        *(("bfloat16", product, *how) for product in BFLOAT16 for how in ((2, 768), (3, 29))),
    ]
    for precision, product, threads, size in ways:
        with monkeypatch.context() as context:
            force(context, product)
            context.setattr(tiles, "TILE", size)
            assert same(neighbors(x, k, metric=metric, backend=backend, precision=precision, threads=threads), want)
    for target, value in (
        ((memory, "RESIDENT_BYTES"), 0),
        ((blocks, "BLOCK_ENTRIES"), 33 * 7),
        ((rescoring, "_GATHERED_ENTRIES"), 33 * 5),
        ((search, "REDONE_ENTRIES"), 100),
    ):
        with monkeypatch.context() as context:
            context.setattr(*target, value)
            assert same(neighbors(x, k, metric=metric, backend=backend, precision="bfloat16"), want)
    one = neighbors(x, 1, metric=metric, backend=backend, precision="bfloat16")
    assert np.array_equal(one.indices, want.indices[:, :1])
    assert np.array_equal(one.distances, want.distances[:, :1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), SETTLED)
def test_rows_that_screening_cannot_settle_are_redone(monkeypatch, backend, precision, product, metric):
    force(monkeypatch, product)
    how = {"metric": metric, "backend": backend, "precision": precision}
    for name, k in (("clustered", 4), ("duplicated", 1), ("tight", 6)):
        x = rows_of(name, *SHAPE)
        want = neighbors(x, k, **how)
        with monkeypatch.context() as context:
            keep_fewer(context)
            found = neighbors(x, k, **how)
            assert found.n_recomputed > 0
            assert same(found, want)
            context.setattr(search, "REDONE_ENTRIES", 64)
            context.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
            assert same(neighbors(x, k, **how), want)


@pytest.mark.parametrize("product", ["", *BFLOAT16])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_few_rows_are_redone_alone_and_many_together(monkeypatch, metric, product):
    """Those of a narrow cluster beside others, unless it is alone: its mean is taken out."""
    force(monkeypatch, product)
    rng = np.random.default_rng(2)
    cluster = 3 * np.eye(20)[0] + 1e-6 * rng.standard_normal((60, 20))
    alone = rng.standard_normal((100, 20))
    beside = alone + 0.1 * rng.standard_normal((100, 20))
    groups = (([cluster, alone, beside], 60), ([cluster, alone[:40]], 100), ([cluster], 0))
    for parts, redone in groups:
        x = np.vstack(parts)
        found = neighbors(x, 1, metric=metric, precision="bfloat16")
        assert found.n_recomputed == redone
        assert (found.precision, found.n) == ("bfloat16", len(x))
        assert_nearest(found, x, metric)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_redone_rows_are_as_exact_whatever_the_process_allows(permissive, monkeypatch, backend, precision):
    seen, before, multiply = [], permissions(), torch.mm
    monkeypatch.setattr(cpu_product, "_chosen", dict.fromkeys(("float32", "float64", "bfloat16"), "torch"))
    monkeypatch.setattr(torch, "mm", lambda *given, **out: seen.append(permissions()) or multiply(*given, **out))
    keep_fewer(monkeypatch)
    x = rows_of("tight", *SHAPE)
    found = neighbors(x, 5, backend=backend, precision=precision)
    assert found.n_recomputed > 0
    assert set(seen) == {STRICT}
    assert len(seen) > 1
    assert permissions() == before
    assert_nearest(found, x, "cosine")


@pytest.mark.parametrize(("backend", "precision", "product"), SETTLED)
def test_candidates_merge_in_any_order(monkeypatch, backend, precision, product):
    force(monkeypatch, product)
    rng = np.random.default_rng(0)
    x = rows_of("duplicated", 90, 12)
    for metric in METRICS:
        want = neighbors(x, 4, metric=metric, backend=backend, precision=precision)
        scores = module.prepare(as_matrix(x), backend, precision, "raise", 1, module.METRICS[metric])
        compute, first = Tiles(scores, "gram").worker(25), candidates_of(scores, 4)
        siblings = [first.spawn() for _ in range(3)]
        for at in rng.permutation(len(list(tiles.schedule(90, 25)))):
            i, j = list(tiles.schedule(90, 25))[at]
            siblings[rng.integers(3)].update(compute(i, j), i, j)
        for order in itertools.permutations(siblings):
            whole = first.spawn()
            for sibling in order:
                whole.merge(sibling)
            found = settled(scores, whole, 4)
            assert np.array_equal(found.numbers, want.indices)
            assert np.array_equal(found.distances, want.distances)
