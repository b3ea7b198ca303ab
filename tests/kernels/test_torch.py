"""What the torch kernels promise beyond the case table: a shortage of memory changes nothing, slabs change little."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from geomkit.kernels import Backend, torch_
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.reducers import Above, RowExtremes, RowRanges, Tally
from tests.bounds import assert_within
from tests.kernels.case import DEVICE, working
from tests.kernels.cases import minkowski_error, power_mean_error
from tests.kernels.score_cases import distinct_symmetric

N = 40
REDUCERS = {
    "tally": lambda: Tally(Backend.TORCH, 0.25, DEVICE),
    "tally, rounded": lambda: Tally(Backend.TORCH, 0.0, DEVICE, rounded=True),
    "row ranges": lambda: RowRanges(Backend.TORCH, N, DEVICE),
    "row extremes": lambda: RowExtremes(Backend.TORCH, N, DEVICE),
    "nearest": lambda: Nearest(Backend.TORCH, N, 3, "float32", DEVICE),
    "above": lambda: Above(Backend.TORCH, 0.5, 10**6),
}
TILES = {"diagonal": (slice(0, 25), slice(0, 25)), "beside": (slice(0, 25), slice(25, N))}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiles this small are not worth threads, which would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Shortage(TorchDispatchMode):
    """Lets memory run out at one of the calls that ask for some, or counts them."""

    def __init__(self, at=-1):
        super().__init__()
        self.at, self.seen = at, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable or not any(each.alias_info is None for each in func._schema.returns):
            # In place, into memory that is there, or a view.
            return func(*args, **(kwargs or {}))
        self.seen += 1
        if self.seen - 1 == self.at:
            raise torch.OutOfMemoryError("full")  # noqa: EM101
        return func(*args, **(kwargs or {}))


def state(reducer):
    """All that a reducer holds."""
    tensors = {name: value.clone() for name, value in vars(reducer).items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in vars(reducer).items() if isinstance(value, (int, float))}
    return tensors, plain, len(getattr(reducer, "_found", []))


def same(one, other):
    return all(torch.equal(value, other[0][name]) for name, value in one[0].items()) and one[1:] == other[1:]


@pytest.mark.parametrize("slab", [2**24, 60])
@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("where", TILES)
def test_a_tile_for_which_memory_runs_out_was_not_taken_in(monkeypatch, where, name, slab):
    monkeypatch.setattr(torch_, "SLAB", slab)
    rows, cols = TILES[where]
    matrix = np.abs(distinct_symmetric(np.random.default_rng(0), N)) / 2**20
    tile = working(Backend.TORCH, matrix[rows, cols], "bfloat16" if "rounded" in name else "float32")
    want = REDUCERS[name]()
    with Shortage() as counting:
        want.update(tile, rows, cols)
    found = REDUCERS[name]()
    empty = state(found)
    assert not same(empty, state(want))
    assert counting.seen > 3
    for at in range(counting.seen):
        with pytest.raises(torch.OutOfMemoryError), Shortage(at):
            found.update(tile, rows, cols)
        assert same(state(found), empty), f"call {at} of {counting.seen}"
    found.update(tile, rows, cols)
    assert same(state(found), state(want))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slabs_and_lanes_change_no_count(monkeypatch, dtype, diagonal):
    shape = (37, 37) if diagonal else (37, 53)
    # Eighths, all of whose powers and sums are exact.
    tile = working(Backend.TORCH, np.random.default_rng(1).integers(-8, 9, shape) / 8, dtype)
    rounded = tile.to(torch.bfloat16)
    found = []
    for slab, lanes in ((2**24, 1), (1, 1), (100, 1), (2**24, 16), (100, 4), (37 * 37, 16)):
        monkeypatch.setattr(torch_, "SLAB", slab)
        # As accelerators count.
        monkeypatch.setattr(torch_._Counts, "lanes_of", staticmethod(lambda _, lanes=lanes: lanes))
        counts = [torch_.zeros((4, 65536), "int64", DEVICE) for _ in range(2)]
        sums, extremes = (
            torch_.zeros((4,), "float64", DEVICE),
            torch.tensor([torch.inf, -torch.inf]).double().to(DEVICE),
        )
        torch_.tally(tile, diagonal, 0.125, counts[0], sums, extremes)
        torch_.count(rounded, diagonal, counts[1])
        ranges = [torch_.zeros((3, length), "float64", DEVICE) for length in shape]
        torch_.row_ranges(tile.abs(), diagonal, *ranges)
        lists = torch.full((90, 7), -(2**31) << 32, device=DEVICE)
        lists[:, 0] = 0
        dropped, floor = (torch_.zeros((90,), "int32", DEVICE) for _ in range(2))
        symmetric = tile + tile.T if diagonal else tile
        torch_.screen(symmetric, diagonal, 0, 0 if diagonal else 37, lists, dropped, floor)
        pairs = torch_.above(tile, diagonal, 0.5)
        found.append([*counts, sums, extremes, *ranges, lists[:, 1:] >> 32, dropped, pairs])
    assert int(found[0][0].sum()) == (37 * 36 // 2 if diagonal else 37 * 53)
    for each in found[1:]:
        for one, other in zip(each, found[0], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("slab", [2**24, 60])
def test_the_entry_of_a_row_with_itself_takes_no_place(monkeypatch, slab):
    """Else one that was left out would be better than what the reducer says of all that were."""
    monkeypatch.setattr(torch_, "SLAB", slab)
    # Its diagonal is larger than all.
    matrix = distinct_symmetric(np.random.default_rng(0), N)
    nearest = Nearest(Backend.TORCH, N, 3, "float32", DEVICE)
    nearest.update(working(Backend.TORCH, matrix, "float32"), slice(0, N), slice(0, N))
    values, ids, beaten = nearest.candidates()
    for row in range(N):
        others = ids[row][ids[row] >= 0]
        assert row not in others
        assert np.array_equal(values[row][ids[row] >= 0], matrix[row, others])
        assert np.delete(matrix[row], [row, *others]).max() <= beaten[row]


@pytest.mark.parametrize("entries", [1, 33, 33 * 4, 33 * 12, 2**22])
@pytest.mark.parametrize("p", [0.5, 3.0])
def test_windows_of_differences_change_little(monkeypatch, p, entries):
    rng = np.random.default_rng(2)
    a, b = torch.from_numpy(rng.standard_normal((7, 33))), torch.from_numpy(rng.standard_normal((5, 33)))
    want = ((a[:, None] - b).abs() ** p).mean(dim=2).numpy() ** (1 / p)
    monkeypatch.setattr(torch_, "DIFFERENCES", entries)
    out = torch.empty((7, 5), dtype=torch.float64)
    torch_.minkowski(a, b, out, p)
    bound = power_mean_error(33, p, "float64") + minkowski_error(33, p, "float64", "float64")
    assert_within(out.numpy(), want, bound * want)


def test_a_tally_leaves_the_tile_as_it_is():
    tile = torch.randn(20, 20, device=DEVICE)
    before = tile.clone()
    for reducer in REDUCERS.values():
        if reducer().__class__ is Tally and reducer().rounded:
            continue
        reducer().update(tile, slice(0, 20), slice(0, 20))
        assert torch.equal(tile, before)
