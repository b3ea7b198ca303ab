"""Coherence and intrusion against loops over definitions, on spaces whose dimensions are known to mean something."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geomkit.errors import InvalidInputError
from geomkit.interpret.coherence import BLOCK, coherence, interpretability, intrusion

TOPICS, EACH = 12, 20
N = TOPICS * EACH
TOPIC = np.repeat(np.arange(TOPICS), EACH)
SAME = (TOPIC[:, None] == TOPIC).astype(float)
"""A judge who knows the topics."""


def topical(seed=0, noise=0.5):
    """A dimension a topic."""
    return np.eye(TOPICS)[TOPIC] * 2 + noise * np.random.default_rng(seed).standard_normal((N, TOPICS))


def noise(d=60, seed=0):
    return np.random.default_rng(seed).standard_normal((N, d))


def judge(seed=0):
    a = np.random.default_rng(seed).random((N, N))
    return a + a.T


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_coherence_is_the_mean_over_pairs(seed, t):
    rng, known = np.random.default_rng(seed), judge(seed)
    topics = np.array([[rng.choice(N, t, replace=False) for _ in range(2)] for _ in range(3)])
    found = coherence(known, topics)
    assert found.shape == (3, 2)
    for at in np.ndindex(3, 2):
        assert found[at] == pytest.approx(np.mean([known[a, b] for a, b in combinations(topics[at], 2)]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 8))
def test_intrusion_is_the_lowest_mean_association(seed, t):
    rng, known = np.random.default_rng(seed), np.round(3 * judge(seed))
    questions = np.array([rng.choice(N, t, replace=False) for _ in range(40)])
    for found, words in zip(intrusion(known, questions), questions, strict=True):
        close = [sum(known[a, b] for b in words if b != a) for a in words]
        ties = sum(each == min(close) for each in close)
        assert found == (pytest.approx(1 / ties) if close[-1] == min(close) else 0)


def test_what_a_word_has_with_itself_does_not_count():
    known = judge()
    spoilt = known + np.diag(np.linspace(-50, 50, N))
    words = np.arange(12).reshape(2, 6)
    np.testing.assert_allclose(coherence(spoilt, words), coherence(known, words))
    np.testing.assert_array_equal(intrusion(spoilt, words), intrusion(known, words))


def test_topics_are_found_and_lost_by_rotation():
    x = topical()
    found = interpretability(x, {"topics": SAME}, both=False, top=8, exchanges=5)
    assert found.coherence["topics"].tolist() == [1.0] * TOPICS
    assert found.intrusion["topics"].tolist() == [1.0] * TOPICS
    assert sorted(found.dimensions.tolist()) == list(range(TOPICS))
    for at, number in enumerate(found.dimensions.tolist()):
        assert found.top[at, 0].tolist() == np.argsort(-x[:, number])[:8].tolist()
    turned = interpretability(x, {"topics": SAME}, top=8, exchanges=5, rotate=True)
    assert turned.coherence["topics"].mean() < 0.8
    assert turned.rotated
    assert turned.top.shape == (TOPICS, 2, 8)
    # The null has the chance of two words to be of one topic, and of any of six words to be the odd one out.
    assert found.coherence_null["topics"].mean() == pytest.approx((EACH - 1) / (N - 1), abs=0.03)
    assert found.intrusion_null["topics"].mean() == pytest.approx(1 / 6, abs=0.08)


def test_noise_is_at_chance():
    found = interpretability(noise(200), {"any": judge()}, exchanges=10)
    chance = 1 / (found.shown + 1)
    error = np.sqrt(chance * (1 - chance) / (2 * 200))
    assert abs(found.intrusion["any"].mean() - chance) < 4 * error
    assert found.intrusion_null["any"].mean() == pytest.approx(chance, abs=0.02)
    assert found.coherence["any"].mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("d", [4, 30])
@pytest.mark.parametrize("both", [True, False])
def test_intruders_are_low_here_and_high_elsewhere(both, d):
    x = noise(d)
    found = interpretability(x, {"any": judge()}, both=both, top=7, shown=4)
    ends = [1, -1] if both else [1]
    assert found.top.shape == (d, len(ends), 7)
    picked = set()
    for at, number in enumerate(found.dimensions.tolist()):
        for end, sign in enumerate(ends):
            values = sign * x[:, number]
            assert found.top[at, end].tolist() == np.argsort(-values)[:7].tolist()
            intruder = found.intruders[at, end]
            assert values[intruder] <= np.median(values)
            homes = {
                dimension
                for other, dimension in enumerate(found.dimensions.tolist())
                if intruder in found.top[other] and dimension != number
            }
            assert homes
            picked |= homes
    assert len(picked) > 0.6 * d  # of any other dimension, not of the next one


def test_both_ends_are_averaged():
    x = noise(20)
    known = {"any": judge()}
    found = interpretability(x, known, top=6)
    for at in range(20):
        ends = coherence(known["any"], found.top[at])
        assert found.coherence["any"][at] == pytest.approx(ends.mean())
    questions = np.concatenate([found.top[..., :5], found.intruders[..., None]], axis=-1)
    assert found.intrusion["any"].tolist() == intrusion(known["any"], questions).mean(axis=1).tolist()


def test_sparse_is_as_dense_and_scale_does_not_matter():
    x = np.where(noise(40) > 0.8, np.abs(noise(40)), 0)
    want = interpretability(x, {"any": judge()}, both=False)
    for other in (sparse.csr_array(x), sparse.coo_array(x), 1e3 * x + 7, x.astype(np.float32)):
        found = interpretability(other, {"any": judge()}, both=False)
        assert found.top.tolist() == want.top.tolist()
        assert found.to_dict() == want.to_dict()
    turned = interpretability(sparse.csr_array(x), {"any": judge()}, rotate=True)
    np.testing.assert_array_equal(turned.top, interpretability(x, {"any": judge()}, rotate=True).top)


def test_rotation_is_by_orthonormal_directions_of_the_whole_space():
    frame = np.eye(N)  # words are axes, so that what is at the top are the largest entries of a direction
    seen = interpretability(frame, {"any": judge()}, rotate=True, dimensions=50, top=10)
    other = interpretability(frame, {"any": judge()}, rotate=True, dimensions=50, top=10, seed=1)
    assert seen.top.tolist() != other.top.tolist()
    assert (len(seen.dimensions), seen.d, seen.examined) == (50, N, 50)
    assert len(np.unique(seen.top)) > 0.9 * N
    # A rotation of isotropic noise is noise, and no direction is drawn twice.
    assert len({tuple(each) for each in seen.top[:, 0].tolist()}) == 50


def test_dimensions_of_too_few_words_are_counted_not_judged():
    x = np.zeros((N, 30))
    for at in range(30):
        x[np.random.default_rng(at).choice(N, 10 if at % 3 else 9, replace=False), at] = 1 + at
    found = interpretability(x, {"any": judge()}, both=False)
    assert sorted(found.dimensions.tolist()) == [at for at in range(30) if at % 3]
    assert (found.examined, found.left_out) == (30, 10)
    some = interpretability(x, {"any": judge()}, both=False, dimensions=6)
    assert len(some.dimensions) == 6
    assert some.examined - some.left_out == 6
    with pytest.raises(InvalidInputError, match="x has 0 of 30 dimensions with 10 words beyond their median"):
        interpretability(x, {"any": judge()}, both=True)


def test_equal_words_come_in_no_order_of_the_vocabulary():
    x = np.zeros((N, 200))
    for at in range(200):
        x[np.random.default_rng(at).choice(N, 100, replace=False), at] = 1
    found = interpretability(x, {"any": judge()}, both=False)
    assert abs(found.top.mean() - N / 2) < 10


def test_the_null_keeps_frequency():
    frequency = np.random.default_rng(3).permutation(N)
    rank = np.argsort(np.argsort(-frequency))
    block = rank // BLOCK
    common = (block[:, None] == block).astype(float)
    close = -np.abs(rank[:, None] - rank) / N  # words of like frequency go together: all that there is to find
    x = np.column_stack([-np.abs(rank - at) for at in np.linspace(0, N, 40)]) + 0.0
    found = interpretability(x, {"close": close}, both=False, frequency=frequency, exchanges=30)
    free = interpretability(x, {"close": close}, both=False, exchanges=30)
    assert found.coherence["close"].mean() > free.coherence_null["close"].mean() + 0.2
    assert found.coherence_null["close"].mean() == pytest.approx(found.coherence["close"].mean(), abs=0.03)
    inside = interpretability(x, {"block": common}, both=False, frequency=frequency, exchanges=3)
    np.testing.assert_allclose(inside.coherence_null["block"], inside.coherence["block"])


def test_seeds():
    asked = {"judges": {"any": judge()}, "dimensions": 10}
    first, again, other = (interpretability(noise(), **asked, seed=seed) for seed in (5, 5, 6))
    assert first.to_dict() == again.to_dict()
    names = [str(at) for at in range(N)]
    assert first.to_frame(names).equals(again.to_frame(names))
    assert first.dimensions.tolist() == again.dimensions.tolist() != other.dimensions.tolist()
    more = interpretability(noise(), {"any": judge()}, dimensions=20, seed=5)
    assert more.dimensions[:10].tolist() == first.dimensions.tolist()


def test_a_frame_says_words():
    words = [f"w{at}" for at in range(N)]
    found = interpretability(noise(), {"any": judge(), "topics": SAME}, dimensions=3)
    table = found.to_frame(words)
    assert table.end.tolist() == ["+", "-"] * 3
    assert table.words[1].split() == [words[at] for at in found.top[0, 1]]
    assert table.intruder[4] == words[found.intruders[2, 0]]
    assert table.coherence_topics[2] == found.coherence["topics"][1]
    scores = found.to_dict()
    assert scores["intrusion_null_any"] == found.intrusion_null["any"].mean()
    assert scores["coherence_any"] == found.coherence["any"].mean()


@pytest.mark.parametrize(
    ("x", "more", "said"),
    [
        (noise()[:, 0], {}, "x must be a matrix of numbers"),
        (noise().astype(str), {}, "x must be a matrix of numbers"),
        (np.where(noise() > 2, np.nan, noise()), {}, "numbers that are not finite"),
        (noise()[:-1], {}, r"judges\['any'\] must be finite and of shape \(239, 239\)"),
        (noise(), {"judges": {}}, "judges is empty"),
        (noise(), {"judges": {"any": judge() * np.inf}}, "must be finite"),
        (noise(), {"frequency": np.ones(3)}, "frequency must have a number for each of the 240 rows"),
        (noise(), {"dimensions": 1}, "dimensions must be a whole number of at least 2"),
        (noise(), {"shown": 1}, "shown must be"),
        (noise(), {"top": 4}, "top must be a whole number of at least 5"),
        (noise(), {"exchanges": 0}, "exchanges must be"),
        (noise(), {"seed": -1}, "seed must be"),
        (noise(1), {}, "x has 1 of 1 dimensions"),
        (np.repeat(noise(1), 3, axis=1), {"both": False}, "no word that is low in one dimension"),
    ],
)
def test_refuses(x, more, said):
    with pytest.raises(InvalidInputError, match=said):
        interpretability(x, **{"judges": {"any": judge()}, **more})
