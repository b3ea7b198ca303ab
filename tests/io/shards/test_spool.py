"""Iterators of blocks, which are written to a file that goes away."""

import errno
import gc
import os
import pickle
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse

from geomkit.errors import InvalidInputError
from geomkit.io.shards import spool
from geomkit.io.shards.shards import open_shards
from tests.io.shards.samples import X, copied


def blocks(x=X, size=50):
    for start in range(0, len(x), size):
        yield x[start : start + size]


@pytest.mark.parametrize("x", [X, np.asfortranarray(X), X.astype(">f8"), X.astype("int16"), X[:1]])
def test_what_is_drawn_is_read(tmp_path, x):
    shards = open_shards(blocks(x), spool=tmp_path)
    assert shards.shape == x.shape
    assert shards.dtype == x.dtype.name
    assert np.array_equal(shards.read(0, len(x)), x)
    assert np.array_equal(shards.take(np.arange(len(x))[::-1]), x[::-1])
    assert shards.where(0) == "row 0 of the iterator"
    (file,) = tmp_path.iterdir()
    assert np.array_equal(np.load(file), x)


def test_lists_and_empty_blocks(tmp_path):
    shards = open_shards(iter([np.empty((0, 2)), [[1.0, 2.0]], ((3.0, 4.0), (5.0, 6.0))]), spool=tmp_path)
    assert shards.read(0, 3).tolist() == [[1, 2], [3, 4], [5, 6]]


def test_the_file_goes_with_the_shards_and_only_in_the_process_that_made_it(tmp_path):
    shards = open_shards(blocks(), spool=tmp_path)
    (tmp_path / "pickled").write_bytes(pickle.dumps(shards))
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).read(0, 257).tobytes().hex())"
    got = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pickled")], capture_output=True, check=True)
    assert bytes.fromhex(got.stdout.decode().strip()) == X.tobytes()
    copy = copied(shards)
    assert copy.identity == shards.identity
    del copy
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            del shards
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    rows = shards.read(3, 9)
    copy = copied(shards)
    del shards
    gc.collect()
    assert list(tmp_path.glob("*.npy")) == []
    assert np.array_equal(rows, X[3:9])
    with pytest.raises(InvalidInputError, match="no such file"):
        copy.read(0, 1)


def raising():
    yield X
    raise KeyboardInterrupt


BAD = {
    "nothing": (lambda: iter([]), "its blocks have no rows"),
    "no-rows": (lambda: iter([X[:0]]), "its blocks have no rows"),
    "row": (lambda: iter([X[0]]), "the iterator, block 0: it has 1 dimensions"),
    "rows": (lambda: iter(X), "the iterator, block 0: it has 1 dimensions"),
    "width": (lambda: iter([X, X[:, 1:]]), "block 1 has 4 columns of float32, block 0 5 of float32"),
    "dtype": (lambda: iter([X, X, X.astype(float)]), "block 2 has 5 columns of float64"),
    "complex": (lambda: iter([X * 1j]), "block 0: it holds complex64"),
    "objects": (lambda: iter([[["a", "b"]]]), "block 0: it holds <U1"),
    "ragged": (lambda: iter([[[1.0], [1.0, 2.0]]]), "block 0: list cannot be read as a matrix"),
    "sparse": (lambda: iter([sparse.csr_array(X)]), "block 0: it is sparse"),
    "masked": (lambda: iter([np.ma.masked_less(X, 0)]), "block 0: it has masked entries"),
    "bfloat16": (lambda: iter([X.astype(ml_dtypes.bfloat16)]), "bfloat16, which a .npy file cannot say"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_blocks_are_refused_and_nothing_is_left(tmp_path, name):
    given, match = BAD[name]
    with pytest.raises(InvalidInputError, match=match):
        open_shards(given(), spool=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_the_iterator_raises_is_raised_and_nothing_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        open_shards(raising(), spool=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInputError, match=r"spool is .*none, where no file can be written \(No such file"):
        open_shards(blocks(), spool=tmp_path / "none")


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        with pytest.raises(InvalidInputError, match=rf"spool {tmp_path} is full .* after 100 rows of the iterator"):
            open_shards(blocks(), spool=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


class Broken:
    """A file on a disk that fails for another reason than being full."""

    def write(self, _):
        raise OSError(errno.EIO, "broken")


def test_other_errors_of_the_disk_are_not_called_full(tmp_path):
    with pytest.raises(OSError, match="broken") as caught:
        spool._to_disk(Broken(), tmp_path, 0, memoryview(b"x"))
    assert not isinstance(caught.value, InvalidInputError)
