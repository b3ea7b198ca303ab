"""Progress of sweeps on devices, on the CPU: every pair is told once, and not before the device has taken it in."""

import pytest

from geomkit.core.progress import watched
from geomkit.kernels import Backend
from geomkit.pairwise import device_sweep
from geomkit.pairwise.reducers import Tally
from geomkit.pairwise.sweep import sweep
from geomkit.pairwise.tiles import Tiles
from tests.pairwise.test_device_sweep import PLACES, Shortage, placed, small, swept
from tests.pairwise.test_sweep import CENTRE, N

__all__ = ["small"]


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("size", [8, N + 1])
@pytest.mark.parametrize("places", PLACES)
def test_every_pair_is_told_once_halved_or_not(monkeypatch, places, size, short):
    said = []
    rows = placed(places)
    if short:
        monkeypatch.setattr(device_sweep.warnings, "warn", lambda *_, **__: None)
        shortage = Shortage(monkeypatch, "tally", 6, after=2 * (size < N))
    with watched(lambda *each: said.append(each)):
        swept(rows, size)
    pairs = N * (N - 1) // 2
    assert {(what, of) for what, _, of in said} == {("pairs", pairs)}
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert said[-1][1] == pairs
    assert not short or shortage.failed


def test_a_tile_is_told_when_the_device_has_passed_its_mark(monkeypatch):
    said, asked = [], []

    class Late(device_sweep.Streams):
        def passed(self, mark):
            asked.append(mark)
            return 3 < len(asked) < 10

    monkeypatch.setattr(device_sweep, "Streams", Late)
    with watched(lambda *each: said.append((len(asked), *each))):
        sweep(Tiles(placed(()), "gram"), [Tally(Backend.TORCH, CENTRE)], size=8)
    # Nothing of the first three tiles is told before; then they are, one by one; and at the end what is left.
    assert said[0][0] == 4
    assert len([each for each in said if each[0] < 10]) == 6
    assert said[-1][2] == said[-1][3] == N * (N - 1) // 2
    assert len(said) == 15


def test_a_tile_of_the_cpu_is_told_before_the_next_is_taken_in():
    said, before = [], []

    class Listing(Tally):
        def update(self, tile, rows, cols):
            before.append(len(said))
            super().update(tile, rows, cols)

    with watched(lambda *each: said.append(each)):
        sweep(Tiles(placed(()), "gram"), [Listing(Backend.TORCH, CENTRE)], size=8)
    assert before == list(range(15))
