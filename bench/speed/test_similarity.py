"""pytest-benchmark suite: the matrix of cosines, ours and peers."""

import pytest

from bench.conftest import Rows, Timed
from bench.speed.cases import SimilarityCase


@pytest.mark.parametrize("who", [each.label for each in SimilarityCase(2, 2).contenders()])
def test_similarity(timed: Timed, rows: Rows, who: str) -> None:
    """Beside the quick ones."""
    timed(SimilarityCase(rows(2048), 768), who)


@pytest.mark.parametrize("who", [each.label for each in SimilarityCase(2, 2, slow=True).contenders()])
def test_similarity_beside_scipy(timed: Timed, rows: Rows, who: str) -> None:
    """Beside SciPy, for fewer rows."""
    timed(SimilarityCase(rows(1000), 384, slow=True), who)
