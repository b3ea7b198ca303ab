"""pytest-benchmark suite: concentration of Minkowski distances, ours and peers."""

import pytest

from bench.conftest import Rows, Timed
from bench.speed.cases import ConcentrationCase
from bench.speed.cases.concentration import ORDERS


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("who", [each.label for each in ConcentrationCase(2, 2, 1.0).contenders()])
def test_concentration(timed: Timed, rows: Rows, p: float, who: str) -> None:
    """Mean, spread and relative contrast."""
    timed(ConcentrationCase(rows(1000 if p in {1.0, 2.0, float("inf")} else 400), 384, p), who)
