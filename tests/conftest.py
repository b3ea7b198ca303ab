import os

import pytest
import torch

from tests import precision

if not torch.cuda.is_available():
    # Before anything imports triton: its interpreter runs the same kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(params=precision.WAYS)
def permissive(request):
    """A process that lets torch's products be less exact, said in one of the ways there are."""
    before = precision.permissions()
    precision.WAYS[request.param]()
    yield request.param
    precision.the_old_way("highest")()
    precision.permit(before)
