"""Streams of blocks, and everything that is refused."""

import pickle

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.matrix import as_matrix
from geomkit.covariance import batches
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend
from geomkit.stats.moments import MomentsAccumulator, moments
from tests.stats.oracle import DATA, data
from tests.stats.pairs_oracle import TALL, WIDE, check, close, sparse_rows

BACKENDS = [backend.value for backend in Backend if backend is not Backend.TRITON]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_stream_gives_what_one_shot_gives(draw):
    n = draw.draw(st.integers(8, 40))
    name = draw.draw(st.sampled_from(sorted(DATA)))
    x = data(name, n, 6, seed=draw.draw(st.integers(0, 20)))
    cuts = sorted(draw.draw(st.sets(st.integers(1, n - 1), max_size=5)))
    parts = np.split(x, cuts)
    streams = [MomentsAccumulator() for _ in parts]
    for stream, part in zip(streams, parts, strict=True):
        stream.update(scipy.sparse.csr_array(part) if draw.draw(st.booleans()) else part)
    while len(streams) > 1:
        k = draw.draw(st.integers(0, len(streams) - 2))
        other = streams.pop(k + 1)
        before = pickle.dumps(other)
        assert streams[k].merge(other) is streams[k]
        assert pickle.dumps(other) == before
    close(streams[0].result(), moments(x), x, sparse=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_one_by_one(backend):
    x = data("clustered", 40, 5)
    stream = MomentsAccumulator(backend=backend)
    for row in x:
        assert stream.update(row[None]) is stream
    assert (stream.n, stream.n_dropped) == (40, 0)
    check(stream.result(), x)
    # A result changes nothing.
    check(stream.update(x[::-1]).result(), np.concatenate([x, x[::-1]]))


def test_sparse_blocks_join_dense_ones():
    x = sparse_rows(*TALL, far=5.0)
    stream = (
        MomentsAccumulator().update(x[:50]).update(scipy.sparse.csr_array(x[50:90])).update(torch.from_numpy(x[90:]))
    )
    check(stream.result(), x, sparse=True)


def test_accumulators_travel():
    x = data("gaussian", 60, 6)
    away = pickle.loads(pickle.dumps(MomentsAccumulator().update(x[:20])))  # noqa: S301
    check(MomentsAccumulator().update(x[20:]).merge(away).result(), x)


def test_merging_with_nothing():
    x = data("gaussian", 60, 6)
    stream = MomentsAccumulator().merge(MomentsAccumulator())
    assert stream.n == 0
    stream.update(x).merge(MomentsAccumulator())
    check(stream.result(), x)
    torch_stream = MomentsAccumulator(backend="torch").merge(stream)
    check(torch_stream.result(), x)
    assert torch_stream.result().backend == "torch"
    assert MomentsAccumulator().merge(torch_stream).result().backend == "torch"


def test_streams_on_a_device():
    x = data("gaussian", 60, 6)
    there = MomentsAccumulator(backend="torch", device="cpu").update(x[:20])
    assert there.result().backend == "torch"
    away = pickle.loads(pickle.dumps(there))  # noqa: S301
    check(away.update(torch.from_numpy(x[20:])).result(), x)
    # A stream without rows takes over where the other's are, unless it was told where to be.
    assert MomentsAccumulator().merge(there).result().backend == "torch"
    assert MomentsAccumulator(device="cpu").merge(there).result().backend == "cpu"
    check(MomentsAccumulator(device="cpu").merge(there).update(x[20:]).result(), x)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
def test_moments_on_a_device(shape):
    x = data("clustered", *shape)
    for rows in (x, torch.from_numpy(x), scipy.sparse.csr_array(x)):
        found = moments(rows, backend="torch", device="cpu", standard_errors=True)
        assert found.backend == "torch"
        check(found, x, variance_se=True)


def test_blocks_are_larger_on_accelerators(monkeypatch):
    tall, wide = (as_matrix(np.broadcast_to(np.float32(1), shape)) for shape in ((10**6, 100), (10**6, 10**5)))
    assert batches.block_rows(tall, Backend.TORCH) == batches.BLOCK_ENTRIES // 100
    assert batches.block_rows(tall.placed(("cuda",)), Backend.TORCH) == batches.DEVICE_BLOCK_ENTRIES // 100
    assert batches.block_rows(wide.placed(("cuda",)), Backend.TORCH) == batches.BLOCK_ROWS


def with_bad_rows(shape):
    x = data("gaussian", *shape)
    x[3], x[7, 2], x[5] = np.nan, np.inf, 0
    return x


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_invalid_rows(backend, sparse, shape):
    x = with_bad_rows(shape)
    given_x = scipy.sparse.csr_array(x) if sparse else x.copy()
    with pytest.raises(InvalidInputError, match=r"^x has 2 rows \(first: 3, 7\) that are not finite; drop them with"):
        moments(given_x, backend=backend)
    x[[3, 7]] = 1
    only_zero = scipy.sparse.csr_array(x) if sparse else x
    with pytest.raises(InvalidInputError, match=r"^x has 1 row \(5\) that are zero and have no direction"):
        moments(only_zero, backend=backend)
    found = moments(given_x, backend=backend, on_invalid="drop", standard_errors=True)
    kept = np.delete(with_bad_rows(shape), [3, 5, 7], axis=0)
    assert found.n_dropped == 3
    check(found, kept, sparse=True, variance_se=True)


@pytest.mark.parametrize("shape", [(3, 2), (3, 20)], ids=["tall", "wide"])
def test_too_few_rows_are_left(shape):
    x = np.ones(shape)
    x[:2] = np.nan
    with pytest.raises(InvalidInputError, match=r"^x has 1 rows? left after dropping 2.*; it must have at least 2$"):
        moments(x, on_invalid="drop")
    with pytest.raises(InvalidInputError, match=r"^x has 0 rows left after dropping 3.*; it must have at least 2$"):
        moments(np.zeros(shape), on_invalid="drop")


def test_invalid_rows_of_a_stream_are_numbered_from_its_beginning():
    x = with_bad_rows((20, 4))
    stream = MomentsAccumulator().update(data("gaussian", 100, 4, seed=3))
    before = pickle.dumps(stream)
    with pytest.raises(InvalidInputError, match=r"^block has 2 rows \(first: 103, 107\) that are not finite"):
        stream.update(x)
    with pytest.raises(InvalidInputError, match=r"^block has 1 row \(101\) that are zero"):
        stream.update(x[4:6])
    assert pickle.dumps(stream) == before
    dropping = MomentsAccumulator(on_invalid="drop").update(x).update(x[3:4]).merge(stream)
    assert (dropping.n, dropping.n_dropped) == (117, 4)
    assert dropping.result().n_dropped == 4
    check(dropping.result(), np.concatenate([np.delete(x, [3, 5, 7], 0), data("gaussian", 100, 4, seed=3)]))


@pytest.mark.parametrize(
    ("x", "how", "message"),
    [
        (np.ones(3), {}, r"x has 1 dimensions"),
        (np.ones((1, 3)), {}, r"x has 1 row \(shape \(1, 3\)\); it must have at least 2"),
        (np.ones((3, 0)), {}, r"x has no columns"),
        (np.ones((3, 2), complex), {}, r"x has dtype complex128"),
        (np.ones((3, 2)), {"backend": "gpu"}, r"backend must be 'auto' or one of"),
        (np.ones((3, 2)), {"on_invalid": "skip"}, r"on_invalid must be one of \['raise', 'drop'\]; got 'skip'"),
        (np.ones((3, 2)), {"threads": 0}, r"threads must be a whole number of at least 1"),
    ],
)
def test_refusals(x, how, message):
    with pytest.raises(InvalidInputError, match=f"^{message}"):
        moments(x, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"backend": "gpu"}, r"backend must be 'auto' or one of \['reference', 'cpu', 'torch', 'triton'\]; got 'gpu'"),
        ({"on_invalid": "skip"}, r"on_invalid must be one of"),
        ({"threads": 1.5}, r"threads must be a whole number"),
    ],
)
def test_a_stream_refuses_its_arguments_at_once(how, message):
    with pytest.raises(InvalidInputError, match=f"^{message}"):
        MomentsAccumulator(**how)


def test_a_stream_refuses_what_does_not_fit():
    stream = MomentsAccumulator()
    with pytest.raises(InvalidInputError, match=r"^the stream has 0 rows; it must have at least 2$"):
        stream.result()
    stream.update(np.ones((1, 3)))
    with pytest.raises(InvalidInputError, match=r"^the stream has 1 row; it must have at least 2$"):
        stream.result()
    with pytest.raises(InvalidInputError, match=r"^block has 4 columns; it must have 3, like the blocks before$"):
        stream.update(np.ones((2, 4)))
    with pytest.raises(
        InvalidInputError, match=r"^block has 8193 columns; a stream must have at most 8192.*moments\(x\)"
    ):
        stream.update(np.ones((2, 8193)))
    with pytest.raises(InvalidInputError, match=r"^block has 0 rows"):
        stream.update(np.ones((0, 3)))
    with pytest.raises(InvalidInputError, match=r"^other has rows of 4 columns; it must have 3$"):
        stream.merge(MomentsAccumulator().update(np.ones((2, 4))))
    with pytest.raises(InvalidInputError, match=r"^other must be another MomentsAccumulator; got itself$"):
        stream.merge(stream)
    with pytest.raises(InvalidInputError, match=r"^other must be another MomentsAccumulator; got int$"):
        stream.merge(3)
    merged = MomentsAccumulator().merge(MomentsAccumulator(backend="torch").update(np.ones((2, 3))))
    with pytest.raises(InvalidInputError, match=r"^block is for backend 'cpu' on cpu; it must be for 'torch' on cpu"):
        merged.update(np.ones((2, 3)))
    assert stream.n == 1
