import math

import numpy as np
import pytest

from geomkit.auditing.null import Expected
from geomkit.auditing.readings import Value
from geomkit.auditing.result import Finding, Thresholds, is_like_random
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.result import format_number, json_safe

JUDGED = [each for each in STATISTICS.values() if each.worse]


def found(name, value, mean, z, thresholds=Thresholds()):  # noqa: B008
    return Finding.of(name, Value(value), Expected(mean, 1.0, z), thresholds)


@pytest.mark.parametrize("statistic", JUDGED, ids=lambda each: each.name)
def test_verdicts_need_both_z_and_an_effect_on_the_side_that_hurts(statistic):
    side = 1 if statistic.worse == "high" else -1
    null = 2.0

    def verdict(effect, z):
        value = {"difference": null + effect, "ratio": null * effect, "distance ratio": 1 + (null - 1) * effect}
        one = found(statistic.name, value[statistic.effect], null, z)
        assert one.effect == pytest.approx(effect)
        assert one.flagged == (one.verdict in {"warn", "fail"})
        return one.verdict

    beyond, within = side * 4.5, side * 3.5
    step = 1e-6 * side
    assert verdict(statistic.fail + step, beyond) == "fail"
    assert verdict(statistic.warn + step, beyond) == "warn"
    assert verdict(statistic.warn - step, beyond) == "ok"
    assert verdict(statistic.fail + step, within) == "ok"
    assert verdict(statistic.fail + step, -10 * side) == "ok"


def test_without_a_null_or_a_side_that_hurts_there_is_no_verdict():
    assert found("gini", 0.9, 0.1, 50.0).verdict == ""
    assert found("hubness_skewness", 9.0, math.nan, math.nan).verdict == ""
    assert found("hubness_skewness", math.nan, 0.3, math.nan).verdict == ""


def test_thresholds_of_the_caller():
    assert found("cosine_mean", 0.3, 0.0, 9.0, Thresholds(effects={"cosine_mean": (0.1, 0.25)})).verdict == "fail"
    assert found("cosine_mean", 0.9, 0.0, 9.0, Thresholds(z=10.0)).verdict == "ok"


def test_like_random_looks_on_both_sides():
    near, low = found("gini", 0.1, 0.1, 3.9), found("gini", 0.1, 0.9, -4.1)
    assert is_like_random([near], 4)
    assert not is_like_random([near, low], 4)
    assert is_like_random([near, found("norm_cv", 0.1, math.nan, math.nan)], 4)


def test_intervals():
    one = Finding.of("gini", Value(0.5, 0.1), Expected(0, 1, 0), Thresholds())
    assert (one.ci_low, one.ci_high) == pytest.approx((0.5 - 0.1959964, 0.5 + 0.1959964))
    wilson = Finding.of("gini", Value(0.0, 0.0, ends=(0.0, 0.2)), Expected(0, 1, 0), Thresholds())
    assert (wilson.ci_low, wilson.ci_high) == (0.0, 0.2)


def test_every_judged_statistic_has_an_effect_and_its_levels():
    for each in JUDGED:
        assert each.effect
        assert (each.warn < each.fail) == (each.worse == "high")


def test_numbers_as_they_are_shown_and_as_json_takes_them():
    assert [format_number(x) for x in (math.nan, 12345.6, 0.00123456, 5e12)] == ["", "12,346", "0.001235", "5e+12"]
    assert json_safe({"a": [math.nan, math.inf, 1.5], "b": {"c": None}}) == {"a": [None, None, 1.5], "b": {"c": None}}
    assert np.isnan(found("gini", math.nan, 0, math.nan).value)
