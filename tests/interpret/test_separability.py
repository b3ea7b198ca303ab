"""Separability of rows whose answer is known; splits that must not leak; directions against plain decompositions."""

import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomkit.errors import InvalidInputError
from geomkit.interpret import directions
from geomkit.interpret.separability import grouped_split, groups_of, row_keys, separability


def clusters(n=400, d=16, classes=4, used=3, apart=4.0, seed=0):
    """Clusters that differ along the first few coordinates alone, which also vary most."""
    rng = np.random.default_rng(seed)
    of = rng.integers(0, classes, n)
    x = rng.standard_normal((n, d)) * 0.3
    x[:, :used] += apart * rng.standard_normal((classes, used))[of]
    return x, np.array([f"topic {each}" for each in of])


def halves(n):
    return np.arange(0, n, 2), np.arange(1, n, 2)


def test_clusters_are_separable_in_as_many_directions_as_they_differ_in():
    x, labels = clusters()
    train, test = halves(400)
    found = separability(x, labels, train=train, test=test, seed=0)
    assert found.accuracy > 0.95
    assert found.ci_low < found.accuracy <= found.ci_high
    assert found.majority < 0.4
    assert found.shuffled < 0.4
    assert found.random < 0.4
    assert found.random_ci_low <= found.random <= found.random_ci_high
    assert found.p_value == 1 / 6
    assert found.fewest in {1, 2, 4}
    assert found.fewest_ci_low <= found.fewest <= found.fewest_ci_high <= 16
    assert found.fewest_random >= found.fewest
    assert (found.n_train, found.n_test, found.n_copies, found.n_classes, found.d) == (200, 200, 0, 4, 16)
    assert found.unconverged == 0
    assert [row[1] for row in found.curve] == [1, 2, 4, 8, 16] * 2
    assert list(found.to_frame().columns) == ["kind", "directions", "accuracy", "ci_low", "ci_high"]
    assert "curve" not in found.to_dict()


def test_it_is_logistic_regression_on_what_the_training_rows_say():
    x, labels = clusters(apart=0.4)
    x = x * np.linspace(0.01, 100, 16) + 7
    train, test = halves(400)
    found = separability(x, labels, train=train, test=test, seed=0, ridge=0.05)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.05 * 200), max_iter=1000, tol=1e-3))
    assert found.accuracy == model.fit(x[train], labels[train]).score(x[test], labels[test])
    for k in (1, 4, 16):
        along = make_pipeline(PCA(k, svd_solver="full"), *(step for _, step in model.steps))
        want = along.fit(x[train], labels[train]).score(x[test], labels[test])
        assert next(row[2] for row in found.curve if row[:2] == ("principal", k)) == pytest.approx(want, abs=0.011)
    assert found.accuracy < 0.9
    counts = {label: np.sum(labels[train] == label) for label in set(labels)}
    assert found.majority == np.mean(labels[test] == max(counts, key=counts.get))


def test_rows_that_say_nothing_are_at_chance():
    rng = np.random.default_rng(3)
    x, labels = rng.standard_normal((600, 10)), rng.integers(0, 3, 600)
    train, test = halves(600)
    found = separability(x, labels, train=train, test=test, seed=1, shuffles=19)
    assert abs(found.accuracy - 1 / 3) < 0.08
    assert abs(found.shuffled - 1 / 3) < 0.03
    assert found.p_value > 0.02
    assert found.shuffled_max < 0.45
    assert 0 < found.shuffled_std < 0.05


def test_the_test_part_does_not_move_the_fit():
    x, labels = clusters(apart=0.5)
    train, test = halves(400)
    one = separability(x, labels, train=train, test=test[:50], seed=0, directions=[2])
    x[test[50]] *= 1e6
    other = separability(x, labels, train=train, test=test[:51], seed=0, directions=[2])
    # The far row is right or wrong; the fifty others are what they were.
    assert 51 * other.accuracy - 50 * one.accuracy == pytest.approx(0, abs=1 + 1e-9)
    assert 51 * other.curve[0][2] - 50 * one.curve[0][2] == pytest.approx(0, abs=1 + 1e-9)
    assert one.accuracy > 0.6


def test_seeds_decide_all_that_is_drawn():
    x, labels = clusters(apart=0.5)
    train, test = halves(400)
    one, same, other = (separability(x, labels, train=train, test=test, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.accuracy == other.accuracy
    assert one.random != other.random


def test_a_leak_is_caught():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.standard_normal((100, 50)), 2, axis=0)  # nothing to learn, every row twice
    labels = np.repeat(rng.integers(0, 2, 100), 2)
    train, test = halves(200)
    with pytest.raises(InvalidInputError, match=r"test has .*equal to a training row"):
        separability(x, labels, train=train, test=test, seed=0, directions=[])
    # What it would have come to: remembered, not told apart.
    model = LogisticRegression(C=50).fit(x[train], labels[train])
    assert model.score(x[test], labels[test]) > 0.9
    train, test = grouped_split(labels, groups_of(row_keys(x)), seed=0)
    assert separability(x, labels, train=train, test=test, seed=0, directions=[]).accuracy < 0.75


def test_copies_are_left_out_when_asked_and_counted():
    x, labels = clusters()
    train, test = halves(400)
    x[1], x[3] = x[0], x[2]
    found = separability(x, labels, train=train, test=test, seed=0, directions=[], on_copies="drop")
    assert (found.n_test, found.n_copies) == (198, 2)
    without = separability(x, labels, train=train, test=test[2:], seed=0, directions=[])
    assert found.accuracy == without.accuracy
    with pytest.raises(InvalidInputError, match="no row that does not equal"):
        separability(x, labels, train=train, test=test[:2], seed=0, on_copies="drop")
    with pytest.raises(InvalidInputError, match="on_copies"):
        separability(x, labels, train=train, test=test, seed=0, on_copies="ignore")


def test_groups_stay_together_and_labels_are_shared_out():
    rng = np.random.default_rng(0)
    groups, labels = rng.integers(0, 150, 600), rng.integers(0, 3, 600)
    train, test = grouped_split(labels, groups, seed=2)
    assert not set(groups[train]) & set(groups[test])
    assert sorted([*train, *test]) == list(range(600))
    assert len(test) == pytest.approx(150, abs=20)
    shares = [np.bincount(labels[part]) / len(part) for part in (train, test)]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)
    assert not np.array_equal(test, grouped_split(labels, groups, seed=3)[1])


def test_groups_join_over_several_keys():
    assert groups_of(["a", "b", "a", "c", "d"], [1, 2, 3, 2, 4]).tolist() == [0, 1, 0, 1, 2]
    with pytest.raises(InvalidInputError, match="one length"):
        groups_of(["a"], ["a", "b"])
    with pytest.raises(InvalidInputError, match="one length"):
        groups_of()


def test_equal_rows_have_equal_keys():
    x = np.array([[0.0, 1], [-0.0, 1], [0, 1.5], [0, 1]], np.float32)
    keys = row_keys(x)
    assert keys[0] == keys[1] == keys[3] != keys[2]
    stored = sparse.csr_array(([1.0, 0.0, 1.0, 1.0], [1, 0, 1, 0], [0, 1, 3, 4]), shape=(3, 2))
    keys = row_keys(stored)
    assert keys[0] == keys[1] != keys[2]
    assert stored.nnz == 4


@pytest.mark.parametrize("shape", [(60, 9), (30, 50)])
@pytest.mark.parametrize("store", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("gram_rows", [4096, 10])
def test_directions_are_principal(shape, store, gram_rows, monkeypatch):
    monkeypatch.setattr(directions, "GRAM_ROWS", gram_rows)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape) * (rng.random(shape) < 0.6) * np.linspace(1, 5, shape[1]) + (store is np.asarray)
    k = 6
    a, b = directions.coordinates(store(x[:-5]), store(x[-5:]), k, None, 0)
    fitted = PCA(k, svd_solver="full").fit(x[:-5])
    assert np.abs(a) == pytest.approx(np.abs(fitted.transform(x[:-5])), abs=1e-6)
    assert np.abs(b) == pytest.approx(np.abs(fitted.transform(x[-5:])), abs=1e-6)


def test_directions_along_which_nothing_varies_are_zero():
    x = np.random.default_rng(0).standard_normal((50, 2)) @ np.random.default_rng(1).standard_normal((2, 8)) + 3
    a, _ = directions.coordinates(x, x, 8, None, 0)
    assert np.abs(a[:, :2]).min(axis=0).max() > 0
    assert (a[:, 2:] == 0).all()


def test_random_directions_are_nested():
    x = np.random.default_rng(0).standard_normal((50, 8))
    wide, _ = directions.coordinates(x, x, 5, np.random.default_rng(4), 0)
    assert wide.mean(axis=0) == pytest.approx(np.zeros(5), abs=1e-12)
    assert np.linalg.matrix_rank(wide) == 5


def test_sparse_rows_give_what_dense_ones_do():
    x, labels = clusters(d=12)
    x[np.random.default_rng(1).random(x.shape) < 0.5] = 0
    train, test = halves(400)
    thin = separability(sparse.csr_array(x), labels, train=train, test=test, seed=0)
    dense = separability(x, labels, train=train, test=test, seed=0)
    assert thin.accuracy == pytest.approx(dense.accuracy, abs=0.03)  # columns are not centred
    for one, other in zip(thin.curve, dense.curve, strict=True):
        assert one[:3] == (other[0], other[1], pytest.approx(other[2], abs=0.011))
    assert thin.random < 0.4


def test_fewest_is_infinite_where_none_that_was_tried_is_enough():
    x, labels = clusters(used=8, classes=8, apart=3.0)
    train, test = halves(400)
    found = separability(x, labels, train=train, test=test, seed=0, directions=[1])
    assert math.isinf(found.fewest)
    assert math.isinf(found.fewest_ci_high)
    none = separability(x, labels, train=train, test=test, seed=0, directions=[])
    assert math.isnan(none.fewest)
    assert none.curve == ()


def test_bad_input_is_refused():
    x, labels = clusters()
    train, test = halves(400)

    def tried(**changed):
        given = {"x": x, "labels": labels, "train": train, "test": test, "seed": 0, "directions": []} | changed
        return separability(given.pop("x"), given.pop("labels"), **given)

    bad = x.copy()
    bad[3, 1] = np.nan
    for message, changed in (
        ("not finite", {"x": bad}),
        ("share no row; they share", {"test": train[:3]}),
        ("train must be row numbers", {"train": np.array([], int)}),
        ("train must be row numbers", {"train": np.array([0.5, 1.5])}),
        ("from 0 to 399; got 1 to 400", {"test": np.array([1, 400])}),
        ("different row numbers", {"test": np.array([1, 1])}),
        ("seed must be", {"seed": -1}),
        ("shuffles must be", {"shuffles": 1}),
        ("resamples must be", {"resamples": 99}),
        ("keep must be", {"keep": 0}),
        ("ridge", {"ridge": 0}),
        ("directions must be whole numbers from 1 to 16", {"directions": [17]}),
        ("train must have rows of two classes", {"labels": np.where(np.arange(400) == 1, "new", labels)}),
        ("labels must be one label", {"labels": labels[:5]}),
    ):
        with pytest.raises(InvalidInputError, match=message):
            tried(**changed)
    with pytest.raises(InvalidInputError, match="at least parts = 4; there are 2"):
        grouped_split(labels, np.arange(400) % 2, seed=0)
