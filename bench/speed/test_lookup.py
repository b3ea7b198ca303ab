"""pytest-benchmark suite: reading embeddings by gather against the one-hot product, as the study `lookup` does."""

import pytest

from bench.conftest import Rows, Timed
from bench.measures.lookup import PASSES, WAYS
from bench.studies.lookup import LookupCase


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("vocabulary", [1024, 16_384])
@pytest.mark.parametrize("way", WAYS)
def test_lookup(timed: Timed, rows: Rows, way: str, vocabulary: int, passes: str) -> None:
    """A batch of 512 tokens, drawn as words occur, so that some repeat."""
    case = LookupCase(rows(512), rows(vocabulary), passes=passes)
    timed(case, f"{way} float32")
