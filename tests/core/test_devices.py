import re
import sys
import types

import numpy as np
import pytest
import torch

from geomkit import kernels
from geomkit.core import devices
from geomkit.core.devices import available, if_it_fits, is_out_of_memory, named, place
from geomkit.core.matrix import as_matrix
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import Backend, cpu_product
from geomkit.stats.concentration import concentration
from geomkit.stats.cosine import cosine_similarity, cosine_stats
from geomkit.stats.moments import MomentsAccumulator, moments
from geomkit.stats.neighbors import neighbors
from geomkit.stats.orthogonality import orthogonality
from geomkit.stats.squared_distance import squared_distance_stats
from geomkit.stats.survey import survey

X = np.random.default_rng(0).standard_normal((40, 6))
SHARED = {
    "cosine_stats": cosine_stats,
    "concentration": concentration,
    "neighbors": lambda x, **how: neighbors(x, 3, **how),
    "orthogonality": orthogonality,
    "squared_distance_stats": squared_distance_stats,
    "survey": lambda x, **how: survey(x, k=3, **how),
}
ALONE = {
    "cosine_similarity": cosine_similarity,
    "moments": moments,
    "MomentsAccumulator": lambda _, **how: MomentsAccumulator(**how),
}


@pytest.fixture
def gpus(monkeypatch):
    """A machine of so many GPUs, as far as torch says."""

    def pretend(count, current=0):
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)

    return pretend


@pytest.mark.parametrize(
    ("device", "names"),
    [
        (None, ()),
        ("cpu", ("cpu",)),
        ("cpu:0", ("cpu",)),
        ("cuda", ("cuda",)),
        ("cuda:12", ("cuda:12",)),
        (torch.device("cpu"), ("cpu",)),
        (torch.device("cuda", 1), ("cuda:1",)),
        (["cuda:1", "cuda:0"], ("cuda:1", "cuda:0")),
        (("cpu", torch.device("cpu")), ("cpu", "cpu")),
    ],
)
def test_names(device, names):
    assert named(device) == names


@pytest.mark.parametrize(
    "device", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "cuda,cpu", "mps", "cpu:1", 0, True, [], [None], {"cpu"}]
)
def test_what_is_no_name_is_refused(device):
    with pytest.raises(
        InvalidInputError, match=r"^device must be None, 'cpu', .* or a list of these; got " + re.escape(repr(device))
    ):
        named(device)


def test_devices_of_two_kinds_are_refused():
    with pytest.raises(InvalidInputError, match=r"^device must name devices of one kind; got \['cpu', 'cuda'\]"):
        named(["cpu", "cuda"])


def test_devices_that_are_there_get_their_full_names(gpus):
    gpus(3, current=2)
    assert available(("cuda", "cuda:1")) == ("cuda:2", "cuda:1")
    assert available(("cpu", "cpu")) == ("cpu", "cpu")


def test_a_gpu_too_many_is_refused(gpus):
    gpus(2)
    with pytest.raises(
        BackendUnavailableError,
        match=r"^device 'cuda:2' needs more NVIDIA GPUs than the 2 .*; here run device='cpu' and cuda:0, cuda:1$",
    ):
        available(("cuda:0", "cuda:2"))


def test_what_is_missing_is_said(gpus, monkeypatch):
    here = "; here run device='cpu' or None, with backend 'cpu', 'reference'"
    with monkeypatch.context() as context:
        context.setattr(torch.backends.cuda, "is_built", lambda: False)
        lacking = f"a torch built for CUDA, which {torch.__version__} is not{here}, 'torch'"
        with pytest.raises(BackendUnavailableError, match=f"^device 'cuda' needs {re.escape(lacking)}$"):
            available(("cuda",))
    gpus(0)
    with pytest.raises(
        BackendUnavailableError, match=f"needs an NVIDIA GPU and its driver, .* finds none{here}, 'torch'$"
    ):
        available(("cuda",))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        BackendUnavailableError, match=r"needs torch, which cannot be imported .*geomkit\[torch\]" + f"{here}$"
    ):
        available(("cuda",))


@pytest.mark.parametrize("measure", SHARED | ALONE)
def test_every_function_says_what_a_missing_gpu_lacks_in_one_line(monkeypatch, measure):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    for how in ({}, {"backend": "torch"}):
        with pytest.raises(BackendUnavailableError, match=r"^device 'cuda' needs a torch built for CUDA") as refused:
            (SHARED | ALONE)[measure](X, device="cuda", **how)
        assert "\n" not in str(refused.value)
    with pytest.raises(InvalidInputError, match=r"^device must be None"):
        (SHARED | ALONE)[measure](X, device="nowhere")


@pytest.mark.parametrize("measure", SHARED | ALONE)
def test_a_backend_of_the_cpu_does_not_go_to_a_gpu(gpus, measure):
    gpus(1)
    for backend in ("cpu", "reference"):
        with pytest.raises(InvalidInputError, match=f"^backend '{backend}' cannot work on an accelerator"):
            (SHARED | ALONE)[measure](X, backend=backend, device="cuda")


@pytest.mark.parametrize("measure", SHARED)
def test_threads_share_work_on_the_cpu_not_devices(measure):
    for backend in ("auto", "cpu", "reference"):
        with pytest.raises(InvalidInputError, match=r"^device names 2 devices, and backend '.*' cannot share work out"):
            SHARED[measure](X, backend=backend, device=["cpu", "cpu"])


@pytest.mark.parametrize("measure", ALONE)
def test_what_has_no_tiles_takes_one_device(measure):
    with pytest.raises(
        InvalidInputError, match=r"^device names 2 devices, and this takes one device; got \['cpu', 'cpu'\]"
    ):
        ALONE[measure](X, backend="torch", device=["cpu", "cpu"])


def test_where_work_happens(gpus):
    gpus(2)
    matrix = as_matrix(X)
    assert place(matrix, "auto", None) == (matrix, Backend.CPU)
    there, which = place(matrix, "auto", ["cuda:0", "cuda:1"])
    assert which is Backend.TORCH
    assert there.devices == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert (there.device, there.on_accelerator) == (torch.device("cuda:0"), True)
    assert there.data is matrix.data
    kept = there.without(np.array([3]))
    assert kept.places == there.places
    assert place(matrix, "auto", "cpu")[1] is Backend.CPU
    assert place(matrix, "torch", "cpu")[0].device == torch.device("cpu")


def test_a_backend_that_is_at_home_elsewhere_goes_there(gpus, monkeypatch):
    gpus(1)
    home = types.SimpleNamespace(HOME="cuda")
    monkeypatch.setattr(devices, "module", lambda _: home)
    assert place(as_matrix(X), "triton", None, scores=True)[0].device == torch.device("cuda:0")
    with pytest.raises(
        InvalidInputError, match=r"^backend 'triton' does not work on the CPU; device must be None or 'cuda'"
    ):
        place(as_matrix(X), "triton", "cpu", scores=True)
    home.HOME = None
    assert place(as_matrix(X), "triton", None, scores=True)[0].device is None


def test_the_cpu_backend_needs_no_torch_to_be_told_where_it_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(cpu_product, "_chosen", {})  # larger work before this test may have chosen torch's product
    found = cosine_stats(X, device="cpu")
    assert found.backend == "cpu"
    assert found.mean == cosine_stats(X).mean


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.cuda.OutOfMemoryError("no"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("CUDA error: out of memory"), False),
        (KeyError("memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, short):
    assert is_out_of_memory(error) == short


def test_what_torch_itself_says_on_the_cpu_counts():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.int8)
    assert is_out_of_memory(refused.value)


def test_what_does_not_fit_is_left_out_with_a_warning():
    def fail(error):
        raise error

    assert if_it_fits(lambda: 3, "rows", None) == 3
    with pytest.warns(RuntimeWarning, match="^cuda:1 has no memory to keep prepared rows, which will be made again"):
        assert if_it_fits(lambda: fail(torch.OutOfMemoryError("full")), "prepared rows", torch.device("cuda:1")) is None
    with pytest.raises(RuntimeError, match="other"):
        if_it_fits(lambda: fail(RuntimeError("other")), "rows", None)


def test_auto_without_a_device_is_what_it_was():
    assert kernels.choose("auto", on_accelerator=False) is Backend.CPU
