"""Mutated files: each is opened or refused, in bounded memory. ``python -m tests.io.files.fuzz FORMAT`` tries some."""

import sys
import tempfile
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.io import files
from tests.io.files.samples import SAMPLES

FIXED = 16 * 2**20
"""Bytes that any reader may take: blocks, batches, modules that are loaded."""
TIMES = 1100
"""Deflate's largest ratio; small files may make use of it."""

NUMBERS = [0, 1, 127, 255, 10**9, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1]
WORDS = [b'"', b"\n", b",", b" ", b"nan", b"\xff\xfe", b"[", b"{", b"null", b"1e999", b"999999999999", b"\0", b"_"]

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("number"), st.floats(0, 1), st.sampled_from(NUMBERS), st.sampled_from([1, 2, 4, 8])),
        st.tuples(st.just("bit"), st.floats(0, 1), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("remove"), st.floats(0, 1), st.integers(1, 40), st.just(0)),
        st.tuples(st.just("splice"), st.floats(0, 1), st.floats(0, 1), st.integers(1, 80)),
        st.tuples(st.just("word"), st.floats(0, 1), st.sampled_from(WORDS), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


@cache
def contents(name):
    """Files of a format as bytes, with the suffix and what to ask for."""
    with tempfile.TemporaryDirectory() as folder:
        found = [(sample, sample.at(Path(folder)).read_bytes()) for sample in SAMPLES if sample.format == name]
    return [(sample.file, whole, sample.key, sample.labels) for sample, whole in found]


def edited(whole, edits):
    """Apply edits: damage to numbers and bits, truncation, removal, repetition, insertion."""
    data = bytearray(whole)
    for kind, where, what, size in edits:
        at = int(where * len(data))
        if kind == "number":
            data[at : at + size] = (what % 256**size).to_bytes(size, "little")
        elif kind == "bit" and at < len(data):
            data[at] ^= 1 << what
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + what]
        elif kind == "splice":
            start = int(what * len(data))
            data[at:at] = data[start : start + size]
        elif kind == "word":
            data[at:at] = what
    return bytes(data)


def check(path, *, key, labels):
    """Open a file, or see it refused, and hold what it took against its size."""
    tracemalloc.reset_peak()
    before, message = tracemalloc.get_traced_memory()[0], None
    try:
        got = files.read(path, key=key, labels=labels)
    except InvalidInputError as why:
        message = str(why)
    else:
        n, d = got.vectors.shape
        assert min(n, d) >= 1
        assert len(got.labels) == n if labels else got.labels is None
        assert got.names is None or len(got.names) == n
        matrix = as_matrix(got.vectors, min_rows=1)
        if not sparse.issparse(got.vectors):
            np.asarray(matrix.block(0, n)).sum()  # every value can be reached
    finally:
        peak = tracemalloc.get_traced_memory()[1] - before
    assert message is None or (str(path) in message and "\n" not in message), message
    assert peak < FIXED + TIMES * path.stat().st_size, f"{peak:,} bytes"


def fuzz(name, examples):
    """Try so many mutated files of one format, always the same."""

    @settings(
        max_examples=examples, deadline=20_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.integers(0, len(contents(name)) - 1), st.booleans(), EDITS)
    def run(number, asked, edits):
        file, whole, key, labels = contents(name)[number]
        path = folder / file
        path.write_bytes(edited(whole, edits))
        check(path, key=key, labels=labels if asked else None)

    tracemalloc.start()
    try:
        with tempfile.TemporaryDirectory() as at, np.errstate(all="ignore"):
            folder = Path(at)
            run()
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    for each in sys.argv[2:]:
        fuzz(each, int(sys.argv[1]))
        print(each)
