import pytest

from tests import precision


@pytest.fixture(params=precision.WAYS)
def permissive(request):
    """A process that lets torch's products be less exact, said in one of the ways there are."""
    before = precision.permissions()
    precision.WAYS[request.param]()
    yield request.param
    precision.the_old_way("highest")()
    precision.permit(before)
