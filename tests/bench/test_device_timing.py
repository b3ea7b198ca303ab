"""The device clock: warm first, everyone in every round, inputs in turn; events where there is a queue."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.gpu import facts
from bench.speed import cases
from bench.speed.cases import MomentsCase
from bench.speed.timing import Pace, interleaved_on, median_interval, rotation
from geomkit.errors import BackendUnavailableError


def test_without_a_gpu_it_is_the_hosts_clock():
    seen = []
    thunks = [lambda who=who: seen.append(who) for who in (0, 1)]
    took = interleaved_on("cpu", thunks, Pace(seconds=0.0, least=3, most=9))
    assert took.shape == (3, 2)
    assert seen == [0, 1, 1, 0, 0, 1]


def test_what_is_compiled_or_tuned_is_so_before_the_first_round_and_inputs_rotate(monkeypatch):
    monkeypatch.setattr(cases, "rotation", lambda x: [x, x + 1, x + 2])
    seen = []
    thunk = MomentsCase(5, 2, device="cpu").proven(lambda x: seen.append(float(x[0, 0])))
    first = seen[0]
    assert seen == pytest.approx([first, first + 1])
    for _ in range(4):
        thunk()
    assert seen[2:] == pytest.approx([first, first + 1, first + 2, first])


def test_copies_exceed_the_cache_several_times(monkeypatch):
    x = torch.ones(100, 10)
    assert rotation(x) == [x]
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
    thunks = [lambda: happened.append("call"), lambda: happened.extend(["call"] * 3)]
    took = interleaved_on("cuda", thunks, Pace(seconds=0.0, least=2, most=2))
    # Between two marks lie the calls, and nothing waits between them.
    assert took.tolist() == [[2.0, 4.0], [2.0, 4.0]]
    marked = happened[happened.index("mark") :]
    assert marked.index("wait") == len(marked) - 1


def test_an_interval_needs_rounds():
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (2.0, 0.0, np.inf)
    assert median_interval(np.arange(1.0, 8.0)) == (4.0, 1.0, 7.0)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(BackendUnavailableError, match="built for CUDA"):
        facts.needs_gpu()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(BackendUnavailableError, match="its driver"):
        facts.needs_gpu()


def test_a_gpu_tells_its_driver_and_clocks_or_that_nothing_tells(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H200", multi_processor_count=132, uuid="77")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    commands = []

    def answered(command, **_):
        commands.append(command)
        return SimpleNamespace(stdout="575.1, 1980, [N/A]\n")

    monkeypatch.setattr(facts.subprocess, "run", answered)
    known = facts.facts("cuda")
    assert (known.device, known.multiprocessors, known.driver) == ("NVIDIA H200", 132, "575.1")
    assert (known.sm_clock_mhz, known.memory_clock_mhz) == (1980.0, None)
    assert all(command[-1] == "--id=GPU-77" for command in commands)

    def absent(command, **_):
        raise FileNotFoundError

    monkeypatch.setattr(facts.subprocess, "run", absent)
    known = facts.facts("cuda")
    assert (known.driver, known.sm_clock_mhz, known.memory_clock_mhz) == ("unknown: no nvidia-smi", None, None)
    assert facts.facts("cpu").torch == torch.__version__
