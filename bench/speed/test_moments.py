"""pytest-benchmark suite: moments of all pairs in closed form, and pairwise."""

import pytest

from bench.conftest import Rows, Timed
from bench.speed.cases import MomentsCase


@pytest.mark.parametrize("d", [128, 768])
@pytest.mark.parametrize("who", [each.label for each in MomentsCase(2, 2).contenders()])
def test_moments(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Mean and variance of cosine and of squared distance."""
    timed(MomentsCase(rows(4096), d), who)
