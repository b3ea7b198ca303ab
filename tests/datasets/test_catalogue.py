"""The catalogue says enough of every package to fetch it, and what it says of the core is true."""

import re

import pytest

from geomkit.datasets import SOURCES
from geomkit.datasets.catalogue import HUB, PACKAGES, selected
from geomkit.datasets.fetch import cached_size, fetch, is_cached


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_every_package_is_pinned_and_licensed(package):
    assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
    assert re.fullmatch(r"\d+(\.\d+)+", package.version)
    assert package.size > 1_000_000
    assert package.members
    assert package.licence.strip()
    assert package.about.strip()


def test_checksums_differ():
    assert len({package.sha256 for package in PACKAGES.values()}) == len(PACKAGES)


def test_every_package_serves_a_source():
    assert {package for source in SOURCES.values() for package in source.packages} == set(PACKAGES)


def test_core_sources_need_only_core_packages():
    for source in SOURCES.values():
        optional = any(not PACKAGES[name].core for name in source.packages)
        from_hub = any(source.name.startswith(f"{entry.short}-") for entry in HUB.values())
        assert source.optional == (optional or from_hub), source.name


@pytest.mark.real
def test_every_member_of_the_core_is_there():
    folders = fetch("core")

    for package in selected("core"):
        assert is_cached(package)
        assert cached_size(package) > 1_000_000
        for member in package.members:
            assert (folders[package.name] / member).exists(), member
