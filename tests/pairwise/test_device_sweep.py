"""The sweep on devices, on the CPU: the same code, streams that do everything at once, and memory that runs out."""

import dataclasses
import threading
import weakref

import numpy as np
import pytest
import torch

from geomkit.core.matrix import as_matrix
from geomkit.errors import DeviceMemoryError, InvalidInputError
from geomkit.kernels import Backend, torch_
from geomkit.pairwise import device_sweep
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.device_sweep import AtOnce
from geomkit.pairwise.normalization import centred_rows
from geomkit.pairwise.reducers import Above, RowExtremes, RowRanges, Tally
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from geomkit.stats.concentration import concentration
from geomkit.stats.cosine import cosine_similarity, cosine_stats
from geomkit.stats.neighbors import neighbors
from geomkit.stats.squared_distance import squared_distance_stats
from geomkit.stats.survey import survey
from tests.pairwise.test_sweep import CENTRE, N, assert_tally_is, products_above_diagonal, whole_rows

PLACES = [(), ("cpu",), ("cpu", "cpu"), ("cpu",) * 3]
if torch.cuda.is_available():
    PLACES += [("cuda:0",), ("cuda:0", "cuda:0")]
KERNELS = ["gram", "tally", "row_extremes", "screen", "above"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let tiles of these few rows be halved, and torch not divide them among threads, which wait for each other."""
    monkeypatch.setattr(device_sweep, "LEAST_TILE", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def placed(places, n=N):
    rows = whole_rows(n, Backend.TORCH, "float32")
    resident = rows.resident.to(places[0]) if places else rows.resident
    return dataclasses.replace(rows, matrix=rows.matrix.placed(places), resident=resident)


def swept(rows, size, **how):
    """One reducer of each kind, in the order in which they see a tile."""
    backend, n, device = rows.backend, rows.n, rows.device
    tally, extremes = Tally(backend, CENTRE, device), RowExtremes(backend, n, device)
    reducers = [tally, extremes, Nearest(backend, n, 4, "float32", device), Above(backend, 2.0, 10**6)]
    sweep(Tiles(rows, "gram"), reducers, size=size, **how)
    return reducers


def assert_same(found, rows):
    """Every pair was taken in once by each reducer: what they found is what the matrix of pairs holds."""
    tally, extremes, nearest, above = found
    x = np.asarray(rows.resident.cpu() if rows.backend is Backend.TORCH else rows.resident, np.float64)
    assert_tally_is(tally, (x @ x.T)[np.triu_indices(len(x), 1)])
    matrix = x @ x.T
    apart = np.where(np.eye(len(x), dtype=bool), np.nan, matrix)
    assert np.array_equal(extremes.extremes, [np.nanmin(apart, axis=1), np.nanmax(apart, axis=1)])
    assert np.array_equal(above.pairs, np.argwhere(np.triu(matrix, 1) >= 2))
    values, ids, beaten = nearest.candidates()
    for row, others in enumerate(ids):
        known = others[others >= 0]
        # A row that two devices offer would be one that a tile was taken in twice.
        assert len(set(known)) == len(known)
        assert np.array_equal(values[row][others >= 0], matrix[row, known])
        rest = np.delete(matrix[row], [row, *known])
        assert np.all(rest <= beaten[row])


class Shortage:
    """A kernel that runs out of memory for tiles above a size, after so many that went well."""

    def __init__(self, monkeypatch, name, side, *, after=0):
        self.kernel, self.name, self.side, self.left, self.failed = getattr(torch_, name), name, side, after, []
        self.lock = threading.Lock()
        monkeypatch.setattr(torch_, name, self)

    def __call__(self, *arguments):
        tile = arguments[2] if self.name == "gram" else arguments[0]
        with self.lock:
            self.left -= 1
            if max(tile.shape) > self.side and self.left < 0:
                self.failed.append(tuple(tile.shape))
                msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
                raise torch.OutOfMemoryError(msg)
        return self.kernel(*arguments)


@pytest.mark.parametrize("size", [2, 8, 31, N - 1, N, N + 1])
@pytest.mark.parametrize("places", PLACES)
def test_every_reducer_takes_in_every_pair_once(places, size):
    rows = placed(places)
    assert_same(swept(rows, size), rows)
    same = whole_rows(N, Backend.CPU, "float32")
    assert_same(swept(same, size, threads=2), same)


@pytest.mark.parametrize("after", [0, 1, 2, 4])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("places", PLACES)
def test_tiles_are_halved_where_memory_runs_out_and_no_pair_is_lost_or_counted_twice(
    monkeypatch, places, kernel, after
):
    rows, shortage = placed(places), Shortage(monkeypatch, kernel, 6, after=after)
    with pytest.warns(RuntimeWarning, match=r" is out of memory: tiles of .*; no pair is lost") as said:
        found = swept(rows, 16)
    monkeypatch.undo()
    assert_same(found, rows)
    assert shortage.failed
    # Once for each halving of a device, and no more.
    assert len(said) <= 2 * max(1, len(places))
    assert len(shortage.failed) == len(said)
    sizes = ["16 x 16 pairs are halved to 8 x 8", "8 x 8 pairs are halved to 4 x 4"]
    assert sizes[0] in str(said[0].message)
    if after == 0:
        assert any(sizes[1] in str(each.message) for each in said)


def test_memory_that_runs_out_in_different_places_one_after_the_other(monkeypatch):
    rows = placed(())
    Shortage(monkeypatch, "screen", 12)
    Shortage(monkeypatch, "gram", 30)
    Shortage(monkeypatch, "above", 7)
    with pytest.warns(RuntimeWarning, match="are halved to"):
        found = swept(rows, 10**6)
    monkeypatch.undo()
    assert_same(found, rows)


@pytest.mark.filterwarnings("ignore:.* is out of memory")
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("places", PLACES)
def test_a_device_without_room_for_the_smallest_tile_is_given_up(monkeypatch, places, kernel):
    Shortage(monkeypatch, kernel, 0)
    monkeypatch.setattr(device_sweep, "LEAST_TILE", 64)
    message = r"^c.* is out of memory with tiles of 100 x 100 pairs, and below 64 x 64 they are not halved; free memory"
    rows = placed(places, 300)
    with pytest.raises(DeviceMemoryError, match=message):
        swept(rows, 200)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_else_goes_wrong_is_not_taken_for_a_shortage(monkeypatch, kernel):
    def fail(*_):
        msg = "CUDA error: an illegal memory access was encountered"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch_, kernel, fail)
    rows = placed(("cpu", "cpu"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        swept(rows, 8)


def test_buffers_that_cannot_be_had_are_halved_too(monkeypatch):
    zeros = torch_.zeros

    def scarce(shape, dtype, device=None):
        if shape == (32 * 32,):
            raise torch.OutOfMemoryError("full")  # noqa: EM101
        return zeros(shape, dtype, device)

    rows = placed(())
    monkeypatch.setattr(torch_, "zeros", scarce)
    with pytest.warns(RuntimeWarning, match="tiles of 32 x 32 pairs are halved to 16 x 16"):
        found = swept(rows, 32)
    assert_same(found, rows)


def test_nothing_holds_the_memory_of_tiles_when_smaller_ones_are_made(monkeypatch):
    seen, alive = [], []

    def fail(tile, *_):
        if max(tile.shape) > 8:
            seen.append(weakref.ref(tile._base))
            raise torch.OutOfMemoryError("full")  # noqa: EM101

    halve = device_sweep._Worker._halve

    def halved(worker):
        alive.append([each() for each in seen])
        halve(worker)

    monkeypatch.setattr(torch_, "tally", fail)
    monkeypatch.setattr(device_sweep._Worker, "_halve", halved)
    with pytest.warns(RuntimeWarning, match="halved"):
        sweep(Tiles(placed(()), "gram"), [Tally(Backend.TORCH, CENTRE)], size=32)
    assert alive == [[None], [None, None]]


@pytest.mark.parametrize("places", [("cpu",), ("cpu", "cpu")])
def test_what_a_reducer_refuses_ends_the_sweep_on_every_device(places):
    rows = placed(places)
    with pytest.raises(InvalidInputError, match="more than 3 pairs"):
        sweep(Tiles(rows, "gram"), [Above(Backend.TORCH, -10.0, 3)], size=4)


def test_devices_share_the_tiles():
    rows, seen = placed(("cpu", "cpu")), {}
    meeting = threading.Barrier(2)

    class Listing(Tally):
        def update(self, tile, rows, cols):
            mine = seen.setdefault(threading.get_ident(), [])
            if not mine:
                meeting.wait(20)
            mine.append((rows.start, cols.start))
            super().update(tile, rows, cols)

    tally = Listing(Backend.TORCH, CENTRE)
    sweep(Tiles(rows, "gram"), [tally], size=4)
    assert_tally_is(tally, products_above_diagonal(rows))
    assert len(seen) == 2
    starts = range(0, N, 4)
    assert sorted(tile for mine in seen.values() for tile in mine) == [(i, j) for i in starts for j in starts if j >= i]


class Noting(AtOnce):
    """A stream that notes what it is asked for; a mark is how much either stream was asked for before it."""

    def __init__(self, notes, name):
        self.notes, self.name = notes, name

    def record_event(self):
        self.notes.append((self.name, "mark"))
        return len(self.notes)

    def wait_event(self, event):
        self.notes.append((self.name, "wait", event))


def test_no_buffer_is_written_or_read_too_early_and_products_are_made_ahead(monkeypatch):
    notes = []

    class Both(device_sweep.Streams):
        def __init__(self, device, *, two):
            super().__init__(device, two=two)
            self.main, self.side = Noting(notes, "main"), Noting(notes, "side")

    class Reading(Tally):
        def update(self, tile, *_):
            notes.append(("main", "read", tile.data_ptr()))

    gram = torch_.gram
    monkeypatch.setattr(device_sweep, "Streams", Both)
    monkeypatch.setattr(
        torch_, "gram", lambda a, b, out: (notes.append(("side", "write", out.data_ptr())), gram(a, b, out))
    )
    sweep(Tiles(placed(()), "gram"), [Reading(Backend.TORCH, CENTRE)], size=8)
    steps = [(at, note[1], note[2]) for at, note in enumerate(notes) if note[1] in {"read", "write"}]
    writes, reads = ([at for at, what, _ in steps if what == kind] for kind in ("write", "read"))
    assert len(writes) == len(reads) == 15
    # Each product but the first is asked for before the tile before it is reduced.
    assert all(write < read for write, read in zip(writes[1:], reads, strict=False))
    for at, what, buffer in steps:
        before = [step for step in steps if step[0] < at and step[2] == buffer and step[1] != what]
        if not before:
            assert what == "write"
            continue
        # The stream waits for a mark that the other set after its last use of the buffer.
        stream, other = ("side", "main") if what == "write" else ("main", "side")
        waits = [note[2] for note in notes[:at] if note[:2] == (stream, "wait")]
        assert max(waits) > before[-1][0]
        assert notes[max(waits) - 1] == (other, "mark")


def test_a_fused_tile_is_not_made_ahead(monkeypatch):
    order = []

    class Product:
        def __init__(self, a, b, _):
            order.append("make")
            self.a, self.b, self.shape = a, b, (len(a), len(b))

    def reduced(kernel):
        def run(tile, *arguments):
            order.append("reduce")
            kernel(tile.a @ tile.b.T, *arguments)

        return run

    rows = placed(("cpu", "cpu"))
    monkeypatch.setattr(torch_, "FUSED", True)
    monkeypatch.setattr(torch_, "Product", Product, raising=False)
    monkeypatch.setattr(torch_, "tally", reduced(torch_.tally))
    tally = Tally(Backend.TORCH, CENTRE)
    sweep(Tiles(dataclasses.replace(rows, matrix=rows.matrix.placed(())), "gram"), [tally], size=8)
    assert_tally_is(tally, products_above_diagonal(rows))
    assert order == ["make", "reduce"] * 15
    shared = Tally(Backend.TORCH, CENTRE)
    sweep(Tiles(rows, "gram"), [shared], size=8)
    assert_tally_is(shared, products_above_diagonal(rows))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("p", [1.0, 2.0, 1.5])
def test_row_ranges_of_several_devices(monkeypatch, p, resident):
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 2**28 * resident)
    x = np.random.default_rng(0).integers(-3, 4, (N, 3)).astype(np.float64)
    found = []
    for places in PLACES:
        rows = centred_rows(as_matrix(x).placed(places), Backend.TORCH, "float64", "raise")
        assert (rows.resident is not None) == resident
        ranges = RowRanges(Backend.TORCH, N, rows.device)
        sweep(Tiles(rows, "euclidean" if p == 2 else "minkowski", p), [ranges], size=8)
        found.append(ranges.ranges)
    for each in found[1:]:
        assert np.array_equal(each[:2], found[0][:2])
        assert np.allclose(each[2], found[0][2], rtol=1e-13)


def data(n=150):
    x = np.random.default_rng(3).standard_normal((n, 20)).astype(np.float32) + np.float32(0.5)
    x[40:44] = x[3]
    return x


def same_counts(one, other):
    return np.array_equal(one.distribution.counts, other.distribution.counts)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", [list(places) for places in PLACES[1:]])
def test_public_functions_on_devices(monkeypatch, device, precision, resident):
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 2**28 * resident)
    monkeypatch.setattr("geomkit.pairwise.tiles.TILE", 64)
    x, how = data(), {"backend": "torch", "precision": precision}
    there = how | {"device": device}
    for measure in (cosine_stats, squared_distance_stats):
        one, other = measure(x, **how), measure(x, **there)
        assert same_counts(one, other)
        assert (one.min, one.max) == (other.min, other.max)
    one, other = survey(x, k=3, **how), survey(x, k=3, **there)
    assert same_counts(one.cosine, other.cosine)
    for name in ("least", "largest", "duplicates"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert len(one.duplicates) == 10
    on_cpu = neighbors(x, 3, backend="cpu")
    for each in (one.neighbors, other.neighbors, neighbors(x, 3, **there)):
        assert np.array_equal(each.indices, on_cpu.indices)
    if precision == "float32":
        for p in (1.0, 2.0):
            one, other = concentration(x, p=p, **how), concentration(x, p=p, **there)
            assert same_counts(one, other)
            assert (one.n_skipped, one.n_recomputed) == (other.n_skipped, other.n_recomputed)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_survey_survives_a_shortage_of_memory(monkeypatch, kernel):
    x, how = data(), {"k": 3, "backend": "torch", "device": ["cpu", "cpu"]}
    want = survey(x, **how)
    Shortage(monkeypatch, kernel, 40)
    with pytest.warns(RuntimeWarning, match="no pair is lost or counted twice"):
        found = survey(x, **how)
    # The products of other tiles may be rounded in another way.
    assert found.cosine.distribution.n == want.cosine.distribution.n
    assert np.allclose([found.cosine.std, found.cosine.skewness], [want.cosine.std, want.cosine.skewness], rtol=1e-6)
    assert np.array_equal(found.duplicates, want.duplicates)
    assert np.array_equal(found.neighbors.indices, want.neighbors.indices)


def test_a_matrix_survives_a_shortage_of_memory(monkeypatch):
    x = data()
    want = cosine_similarity(x, backend="torch")
    Shortage(monkeypatch, "gram", 40)
    with pytest.warns(RuntimeWarning, match="pairs are halved to"):
        found = cosine_similarity(x, backend="torch", device="cpu")
    assert isinstance(found, np.ndarray)
    assert np.allclose(found, want, atol=1e-6)
    assert isinstance(cosine_similarity(torch.from_numpy(x), device="cpu"), torch.Tensor)
