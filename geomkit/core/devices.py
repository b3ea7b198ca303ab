"""Where work happens: names of devices are checked here, and refused with what is missing and what can run instead."""

import re
import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from geomkit.core.matrix import Matrix
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import Backend, choose, module

__all__ = ["Device", "available", "check_one_place", "if_it_fits", "is_out_of_memory", "named", "place"]

Device = Any
"""A device's name, such as ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, a torch device, several of them, or None."""

T = TypeVar("T")

_NAME = re.compile(r"cpu(:0)?|cuda(:\d+)?")


def named(device: Device) -> tuple[str, ...]:
    """Names of the devices that a caller asked for, none for None; whether they are there is not asked.

    Raises
    ------
    InvalidInputError
        What was given is no name of a device, or names devices of several kinds.
    """
    if device is None:
        return ()
    given = list(device) if isinstance(device, (list, tuple)) else [device]
    torch = sys.modules.get("torch")
    kinds = (str,) if torch is None else (str, torch.device)
    names = [str(each) if isinstance(each, kinds) else "" for each in given]
    if not names or not all(_NAME.fullmatch(name) for name in names):
        msg = f"device must be None, 'cpu', 'cuda', 'cuda:1' or the like, or a list of these; got {device!r}"
        raise InvalidInputError(msg)
    if len({name.split(":")[0] for name in names}) > 1:
        msg = f"device must name devices of one kind; got {device!r}"
        raise InvalidInputError(msg)
    return tuple("cpu" if name.startswith("cpu") else name for name in names)


def available(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in full, of devices that are there.

    Raises
    ------
    BackendUnavailableError
        One of them is not; says what is missing, and what can run here.
    """
    if all(name == "cpu" for name in names):
        return names
    found, missing = _gpus()
    for name in names:
        number = int(name.partition(":")[2] or 0)
        if number >= found:
            lacking = missing or f"more NVIDIA GPUs than the {found} that torch finds"
            msg = f"device {name!r} needs {lacking}; here run {_runnable(found)}"
            raise BackendUnavailableError(msg)
    import torch

    return tuple(name if ":" in name else f"cuda:{torch.cuda.current_device()}" for name in names)


def _gpus() -> tuple[int, str]:
    """How many GPUs torch can use, and where there are none, what that lacks."""
    try:
        import torch
    except ImportError as why:
        return 0, f"torch, which cannot be imported ({why}): install geomkit[torch]"
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return 0, f"a torch built for CUDA, which {torch.__version__} is not"
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return found, f"an NVIDIA GPU and its driver, of which torch {torch.__version__} finds none" if found == 0 else ""


def _runnable(gpus: int) -> str:
    if gpus:
        return f"device='cpu' and {', '.join(f'cuda:{number}' for number in range(gpus))}"
    backends = ["cpu", "reference", *(["torch"] if sys.modules.get("torch") else [])]
    return f"device='cpu' or None, with backend {', '.join(map(repr, backends))}"


def place(
    matrix: Matrix, backend: str, device: Device, *, several: bool = True, scores: bool = False
) -> tuple[Matrix, Backend]:
    """Resolve a caller's ``backend`` and ``device`` arguments.

    Parameters
    ----------
    matrix : Matrix
        What is to be measured; without a device, where it lies decides, or where the backend is at home.
    several : bool
        Whether work can be shared out among devices.
    scores : bool
        Whether work is on the products of scores, which is all that Triton has kernels for.

    Returns
    -------
    matrix : Matrix
        The same, placed where work happens.
    backend : Backend

    Raises
    ------
    InvalidInputError
        A name is not one of a backend or of a device, or the two do not go together.
    BackendUnavailableError
        A device is not there, or the backend lacks kernels for this.
    """
    names = named(device)
    which = choose(backend, on_accelerator=matrix.placed(names).on_accelerator)
    if which is Backend.TRITON and not scores:
        msg = (
            "backend 'triton' has kernels for cosine, orthogonality and squared distance statistics, neighbours and "
            "surveys alone; for this use backend='torch', on the same device"
        )
        raise BackendUnavailableError(msg)
    if len(names) > 1 and not (several and which.on_device):
        why = f"backend {which.value!r} cannot share work out among devices" if several else "this takes one device"
        msg = f"device names {len(names)} devices, and {why}; got {device!r}"
        raise InvalidInputError(msg)
    home = getattr(module(which), "HOME", None) if which.on_device else None
    if home is not None and not matrix.placed(names).on_accelerator:
        if names:
            msg = f"backend {which.value!r} does not work on the CPU; device must be None or {home!r}, got {device!r}"
            raise InvalidInputError(msg)
        names = (home,)
    return matrix.placed(available(names)), which


def check_one_place(x: Matrix, y: Matrix, device: Device) -> None:
    """Refuse two matrices that lie on different devices where none is named."""
    places = [str(matrix.device or "cpu") for matrix in (x, y)]
    if device is None and places[0] != places[1]:
        names = f"{x.name} and {y.name}"
        msg = f"{names} must be on one device, or device must say where to go; got {places[0]} and {places[1]}"
        raise InvalidInputError(msg)


_SHORTAGES = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""What errors say that are not of a kind of their own: the driver's, those of CUDA's libraries, and the host's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or a library below it, found no memory."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    # Called torch.OutOfMemoryError as well, since torch 2.5.
    return isinstance(error, torch.cuda.OutOfMemoryError) or any(sign in str(error) for sign in _SHORTAGES)


def if_it_fits(make: Callable[[], T], what: str, device: Any) -> T | None:
    """Return what `make` makes, or None where the device has no memory for it, with a warning that says so."""
    try:
        return make()
    except RuntimeError as why:
        if not is_out_of_memory(why):
            raise
    msg = f"{device or 'the host'} has no memory to keep {what}, which will be made again whenever they are needed"
    warnings.warn(msg, RuntimeWarning, stacklevel=2)
    return None
