"""Arrays that lie on an accelerator, or are to be worked on there, as far as a machine without one can tell."""

import sys

import numpy as np
import pytest
import torch

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.stats.cosine import cosine_stats
from tests.core.test_matrix import PLAIN


class OnDevice:
    """Says that it lies on a GPU, and notes what it is asked for."""

    def __init__(self, data, device=(2, 1), times=10**6):
        self.data, self.device, self.times, self.asked = data, device, times, []

    def __array__(self, dtype=None, copy=None):
        self.asked.append("__array__")
        return np.array(self.data, dtype)

    def __dlpack_device__(self):
        self.asked.append("__dlpack_device__")
        self.times -= 1
        return self.device if self.times >= 0 else self.data.__dlpack_device__()

    def __dlpack__(self, **how):
        self.asked.append("__dlpack__")
        return self.data.__dlpack__(**how)


@pytest.mark.parametrize("device", [(2, 0), (10, 1), (8, 0), (14, 0)])
def test_what_lies_on_a_device_goes_to_torch_and_not_through_numpy(monkeypatch, device):
    given, there = OnDevice(PLAIN, device), torch.tensor(PLAIN)
    got = []
    monkeypatch.setattr(torch, "from_dlpack", lambda x: got.append(x) or there)
    matrix = as_matrix(given)
    assert got == [given]
    assert set(given.asked) == {"__dlpack_device__"}
    assert matrix.kind == "torch"
    assert matrix.data.data_ptr() == there.data_ptr()


def test_torch_reads_it_where_it_lies():
    """Of an array that says so once, and then is what torch can read here."""
    data = torch.tensor(PLAIN)
    given = OnDevice(data, times=1)
    matrix = as_matrix(given)
    assert "__array__" not in given.asked
    assert "__dlpack__" in given.asked
    assert matrix.data.data_ptr() == data.data_ptr()
    assert cosine_stats(OnDevice(data, times=1)).mean == cosine_stats(PLAIN).mean


@pytest.mark.parametrize("device", [(1, 0), (3, 0), (11, 0), (13, 0)])
def test_what_the_host_can_read_goes_through_numpy(monkeypatch, device):
    monkeypatch.setattr(torch, "from_dlpack", None)
    given = OnDevice(PLAIN, device)
    assert as_matrix(given).kind == "numpy"
    assert "__array__" in given.asked


def test_what_torch_cannot_read_is_refused_and_not_copied_unasked(monkeypatch):
    given = OnDevice(PLAIN)
    message = (
        r"^x \(OnDevice\) lies on an accelerator \(DLPack device 2, 1\), which torch could not read: .*; pass numpy"
    )
    with pytest.raises(InvalidInputError, match=message):
        as_matrix(given)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidInputError, match=message):
        as_matrix(given)
    assert "__array__" not in given.asked


@pytest.mark.parametrize("given", [PLAIN, torch.tensor(PLAIN), torch.tensor(PLAIN, dtype=torch.bfloat16)])
def test_a_matrix_that_is_placed_keeps_its_data_and_says_where_its_blocks_go(given):
    matrix = as_matrix(given)
    assert matrix.places == ()
    assert not matrix.on_accelerator
    there = matrix.placed(("cuda:1", "cuda:0"))
    assert there.data is matrix.data
    assert there.on_accelerator
    assert there.device == torch.device("cuda:1")
    assert there.devices == (torch.device("cuda:1"), torch.device("cuda:0"))
    assert there.without(np.array([0])).places == there.places
    back = there.placed(("cpu",))
    assert not back.on_accelerator
    for block in (back.block(0, 3), back.take(np.array([0, 1, 2]))):
        assert isinstance(block, np.ndarray)
        assert np.array_equal(block, PLAIN)


def test_blocks_are_moved_as_they_are_stored():
    """A block of another device's data, which a fake stands for, is moved first and widened there."""
    moves = []

    class Data(torch.Tensor):
        def to(self, what):
            moves.append(what)
            return super().to(what)

    data = torch.tensor(PLAIN, dtype=torch.bfloat16).as_subclass(Data)
    block = as_matrix(data).placed(("cpu",)).block(0, 3)
    assert moves == [torch.device("cpu"), torch.float32]
    assert np.array_equal(block, PLAIN)
