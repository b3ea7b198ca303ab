"""Recall counted by hand and by brute force."""

import importlib

import numpy as np
import pytest
from scipy import sparse

from bench.measures import recall


def brute(rows, queries, k):
    apart = ((queries[:, None, :].astype(float) - rows[None].astype(float)) ** 2).sum(axis=2)
    return np.argsort(apart, axis=1, kind="stable")[:, :k]


def spread(n, d, seed=0):
    return recall.unit(np.random.default_rng(seed).standard_normal((n, d)))


def test_recall_is_the_share_found():
    rows = np.array([[0.0], [1], [2], [3], [4], [5]], np.float32)
    queries = np.array([[0.1], [4.9]], np.float32)
    exact = brute(rows, queries, 3)
    assert exact.tolist() == [[0, 1, 2], [5, 4, 3]]
    assert recall.recall(rows, queries, exact[:, ::-1], exact) == 1.0
    assert recall.recall(rows, queries, np.array([[0, 5, 2], [-1, -1, 4]]), exact) == 0.5
    assert recall.recall(rows, queries, np.full((2, 3), -1), exact) == 0.0


def test_rows_as_near_as_the_last_count():
    rows = np.array([[0.0], [1], [-1], [1], [3]], np.float32)
    queries = np.zeros((1, 1), np.float32)
    for found, share in (([0, 2], 1.0), ([0, 3], 1.0), ([0, 4], 0.5)):
        assert recall.recall(rows, queries, np.array([found]), np.array([[0, 1]])) == share


@pytest.mark.parametrize("search", [recall.hnsw, recall.ivf])
def test_indices_are_recalled_as_sets_of_numbers_are(search):
    rows, queries = spread(600, 24), spread(50, 24, 1)
    exact = brute(rows, queries, 10)

    found = search(rows, queries, 10, seed=3)

    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert recall.recall(rows, queries, found, exact) == pytest.approx(shared)
    assert 0.2 < shared < 1  # settings leave something to predict
    assert (search(rows, queries, 10, seed=3) == found).all()
    assert (search(rows, queries, 10, seed=4) != found).any()


@pytest.mark.parametrize("search", [recall.hnsw, recall.ivf])
def test_generous_settings_find_everything(search, monkeypatch):
    monkeypatch.setattr(recall, "LINKS", 32)
    monkeypatch.setattr(recall, "CONSTRUCTION", 200)
    monkeypatch.setattr(recall, "BEAM", 400)
    monkeypatch.setattr(recall, "PROBES", 10_000)
    rows, queries = spread(300, 8), spread(20, 8, 1)
    exact = brute(rows, queries, 5)
    assert recall.recall(rows, queries, search(rows, queries, 5, seed=0), exact) > 0.999


def test_fewer_rows_found_than_asked_for_are_misses():
    rows, queries = spread(12, 3), spread(4, 3, 1)
    both = recall.mean_recalls(rows, queries, brute(rows, queries, 10), seed=0)
    assert all(0 <= each <= 1 for each in both)
    assert (recall.ivf(rows, queries, 10, seed=0) == -1).any()


def test_the_number_of_threads_is_left_as_it_was():
    faiss = importlib.import_module("faiss")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        recall.hnsw(spread(20, 3), spread(2, 3), 2, seed=0)
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_unit_rows(scale):
    x = (scale * np.array([[3.0, 4.0], [0.0, -2.0]])).astype(np.float32)
    for each in (x, sparse.csr_array(x)):
        assert recall.unit(each) == pytest.approx(np.array([[0.6, 0.8], [0, -1]]), rel=1e-6)
    assert recall.unit(x).dtype == np.float32
