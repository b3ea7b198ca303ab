"""The linear probe against scikit-learn's ridge classifier on the same folds, its null, and what it must not see."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from geomkit.errors import InvalidInputError
from geomkit.stats import probe as module
from geomkit.stats.labels import as_labels
from geomkit.stats.probe import probe


def classes(n, d, c, apart, *, seed=0):
    """Rows around one centre a class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % c)
    return apart * rng.standard_normal((c, d))[labels] + rng.standard_normal((n, d)), labels


def folds_of(labels, folds, seed):
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[1])
    return module._folds(as_labels(labels, len(labels)), folds, rng)


def peer(x, told, fold, ridge):
    """Hits of scikit-learn's classifier on the same folds."""
    hits = 0
    for part in range(fold.max() + 1):
        fitted, left = fold != part, fold == part
        model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=ridge * fitted.sum(), solver="cholesky"))
        hits += int(np.sum(model.fit(x[fitted], told[fitted]).predict(x[left]) == told[left]))
    return hits / len(told)


@pytest.mark.parametrize(("n", "d", "c", "folds", "ridge"), [
    (300, 12, 3, 5, 0.1), (200, 40, 2, 4, 1.0), (90, 120, 4, 3, 0.01), (101, 7, 5, 2, 10.0),
])  # fmt: skip
def test_is_the_ridge_classifier_of_scikit_learn(monkeypatch, n, d, c, folds, ridge):
    x, labels = classes(n, d, c, 0.4)
    x[:, 0] = 3.0
    x = x * 10.0 ** np.arange(-3, d - 3).clip(-3, 3) + 5
    seen = []
    hits = module._hits
    monkeypatch.setattr(module, "_hits", lambda *given: seen.append(given) or hits(*given))
    found = probe(x, labels, seed=3, folds=folds, ridge=ridge, shuffles=3)
    fold, told = folds_of(labels, folds, 3), seen[0][1]
    assert np.array_equal(fold, seen[0][2])
    assert np.array_equal(told[:, 0], labels)
    assert found.accuracy == peer(x, labels, fold, ridge)
    null = [peer(x, told[:, column], fold, ridge) for column in (1, 2, 3)]
    assert found.null_mean == pytest.approx(np.mean(null), rel=1e-12)
    assert found.null_std == pytest.approx(np.std(null, ddof=1), rel=1e-9, abs=1e-12)
    assert found.p_value == (1 + sum(each >= found.accuracy for each in null)) / 4
    assert found.accuracy_se == pytest.approx(math.sqrt(found.accuracy * (1 - found.accuracy) / (n - 1)))
    assert (found.n, found.n_given, found.d, found.n_classes, found.folds) == (n, n, d, c, folds)
    assert found.majority_fraction == np.bincount(labels).max() / n


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), folds=st.integers(2, 6), c=st.integers(2, 5))
def test_folds_share_out_every_class(seed, folds, c):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.full(rng.integers(folds, 20), each) for each in range(c)])
    labels = rng.permutation(labels)
    fold = folds_of(labels, folds, seed)
    assert np.ptp(np.bincount(fold, minlength=folds)) <= 1
    for each in range(c):
        assert np.ptp(np.bincount(fold[labels == each], minlength=folds)) <= 1


def test_shuffles_keep_the_classes_of_each_fold(monkeypatch):
    x, labels = classes(80, 3, 3, 1.0)
    seen = []
    hits = module._hits
    monkeypatch.setattr(module, "_hits", lambda *given: seen.append(given) or hits(*given))
    probe(x, labels, seed=1, shuffles=6)
    told, fold = seen[0][1], seen[0][2]
    for part in range(5):
        own = np.sort(told[fold == part], axis=0)
        assert np.all(own == own[:, :1])
    assert len({tuple(column) for column in told.T}) == 7


def test_no_leakage():
    # A row that is far out only when it is left out: standardised by all rows, it would shrink a column to nothing.
    x, labels = classes(60, 4, 2, 1.5)
    fold = folds_of(labels, 3, 0)
    x[np.flatnonzero(fold == 0)[0], 1] = 1e6
    assert probe(x, labels, seed=0, folds=3, shuffles=2, ridge=0.1).accuracy == peer(x, labels, fold, 0.1)
    # Noise with as many columns as rows tells nothing of rows that were not fitted to.
    rng = np.random.default_rng(2)
    found = probe(rng.standard_normal((200, 200)), rng.integers(0, 2, 200), seed=1)
    assert abs(found.z) < 4
    assert found.accuracy < 0.7


def test_noise_is_at_chance_and_classes_are_not():
    z = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        found = probe(rng.standard_normal((150, 6)), rng.permutation(np.arange(150) % 3), seed=seed)
        z.append(found.z)
        assert abs(found.null_mean - 1 / 3) < 0.06
    # t with 19 degrees of freedom, widened by 1/20: standard deviation 1.08.
    assert abs(np.mean(z)) < 4 * 1.08 / math.sqrt(30)
    assert 0.6 < np.std(z) < 1.7
    x, labels = classes(150, 6, 3, 2.0)
    found = probe(x, labels, seed=0)
    assert found.accuracy > 0.95
    assert found.z > 10
    assert found.p_value == 1 / 21


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.sampled_from([-700, -30, 0, 30, 700]))
def test_columns_may_be_shifted_scaled_and_swapped(seed, exponent):
    rng = np.random.default_rng(seed)
    x, labels = classes(60, 5, 3, 0.8, seed=seed)
    x = np.round(x * 64)
    moved = (x * 2.0 ** rng.integers(-4, 5, 5) + 2.0 ** rng.integers(0, 20))[:, rng.permutation(5)] * 2.0**exponent
    names = np.array(["q", "a", "m"])
    one, other = probe(x, labels, seed=seed), probe(moved, labels, seed=seed)
    assert (one.accuracy, one.null_mean) == (other.accuracy, pytest.approx(other.null_mean, abs=0.02))
    assert probe(x, labels + 7, seed=seed).to_dict() == one.to_dict()
    assert probe(x, names[labels].tolist(), seed=seed).n_classes == 3


def test_a_seed_decides_everything(monkeypatch):
    x, labels = classes(120, 8, 4, 0.5)
    one = probe(x, labels, seed=5)
    assert probe(x, labels, seed=5) == one
    assert probe(x, labels, seed=6) != one
    monkeypatch.setattr(module, "_BLOCK_ENTRIES", 50)
    monkeypatch.setattr(module, "_INDICATED", 1)
    blocks = probe(x, labels, seed=5)
    assert (blocks.accuracy, blocks.null_mean) == (one.accuracy, one.null_mean)


def test_storage_of_every_kind():
    x, labels = classes(90, 6, 3, 1.0)
    x = np.round(x * 8)
    one = probe(x, labels, seed=1)
    for kind in (x.astype(np.float16), x.astype(np.int8), torch.from_numpy(x), np.asfortranarray(x),
                 scipy.sparse.csr_array(x), torch.from_numpy(x).to(torch.bfloat16)):  # fmt: skip
        assert probe(kind, labels, seed=1) == one


def test_a_sample_is_asked_for_and_reported():
    x, labels = classes(200, 6, 2, 1.0)
    found = probe(x, labels, seed=1, n_sample=80)
    assert (found.n, found.n_given, probe(x, labels, seed=1).n) == (80, 200, 200)
    assert found == probe(x, labels, seed=1, n_sample=80)
    with pytest.raises(InvalidInputError, match="n_sample must be at most the 200 rows that x has; got 201"):
        probe(x, labels, seed=1, n_sample=201)


def test_rows_that_are_not_finite():
    x, labels = classes(60, 4, 2, 1.0)
    broken, spoilt = np.insert(x, [0, 60], np.nan, axis=0), ["", *labels.tolist(), None]
    found = probe(broken, spoilt, seed=2, on_invalid="drop")
    assert found.n_dropped == 2
    assert found.accuracy == probe(x, labels.tolist(), seed=2).accuracy
    with pytest.raises(InvalidInputError, match=r"x has 2 rows \(first: 0, 61\) that are not finite"):
        probe(broken, spoilt, seed=2)
    drawn = probe(broken, spoilt, seed=2, on_invalid="drop", n_sample=40)
    assert (drawn.n, drawn.n_given, drawn.n_dropped) == (40, 60, 2)


def test_constant_columns_and_identical_rows():
    labels = np.arange(40) % 2
    same = probe(np.ones((40, 3)), labels, seed=0)
    assert 0.3 <= same.accuracy <= 0.7
    assert probe(np.zeros((40, 1)), labels, seed=0).accuracy == same.accuracy
    told = np.stack([np.full(40, 1e8), labels], axis=1)
    assert probe(told, labels, seed=0).accuracy == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"seed": None}, "seed must be a whole number of at least 0; got None"),
        ({"folds": 1}, "folds must be a whole number of at least 2; got 1"),
        ({"shuffles": 1}, "shuffles must be a whole number of at least 2; got 1"),
        ({"shuffles": 2.0}, "shuffles must be a whole number of at least 2; got 2.0"),
        ({"n_sample": 1}, "n_sample must be a whole number of at least 2; got 1"),
        ({"ridge": 0}, "ridge must be a number above 0; got 0"),
        ({"on_invalid": "skip"}, "on_invalid must be one of"),
        ({"labels": [0, 1] * 5}, "one label for each of the 40 rows of x; got 10"),
        ({"labels": [0] * 40}, "labels must be of at least two classes"),
        ({"labels": [0] * 39 + [None]}, r"labels are missing for 1 row \(39\)"),
        ({"labels": ["a"] * 36 + ["rare"] * 4}, "at least folds = 5 rows of each class; 'rare' has 4 rows"),
        ({"labels": ["a"] * 39 + ["rare"]}, "at least folds = 5 rows of each class; 'rare' has 1 row"),
        ({"x": np.zeros((40, 4097))}, "x has 4097 columns; a probe takes at most 4096"),
    ],
)
def test_bad_input_is_refused(how, message):
    given_rows = {"x": np.random.default_rng(0).standard_normal((40, 3)), "labels": np.arange(40) % 2, "seed": 0}
    with pytest.raises(InvalidInputError, match=message):
        probe(**(given_rows | how))


def test_printing_shows_everything():
    found = probe(*classes(40, 3, 2, 1.0), seed=0)
    assert len(str(found).splitlines()) == len(found.to_dict()) == len(found.__dataclass_fields__)
