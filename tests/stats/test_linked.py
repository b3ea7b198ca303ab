"""Standard errors of linked rows against the double sum that defines them, and against terms that share draws."""

import math

import numpy as np
import pytest

from geomkit.stats.linked import linked_error, seen
from geomkit.stats.neighbors import neighbors


def double_sum(influence, links):
    """Products of all pairs of terms, each by the share of rows in common, and what centring takes from them."""
    m, width = links.shape
    share = np.array([[len(set(a) & set(b)) / width for b in links] for a in links])
    return math.sqrt(influence @ share @ influence / (m * (m - share.sum() / m)))


@pytest.mark.parametrize("width", [1, 2, 5])
def test_is_the_double_sum(width):
    rng = np.random.default_rng(width)
    links = np.array([rng.permutation(30)[:width] for _ in range(40)])
    influence = rng.standard_normal(40)
    influence -= influence.mean()
    assert linked_error(influence, links) == pytest.approx(double_sum(influence, links), rel=1e-12)


def test_terms_that_share_nothing_have_the_error_of_a_mean():
    values = np.random.default_rng(0).standard_normal(50)
    own = np.arange(50)[:, None]
    want = values.std(ddof=1) / math.sqrt(50)
    assert linked_error(values - values.mean(), own) == pytest.approx(want, rel=1e-12)


def test_terms_that_are_pairwise_equal_count_once():
    values = np.repeat(np.random.default_rng(0).standard_normal(25), 2)
    links = np.repeat(np.arange(25), 2)[:, None]
    want = values[::2].std(ddof=1) / math.sqrt(25)
    assert linked_error(values - values.mean(), links) == pytest.approx(want, rel=1e-12)


def test_terms_that_share_all_rows_have_none():
    assert math.isnan(linked_error(np.zeros(4), np.tile(np.arange(3), (4, 1))))
    assert math.isnan(linked_error(np.array([-1.0, 0, 1]), seen(np.array([[1, 2], [0, 2], [0, 1]]))))


def test_independent_terms_lose_nothing_to_centring():
    # Links that say more than there is are noise about the right variance, whatever share of the rows they name.
    rng = np.random.default_rng(1)
    links = seen(np.array([rng.permutation(np.delete(np.arange(40), i))[:8] for i in range(40)]))
    values = rng.standard_normal((4000, 40))
    squares = [linked_error(each - each.mean(), links) ** 2 for each in values]
    assert np.mean(squares) == pytest.approx(1 / 40, abs=4 * np.std(squares) / math.sqrt(4000))


def test_sums_of_shared_draws():
    # Each term is the sum of what three rows drew, a third of which it shares with either neighbour on a ring.
    rng = np.random.default_rng(2)
    links = (np.arange(300)[:, None] + np.arange(3)) % 300
    terms = rng.standard_normal((400, 300))[:, links].sum(axis=2)
    squares = [linked_error(each - each.mean(), links) ** 2 for each in terms]
    # Covariances 3, 2, 1 add up to 9 a term; weights of 1, 2/3, 1/3 leave 3 + 2 (4/3 + 1/3) of them.
    assert np.mean(squares) == pytest.approx((3 + 10 / 3) / 300, rel=0.05)
    assert 0.8 < math.sqrt(np.mean(squares)) / terms.mean(axis=1).std() < 0.9


def test_positions_are_those_of_the_rows_that_stayed():
    x = np.random.default_rng(3).standard_normal((40, 3))
    spoilt = np.insert(x, [0, 7, 7, 40], np.nan, axis=0)
    plain, found = neighbors(x, 4), neighbors(spoilt, 4, on_invalid="drop")
    assert np.array_equal(found.positions, plain.indices)
    assert plain.positions is plain.indices
    assert np.array_equal(seen(plain.indices)[:, 0], np.arange(40))
    assert np.array_equal(seen(plain.indices)[:, 1:], plain.indices)
