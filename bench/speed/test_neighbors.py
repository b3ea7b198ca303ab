"""pytest-benchmark suite: exact nearest neighbours, ours and peers."""

import pytest

from bench.conftest import Rows, Timed
from bench.speed.cases import NeighborsCase


@pytest.mark.parametrize("d", [50, 384, 768])
@pytest.mark.parametrize("who", [each.label for each in NeighborsCase(2, 2).contenders()])
def test_neighbors(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Ten nearest others of each row."""
    timed(NeighborsCase(rows(4096), d), who)
