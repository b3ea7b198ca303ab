"""Reading tokens back, against brute force, scikit-learn's matching pursuit and tables whose answers are known."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge, orthogonal_mp

from geomkit.datasets.language_model import Card, LanguageModel
from geomkit.errors import InvalidInputError
from geomkit.interpret.decode import (
    Bag,
    by_lens,
    nearest_in,
    overlap,
    procrustes_map,
    pursuit,
    ridge_map,
    rotation,
    token_ranks,
)
from geomkit.interpret.lens.logit_lens import logit_lens
from tests.datasets.tiny import llama, tokenizer


@pytest.fixture
def table():
    return np.random.default_rng(0).standard_normal((300, 24)) * np.random.default_rng(1).uniform(0.5, 2, (300, 1))


def test_ranks_are_those_of_sorting(table):
    rng = np.random.default_rng(2)
    x, asked = rng.standard_normal((50, 24)), rng.integers(0, 300, 50)
    cosines = (x / np.linalg.norm(x, axis=1)[:, None]) @ (table / np.linalg.norm(table, axis=1)[:, None]).T
    want = np.argsort(np.argsort(-cosines, axis=1), axis=1)[np.arange(50), asked]
    for chunk in (7, 50, 256):
        assert (token_ranks(x, nearest_in(table), {"it": asked}, chunk=chunk)["it"] == want).all()


def test_a_reader_that_says_the_same_of_all_is_not_right():
    def undecided(vectors):
        return torch.zeros(len(vectors), 10)

    asked = np.arange(10)
    assert token_ranks(np.ones((10, 3)), undecided, {"it": asked})["it"].tolist() == asked.tolist()


def test_a_row_of_zeros_scores_lowest(table):
    table[4] = 0
    ranks = token_ranks(-table[5:6], nearest_in(table), {"zero": np.array([4]), "opposite": np.array([5])})
    assert ranks["zero"] == 299
    assert ranks["opposite"] == 298


def test_the_size_of_vectors_does_not_matter(table):
    x = np.random.default_rng(3).standard_normal((20, 24))
    asked = np.arange(20)
    for scale in (1e-20, 1e20):
        got = token_ranks(x * scale, nearest_in(table), {"it": asked})["it"]
        assert (got == token_ranks(x, nearest_in(table), {"it": asked})["it"]).all()


def test_own_table_reads_all_and_a_rotated_one_nothing(table):
    asked = np.arange(300)
    assert (token_ranks(table, nearest_in(table), {"it": asked})["it"] == 0).all()
    turned = token_ranks(table, nearest_in(table @ rotation(24, 0)), {"it": asked})["it"]
    assert np.mean(turned == 0) < 0.03
    assert np.median(turned) == pytest.approx(150, abs=25)


def test_the_lens_is_read_through_norm_and_head():
    model = llama()
    loaded = LanguageModel(Card("tiny", "tiny", 2, "", ""), model, tokenizer())
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        out = model(ids, output_hidden_states=True)
        best = out.logits[0].argmax(1).numpy()
        middle = model.lm_head(model.model.norm(out.hidden_states[1]))[0].argmax(1).numpy()
    lens = logit_lens(loaded)
    for layer, want in ((2, best), (1, middle)):
        ranks = token_ranks(out.hidden_states[layer][0].numpy(), by_lens(lens, layer), {"it": want})
        assert (ranks["it"] == 0).all()


def test_a_rotation_is_one_and_uniform():
    q = rotation(40, 7)
    assert q @ q.T == pytest.approx(np.eye(40), abs=1e-12)
    assert (rotation(40, 7) == q).all()
    assert not np.allclose(rotation(40, 8), q)
    # Of a uniform one, an entry times √d is nearly normal, and the diagonal has no sign of its own.
    diagonal = np.concatenate([np.diagonal(rotation(40, seed)) for seed in range(50)]) * np.sqrt(40)
    assert stats.kstest(diagonal, "norm").pvalue > 0.01


@pytest.mark.parametrize("width", [24, 40, 10])
def test_procrustes_finds_the_turn(table, width):
    turn = np.eye(24, width) @ rotation(width, 3) if width >= 24 else rotation(24, 3)[:, :width]
    target = table @ turn + 5.0
    found = procrustes_map(table, target)
    assert found(table[:7]) == pytest.approx(target[:7], abs=1e-8) or width < 24
    small = min(24, width)
    w = found.weights
    assert (w.T @ w if width <= 24 else w @ w.T) == pytest.approx(np.eye(small), abs=1e-9)
    # No other turn does better.
    gain = np.trace(w.T @ (table - table.mean(0)).T @ (target - target.mean(0)))
    for seed in range(5):
        other = np.eye(24, width) @ rotation(width, seed) if width >= 24 else rotation(24, seed)[:, :width]
        assert np.trace(other.T @ (table - table.mean(0)).T @ (target - target.mean(0))) <= gain + 1e-9
    assert found.how == "procrustes"
    assert found.n == 300


def test_the_ridge_is_that_of_scikit_learn(table):
    y = np.random.default_rng(5).standard_normal((300, 7))
    penalty = 0.2 * np.square(table - table.mean(axis=0)).sum() / 24
    want = Ridge(alpha=penalty).fit(table, y)
    assert ridge_map(table, y, ridge=0.2)(table[:9]) == pytest.approx(want.predict(table[:9]), abs=1e-9)


def test_pursuit_is_that_of_scikit_learn(table):
    rng = np.random.default_rng(6)
    counts = np.zeros((15, 300))
    for row in counts:
        row[rng.choice(300, 4, replace=False)] = rng.integers(1, 4, 4)
    lengths = counts.sum(axis=1).astype(int)
    pooled = counts @ table / lengths[:, None] + 0.02 * rng.standard_normal((15, 24))
    norms = np.linalg.norm(table, axis=1)
    found = pursuit(pooled, table, lengths.tolist())
    compared = 0
    for row, length, bag in zip(pooled, lengths, found, strict=True):
        weights = orthogonal_mp((table / norms[:, None]).T, row, n_nonzero_coefs=length) / norms
        if weights.min() < 0:
            continue  # it takes tokens away, too, where ours only adds
        compared += 1
        rounded = np.rint(weights * length).astype(int)
        assert bag.counts == {int(at): int(rounded[at]) for at in np.flatnonzero(rounded)}
    assert compared >= 3


def test_bags_of_a_clean_mean_are_recovered_with_repeats():
    words = np.random.default_rng(0).standard_normal((500, 96)) + 0.2
    bags = [Bag({3: 1}), Bag({5: 2, 9: 1, 499: 3}), Bag({at: 1 + at % 2 for at in range(0, 60, 6)})]
    lengths = [bag.size for bag in bags]
    pooled = [
        sum(count * words[at] for at, count in bag.counts.items()) / size
        for bag, size in zip(bags, lengths, strict=True)
    ]
    assert [bag.counts for bag in pursuit(pooled, words, lengths)] == [bag.counts for bag in bags]
    # Nor does it matter who else is asked for.
    assert pursuit(pooled[1:2], words, lengths[1:2])[0].counts == bags[1].counts


def test_a_vector_of_nothing_is_an_empty_bag(table):
    assert pursuit(np.zeros((1, 24)), table, [3])[0].counts == {}
    assert overlap(Bag({}), Bag.of([1, 2])) == (0.0, 0.0)


def test_overlap_counts_repeats():
    found, there = Bag.of([1, 1, 2, 3]), Bag.of([1, 2, 2, 4, 5])
    assert overlap(found, there) == (2 / 4, 2 / 5)
    assert overlap(there, there) == (1.0, 1.0)


def test_bad_input_is_refused(table):
    x = np.ones((3, 24))
    read = nearest_in(table)
    with pytest.raises(InvalidInputError, match="'it' must be 3 numbers from 0 to 299"):
        token_ranks(x, read, {"it": np.array([1, 2, 300])})
    with pytest.raises(InvalidInputError, match="'it' must be 3 numbers"):
        token_ranks(x, read, {"it": np.array([1, 2])})
    with pytest.raises(InvalidInputError, match="'it' must be"):
        token_ranks(x, read, {"it": np.array([1, -1, 2])})
    with pytest.raises(InvalidInputError, match="vectors has"):
        token_ranks(x * np.nan, read, {"it": np.array([1, 2, 3])})
    with pytest.raises(InvalidInputError, match="table has"):
        nearest_in(table * np.inf)
    with pytest.raises(InvalidInputError, match="same rows; got 3 and 4"):
        procrustes_map(x, np.ones((4, 2)))
    with pytest.raises(InvalidInputError, match="ridge"):
        ridge_map(x, x, ridge=0)
    with pytest.raises(InvalidInputError, match="table must have 24 columns"):
        pursuit(x, table[:, :9], [1, 1, 1])
    table[3] = 0
    with pytest.raises(InvalidInputError, match="no row of zeros"):
        pursuit(x, table, [1, 1, 1])
    with pytest.raises(InvalidInputError, match="lengths must be 3"):
        pursuit(x, table[4:], [1, 1])
    with pytest.raises(InvalidInputError, match="lengths must be 3"):
        pursuit(x, table[4:], [1, 0, 1])
