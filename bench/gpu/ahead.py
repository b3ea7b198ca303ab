"""What the compiler makes of the Triton kernels for chips that need not be here: registers, memory, instructions.

Compiling takes no GPU. Triton's interpreter must be off in the process, which Triton decides when it is imported:
`compiled` runs ``python -m bench.gpu.ahead CAPABILITY KERNEL …`` in processes of their own, one a chip.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gpu.roofline import KERNELS, PRECISIONS, Shape, kind
from bench.harness.study import ROOT
from geomkit.errors import BackendUnavailableError

__all__ = ["CHIPS", "Chip", "Compiled", "compiled", "needs_triton"]


@dataclass(frozen=True)
class Chip:
    """What a multiprocessor of a chip has, by NVIDIA's tables of compute capabilities."""

    capability: int
    shared_bytes: int
    """Shared memory that one program can have, of which 1 KiB more each is the system's."""
    shared_total: int
    registers: int = 65536
    threads: int = 2048


CHIPS = {80: Chip(80, 163 * 1024, 164 * 1024), 90: Chip(90, 227 * 1024, 228 * 1024)}

LIGHT = {"count"}
"""Kernels that try the configurations for those with registers to spare."""

_POINTERS = {
    "counts_ptr": "*i64", "least_ptr": "*i32", "found_ptr": "*fp64", "centre": "fp32", "lists_ptr": "*i64",
    "dropped_ptr": "*i32", "floor_ptr": "*i32", "row_keys_ptr": "*i32", "col_keys_ptr": "*i32", "pairs_ptr": "*i64",
    "size_ptr": "*i64", "threshold": "fp32",
}  # fmt: skip
_ROWS = {"bfloat16": "*bf16", "float16": "*fp16", "tf32": "*fp32", "float32": "*fp32"}
_INSTRUCTIONS = {
    "wgmma": r"wgmma\.mma_async", "mma_sync": r"mma\.sync", "shared_atomics": r"atom\S*\.shared\S*\.add",
    "tensor_copies": r"cp\.async\.bulk\.tensor", "tf32": "tf32",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """One kernel in one configuration at one precision for one chip."""

    kernel: str
    precision: str
    capability: int
    shape: Shape
    launched: int
    """Programs on a multiprocessor that the launch counts on; as many run as memory and registers allow."""
    registers: int
    """Of each thread."""
    stack_bytes: int
    """Of each thread: what did not fit in registers lies there."""
    shared_bytes: int
    """Of each program."""
    instructions: dict[str, int] = field(default_factory=dict)
    """How often the code has those of `_INSTRUCTIONS`: bulk copies by tensor descriptors, roundings to TF32, …"""


def needs_triton() -> None:
    """Refuse a machine without Triton, whose compiler needs no GPU.

    Raises
    ------
    BackendUnavailableError
        It cannot be imported.
    """
    try:
        import triton  # noqa: F401
    except ImportError as why:
        msg = f"this needs Triton, which cannot be imported ({why}); it has wheels for Linux alone"
        raise BackendUnavailableError(msg) from why


def compiled(capabilities: Sequence[int] = tuple(CHIPS), kernels: Sequence[str] = tuple(KERNELS)) -> list[Compiled]:
    """Compile kernels at every precision and in every configuration for chips of these capabilities.

    Raises
    ------
    BackendUnavailableError
        The compiler failed; says how.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, str(capability), *kernels],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for capability in capabilities
    ]  # fmt: skip
    results: list[Compiled] = []
    for capability, process in zip(capabilities, processes, strict=True):
        output, complaint = process.communicate()
        if process.returncode:
            why = (complaint.strip().splitlines() or ["it said nothing"])[-1]
            msg = f"Triton does not compile for sm_{capability} here: {why}"
            raise BackendUnavailableError(msg)
        lines = map(json.loads, output.splitlines())
        results += [Compiled(**line | {"shape": Shape(**line["shape"])}) for line in lines]
    return results


def _compile_all(capability: int, names: Sequence[str]) -> Iterator[Compiled]:
    from geomkit.kernels import triton_counts, triton_nearest
    from geomkit.kernels.triton_tiles import configurations

    kernels = triton_counts.KERNELS | triton_nearest.KERNELS
    for name in names:
        for precision in PRECISIONS:
            for configuration in configurations(kind(precision), capability, light=name in LIGHT):
                yield _compile(name, kernels[name].fn, CHIPS[capability], precision, configuration)


def _compile(name: str, kernel: Any, chip: Chip, precision: str, configuration: Any) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = configuration.kwargs | {"DIAGONAL": True, "PRECISION": "tf32" if precision == "tf32" else "ieee"}
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32") | _POINTERS | dict.fromkeys(("a_ptr", "b_ptr"), _ROWS[precision])
    signature = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    # As at a launch: allocations start, and padded rows end, at multiples of 16.
    divisible = {
        (at,): [["tt.divisibility", 16]]
        for at, (argument, dtype) in enumerate(signature.items())
        if dtype.startswith("*") or argument in {"stride_am", "stride_bn", "width"}
    }
    warps, sizes = configuration.num_warps, configuration.kwargs
    made = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=divisible),
        target=GPUTarget("cuda", chip.capability, 32),
        options={"num_warps": warps, "num_stages": configuration.num_stages, "enable_fp_fusion": False},
    )
    registers, stack = _resources(made.asm["cubin"])
    shared = int(made.metadata.shared)
    # Registers are given out by 256 to a warp.
    by_registers = chip.registers // (-(-registers * 32 // 256) * 256 * warps)
    programs = min(by_registers, chip.shared_total // (shared + 1024), chip.threads // (32 * warps), sizes["PER_SM"])
    shape = Shape(
        sizes["BLOCK_M"], sizes["BLOCK_N"], sizes["BLOCK_K"], warps, configuration.num_stages, sizes["PARTS"], programs
    )
    instructions = {name: len(re.findall(pattern, made.asm["ptx"])) for name, pattern in _INSTRUCTIONS.items()}
    return Compiled(name, precision, chip.capability, shape, sizes["PER_SM"], registers, stack, shared, instructions)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and stack bytes of each thread, as the tools that come with Triton read them."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if numbers is None:
        msg = f"cuobjdump said nothing of registers: {usage!r}"
        raise RuntimeError(msg)
    return int(numbers[1]), int(numbers[2])


if __name__ == "__main__":
    for result in _compile_all(int(sys.argv[1]), sys.argv[2:]):
        print(json.dumps(asdict(result)), flush=True)
