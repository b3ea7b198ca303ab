"""A cluster of two worker processes, shared by the tests that do not harm it."""

import pytest

from geomkit.distributed.executors import local_cluster


@pytest.fixture(scope="session")
def client():
    with local_cluster(2, dashboard=False) as found:
        yield found
