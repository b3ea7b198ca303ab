"""The device clock: warm first, everyone in every round, inputs in turn; events where there is a queue."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.gpu import facts, timing
from bench.gpu.timing import Ready, median, rotation, rounds, warmed
from bench.speed.timing import Pace
from geomkit.errors import BackendUnavailableError


def test_everyone_runs_in_every_round_on_the_next_copy_of_its_input():
    seen = []
    contenders = [Ready(lambda x, who=who: seen.append((who, x)), ["a", "b", "c"]) for who in (0, 1)]

    took = rounds(contenders, "cpu", Pace(seconds=0.0, least=3, most=9))

    assert took.shape == (3, 2)
    assert np.all(took > 0)
    # The first round is for the length; then each starts with another.
    assert [who for who, _ in seen] == [0, 1, 0, 1, 1, 0, 0, 1]
    assert [x for who, x in seen if who == 0] == ["a", "b", "c", "a"]


def test_as_many_rounds_as_fit_into_the_time():
    assert len(rounds([Ready(lambda _: None, [0])], "cpu", Pace(seconds=60.0, least=1, most=5))) == 5
    assert rounds([], "cpu", Pace(seconds=1.0)).shape == (0, 0)


def test_what_is_compiled_or_tuned_is_so_before_the_first_round():
    seen = []
    ready = Ready(seen.append, ["a", "b"])
    assert warmed(ready, "cpu") is ready
    assert seen == ["a", "b"]


def test_copies_exceed_the_cache_several_times(monkeypatch):
    x = torch.ones(100, 10)
    assert len(rotation(x)) == 2
    assert rotation(x)[1].data_ptr() != x.data_ptr()
    assert torch.equal(*rotation(x))
    device = SimpleNamespace(
        is_cuda=True, device="cuda", numel=x.numel, element_size=x.element_size, clone=lambda: "copy"
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=10_000))
    copies = rotation(device)
    assert (len(copies) - 1) * 4000 < 4 * 10_000 <= len(copies) * 4000


def test_events_are_read_once_after_all_rounds(monkeypatch):
    happened = []

    class Event:
        def __init__(self, *, enable_timing):
            assert enable_timing
            self.at = None

        def record(self):
            self.at = len(happened)
            happened.append("mark")

        def elapsed_time(self, end):
            assert happened[-1] == "wait"
            return 1000.0 * (end.at - self.at)

    class Around:
        def __init__(self, device):
            assert device == "cuda"

        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", Around)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: happened.append("wait"))
    took = rounds(
        [Ready(lambda _: happened.append("call"), [0]), Ready(lambda _: happened.extend(["call"] * 3), [0])],
        "cuda",
        Pace(seconds=0.0, least=2, most=2),
    )
    # Between two marks lie the calls, and nothing waits between them.
    assert took.tolist() == [[2.0, 4.0], [2.0, 4.0]]
    marked = happened[happened.index("mark") :]
    assert marked.index("wait") == len(marked) - 1


def test_an_interval_needs_rounds():
    assert median(np.array([3.0, 1.0, 2.0])) == (2.0, 0.0, np.inf)
    assert median(np.arange(1.0, 8.0)) == (4.0, 1.0, 7.0)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendUnavailableError, match="built for CUDA"):
        facts.needs_gpu()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(BackendUnavailableError, match="its driver"):
        facts.needs_gpu()


def test_a_gpu_tells_its_driver_and_clocks_or_that_nothing_tells(monkeypatch):
    found = SimpleNamespace(name="NVIDIA H200", multi_processor_count=132, uuid="77")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: found)
    asked = []

    def said(command, **_):
        asked.append(command)
        return SimpleNamespace(stdout="575.1\n" if "driver" in command[1] else "1980, [N/A]\n")

    monkeypatch.setattr(facts.subprocess, "run", said)
    known = facts.facts("cuda")
    assert (known.device, known.multiprocessors, known.driver) == ("NVIDIA H200", 132, "575.1")
    assert facts.clocks("cuda") == (facts.Clocks(1980.0, None))
    assert all(command[-1] == "--id=GPU-77" for command in asked)

    def absent(command, **_):
        raise FileNotFoundError

    monkeypatch.setattr(facts.subprocess, "run", absent)
    assert facts.facts("cuda").driver == "unknown: no nvidia-smi"
    assert facts.clocks("cuda") == facts.Clocks(None, None)
    assert facts.facts("cpu").torch == torch.__version__
    assert timing.CACHES >= 2
