from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, in place of the built-in fixture of that name."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GEOMKIT_CACHE", str(folder))
    return folder
