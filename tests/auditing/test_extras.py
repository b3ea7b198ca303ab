import math

import numpy as np
import pytest

from geomkit.auditing import extras
from geomkit.auditing.audit import audit
from geomkit.errors import InvalidInputError
from tests.auditing import spaces

HOW = {"null_draws": 2, "try_transforms": False}


def test_queries_like_the_corpus_and_queries_from_elsewhere():
    x = spaces.healthy(900, 16)
    like = audit(x[:700], queries=x[700:], **HOW)
    assert abs(like["out_of_distribution_fraction"].z) < 4
    assert like["out_of_distribution_fraction"].verdict == "ok"
    assert like["unreached_fraction"].value < 1
    away = np.abs(spaces.healthy(900, 16, 5)) * np.tile([1, -1], 8)
    other = audit(spaces.healthy(700, 16)[:, :8], queries=100 * np.eye(8)[:2].repeat(30, axis=0), **HOW)
    assert other["query_hubness_skewness"].flagged
    strange = audit(np.abs(x[:700]), queries=away[:200], **HOW)
    assert strange["out_of_distribution_fraction"].verdict == "fail"
    assert strange["out_of_distribution_fraction"].note == "200 queries"


def test_the_spread_of_the_skewness_of_even_retrieval():
    rng = np.random.default_rng(0)
    m, p, n = 300, 0.02, 500
    drawn = rng.binomial(m, p, (4000, n))
    apart = drawn - drawn.mean(axis=1, keepdims=True)
    skews = (apart**3).mean(axis=1) / (apart**2).mean(axis=1) ** 1.5
    assert extras._spread_of_skewness(m, p) / math.sqrt(n) == pytest.approx(skews.std(), rel=0.1)


def test_labels_that_are_there_and_labels_that_are_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    x = spaces.gaussian(300, 8) + 3 * np.eye(8)[labels]
    there = audit(x, labels=labels, **HOW)
    for name in ("same_label_rate", "probe_accuracy"):
        assert there[name].value > 0.8
        assert there[name].z > 10
        assert there[name].verdict == ""
    shuffled = audit(x, labels=[str(each) for each in rng.permutation(labels)], **HOW)
    assert abs(shuffled["same_label_rate"].z) < 4
    assert abs(shuffled["probe_accuracy"].z) < 4


def test_labels_follow_the_sample_and_the_rows_that_were_dropped():
    labels = np.arange(200) % 2
    x = spaces.gaussian(200, 6) + 5 * np.eye(6)[labels]
    whole = audit(x, labels=labels, n_sample=80, seed=2, **HOW)
    assert whole["same_label_rate"].value > 0.95
    x[3] = np.nan
    assert audit(x, labels=labels, on_invalid="drop", **HOW)["same_label_rate"].value > 0.95


def test_a_probe_that_cannot_be_had_does_not_stop_the_audit():
    labels = ["a"] * 58 + ["b"] * 2
    found = audit(spaces.gaussian(60, 4), labels=labels, **HOW)
    assert math.isnan(found["probe_accuracy"].value)
    assert "b" in found["probe_accuracy"].note
    assert found["same_label_rate"].value > 0.5


def test_refusals():
    x = spaces.gaussian(40, 4)
    with pytest.raises(InvalidInputError, match=r"queries and x must have the same number of columns; got 5 and 4"):
        audit(x, queries=spaces.gaussian(10, 5), **HOW)
    with pytest.raises(InvalidInputError, match="labels"):
        audit(x, labels=["same"] * 40, **HOW)
    with pytest.raises(InvalidInputError, match="labels"):
        audit(x, labels=[None] + ["a", "b", "c"] * 13, **HOW)
