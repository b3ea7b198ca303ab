"""pytest-benchmark suite over the cases of the study `gpu`: on a GPU at full size, elsewhere torch's on a few rows.

The clock waits for the device before and after each call, and inputs rotate as in the study, which times with events.
"""

from functools import partial
from typing import Any

import pytest

from bench.conftest import ROUNDS, Rows
from bench.gpu.cases import DeviceCase
from bench.gpu.timing import Ready, settled, warmed
from geomkit.errors import BackendUnavailableError


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


DEVICE = _device()
SIZES = [(20_000, 64), (20_000, 768), (20_000, 4096)] if DEVICE == "cuda" else [(96, 32)]
"""Rows and coordinates."""

KERNELS = {
    "cosine_stats": "isotropic", "squared_distance_stats": "isotropic", "neighbors": "factors", "moments": "factors",
    "concentration": "isotropic",
}  # fmt: skip


def _case(kernel: str, n: int, d: int) -> DeviceCase:
    return DeviceCase(kernel, n, d, DEVICE, data=KERNELS[kernel], quick=True)


def _timed() -> list[Any]:
    """List everyone for every case; peers that are not installed here have a test of their own."""
    return [
        pytest.param(kernel, size, each.label, id=f"{kernel}-{size[1]}-{each.label}")
        for kernel in KERNELS
        for size in SIZES
        for each in _case(kernel, *size).contenders()
        if each.library not in OPTIONAL
    ]


OPTIONAL = ("pykeops", "faiss-gpu-cu12", "cuvs-cu12")


@pytest.mark.benchmark(timer=partial(settled, DEVICE))
@pytest.mark.parametrize(("kernel", "size", "who"), _timed())
def test_on_a_device(benchmark: Any, rows: Rows, kernel: str, size: tuple[int, int], who: str) -> None:
    """Ours and torch's."""
    n, d = rows(size[0]), size[1]
    case = _case(kernel, n, d)
    contender = next(each for each in case.contenders() if each.label == who)
    ready = warmed(contender.prepare(), DEVICE)
    benchmark.group = f"{kernel} {case.setting} {n} x {d} on {DEVICE}"
    about = {"kernel": kernel, "setting": case.setting, "data": case.data, "n": n, "d": d, "device": DEVICE}
    whose = {"contender": contender.label, "precision": contender.precision, "peer": bool(contender.library)}
    benchmark.extra_info.update(about | whose | {"pairs": n * (n - 1) // 2})
    assert benchmark.pedantic(_turns(ready), rounds=ROUNDS) is not None


@pytest.mark.parametrize("who", ["KeOps", "faiss-gpu", "cuVS"])
def test_a_peer_that_not_everyone_has_is_right_or_says_why_not(who: str) -> None:
    """The study writes the reason down."""
    kernel = "cosine_stats" if who == "KeOps" else "neighbors"
    contender = next(each for each in _case(kernel, 96, 32).contenders() if each.name == who)
    why = ""
    try:
        warmed(contender.prepare(), DEVICE)
    except BackendUnavailableError as missing:
        why = str(missing)
    assert DEVICE == "cuda" or why


def _turns(ready: Ready) -> Any:
    """Return a call that takes another copy of the input each time."""
    turn = -1

    def call() -> object:
        nonlocal turn
        turn += 1
        return ready.call(ready.inputs[turn % len(ready.inputs)])

    return call
