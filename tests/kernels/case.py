"""One call of one kernel: its inputs quantised to the dtype under test, its outputs by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import scipy.sparse
import torch

from geomkit.kernels import KERNELS, Backend, load, module

NONE = -1e9
"""Stands for minus infinity, which has no error to be held to."""


@dataclass(frozen=True)
class Case:
    """One call: `arguments` are float64 arrays that the dtype holds exactly, CSR arrays, or plain values."""

    kernel: str
    arguments: tuple[Any, ...]
    outputs: dict[str, Any]
    """Memory that the kernel fills or updates, as it is before the call, after the arguments in this order; a function
    where its shape depends on the dtype."""
    bounds: Callable[[dict[str, np.ndarray], str, str], dict[str, Any]]
    """(reference outputs, dtype, accumulator) -> greatest error of each output."""
    trailing: tuple[Any, ...] = ()
    """Arguments after the outputs."""
    label: str = ""
    wide: frozenset[str] = frozenset()
    """Outputs that keep their own dtype, whatever that of the rows."""
    shared: bool = False
    """Whether the last two outputs are one and the same memory (a tile on the diagonal)."""
    untouched: frozenset[int] = frozenset()
    """Positions of arguments that stay float64 NumPy arrays in every backend."""
    as_given: frozenset[int] = frozenset()
    """Positions of rows before any preparation, which are float32 where the dtype has 16 bits."""
    reading: Callable[[dict[str, Any]], dict[str, Any]] = lambda found: found
    """What the outputs mean, where backends may write it differently."""

    def run(self, backend: Backend, dtype: str) -> dict[str, np.ndarray]:
        placed: dict[int, Any] = {}

        def place(at: int, value: Any) -> Any:
            # The same argument twice is the same memory twice.
            if id(value) not in placed:
                placed[id(value)] = value
                if scipy.sparse.issparse(value):
                    placed[id(value)] = value.toarray() if backend is Backend.REFERENCE else value.astype(dtype)
                elif isinstance(value, np.ndarray) and at == 0 and fused(self.kernel, backend):
                    placed[id(value)] = as_tile(backend, value, dtype)
                elif isinstance(value, np.ndarray) and at not in self.untouched:
                    kind = "float32" if dtype in {"bfloat16", "float16"} and at in self.as_given else dtype
                    placed[id(value)] = working(backend, value, kind)
            return placed[id(value)]

        held: dict[str, Any] = {}
        for name, given in self.outputs.items():
            start = given(dtype) if callable(given) else given
            kind = start.dtype.name if name in self.wide else dtype
            if name == "counts":
                kind = module(backend).COUNTER
            held[name] = module(backend).zeros(start.shape, kind, DEVICE if backend.on_device else None)
            held[name][...] = working(backend, start, kind)
        filled = list(held.values())
        if self.shared:
            filled[-1] = filled[-2]
        arguments = [place(at, value) for at, value in enumerate(self.arguments)]
        returned = load(self.kernel, backend)(*arguments, *filled, *self.trailing)
        if self.shared:
            held.popitem()
        found = {name: read(backend, value) for name, value in held.items()}
        if returned is not None:
            parts = returned if isinstance(returned, tuple) else (returned,)
            found |= {f"returned{at or ''}": read(backend, part) for at, part in enumerate(parts)}
        if "counts" in found:
            found["counts"] = found["counts"].sum(axis=0)
        return {name: np.where(np.isneginf(value), NONE, value) for name, value in self.reading(found).items()}


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where tensors of tests lie: Triton's interpreter works on the CPU, its compiler on a GPU."""


def fused(kernel: str, backend: Backend) -> bool:
    """Whether a kernel takes two blocks of rows for a tile."""
    return backend is Backend.TRITON and KERNELS[kernel][backend].target.startswith("geomkit.kernels.triton_:")


def as_tile(backend: Backend, tile: np.ndarray, dtype: str) -> Any:
    """A tile in the memory of a backend; for Triton, its rows and those of the identity, whose product it is."""
    if backend is not Backend.TRITON:
        return working(backend, tile, dtype)
    columns = module(backend).COLUMNS
    padding = ((0, 0), (0, -tile.shape[1] % columns))
    left, right = np.pad(tile, padding), np.pad(np.eye(tile.shape[1]), padding)
    return module(backend).Product(working(backend, left, dtype), working(backend, right, dtype))


def working(backend: Backend, value: np.ndarray, dtype: str) -> Any:
    """Values in the memory of a backend."""
    if backend.on_device and dtype in {"bfloat16", "float16"}:
        return torch.from_numpy(np.ascontiguousarray(value)).to(DEVICE, getattr(torch, dtype))
    if dtype != "bfloat16":
        return module(backend).as_working(value, dtype, DEVICE if backend.on_device else None)
    return np.ascontiguousarray(value, ml_dtypes.bfloat16).view(np.uint16)


def read(backend: Backend, value: Any) -> np.ndarray:
    """Values from the memory of a backend; bfloat16 as float64."""
    if isinstance(value, torch.Tensor) and value.dtype.itemsize == 2 and value.dtype.is_floating_point:
        value = value.to(torch.float64)
    found = module(backend).to_numpy(value) if isinstance(value, torch.Tensor) else value
    return found.view(ml_dtypes.bfloat16).astype(np.float64) if found.dtype == np.uint16 else found


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(np.float64)


def quantised(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return rounded(rng.standard_normal(shape), dtype)
