"""What a device is, in which state it was found, and with which software it ran."""

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass
from typing import Any

from bench.harness.store import processor
from geomkit.errors import BackendUnavailableError

__all__ = ["Clocks", "Facts", "clocks", "facts", "needs_gpu"]

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Facts:
    """A device and its software; what there is none of is empty."""

    device: str
    multiprocessors: int
    """Of a GPU; 0 for a processor."""
    driver: str
    torch: str
    triton: str
    cuda: str
    """That torch was built for."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Megahertz, None where nothing tells."""

    sm_mhz: float | None
    memory_mhz: float | None


def needs_gpu() -> None:
    """Refuse a machine without a GPU that torch can use.

    Raises
    ------
    BackendUnavailableError
        Says what is missing.
    """
    try:
        import torch
    except ImportError as why:
        msg = f"this needs torch, which cannot be imported ({why}); install geomkit[torch]"
        raise BackendUnavailableError(msg) from why
    if torch.version.cuda is None:
        msg = f"this needs a torch built for CUDA, which {torch.__version__} is not, and an NVIDIA GPU"
        raise BackendUnavailableError(msg)
    if not torch.cuda.is_available():
        msg = f"this needs an NVIDIA GPU and its driver, of which torch {torch.__version__} finds none"
        raise BackendUnavailableError(msg)


def facts(device: Any) -> Facts:
    """Describe a device of torch's."""
    import torch

    versions = {"torch": torch.__version__, "triton": _version("triton")}
    if torch.device(device).type != "cuda":
        name = str(processor()["model"]) or platform.machine()
        return Facts(device=name, multiprocessors=0, driver="", cuda="", **versions)
    found = torch.cuda.get_device_properties(device)
    driver = _asked(device, "driver_version")
    return Facts(
        device=found.name,
        multiprocessors=found.multi_processor_count,
        driver=driver[0] if driver else "unknown: no nvidia-smi",
        cuda=str(torch.version.cuda),
        **versions,
    )


def clocks(device: Any) -> Clocks:
    """Read the clocks as they are now; right after work they are those of that work."""
    import torch

    if torch.device(device).type != "cuda":
        return Clocks(None, None)
    found = _asked(device, "clocks.sm,clocks.mem")
    numbers = [_number(each) for each in found] if found else [None, None]
    return Clocks(*numbers)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]" on virtual GPUs.
        return None


def _asked(device: Any, fields: str) -> list[str] | None:
    """Ask nvidia-smi about a GPU, which numbers them otherwise than torch may."""
    import torch

    number = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", f"--id={number}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return [each.strip() for each in said.strip().split(",")]
