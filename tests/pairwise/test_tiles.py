import dataclasses
import threading
import types

import numpy as np
import pytest
import torch

from geomkit.core.matrix import as_matrix
from geomkit.kernels import Backend, torch_
from geomkit.pairwise import tiles as module
from geomkit.pairwise.normalization import centred_rows, unit_rows
from geomkit.pairwise.scores import cosine_scores
from geomkit.pairwise.tiles import Shared, Tiles, schedule, tile_size


def unit(n=70, d=40, backend=Backend.CPU):
    return unit_rows(as_matrix(np.random.default_rng(0).standard_normal((n, d))), backend, "float64", "raise")


def on_gpus(rows, *places):
    return dataclasses.replace(rows, matrix=rows.matrix.placed(places))


@pytest.mark.parametrize("size", [1, 7, 20, 21])
def test_the_schedule_has_every_pair_of_rows_once(size):
    seen = np.zeros((20, 20), int)
    for i, j in schedule(20, size):
        seen[i, j] += 1
        assert i.stop - i.start <= size
    assert np.array_equal(np.triu(seen, 1), np.triu(np.ones((20, 20), int), 1))


def test_tiles_shrink_where_blocks_of_rows_are_wide(monkeypatch):
    assert tile_size(Tiles(unit(), "gram")) == module.TILE
    assert tile_size(Tiles(unit(), "minkowski", 3.0)) == module.TILE_OF_DIFFERENCES
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
    made = Tiles(unit(), "gram")
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 40 * 8 * 100)
    assert tile_size(made) == 100
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert tile_size(made) == 64


def test_tiles_are_larger_on_accelerators(monkeypatch):
    def size(n, kernel="gram", *places, **how):
        rows = types.SimpleNamespace(
            backend=Backend.TORCH, n=n, matrix=as_matrix(np.ones((2, 40))).placed(places or ("cuda:0",)),
            resident=how.get("resident", "rows"), rounded=how.get("rounded", False), dtype="float32",
        )  # fmt: skip
        return tile_size(Tiles(rows, kernel))

    assert size(10**6) == module.DEVICE_TILE
    assert size(10**6, "minkowski") == module.DEVICE_TILE_OF_DIFFERENCES
    # Several tiles for each device, unless they became too small.
    assert size(20_000) == 5000
    assert size(20_000, "gram", "cuda:0", "cuda:1") == 2500
    assert size(3000) == module.LEAST_SHARE
    monkeypatch.setattr(module, "DEVICE_BLOCK_BYTES", 2 * 40 * 4 * 999)
    assert size(10**6, resident=None) == 999
    assert size(10**6, resident=None, rounded=True) == 2 * 999
    monkeypatch.setattr(torch_, "FUSED", True)
    assert size(20_000) == module.FUSED_TILE
    assert size(10**6, "minkowski") == module.DEVICE_TILE_OF_DIFFERENCES
    assert size(20_000, "gram", "cuda:0", "cuda:1") == 2500


def test_a_tile_stays_until_all_buffers_were_used():
    rows = unit(backend=Backend.TORCH)
    make = Tiles(rows, "gram").worker(30, buffers=2)
    first = make(slice(0, 30), slice(0, 30))
    before = first.clone()
    second = make(slice(0, 30), slice(30, 60))
    assert torch.equal(first, before)
    assert first.data_ptr() != second.data_ptr()
    assert make(slice(30, 60), slice(30, 60)).data_ptr() == first.data_ptr()
    alone = Tiles(rows, "gram").worker(30)
    assert alone(slice(0, 30), slice(0, 30)).data_ptr() == alone(slice(0, 30), slice(0, 30)).data_ptr()


def test_a_fused_tile_is_two_blocks_of_rows(monkeypatch):
    monkeypatch.setattr(torch_, "FUSED", True)
    monkeypatch.setattr(torch_, "Product", lambda a, b, _: (a, b), raising=False)
    scores = cosine_scores(
        as_matrix(np.random.default_rng(0).standard_normal((70, 40)) + 1), Backend.TORCH, "float32", "raise"
    )
    left, right = Tiles(scores, "gram").worker(30)(slice(0, 30), slice(30, 50))
    assert torch.equal(left, scores.left(0, 30))
    assert torch.equal(right, scores.right(30, 50))
    assert Tiles(scores, "gram").fused
    assert not Tiles(centred_rows(as_matrix(np.eye(3)), Backend.TORCH, "float32", "raise"), "euclidean").fused


@pytest.mark.parametrize("plain", [True, False])
def test_tiles_on_another_device_are_the_same(plain):
    half = np.random.default_rng(0).standard_normal((35, 40))
    x = np.concatenate([half, -half if plain else half + 1])
    scores = cosine_scores(as_matrix(x), Backend.TORCH, "float32", "raise")
    assert (scores.resident[0] is scores.resident[1]) == plain
    there = Tiles(scores, "gram").on(torch.device("cpu"))
    assert there.rows.matrix.places == ("cpu",)
    assert there.rows.device == torch.device("cpu")
    # Factors that are one are one there, too.
    assert (there.rows.resident[0] is there.rows.resident[1]) == plain
    i, j = slice(0, 30), slice(30, 70)
    assert torch.equal(there.worker(40)(i, j), Tiles(scores, "gram").worker(40)(i, j))


def test_a_device_without_room_for_the_rows_makes_them_again():
    class Full:
        def to(self, _):
            raise torch.OutOfMemoryError("full")  # noqa: EM101

    rows = dataclasses.replace(unit(backend=Backend.TORCH), resident=Full())
    with pytest.warns(RuntimeWarning, match="^cpu has no memory to keep prepared rows"):
        there = Tiles(rows, "gram").on(torch.device("cpu"))
    assert there.rows.resident is None
    i = slice(0, 70)
    assert torch.equal(there.worker(70)(i, i), Tiles(unit(backend=Backend.TORCH), "gram").worker(70)(i, i))


def test_a_shared_schedule_gives_each_tile_to_one_and_nothing_once_closed():
    shared, seen = Shared([(slice(k, k + 1), slice(k, k + 1)) for k in range(5000)]), []
    workers = [threading.Thread(target=lambda: seen.extend(i.start for i, _ in shared)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(seen) == list(range(5000))
    shared = Shared(schedule(20, 5))
    next(shared)
    shared.close()
    assert list(shared) == []
