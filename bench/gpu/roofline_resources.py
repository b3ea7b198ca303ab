"""Registers and shared memory of every configuration of the Triton kernels, from the compiler: no GPU is needed.

``python -m bench.gpu.roofline_resources CAPABILITY KERNEL`` writes JSON lines, the last ones of that kernel:
in a process of its own, since Triton decides when it is imported whether it compiles or interprets.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile

from bench.gpu.roofline import KERNELS, PRECISIONS, Shape, kind
from geomkit.errors import BackendUnavailableError, InvalidInputError

__all__ = ["COMPILED_AS", "Configured", "configured", "needs_triton"]

COMPILED_AS = {
    "bfloat16": ("bf16", "ieee"), "float16": ("fp16", "ieee"), "tf32": ("fp32", "tf32"), "float32": ("fp32", "ieee"),
}  # fmt: skip


@dataclass(frozen=True)
class Configured:
    """One configuration of one kernel at one precision."""

    kernel: str
    precision: str
    capability: int
    shape: Shape
    asked: int
    """Programs on a multiprocessor that the launch counts on; as many run as memory and registers allow."""
    registers: int
    stack_bytes: int
    shared_bytes: int


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


def configured(capabilities: Sequence[int], kernels: Sequence[str] = tuple(KERNELS)) -> list[Configured]:
    """Compile kernels for chips of these capabilities, one process a capability.

    Raises
    ------
    BackendUnavailableError
        The compiler failed; says how.
    InvalidInputError
        It compiled something else than the configurations there are.
    """
    from bench.gpu.ahead import LIGHT
    from geomkit.kernels.triton_tiles import configurations

    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    last = max(kernels, key=list(KERNELS).index)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(each), last],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )
        for each in capabilities
    ]  # fmt: skip
    found: list[Configured] = []
    for capability, process in zip(capabilities, running, strict=True):
        said, complaint = process.communicate()
        if process.returncode:
            why = (complaint.strip().splitlines() or ["it said nothing"])[-1]
            msg = f"Triton does not compile for sm_{capability} here: {why}"
            raise BackendUnavailableError(msg)
        made = [json.loads(line) for line in said.splitlines()]
        for kernel in kernels:
            for precision in PRECISIONS:
                key = (kernel, *COMPILED_AS[precision])
                mine = [each for each in made if (each["kernel"], each["dtype"], each["precision"]) == key]
                tried = configurations(kind(precision), capability, light=kernel in LIGHT)
                if len(mine) != len(tried):
                    msg = (
                        f"bench.gpu.ahead compiled {len(mine)} configurations of {kernel} {precision} for "
                        f"sm_{capability}; triton_tiles has {len(tried)}"
                    )
                    raise InvalidInputError(msg)
                for how, each in zip(tried, mine, strict=True):
                    sizes = how.kwargs
                    resident = min(sizes["PER_SM"], each["programs_per_sm"])
                    shape = Shape(
                        sizes["BLOCK_M"], sizes["BLOCK_N"], sizes["BLOCK_K"], how.num_warps, how.num_stages,
                        sizes["PARTS"], resident,
                    )  # fmt: skip
                    uses = (each["registers"], each["stack_bytes"], each["shared_bytes"])
                    found.append(Configured(kernel, precision, capability, shape, sizes["PER_SM"], *uses))
    return found


def main(capability: str, last: str) -> None:
    """Write what the compiler made of all kernels up to `last`."""
    from bench.gpu.ahead import compiled

    names = list(KERNELS)
    wanted = names[: names.index(last) + 1]
    for each in takewhile(lambda one: one.kernel in wanted, compiled((int(capability),))):
        print(json.dumps(asdict(each)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
