"""pytest-benchmark suites over the cases of the studies `speed`, `lookup` and `gpu`: ours and peers.

On a GPU the clock waits for the device before and after each call; where there is none, torch's kernels run on a few
rows of the processor.
"""

from functools import partial
from typing import Any

import pytest

from bench.conftest import Rows, Timed
from bench.measures.lookup import PASSES, WAYS
from bench.speed.cases import (
    Case,
    ConcentrationCase,
    CosineCase,
    MomentsCase,
    NeighborsCase,
    SimilarityCase,
    SurveyCase,
)
from bench.speed.timing import settled
from bench.studies import gpu
from bench.studies.lookup import LookupCase
from geomkit.errors import BackendUnavailableError


def _whoever(case: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("who", [contender.label for contender in case.contenders()])


@pytest.mark.parametrize("d", [50, 300, 768, 1536])
@_whoever(CosineCase(2, 2))
def test_isotropic(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Directions uniform on the sphere."""
    timed(CosineCase(rows(4096), d), who)


@_whoever(CosineCase(2, 2))
def test_anisotropic(timed: Timed, rows: Rows, who: str) -> None:
    """Rows around a large common mean, which is taken out in the product."""
    timed(CosineCase(rows(4096), 768, data="anisotropic"), who)


@_whoever(SurveyCase(2, 2))
def test_survey(timed: Timed, rows: Rows, who: str) -> None:
    """All reducers in one sweep, and one alone."""
    timed(SurveyCase(rows(4096), 384), who)


@pytest.mark.parametrize("p", ConcentrationCase.orders)
@_whoever(ConcentrationCase(2, 2))
def test_concentration(timed: Timed, rows: Rows, p: float, who: str) -> None:
    """Mean, spread and relative contrast."""
    timed(ConcentrationCase(rows(1000 if p in {1.0, 2.0, float("inf")} else 400), 384, p=p), who)


@pytest.mark.parametrize("d", [128, 768])
@_whoever(MomentsCase(2, 2))
def test_moments(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Mean and variance of cosine and of squared distance."""
    timed(MomentsCase(rows(4096), d), who)


@pytest.mark.parametrize("d", [50, 384, 768])
@_whoever(NeighborsCase(2, 2))
def test_neighbors(timed: Timed, rows: Rows, d: int, who: str) -> None:
    """Ten nearest others of each row."""
    timed(NeighborsCase(rows(4096), d), who)


@_whoever(SimilarityCase(2, 2))
def test_similarity(timed: Timed, rows: Rows, who: str) -> None:
    """Beside the quick ones."""
    timed(SimilarityCase(rows(2048), 768), who)


@_whoever(SimilarityCase(2, 2, slow=True))
def test_similarity_beside_scipy(timed: Timed, rows: Rows, who: str) -> None:
    """Beside SciPy, for fewer rows."""
    timed(SimilarityCase(rows(1000), 384, slow=True), who)


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("vocabulary", [1024, 16_384])
@pytest.mark.parametrize("way", WAYS)
def test_lookup(timed: Timed, rows: Rows, way: str, vocabulary: int, passes: str) -> None:
    """A batch of 512 tokens, drawn as words occur, so that some repeat."""
    timed(LookupCase(rows(512), rows(vocabulary), passes=passes), f"{way} float32")


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


DEVICE = _device()
N, DIMS = (20_000, (64, 768, 4096)) if DEVICE == "cuda" else (96, (32,))
CONTESTS = [type(case)(N, d, device=DEVICE, quick=True) for case in gpu.plan(0, DEVICE, quick=True)[:5] for d in DIMS]
OPTIONAL = ("pykeops", "faiss-gpu-cu12", "cuvs-cu12")
"""Distributions that not everyone has."""


@pytest.mark.benchmark(timer=partial(settled, DEVICE))
@pytest.mark.parametrize(
    ("case", "who"),
    [
        pytest.param(case, contender.label, id=f"{case.kernel}-{case.d}-{contender.label}")
        for case in CONTESTS
        for contender in case.contenders()
        if contender.library not in OPTIONAL
    ],
)
def test_on_a_device(timed: Timed, case: Case, who: str) -> None:
    """Ours and torch's."""
    timed(case, who)


@pytest.mark.parametrize("who", ["KeOps", "faiss-gpu", "cuVS"])
def test_a_peer_that_not_everyone_has_is_right_or_says_why_not(who: str) -> None:
    """The study writes the reason down."""
    contenders: list[Any] = [one for case in CONTESTS[:: len(DIMS)] for one in case.contenders() if one.name == who]
    why = ""
    try:
        contenders[0].prepare()
    except BackendUnavailableError as missing:
        why = str(missing)
    assert DEVICE == "cuda" or why
