"""What a device is, in which state it was found, and with which software it ran."""

import importlib.metadata
import platform
import subprocess
from dataclasses import dataclass

from bench.harness.store import processor
from geomkit.errors import BackendUnavailableError

__all__ = ["Facts", "facts", "needs_gpu"]

_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Facts:
    """A device and its software; what there is none of is empty."""

    device: str
    multiprocessors: int
    """Of a GPU; 0 for a processor."""
    torch: str
    triton: str
    cuda: str = ""
    """That torch was built for."""
    driver: str = ""
    sm_clock_mhz: float | None = None
    """As it is now, which right after work is that of the work; None where nothing tells."""
    memory_clock_mhz: float | None = None


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


def facts(device: str) -> Facts:
    """Describe a device of torch's, and read its clocks."""
    import torch

    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = ""
    if not device.startswith("cuda"):
        return Facts(str(processor()["model"]) or platform.machine(), 0, torch.__version__, triton)
    properties = torch.cuda.get_device_properties(device)
    state = _nvidia_smi(str(properties.uuid), "driver_version,clocks.sm,clocks.mem")
    driver, *clocks = state or ("unknown: no nvidia-smi", "", "")
    return Facts(
        properties.name, properties.multi_processor_count, torch.__version__, triton, str(torch.version.cuda), driver,
        # "[N/A]" on virtual GPUs.
        *(float(clock) if clock.replace(".", "").isdigit() else None for clock in clocks),
    )  # fmt: skip


def _nvidia_smi(uuid: str, fields: str) -> list[str]:
    """Ask nvidia-smi, which numbers GPUs otherwise than torch may; empty where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits", f"--id=GPU-{uuid}"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [field.strip() for field in output.strip().split(",")]
