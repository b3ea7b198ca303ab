"""Modules under their old names: there, the same objects, and a warning that says the new name."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import geomkit
from geomkit.core.deprecated import FIELDS, MOVED, PUBLIC, name_today


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_gives_the_module_of_today_and_warns(old, monkeypatch):
    for name in [name for name in sys.modules if name_today(name)]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.warns(DeprecationWarning, match="is deprecated and goes with") as warned:
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert f"{old} is deprecated and goes with 0.11; use {MOVED[old]}" in [str(each.message) for each in warned]
    assert len([each for each in warned if str(each.message).startswith(f"{old} is")]) == 1


def test_an_old_name_warns_where_it_is_used_and_once():
    code = """
import warnings, geomkit
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from geomkit.meaning.separability import separability
    from geomkit.meaning.separability import separability
    geomkit.sources.get("sphere-50")
    geomkit.sources.get("sphere-50")
print([str(each.message).split(" is ")[0] for each in caught])
from geomkit.interpret.separability import separability as same
print(separability is same)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert said[0] == "['geomkit.meaning', 'geomkit.meaning.separability', 'geomkit.sources']"
    assert said[1] == "True"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_name_that_is_no_longer_public_works_and_warns(name):
    module, today, instead = PUBLIC[name]
    with pytest.warns(DeprecationWarning, match=f"geomkit.{name} is deprecated and goes with 0.11; use") as warned:
        value = getattr(geomkit, name)
    assert value is getattr(importlib.import_module(module), today)
    assert str(warned[0].message).endswith(instead)
    assert warned[0].filename == __file__
    assert name not in dir(geomkit)
    assert name not in geomkit.__all__


def test_what_never_was_is_no_old_name():
    assert name_today("geomkit.stats.cosine") is None
    assert name_today("geomkitten.sources") is None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        geomkit.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("geomkit.nothing")


def test_a_room_whose_library_is_missing_is_no_attribute():
    code = """
import sys
from pathlib import Path
sys.modules["sklearn"] = None
import geomkit
print(hasattr(geomkit, "transforms"))
from geomkit import *
try:
    geomkit.transforms
except AttributeError as why:
    print(why)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert said[0] == "False"
    assert "scikit-learn" in said[1]


def test_a_field_answers_to_its_old_name_and_warns():
    x = np.random.default_rng(0).standard_normal((30, 5))
    found = geomkit.hubness(x, 3)
    with pytest.warns(
        DeprecationWarning, match="hub_share is deprecated and goes with 0.11; use hub_fraction"
    ) as warned:
        assert found.hub_share == found.hub_fraction
    assert [each.filename for each in warned] == [__file__]
    with pytest.raises(AttributeError, match="'Hubness' object has no attribute 'null_sd'"):
        found.null_sd  # noqa: B018
    with pytest.warns(DeprecationWarning, match="use within_fraction_std"):
        assert geomkit.nulls.sphere(5).fraction_within_sd(0.1, 9) > 0


def test_a_statistic_answers_to_its_old_name_and_warns():
    x = np.random.default_rng(0).standard_normal((60, 5))
    with pytest.warns(DeprecationWarning, match="use duplicate_fraction") as warned:
        result = geomkit.audit(x, null_draws=2, thresholds={"duplicate_share": (0.3, 0.4)}, try_transforms=False)
    assert len(warned) == 1
    with pytest.warns(DeprecationWarning, match="use antihub_fraction"):
        assert result["antihub_share"] is result["antihub_fraction"]
    sampled = geomkit.sampled(x, 30, seed=0, within=(0.1,))
    with pytest.warns(DeprecationWarning, match="use within_fraction_0.1"):
        assert sampled["fraction_within_0.1"] is sampled["within_fraction_0.1"]


def test_every_old_field_has_a_name_of_today_that_something_bears():
    rooms = "\n".join(path.read_text() for path in (Path(geomkit.__file__).parent).rglob("*.py"))
    for today in FIELDS.values():
        assert re.search(rf'"{today}"|\b{today}: |def {today}\(', rooms), today


def test_a_keyword_of_before_warns_and_works():
    x = np.random.default_rng(0).standard_normal((60, 5))
    with pytest.warns(DeprecationWarning, match="the keyword duplicates of hubness is deprecated") as warned:
        assert geomkit.hubness(x, 3, duplicates=0.5).duplicate_tolerance == 0.5
    assert [each.filename for each in warned] == [__file__]
    with pytest.raises(TypeError, match="hubness\\(\\) got both duplicates and duplicate_tolerance"):
        geomkit.hubness(x, 3, duplicates=0.5, duplicate_tolerance=0.5)
    with pytest.warns(DeprecationWarning, match='use "sqeuclidean"') as warned:
        assert geomkit.sampled(x, 30, metric="squared_distance").metric == "sqeuclidean"
    assert [each.filename for each in warned] == [__file__]
    said = []
    with pytest.warns(DeprecationWarning, match="the keyword say of audit is deprecated .* use progress"):
        geomkit.audit(x, null_draws=2, say=said.append)
    assert said
