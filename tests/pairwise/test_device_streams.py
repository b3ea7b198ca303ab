import contextlib

import pytest
import torch

from geomkit.pairwise import device_sweep
from geomkit.pairwise.device_sweep import AtOnce, Streams


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
@pytest.mark.parametrize("two", [False, True])
def test_the_cpu_does_everything_at_once(device, two):
    both = Streams(device, two=two)
    assert isinstance(both.main, AtOnce)
    assert isinstance(both.side, AtOnce)
    with both.here(), both.aside():
        both.side.wait_event(both.main.record_event())
    both.settle()


@pytest.mark.parametrize("two", [False, True])
def test_a_gpu_has_one_side_stream_for_all_sweeps(monkeypatch, two):
    """Of torch's own calls, which need a GPU, only that they are made."""
    asked, entered = [], []

    class Stream:
        def __init__(self, device=None):
            asked.append(device)

        def synchronize(self):
            entered.append(("synchronize", self))

    @contextlib.contextmanager
    def entering(what):
        entered.append(what)
        yield

    current, device = Stream(), torch.device("cuda:1")
    asked.clear()
    device_sweep._beside.cache_clear()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current)
    monkeypatch.setattr(torch.cuda, "stream", entering)
    monkeypatch.setattr(torch.cuda, "device", entering)
    once, again = Streams(device, two=two), Streams(device, two=two)
    device_sweep._beside.cache_clear()
    assert once.main is again.main is current
    assert once.side is again.side
    assert (once.side is current) != two
    assert asked == [device] * two
    with once.here(), once.aside():
        assert entered == [device, once.side]
    once.settle()
    assert {stream for _, stream in entered[2:]} == {once.main, once.side}
