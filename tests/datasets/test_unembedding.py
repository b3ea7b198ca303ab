"""Heads of weight files, written here bit by bit and read back."""

import struct

import numpy as np
import pytest
from handmade import FakePip, toy_package, zipped

from geomkit.datasets import fetch as fetching
from geomkit.datasets import get, unembedding
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.unembedding import complete_rows, dequantised, read_head
from geomkit.errors import IntegrityError, InvalidInputError

TOKENS = ["!", "Ġthe", "é", "cat", "[end]"]
STRING, ARRAY, UINT32, FLOAT32, BOOL = 8, 9, 4, 6, 7
Q6_K, F32 = 14, 0


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(body: bytes, *, kind: int = Q6_K, name: str = "output.weight", alignment: int | None = 64) -> bytes:
    tokens = struct.pack("<IQ", STRING, len(TOKENS)) + b"".join(map(string, TOKENS))
    pairs = [
        pair("general.name", STRING, string("toy")),
        pair("some.scale", FLOAT32, struct.pack("<f", 0.5)),
        pair("some.switch", BOOL, b"\1"),
        pair("tokenizer.ggml.tokens", ARRAY, tokens),
        pair("some.numbers", ARRAY, struct.pack("<IQ3I", UINT32, 3, 7, 8, 9)),
    ]
    if alignment:
        pairs.append(pair("general.alignment", UINT32, struct.pack("<I", alignment)))
    # The file lists its tensors in any order; the first one is the one whose data comes first.
    tensors = [tensor("blk.0.weight", (512,), F32, 1 << 20), tensor(name, (512, len(TOKENS)), kind, 0)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return head + bytes(-len(head) % (alignment or 32)) + body


def q6_k(levels: np.ndarray, scales: np.ndarray, step: float) -> bytes:
    """Store 256 levels in [-32, 31] the way that Q6_K does: low four bits, high two bits, 16 scales, one step."""
    low, high = np.zeros(128, np.uint8), np.zeros(64, np.uint8)
    for i, level in enumerate((levels + 32).astype(int)):
        half, quarter, at = i // 128, i % 128 // 32, i % 32
        low[64 * half + 32 * (quarter % 2) + at] |= (level & 15) << (4 * (quarter // 2))
        high[32 * half + at] |= (level >> 4) << (2 * quarter)
    return low.tobytes() + high.tobytes() + scales.astype(np.int8).tobytes() + np.float16(step).tobytes()


@pytest.fixture
def table() -> tuple[bytes, np.ndarray]:
    """Five rows of 512 in Q6_K, and the numbers that they stand for."""
    rng = np.random.default_rng(0)
    levels = rng.integers(-32, 32, (len(TOKENS), 2, 256))
    scales = rng.integers(-100, 100, (len(TOKENS), 2, 16))
    steps = 2.0 ** rng.integers(-12, -4, (len(TOKENS), 2))
    blocks = [q6_k(levels[i, j], scales[i, j], steps[i, j]) for i in range(len(TOKENS)) for j in range(2)]
    values = steps[..., None] * np.repeat(scales, 16, axis=-1) * levels
    return b"".join(blocks), values.reshape(len(TOKENS), 512)


@pytest.mark.parametrize("alignment", [None, 64])
def test_reads_tokens_and_place_of_the_first_tensor(table, alignment):
    data = gguf(table[0], alignment=alignment)
    head = read_head(data)

    assert head.tokens == tuple(TOKENS)
    assert (head.tensor, head.dim, head.kind) == ("output.weight", 512, Q6_K)
    assert data[head.start :] == table[0]


def test_dequantises_to_step_times_scale_times_level(table):
    data = gguf(table[0])
    got = dequantised(complete_rows(data, read_head(data)))

    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, table[1])


def test_keeps_complete_rows_only(table):
    data = gguf(table[0])
    head = read_head(data)

    assert len(complete_rows(data[:-1], head)) == 4
    assert len(complete_rows(data[: -2 * 420], head)) == 3
    assert len(complete_rows(data + bytes(4200), head)) == 5  # what follows the last token is another tensor


def test_refuses_a_header_cut_anywhere(table):
    data = gguf(table[0])
    start = read_head(data).start
    for cut in range(0, start - 64, 7):
        with pytest.raises(IntegrityError):
            read_head(data[:cut])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GGML" + bytes(100), "not the beginning of a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "without tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair("k", 77, b""), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60), "ends early"),
    ],
)
def test_refuses_other_files(data, message):
    with pytest.raises(IntegrityError, match=message):
        read_head(data)


@pytest.mark.parametrize("given", [{"kind": F32}, {"name": "token_embd.weight"}])
def test_refuses_another_first_tensor(table, given):
    data = gguf(table[0], **given)
    with pytest.raises(IntegrityError, match=r"wanted output\.weight of type Q6_K"):
        complete_rows(data, read_head(data))


@pytest.fixture
def parts(table, cache, monkeypatch):
    """The file in two packages, the second of which ends within a row."""
    data = gguf(table[0])[:-100]
    halves = {"toy0==1.0": zipped({"head": data[:300]}), "toy1==1.0": zipped({"head": data[300:]})}
    for requirement, wheel in halves.items():
        name = requirement.partition("=")[0]
        monkeypatch.setitem(PACKAGES, name, toy_package(wheel, members=("head",), name=name))
    pip = FakePip(b"")
    pip.before = lambda: setattr(pip, "wheel", halves[pip.calls[-1][-1]])
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    return ("toy0", "toy1")


def test_joins_parts_and_labels_rows_with_tokens(parts, table):
    got = unembedding._load("toy-unembedding-512", "a toy", 512, 4, parts, None, 0)
    some = unembedding._load("toy-unembedding-512", "a toy", 512, 4, parts, 2, 1)

    np.testing.assert_array_equal(got.vectors, table[1][:4])
    assert list(got.labels) == TOKENS[:4]
    assert got.seed is None
    assert "unembedding vectors of frequent tokens: the first 4 of 5" in got.note
    np.testing.assert_array_equal(some.vectors, table[1][[TOKENS.index(token) for token in some.labels]])
    assert some.vectors.shape == (2, 512)
    assert "2 of 4 rows sampled without replacement with seed 1" in some.note


def test_refuses_other_numbers_of_rows_or_columns(parts):
    with pytest.raises(IntegrityError, match="has 4 complete rows, not 5"):
        unembedding._load("toy-unembedding-512", "a toy", 512, 5, parts, None, 0)
    with pytest.raises(IntegrityError, match="dimension 512, not 256"):
        unembedding._load("toy-unembedding-256", "a toy", 256, 4, parts, None, 0)
    with pytest.raises(InvalidInputError, match="5, but it has only 4 rows"):
        unembedding._load("toy-unembedding-512", "a toy", 512, 4, parts, 5, 0)


def test_both_are_optional():
    assert get("qwen-unembedding-1536").optional
    assert get("deepseek-unembedding-3584").optional
