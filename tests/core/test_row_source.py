"""Every measurement of rows that are read when needed is that of the array, and takes no more memory than allowed."""

import dataclasses
import threading
from itertools import pairwise

import numpy as np
import pytest

import geomkit
from geomkit.core import memory
from geomkit.core.matrix import as_matrix
from geomkit.core.memory import budget, free_memory
from geomkit.core.row_source import RowSlice, RowSource
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.pairwise.normalization import centred_rows, unit_rows
from geomkit.pairwise.panels import Panels, panel_pairs, panel_rows, row_bytes, tiles_of
from geomkit.pairwise.scores import cosine_scores, euclidean_scores
from geomkit.pairwise.tiles import Tiles, schedule, tile_size


class Kept(RowSource):
    """Rows in memory that are read like files; remembers the longest read."""

    def __init__(self, x, max_memory=None):
        self.x, self.shape, self.dtype, self.max_memory = x, x.shape, x.dtype.name, max_memory
        self.longest, self.hints, self._lock = 0, [], threading.Lock()

    def read(self, start, stop):
        assert 0 <= start <= stop <= len(self.x)
        with self._lock:
            self.longest = max(self.longest, stop - start)
        return self.x[start:stop]

    def take(self, numbers):
        return self.x[numbers]

    def where(self, row):
        return f"row {row} of kept"

    def prefetch(self, start, stop):
        self.hints.append((start, stop))


def rows(n=3100, d=24, seed=0, dtype="float32"):
    return (np.random.default_rng(seed).standard_normal((n, d)) + 0.4).astype(dtype)


def same(one, other):
    """Whether two results agree in every field, arrays and NaN included."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(a):
            same(a, b)
        else:
            np.testing.assert_array_equal(a, b, err_msg=field.name)


MEASURES = {
    "cosine_stats": {},
    "moments": {"standard_errors": True},
    "orthogonality": {},
    "squared_distance_stats": {},
    "concentration": {},
    "neighbors": {"k": 4},
    "survey": {"k": 4},
    "spectrum": {},
    "hubness": {"k": 4},
    "intrinsic_dimension": {},
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measurement_is_that_of_the_array(name):
    x = rows()
    measure = getattr(geomkit, name)
    # Room for a few tiles only, so that panels come and go.
    same(measure(x, **MEASURES[name]), measure(Kept(x, 2**19), **MEASURES[name]))


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_are_the_same_for_every_room(metric, precision):
    x = rows(1900)
    expected = geomkit.neighbors(x, 5, metric=metric, precision=precision)
    for room in (1, 2**19, 2**30):
        found = geomkit.neighbors(Kept(x, room), 5, metric=metric, precision=precision)
        assert np.array_equal(found.indices, expected.indices)
        assert np.array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_dtypes_are_read_as_those_of_arrays(dtype):
    x = (rows(800) * 20).astype(dtype)
    same(geomkit.cosine_stats(x), geomkit.cosine_stats(Kept(x, 2**18)))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_counts_do_not_depend_on_threads(threads):
    x = rows(2000)
    found = geomkit.cosine_stats(Kept(x, 2**19), threads=threads)
    assert np.array_equal(found.distribution.counts, geomkit.cosine_stats(x).distribution.counts)


def test_an_audit_takes_stored_rows_and_says_why_it_tries_no_transform():
    x = rows(1200) + 2
    expected, found = (geomkit.audit(each, k=5) for each in (x, Kept(x, 2**20)))
    left, right = expected.to_frame(), found.to_frame()
    np.testing.assert_array_equal(left.value.to_numpy(), right.value.to_numpy())
    assert {"transforms are tried on rows in memory; audit a sample of these"} == {
        each.reason for each in found.rejected
    }
    drawn = geomkit.audit(Kept(x), k=5, n_sample=600)
    np.testing.assert_array_equal(drawn.to_frame().value, geomkit.audit(x, k=5, n_sample=600).to_frame().value)


def test_invalid_rows_are_named_where_they_lie_and_dropped_only_on_request():
    x = rows(900)
    x[70], x[500] = np.nan, 0
    for name in ("moments", "cosine_stats", "spectrum"):
        with pytest.raises(InvalidInputError, match=r"1 row \(70; the first is row 70 of kept\) that are not finite"):
            getattr(geomkit, name)(Kept(x))
    left = np.delete(x, [70, 500], axis=0)
    for name in ("moments", "cosine_stats", "neighbors"):
        found = getattr(geomkit, name)(Kept(x, 2**18), on_invalid="drop")
        assert found.n_dropped == 2
        assert found.n == 898
    dropped = geomkit.cosine_stats(Kept(x, 2**18), on_invalid="drop")
    assert np.array_equal(dropped.distribution.counts, geomkit.cosine_stats(left).distribution.counts)
    frames = [geomkit.audit(each, k=5, on_invalid="drop", try_transforms=False).to_frame() for each in (Kept(x), x)]
    np.testing.assert_array_equal(frames[0].value, frames[1].value)


def test_what_comes_next_is_said_before_it_is_read():
    kept = Kept(rows(40000, 64), 2**20)
    geomkit.moments(kept, threads=1)
    assert kept.hints


def test_pairs_of_panels_are_all_pairs_and_keep_one_panel_each_step():
    for n, size in ((10, 3), (9, 3), (3, 3), (1, 1), (20, 2)):
        pairs = list(panel_pairs(n, size))
        starts = range(0, n, size)
        assert sorted((i[0], j[0]) for i, j in pairs) == [(i, j) for i in starts for j in starts if j >= i]
        for before, after in pairwise(pairs):
            assert set(before) & set(after) or before[0] == before[1]


@pytest.mark.parametrize(("n", "size", "panel"), [(23, 4, 8), (24, 4, 12), (5, 8, 8)])
def test_tiles_of_panels_are_those_of_the_whole(n, size, panel):
    found = [tile for pair in panel_pairs(n, panel) for tile in tiles_of(*pair, size)]
    assert sorted(map(repr, found)) == sorted(map(repr, schedule(n, size)))


@pytest.mark.parametrize("make", [cosine_scores, euclidean_scores])
def test_each_panel_is_made_once_while_it_is_in_use_and_three_are_held(monkeypatch, make):
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
    scores = make(as_matrix(rows(64, 5)), Backend.CPU, "float32", "raise")
    panels = Panels(Tiles(scores, "gram"), 1)
    walked = []
    for left, right, ready in panels.walk(panel_pairs(64, 8)):
        walked.append((left, right))
        assert len(panels._held) <= 3
        np.testing.assert_array_equal(ready.rows.left(*left), scores.left(*left))
        np.testing.assert_array_equal(ready.rows.right(*right), scores.right(*right))
        with pytest.raises(IndexError, match="in no panel that is held"):
            ready.rows.left(left[0], 65)
    assert walked == list(panel_pairs(64, 8))
    # 8 panels: 28 pairs of two, each with one panel that was there, and the first.
    assert panels.made <= 8 * 7 // 2 + 1 + 8 // 2


def test_three_panels_fit_into_the_room():
    for make in (cosine_scores, euclidean_scores):
        scores = make(as_matrix(Kept(rows(100, 50), 1)), Backend.CPU, "float32", "raise")
        assert scores.resident is None
        room, tile = 2**20, 16
        fits = panel_rows(scores, room, tile)
        assert fits % tile == 0
        assert 3 * fits * row_bytes(scores) <= room < 3 * (fits + tile) * row_bytes(scores)
        assert panel_rows(scores, 0, tile) == tile
    units = unit_rows(as_matrix(rows(9, 50)), Backend.CPU, "float32", "raise")
    assert row_bytes(units) == 200
    assert tile_size(Tiles(units, "gram")) == 768


def test_room_is_what_was_allowed_or_half_of_what_is_free(monkeypatch):
    assert budget(as_matrix(rows(5))) == memory.RESIDENT_BYTES
    assert budget(as_matrix(Kept(rows(5), 777))) == 777
    monkeypatch.setattr(memory, "free_memory", lambda: 10 * 2**30)
    assert budget(as_matrix(Kept(rows(5)))) == 5 * 2**30


def test_a_control_group_limits_what_is_free(monkeypatch, tmp_path):
    alone = free_memory()
    assert 2**26 < alone < 2**44
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory() > 2**26
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory() == 4000


def test_parts_of_stored_rows_are_stored_rows():
    x = rows(50)
    part = RowSlice(Kept(x), 10, 40)
    np.testing.assert_array_equal(part[2:5], x[12:15])
    np.testing.assert_array_equal(part[np.array([4, 0])], x[[14, 10]])
    np.testing.assert_array_equal(part[np.arange(30) == 7], x[[17]])
    np.testing.assert_array_equal(part[9:3], x[:0])
    np.testing.assert_array_equal(part[::10], x[10:40:10])
    assert part.where(5) == "row 15 of kept"


def test_centred_rows_are_read_three_times():
    x, read = rows(5000), []

    class Counting(Kept):
        def read(self, start, stop):
            read.append(stop - start)
            return super().read(start, stop)

    centred = centred_rows(as_matrix(Counting(x)), Backend.CPU, "float32", "raise")
    assert centred.resident is not None
    # For norms and mean, for the squared norms about it, and to be kept; and the first one, which the mean lies about.
    assert sum(read) == 3 * len(x) + 1
