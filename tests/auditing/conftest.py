import pytest


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """A cache folder of the module's own: random sets are drawn once a module, and never come from elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("GEOMKIT_CACHE", str(folder))
        yield folder
