"""Counts against loops over positions and simulated drops, PMI against its definition, SVD against a dense one."""

import importlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy.sparse import block_diag, csr_array, eye_array, linalg, random_array

from geomkit.errors import InvalidInputError
from geomkit.interpret.cooccurrence import cooccurrence, keep_probability
from geomkit.interpret.factorise import factorise, pmi

TEXTS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1, max_size=6).filter(any)


def counted(sentences, window, min_count=1, *, dynamic=False):
    """Every pair of positions by loops, as a mapping of ordered pairs of words."""
    times = Counter(itertools.chain.from_iterable(sentences))
    out = Counter()
    for sentence in sentences:
        kept = [word for word in sentence if times[word] >= min_count]
        for i, j in itertools.permutations(range(len(kept)), 2):
            if abs(i - j) <= window:
                out[kept[i], kept[j]] += (window - abs(i - j) + 1) / window if dynamic else 1
    return out


def named(found):
    dense = found.counts.toarray()
    places = itertools.product(range(found.n_words), repeat=2)
    return {(found.words[i], found.words[j]): dense[i, j] for i, j in places if dense[i, j]}


@settings(max_examples=60, deadline=None)
@given(sentences=TEXTS, window=st.integers(1, 6), min_count=st.integers(1, 2), dynamic=st.booleans())
def test_counts_are_those_of_a_loop_over_positions(sentences, window, min_count, dynamic):
    times = Counter(itertools.chain.from_iterable(sentences))
    if max(times.values()) < min_count:
        with pytest.raises(InvalidInputError, match="no word that occurs at least"):
            cooccurrence(sentences, window=window, min_count=min_count)
        return
    found = cooccurrence(sentences, window=window, min_count=min_count, dynamic=dynamic)
    assert named(found) == pytest.approx(counted(sentences, window, min_count, dynamic=dynamic))
    assert dict(zip(found.words, found.occurrences, strict=True)) == {
        word: count for word, count in times.items() if count >= min_count
    }
    assert list(found.occurrences) == sorted(found.occurrences, reverse=True)
    assert (found.neglected, found.n_tokens) == (0.0, sum(times.values()))
    assert (found.counts != found.counts.T).nnz == 0


def test_by_hand():
    found = cooccurrence([["a", "b", "a"], ["b", "c"]], window=2)
    assert named(found) == {("a", "b"): 2, ("b", "a"): 2, ("a", "a"): 2, ("b", "c"): 1, ("c", "b"): 1}
    assert found.words == ("a", "b", "c")
    near = cooccurrence([["a", "b", "a"], ["b", "c"]], window=2, dynamic=True)
    assert named(near)["a", "a"] == 1.0  # twice at half the weight


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(0)
    sentences = [[f"w{i}" for i in rng.integers(0, 30, 60)] for _ in range(20)]
    whole = cooccurrence(sentences, window=4, dynamic=True, subsample=0.01)
    monkeypatch.setattr("geomkit.interpret.cooccurrence._CHUNK", 100)
    assert abs(whole.counts - cooccurrence(sentences, window=4, dynamic=True, subsample=0.01).counts).max() < 1e-12


def subsampled(sentence, keep, window):
    """Expected counts by every way to drop words of a sentence."""
    out = Counter()
    for kept in itertools.product([False, True], repeat=len(sentence)):
        chance = math.prod(keep[word] if here else 1 - keep[word] for word, here in zip(sentence, kept, strict=True))
        left = [word for word, here in zip(sentence, kept, strict=True) if here]
        for pair, weight in counted([left], window, dynamic=True).items():
            out[pair] += chance * weight
    return out


def test_subsampling_is_the_expectation_over_all_drops():
    sentence = list("abacabadbac")
    found = cooccurrence([sentence], window=3, dynamic=True, subsample=0.05, tolerance=1e-12)
    keep = dict(zip(found.words, keep_probability(found.occurrences, 0.05), strict=True))
    assert min(keep.values()) < 0.5
    want = subsampled(sentence, keep, 3)
    assert named(found) == pytest.approx(dict(want), abs=1e-11)
    rough = cooccurrence([sentence], window=3, dynamic=True, subsample=0.05, tolerance=0.3)
    missing = sum(want.values()) - rough.counts.sum()
    assert 0.1 < missing <= rough.neglected


def test_words_are_kept_as_gensim_keeps_them():
    gensim = importlib.import_module("gensim.models")
    sentences = [["a"] * 60, ["b"] * 25, ["c"] * 10, ["d"] * 5]
    model = gensim.Word2Vec(sentences, vector_size=2, min_count=1, sample=0.02, epochs=1, workers=1)
    keep = keep_probability(np.array([60, 25, 10, 5]), 0.02)
    gensims = [model.wv.get_vecattr(word, "sample_int") / (2**32 - 1) for word in "abcd"]
    assert keep == pytest.approx(gensims, abs=1e-8)
    assert keep_probability(np.array([60, 1]), 0.0).tolist() == [1, 1]


def dense_pmi(counts, alpha, shift, contexts=None):
    columns = counts.sum(axis=0) if contexts is None else contexts
    smooth = columns**alpha / (columns**alpha).sum()
    total = counts.sum()
    with np.errstate(divide="ignore"):
        return np.log(counts / total / (counts.sum(axis=1, keepdims=True) / total) / smooth) - math.log(shift)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.5, 0.75, 1.0]), shift=st.sampled_from([1.0, 2.0, 5.0]))
def test_pmi_is_its_definition(seed, alpha, shift):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (7, 5)) + np.eye(7, 5)
    for contexts in (None, rng.integers(1, 90, 5)):
        want = dense_pmi(counts, alpha, shift, contexts)
        positive = pmi(csr_array(counts), alpha=alpha, shift=shift, contexts=contexts)
        assert positive.toarray() == pytest.approx(np.maximum(want, 0), abs=1e-12)
        assert (positive.data > 0).all()
        plain = pmi(csr_array(counts), alpha=alpha, shift=shift, contexts=contexts, positive=False)
        assert plain.nnz == np.count_nonzero(counts)
        seen = counts > 0
        assert plain.toarray()[seen] == pytest.approx(want[seen], abs=1e-12)


def test_a_corpus_of_a_known_model_has_its_pmi():
    # Two topics that share a word; a sentence is two independent words of one topic, as often as the model says.
    topics = {"left": {"a": 3, "b": 1, "both": 4}, "right": {"c": 2, "d": 2, "both": 4}}
    sentences = [
        [one, other]
        for words in topics.values()
        for (one, m), (other, n) in itertools.product(words.items(), repeat=2)
        for _ in range(m * n)
    ]
    found = cooccurrence(sentences, window=1)
    at = {word: row for row, word in enumerate(found.words)}
    plain = pmi(found.counts, positive=False).toarray()

    def log_ratio(x, y):
        joint = sum(words.get(x, 0) * words.get(y, 0) / 64 / 2 for words in topics.values())
        alone = [sum(words.get(each, 0) / 8 / 2 for words in topics.values()) for each in (x, y)]
        return math.log(joint / alone[0] / alone[1])

    for x, y in (("a", "b"), ("a", "a"), ("c", "d"), ("a", "both"), ("both", "both")):
        assert plain[at[x], at[y]] == pytest.approx(log_ratio(x, y))
    assert log_ratio("a", "b") == pytest.approx(math.log(2))
    assert plain[at["a"], at["c"]] == 0  # never met: not stored
    assert pmi(found.counts).toarray()[at["a"], at["both"]] == 0  # independent: PMI is 0


@pytest.mark.parametrize(("alpha", "k"), [(1.0, 1), (0.75, 5)])
def test_skip_gram_has_its_optimum_there(alpha, k):
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 30, (6, 6)).astype(float)
    counts += counts.T
    occurrences = rng.integers(5, 100, 6)
    noise = occurrences**alpha / (occurrences**alpha).sum()
    want = pmi(csr_array(counts), alpha=alpha, shift=k, positive=False, contexts=occurrences).toarray()

    def loss(x, i, j):
        negative = k * counts[i].sum() * noise[j]
        return counts[i, j] * np.logaddexp(0, -x) + negative * np.logaddexp(0, x)

    for i, j in ((0, 0), (2, 5), (4, 1)):
        best = optimize.minimize_scalar(loss, args=(i, j), bracket=(-3, 3), tol=1e-10).x
        assert best == pytest.approx(want[i, j], abs=1e-5)


def test_pmi_does_not_change_what_it_is_given():
    counts = csr_array(np.array([[0.0, 2], [3, 1]]))
    before = counts.toarray()
    pmi(counts)
    assert (counts.toarray() == before).all()
    assert pmi(counts * 1e300).toarray() == pytest.approx(pmi(counts).toarray())


@pytest.fixture
def large(monkeypatch):
    """Matrices of 80 rows and more are large."""
    monkeypatch.setattr("geomkit.interpret.factorise._DENSE", 79)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (150, 120), (120, 150), (200, 80)])
def test_the_decomposition_is_that_of_the_dense_matrix(shape, large):
    matrix = random_array(shape, density=0.15, rng=np.random.default_rng(3), format="csr")
    found = factorise(matrix, 7, seed=0, power=0.5)
    left, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    assert found.singular_values == pytest.approx(values[:7], rel=1e-9)
    product = found.vectors @ found.contexts.T
    assert product == pytest.approx(left[:, :7] * values[:7] @ right[:7], abs=1e-7)
    assert found.residual_fraction == pytest.approx((values[7:] ** 2).sum() / (values**2).sum(), rel=1e-9)
    assert found.solver == ("dense" if min(shape) < 80 else "lanczos")
    assert found.left.T @ found.left == pytest.approx(np.eye(7), abs=1e-8)
    largest = np.abs(found.left).argmax(axis=0)
    assert (found.left[largest, np.arange(7)] > 0).all()
    again = factorise(matrix, 7, seed=5, power=0.5)
    assert again.vectors == pytest.approx(found.vectors, abs=1e-6)
    assert np.array_equal(factorise(matrix, 7, seed=0).left, found.left)


def test_powers_and_fewer_dimensions():
    matrix = random_array((30, 30), density=0.3, rng=np.random.default_rng(4), format="csr")
    words = [f"w{at}" for at in range(30)]
    found = factorise(matrix, 9, seed=0, words=words)
    for power in (0.0, 0.5, 1.0):
        direct = factorise(matrix, 4, seed=0, power=power, words=words)
        cut = found.weighted(power, 4)
        assert cut.vectors == pytest.approx(direct.left * direct.singular_values**power, abs=1e-9)
        assert cut.vectors == pytest.approx(direct.vectors, abs=1e-9)
        assert cut.vectors @ cut.contexts.T == pytest.approx(direct.vectors @ direct.contexts.T, abs=1e-9)
        singular = cut.left * cut.singular_values @ cut.right.T
        assert cut.vectors @ cut.contexts.T == pytest.approx(singular, abs=1e-9)
        assert cut.residual_fraction == pytest.approx(direct.residual_fraction, abs=1e-12)
        assert (cut.dim, cut.power, cut.words) == (4, power, tuple(words))
    assert found.weighted(1.0).dim == 9
    table = found.to_frame()
    assert list(table.index) == words
    assert table.to_numpy() == pytest.approx(found.vectors)
    assert found.to_dict()["dim"] == 9
    assert cooccurrence([["a", "b"]], window=1).to_dict()["n_pairs"] == 2


def test_singular_values_that_repeat_are_refused_or_right(large):
    with pytest.raises(InvalidInputError, match="can be told from each other"):
        factorise(eye_array(300, format="csr"), 20, seed=0)
    block = np.random.default_rng(0).random((7, 7))
    top = np.linalg.norm(block, 2)
    for copies, dim in ((5, 5), (40, 5), (40, 30), (40, 60)):
        matrix = block_diag([block] * copies, format="csr")
        refused = None
        try:
            found = factorise(matrix, min(dim, copies), seed=0)
        except InvalidInputError as why:
            refused = str(why)
        if refused is not None:
            assert copies > 5  # small matrices have no such trouble
            assert "can be told from each other" in refused
        else:
            assert found.singular_values == pytest.approx(top)
            assert found.left.T @ found.left == pytest.approx(np.eye(found.dim), abs=1e-8)
    poor = csr_array(np.outer(np.arange(300.0), np.arange(300.0)))
    with pytest.raises(InvalidInputError, match="fewer dimensions"):
        factorise(poor, 3, seed=0)
    assert factorise(poor, 1, seed=0).residual_fraction == pytest.approx(0, abs=1e-12)


def test_what_was_left_out_is_noticed(large, monkeypatch):
    values = np.concatenate([[9.0, 8.0, 7.0], np.linspace(1, 0.5, 297)])
    matrix = csr_array(np.diag(values))
    svds = linalg.svds

    def forgetful(given, k, **how):
        left, found, right = svds(given, k=k + 1, **how)
        order = np.argsort(-found)
        keep = np.delete(order, 1)[:k]
        return left[:, keep], found[keep], right[keep]

    monkeypatch.setattr(linalg, "svds", forgetful)
    with pytest.raises(InvalidInputError, match="one of 8 was left out beside the least, 7"):
        factorise(matrix, 2, seed=0)


def test_vectors_that_are_not_singular_are_noticed(large, monkeypatch):
    matrix = random_array((90, 100), density=0.2, rng=np.random.default_rng(0), format="csr")
    svds = linalg.svds
    for side in (0, 2):

        def bent(given, side=side, **how):
            found = list(svds(given, **how))
            found[side] = found[side] + 1e-6
            return tuple(found)

        monkeypatch.setattr(linalg, "svds", bent)
        with pytest.raises(InvalidInputError, match="the vectors found err by"):
            factorise(matrix, 4, seed=0)


def test_bad_corpora_and_windows():
    for bad in (["ab", "c"], [b"ab"]):
        with pytest.raises(InvalidInputError, match="sentence 0 is a string"):
            cooccurrence(bad, window=2)
    with pytest.raises(InvalidInputError, match="words as str; got 3"):
        cooccurrence([["a", 3]], window=2)
    with pytest.raises(InvalidInputError, match="no word"):
        cooccurrence([], window=2)
    for bad in (0, -1, 1.5, True, "2", None):
        with pytest.raises(InvalidInputError, match="window must be a whole number of at least 1; got"):
            cooccurrence([["a"]], window=bad)
    with pytest.raises(InvalidInputError, match="min_count must be"):
        cooccurrence([["a"]], window=1, min_count=0)
    for name, bad in (("subsample", -0.1), ("subsample", math.nan), ("tolerance", 0), ("tolerance", math.inf)):
        with pytest.raises(InvalidInputError, match=f"{name} must be a number"):
            cooccurrence([["a"]], window=1, **{name: bad})


def test_bad_counts_and_shifts():
    good = csr_array(np.array([[0.0, 2], [3, 1]]))
    with pytest.raises(InvalidInputError, match="sparse matrix; got ndarray"):
        pmi(good.toarray())
    for bad in (-good, good * math.nan, good * math.inf):
        with pytest.raises(InvalidInputError, match="finite and at least 0"):
            pmi(bad)
    with pytest.raises(InvalidInputError, match="all 0"):
        pmi(good * 0)
    for name, bad in (("shift", 0.5), ("shift", True), ("alpha", 0.0), ("alpha", 1.5), ("alpha", "1")):
        with pytest.raises(InvalidInputError, match=f"{name} must be a number"):
            pmi(good, **{name: bad})
    for bad in ([1, 2, 3], [1, -1], [1, math.nan], "ab"):
        with pytest.raises(InvalidInputError, match="contexts must be 2"):
            pmi(good, contexts=bad)
    with pytest.raises(InvalidInputError, match="1 are 0, the first 1"):
        pmi(good, contexts=[1, 0])


def test_bad_matrices_and_dimensions():
    good = random_array((8, 6), density=0.5, rng=np.random.default_rng(0), format="csr")
    with pytest.raises(InvalidInputError, match="matrix must be sparse"):
        factorise(good.toarray(), 2, seed=0)
    for bad in (0, 6, 2.0, True):
        with pytest.raises(InvalidInputError, match="dim must be a whole number from 1 to 5"):
            factorise(good, bad, seed=0)
    for bad in (-0.1, 1.1, None):
        with pytest.raises(InvalidInputError, match="power must be a number"):
            factorise(good, 2, seed=0, power=bad)
        with pytest.raises(InvalidInputError, match="power must be a number"):
            factorise(good, 2, seed=0).weighted(bad)
    with pytest.raises(InvalidInputError, match="dim must be a whole number from 1 to 2"):
        factorise(good, 2, seed=0).weighted(0.5, 3)
    with pytest.raises(InvalidInputError, match="seed must be"):
        factorise(good, 2, seed=-1)
    with pytest.raises(InvalidInputError, match="words must be 8"):
        factorise(good, 2, seed=0, words=["a"])
    with pytest.raises(InvalidInputError, match="finite"):
        factorise(good * math.nan, 2, seed=0)
    with pytest.raises(InvalidInputError, match="all 0"):
        factorise(good * 0, 2, seed=0)
