"""Modules under their old names: there, the same objects, and a warning that says the new name."""

import importlib
import subprocess
import sys

import pytest

import geomkit
from geomkit.core.deprecated import MOVED, WITHDRAWN, name_today


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


@pytest.mark.parametrize("name", sorted(WITHDRAWN))
def test_a_name_that_is_no_longer_public_works_and_warns(name):
    module, instead = WITHDRAWN[name]
    with pytest.warns(DeprecationWarning, match=f"geomkit.{name} is deprecated and goes with 0.11; use") as warned:
        value = getattr(geomkit, name)
    assert value is getattr(importlib.import_module(module), name)
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
