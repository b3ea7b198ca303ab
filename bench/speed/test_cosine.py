"""pytest-benchmark suite: all-pair cosine statistics, ours and peers, over the same cases as the study `speed`."""

import pytest

from bench.conftest import Rows, Timed
from bench.speed.cases import CosineCase, SurveyCase

LABELS = [each.label for each in CosineCase(2, 2).contenders()]


@pytest.mark.parametrize("d", [50, 300, 768, 1536])
@pytest.mark.parametrize("who", LABELS)
def test_isotropic(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Directions uniform on the sphere."""
    timed(CosineCase(rows(4096), d), who)


@pytest.mark.parametrize("who", LABELS)
def test_anisotropic(timed: Timed, rows: Rows, who: str) -> None:
    """Rows around a large common mean, which is taken out in the product."""
    timed(CosineCase(rows(4096), 768, data="anisotropic"), who)


@pytest.mark.parametrize("who", [each.label for each in SurveyCase(2, 2).contenders()])
def test_survey(timed: Timed, rows: Rows, who: str) -> None:
    """All reducers in one sweep, and one alone."""
    timed(SurveyCase(rows(4096), 384), who)
