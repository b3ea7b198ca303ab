import json

import numpy as np
import pytest

from geomkit.auditing.compare import compare
from geomkit.auditing.statistics import STATISTICS
from geomkit.errors import InvalidInputError
from tests.auditing import spaces

HOW = {"null_draws": 2, "try_transforms": False}


def named(found):
    return {each.statistic: each for each in found.differences}


def test_a_space_does_not_differ_from_itself():
    x = spaces.clusters(300, 12)
    found = compare({"one": x, "same": x.copy()}, **HOW)
    assert found.paired
    assert not any(each.answer == "yes" for each in found.differences)
    assert all(each.value == 0 for each in found.differences if not np.isnan(each.value))
    methods = {each.method: each for _, _, each in found.alignments}
    assert methods["cka"].value == pytest.approx(1)
    assert methods["neighbors"].value == 1


def test_pairing_sees_what_independent_rows_do_not():
    x = spaces.clusters(600, 12)
    y = x + 0.02 * spaces.gaussian(600, 12, 1) + np.float32(0.12)
    found = {paired: named(compare({"x": x, "y": y}, paired=paired, **HOW))["cosine_mean"] for paired in (True, False)}
    assert found[True].value == found[False].value
    assert found[True].se < found[False].se / 3
    assert found[True].significant
    assert found[False].significant is False


def test_paired_errors_are_what_other_rows_would_give():
    """The spread of the difference over sets of rows drawn anew, for statistics of every kind."""
    rng = np.random.default_rng(0)
    names = ("cosine_mean", "relative_contrast", "gini", "mutual_fraction", "mle", "norm_cv")
    turn = rng.standard_normal((6, 6))
    drawn = []
    for seed in range(60):
        source = np.random.default_rng(seed)
        x = source.standard_normal((300, 6)) * [3, 2, 1, 1, 1, 1] + 0.5
        drawn.append(named(compare({"x": x, "y": np.tanh(x @ turn)}, **HOW)))
    for name in names:
        spread = np.std([each[name].value for each in drawn], ddof=1)
        said = np.mean([each[name].se for each in drawn])
        assert 0.55 < said / spread < 1.6, (name, said, spread)


def test_differences_by_chance_are_rarely_called_real():
    real = 0
    for seed in range(20):
        found = compare({"a": spaces.gaussian(200, 8, 2 * seed), "b": spaces.gaussian(200, 8, 2 * seed + 1)}, **HOW)
        real += any(each.significant for each in found.differences)
    # 5 % of the comparisons would be one.
    assert real <= 4


def test_rows_of_different_number_are_independent():
    found = compare({"a": spaces.clusters(200, 8), "b": spaces.gaussian(150, 5)}, **HOW)
    assert not found.paired
    assert found.alignments == ()
    assert named(found)["gini"].answer == "yes"
    with pytest.raises(InvalidInputError, match=r"same number of rows to be paired; got \{'a': 200, 'b': 150}"):
        compare({"a": spaces.clusters(200, 8), "b": spaces.gaussian(150, 5)}, paired=True, **HOW)


def test_rows_dropped_in_one_space_are_paired_with_nothing():
    x, y = spaces.clusters(100, 5), spaces.clusters(100, 5, 1)
    y[3] = np.nan
    found = compare({"x": x, "y": y}, on_invalid="drop", **HOW)
    assert not found.paired
    with pytest.raises(InvalidInputError, match="different ones were dropped"):
        compare({"x": x, "y": y}, on_invalid="drop", paired=True, **HOW)
    x[3] = np.nan
    found = compare({"x": x, "y": y}, on_invalid="drop", **HOW)
    assert found.paired
    assert [each.method for *_, each in found.alignments] == ["neighbors"]
    assert "some were left out" in found.notes[0]
    assert found.notes[0] in str(found)


def test_three_spaces_side_by_side():
    found = compare({name: getattr(spaces, name)(120, 6) for name in ("gaussian", "clusters", "anisotropic")}, **HOW)
    text = str(found)
    assert all(name in text for name in ("gaussian", "clusters", "anisotropic", "debiased CKA", "verdict"))
    assert {(each.first, each.second) for each in found.differences} == {
        ("gaussian", "clusters"), ("gaussian", "anisotropic"), ("clusters", "anisotropic"),
    }  # fmt: skip
    plain = json.loads(found.to_json())
    assert plain["verdict"] == found.verdict == found.audits["anisotropic"].verdict != "ok"
    assert set(found.to_frame().source) == {"gaussian", "clusters", "anisotropic"}
    assert set(found.differences_frame()) >= {
        "statistic",
        "value",
        "se",
        "ci_low",
        "ci_high",
        "paired",
        "significant",
        "least",
        "answer",
    }


def test_refusals():
    x = spaces.gaussian(30, 4)
    with pytest.raises(InvalidInputError, match="at least two; got 1"):
        compare({"x": x})
    with pytest.raises(InvalidInputError, match="takes no queries"):
        compare({"x": x, "y": x}, queries=x)
    with pytest.raises(InvalidInputError, match="y has 1 dimensions"):
        compare({"x": x, "y": np.zeros(3)})


def test_a_difference_is_yes_no_or_not_tested():
    x = spaces.clusters(600, 12)
    x += 1
    compared = compare({"x": x, "y": x + np.float32(0.003)}, **HOW)
    found = named(compared)
    mean = found["cosine_mean"]
    # Paired rows tell it from nothing, but nobody would see it.
    assert mean.significant
    assert 0 < abs(mean.value) < mean.least == 0.01
    assert mean.answer == "no"
    untested = [each for each in found.values() if np.isnan(each.se)]
    assert {each.answer for each in untested} == {"not tested"}
    assert {each.significant for each in untested} == {None}
    assert f"not tested, for want of a standard error: {len(untested)} of {len(found)}" in str(compared)


def test_the_least_difference_that_matters_follows_the_range():
    assert STATISTICS["cosine_mean"].least_difference(0.2, 0.9) == 0.01
    assert STATISTICS["gini"].least_difference(0.2, 0.9) == 0.01
    assert STATISTICS["hubness_skewness"].least_difference(5, 9) == 0.1
    assert STATISTICS["n_dominant"].least_difference(5, 9) == 1
    assert STATISTICS["twonn"].least_difference(20, 10) == pytest.approx(0.5)
    assert STATISTICS["effective_rank"].least_difference(20, 10) == pytest.approx(0.5)
