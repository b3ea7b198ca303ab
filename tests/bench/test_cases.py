"""Cases refuse wrong answers: ours and those of peers."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import geomkit
from bench.speed import baselines
from bench.speed import vectors as made
from bench.speed.cases import (
    OURS,
    ConcentrationCase,
    CosineCase,
    KeopsCase,
    MomentsCase,
    NeighborsCase,
    SimilarityCase,
    SurveyCase,
    without_self,
)
from geomkit.errors import BackendUnavailableError

CASES = [
    CosineCase(200, 24),
    CosineCase(200, 24, data="anisotropic"),
    MomentsCase(200, 24),
    NeighborsCase(200, 24),
    SimilarityCase(100, 24),
    SimilarityCase(100, 24, slow=True),
    ConcentrationCase(60, 24),
    ConcentrationCase(60, 24, p=2.0),
    ConcentrationCase(60, 24, p=0.5),
    SurveyCase(200, 24),
]


def prepared(case, name, precision="float32"):
    return next(each for each in case.contenders() if each.label == f"{name} {precision}").prepare()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kernel}-{case.data}-{case.setting}-{case.n}")
def test_everyone_is_right_and_can_be_called_again(case):
    for contender in case.contenders():
        thunk = contender.prepare()
        assert thunk() is not None
    work = case.work("float32")
    assert work is None or work.products > 0


def test_cosine_refuses_a_wrong_spread_or_a_lost_pair(monkeypatch):
    right = geomkit.cosine_stats
    monkeypatch.setattr(geomkit, "cosine_stats", lambda x, **how: replace(right(x, **how), std=0.9))
    with pytest.raises(AssertionError):
        prepared(CosineCase(200, 24), OURS)

    def lost(x, **how):
        return right(x[:-1], **how)

    monkeypatch.setattr(geomkit, "cosine_stats", lost)
    with pytest.raises(AssertionError):
        prepared(CosineCase(200, 24), OURS)


def test_cosine_refuses_quantiles_that_are_off(monkeypatch):
    right = geomkit.cosine_stats

    class Shifted:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            return getattr(self.found, name)

        def quantile(self, q):
            return self.found.quantile(q) + 0.01

    monkeypatch.setattr(geomkit, "cosine_stats", lambda x, **how: Shifted(right(x, **how)))
    with pytest.raises(AssertionError):
        prepared(CosineCase(200, 24), OURS)


def test_chunked_torch_and_the_bare_product_are_checked(monkeypatch):
    right, product = baselines.chunked, baselines.bare_product
    monkeypatch.setattr(baselines, "chunked", lambda *given: (right(*given)[0] + 0.01, *right(*given)[1:]))
    monkeypatch.setattr(baselines, "bare_product", lambda x, *given: product(x.flip(0), *given))
    for name in ("chunked torch", "bare product"):
        with pytest.raises(AssertionError):
            prepared(CosineCase(200, 24), name)


def test_moments_refuse_a_variance_that_is_off(monkeypatch):
    right = geomkit.moments
    monkeypatch.setattr(
        geomkit,
        "moments",
        lambda x, **how: replace(right(x, **how), cosine_variance=right(x, **how).cosine_variance * 1.01),
    )
    with pytest.raises(AssertionError):
        prepared(MomentsCase(200, 24), OURS, "float64")
    with pytest.raises(AssertionError):
        prepared(MomentsCase(200, 24), "pairwise torch")


def test_neighbours_refuse_a_wrong_row_in_one_place(monkeypatch):
    case = NeighborsCase(200, 24)
    right = baselines.faiss_neighbors

    def wrong(x, k):
        found = right(x, k)
        last = set(range(len(x))) - set(found[7])
        found[7, -1] = min(last)
        return found

    monkeypatch.setattr(baselines, "faiss_neighbors", wrong)
    with pytest.raises(AssertionError):
        prepared(case, "faiss")


def test_neighbours_refuse_a_repeated_neighbour(monkeypatch):
    right = geomkit.neighbors

    def repeated(x, k, **how):
        found = right(x, k, **how)
        return replace(found, indices=np.repeat(found.indices[:, :1], k, axis=1))

    monkeypatch.setattr(geomkit, "neighbors", repeated)
    with pytest.raises(AssertionError):
        prepared(NeighborsCase(200, 24), OURS)


def test_similarity_and_distances_refuse_what_is_off(monkeypatch):
    similarity, distances = baselines.numpy_similarity, baselines.cdist_distances
    monkeypatch.setattr(baselines, "numpy_similarity", lambda x: similarity(x) + 1e-3)
    monkeypatch.setattr(baselines, "cdist_distances", lambda x, p: distances(x, p)._replace(relative_contrast=9.0))
    with pytest.raises(AssertionError):
        prepared(SimilarityCase(100, 24), "NumPy")
    with pytest.raises(AssertionError):
        prepared(ConcentrationCase(60, 24), "torch")


def test_survey_refuses_extremes_that_are_off(monkeypatch):
    right = geomkit.survey
    monkeypatch.setattr(geomkit, "survey", lambda x, **how: replace(right(x, **how), largest=right(x, **how).least))
    with pytest.raises(AssertionError):
        prepared(SurveyCase(200, 24), OURS)


def test_a_compiler_that_fails_is_a_missing_peer(monkeypatch):
    class Broken:
        def __init__(self, _):
            msg = "no compiler"
            raise RuntimeError(msg)

    monkeypatch.setattr(baselines, "need", lambda _: SimpleNamespace(set_verbose=bool))
    monkeypatch.setitem(sys.modules, "pykeops", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pykeops.torch", SimpleNamespace(LazyTensor=Broken))
    with pytest.raises(BackendUnavailableError, match="no compiler"):
        prepared(KeopsCase(50, 8), "KeOps")


def test_the_last_block_of_a_bare_product_may_be_shorter():
    rows = baselines.unit(torch.randn(7, 3), "float32")
    last = baselines.bare_product(rows, torch.empty((5, 7)), "float32")
    assert torch.equal(last, rows[5:] @ rows.T)


def test_a_missing_library_is_a_missing_peer():
    with pytest.raises(BackendUnavailableError, match="pip install nosuch-package"):
        baselines.need("nosuch_library", "nosuch-package")


def test_without_self_leaves_out_the_row_or_the_last():
    found = without_self(np.array([[0, 1, 2], [2, 0, 3], [3, 2, 0]]), 2)
    assert found.tolist() == [[1, 2], [2, 0], [3, 0]]


def test_sums_over_rows_are_those_over_pairs():
    mean, std = made.cosine_moments("anisotropic", 60, 8, 3)
    x = made.anisotropic(60, 8, 3)
    pairs = made.exact_cosines(x, x)[np.triu_indices(60, 1)]
    assert mean == pytest.approx(pairs.mean(), rel=1e-12)
    assert std == pytest.approx(pairs.std(), rel=1e-9)
    assert mean > 0.8
