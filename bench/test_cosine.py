"""pytest-benchmark suite: all-pair cosine statistics, ours and peers, over the same cases as the study `speed`."""

from typing import Any

import pytest

from bench.cases import CosineCase

SIZES = [CosineCase(4096, d) for d in (50, 300, 768, 1536, 4096)]


@pytest.mark.parametrize("case", SIZES, ids=lambda case: f"{case.n}x{case.d}")
@pytest.mark.parametrize("who", ["ours", "torch_chunked", "bare_product"])
def test_cosine(benchmark: Any, case: CosineCase, who: str) -> None:
    """Time one contender; the case proves its answer before it hands over the thunk."""
    thunk = getattr(case, who)()
    benchmark.group = f"cosine_stats d={case.d}"
    benchmark.extra_info.update(n=case.n, d=case.d, pairs=case.n * (case.n - 1) // 2)
    assert benchmark(thunk) is not None
