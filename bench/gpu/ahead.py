"""What the compiler makes of the Triton kernels for chips that need not be here: registers, memory, instructions.

Compiling takes no GPU. Triton's interpreter must be off in the process: run ``python -m bench.gpu.ahead``, with compute
capabilities such as 80 and 90 if not for all chips.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["CHIPS", "COMPILED", "Chip", "Compiled", "compiled"]


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

COMPILED = [("bf16", "ieee"), ("fp16", "ieee"), ("fp32", "tf32"), ("fp32", "ieee")]
"""Dtypes of rows, and the precision of their products."""

LIGHT = {"count"}
"""Kernels that try the configurations for those with registers to spare."""

_TYPES = {
    "counts_ptr": "*i64", "least_ptr": "*i32", "found_ptr": "*fp64", "centre": "fp32", "lists_ptr": "*i64",
    "dropped_ptr": "*i32", "floor_ptr": "*i32", "row_keys_ptr": "*i32", "col_keys_ptr": "*i32", "pairs_ptr": "*i64",
    "size_ptr": "*i64", "threshold": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """One kernel in one configuration for one chip."""

    kernel: str
    capability: int
    dtype: str
    precision: str
    diagonal: bool
    configuration: str
    registers: int
    """Of each thread."""
    stack_bytes: int
    """Of each thread: what did not fit in registers lies there."""
    shared_bytes: int
    """Of each program."""
    programs_per_sm: int
    """That registers, shared memory and threads allow."""
    occupancy: float
    """Share of the threads that a multiprocessor can hold."""
    wgmma: int
    mma_sync: int
    tensor_copies: int
    """Bulk copies by tensor descriptors."""
    shared_atomics: int
    tf32: bool
    """Whether any instruction rounds to TF32."""


def compiled(capabilities: tuple[int, ...] = (80, 90)) -> Iterator[Compiled]:
    """Compile every kernel in every configuration, dtype and precision for each chip."""
    from geomkit.kernels import triton_counts, triton_nearest

    kernels = triton_counts.KERNELS | triton_nearest.KERNELS
    for capability in capabilities:
        for name, kernel in kernels.items():
            for dtype, precision in COMPILED:
                yield from _configurations_of(name, kernel.fn, capability, dtype, precision)


def _configurations_of(name: str, kernel: Any, capability: int, dtype: str, precision: str) -> Iterator[Compiled]:
    from geomkit.kernels.triton_tiles import configurations

    kind = "16 bits" if dtype in {"bf16", "fp16"} else precision
    for each in configurations(kind, capability, light=name in LIGHT):
        yield _compile(name, kernel, capability, dtype, precision, True, each)


def _compile(
    name: str, kernel: Any, capability: int, dtype: str, precision: str, diagonal: bool, configuration: Any
) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = dict(configuration.kwargs) | {
        "DIAGONAL": diagonal,
        "PRECISION": precision,
    }
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    signature, divisible = {}, {}
    for at, argument in enumerate(kernel.arg_names):
        rows = f"*{dtype}" if argument in {"a_ptr", "b_ptr"} else "i32"
        signature[argument] = "constexpr" if argument in constants else _TYPES.get(argument, rows)
        # As at a launch: allocations start, and padded rows end, at multiples of 16.
        if signature[argument].startswith("*") or argument in {"stride_am", "stride_bn", "width"}:
            divisible[at,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=divisible)
    options = {"num_warps": configuration.num_warps, "num_stages": configuration.num_stages, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack = _resources(made.asm["cubin"])
    shared, threads, chip = int(made.metadata.shared), 32 * configuration.num_warps, CHIPS[capability]
    # Registers are given out by 256 to a warp.
    per_program = -(-registers * 32 // 256) * 256 * configuration.num_warps
    programs = min(chip.registers // per_program, chip.shared_total // (shared + 1024), chip.threads // threads)
    ptx = made.asm["ptx"]
    return Compiled(
        kernel=name, capability=capability, dtype=dtype, precision=precision, diagonal=diagonal,
        configuration=_say(configuration), registers=registers, stack_bytes=stack, shared_bytes=shared,
        programs_per_sm=programs, occupancy=programs * threads / chip.threads,
        wgmma=len(re.findall(r"wgmma\.mma_async", ptx)), mma_sync=len(re.findall(r"mma\.sync", ptx)),
        tensor_copies=len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
        shared_atomics=len(re.findall(r"atom\S*\.shared\S*\.add", ptx)), tf32="tf32" in ptx,
    )  # fmt: skip


def _say(configuration: Any) -> str:
    sizes = configuration.kwargs
    block = f"{sizes['BLOCK_M']}x{sizes['BLOCK_N']}x{sizes['BLOCK_K']}"
    return f"{block}, {configuration.num_warps} warps, {configuration.num_stages} stages, {sizes['PARTS']} parts"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return registers and stack bytes of each thread, as the tools that come with Triton read them."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        said = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    if found is None:
        msg = f"cuobjdump said nothing of registers: {said!r}"
        raise RuntimeError(msg)
    return int(found[1]), int(found[2])


def main(capabilities: Sequence[str]) -> None:
    """Write every kernel compiled for these compute capabilities to standard output, one JSON object a line."""
    for each in compiled(tuple(map(int, capabilities)) or tuple(CHIPS)):
        print(json.dumps(asdict(each)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
