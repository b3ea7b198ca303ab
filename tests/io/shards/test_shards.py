"""Rows of shards against the plain array, to the bit."""

import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import ml_dtypes
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomkit.core.row_source import RowSource
from geomkit.errors import InvalidInputError
from geomkit.io.shards.shards import Shard, open_shards
from tests.io.shards.samples import CUTS, FORMATS, X, copied, fixed, npy, parquet, to_memory, write

SMALL = 4 * 4 * 300
"""A `max_memory` whose quarter holds few pieces: of 16 rows, or of 3 where a row group is divided."""


def assert_same(shards, x=X):
    n = len(x)
    assert isinstance(shards, RowSource)
    assert shards.shape == x.shape
    assert shards.dtype == x.dtype.name
    for start, stop in [(0, n), (0, 1), (n - 1, n), (39, 41), (106, 109), (30, 200), (17, 17), (n, n), (48, 64)]:
        if stop <= n:
            got = shards.read(start, stop)
            assert got.dtype == x.dtype
            assert got.dtype.isnative
            assert got.flags.c_contiguous
            assert got.tobytes() == x[start:stop].tobytes()
    numbers = np.random.default_rng(1).integers(0, n, 2 * n)
    assert shards.take(numbers).tobytes() == x[numbers].tobytes()
    assert shards.take(np.array([], np.int64)).shape == (0, x.shape[1])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("place", ["local", "file://", "memory://"])
def test_every_format_gives_the_rows_that_were_written(tmp_path, name, place):
    folder = write(tmp_path / "a", name)
    where = to_memory(folder, name) if place == "memory://" else f"file://{folder}" if place == "file://" else folder
    whole, small = open_shards(where), open_shards(where, max_memory=SMALL)
    for shards in (whole, small):
        assert_same(shards)
        assert_same(copied(shards))
    assert small._pieces.most <= SMALL // 4
    assert whole.identity == small.identity
    (one,) = folder.glob("part-20.*")
    assert open_shards(one).read(0, 1).shape == (1, 5)


@pytest.mark.parametrize("name", ["npy", "parquet-fixed", "arrow-fixed-file-None"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint16", "int64"])
def test_dtypes_come_as_they_were_written(tmp_path, name, dtype):
    x = np.arange(257 * 5).reshape(257, 5).astype(dtype)
    assert_same(open_shards(write(tmp_path / "a", name, x)), x)


def test_arrays_maps_and_lists(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(open_shards(X))
    assert_same(open_shards(np.asfortranarray(X)))
    assert_same(open_shards([X[:100], X[100:]]))
    assert_same(open_shards(mapped))
    halves = open_shards([mapped[:100], mapped[100:]])
    assert_same(halves)
    npy(X[100:107], tmp_path / "b.npy")
    assert_same(open_shards([X[:100], tmp_path / "b.npy", X[107:]]))
    assert len(pickle.dumps(halves)) < 3000
    assert_same(copied(halves))
    turned = np.memmap(tmp_path / "t", np.float32, "w+", shape=(5, 257))
    turned[:] = X.T
    turned.flush()
    assert_same(open_shards(turned.T))
    private = np.load(tmp_path / "x.npy", mmap_mode="c")
    private[3, 3] = 7
    assert copied(open_shards(private)).read(3, 4)[0, 3] == 7
    narrow = X.astype(ml_dtypes.bfloat16)
    assert open_shards([narrow[:9], narrow[9:]]).dtype == "bfloat16"
    assert open_shards([narrow[:9], narrow[9:]]).read(5, 20).tobytes() == narrow[5:20].tobytes()


def test_a_read_within_one_mapped_file_is_a_view_that_cannot_be_written(tmp_path):
    folder = write(tmp_path / "a", "npy")
    shards = open_shards(folder)
    got = shards.read(110, 120)
    assert np.shares_memory(got, shards.read(100, 257)) is False  # joined across shards
    assert np.shares_memory(got, shards.read(109, 200))
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 1
    parquet(X, tmp_path / "x.parquet")
    for other in (open_shards(tmp_path / "x.parquet"), open_shards(X.copy())):
        for rows in (other.read(0, 16), other.read(3, 9)):
            with pytest.raises(ValueError, match="read-only"):
                rows[0, 0] = 1
    mine = X.copy()
    assert np.shares_memory(open_shards(mine).read(0, len(mine)), mine)
    assert mine.flags.writeable


def test_names_order_and_where(tmp_path):
    folder = write(tmp_path / "a", "npy")
    for beside in (".hidden", "_SUCCESS", "_metadata", ".part-4.npy.crc", "x.crc", "_committed_12"):
        (folder / beside).write_text("x")
    (folder / ".ipynb_checkpoints").mkdir()
    shards = open_shards(str(folder))
    assert [each.name for each in shards.shards] == [f"part-{4 * at}.npy" for at in range(1, 6)]
    assert shards.shards[2] == Shard("part-12.npy", 40, 67, (folder / "part-12.npy").stat().st_size)
    assert shards.where(0) == "row 0 of part-4.npy"
    assert shards.where(40) == "row 0 of part-12.npy"
    assert shards.where(107) == "row 0 of part-16.npy"
    assert shards.where(256) == "row 148 of part-20.npy"
    globbed = open_shards(f"{folder}/part-*.npy")
    assert [each.name for each in globbed.shards] == [each.name for each in shards.shards]
    twice = open_shards([folder, *[write(tmp_path / "b", "npy") / "part-4.npy"]])
    assert twice.where(257) == f"row 0 of {tmp_path}/b/part-4.npy"
    assert open_shards([X[:9], X[9:]]).where(10) == "row 1 of array 1"
    with pytest.raises(InvalidInputError, match=r"row must be in \[0, 257\)"):
        shards.where(257)


def test_identity_is_of_content_and_changes_with_it(tmp_path):
    folder = write(tmp_path / "a", "npy")
    before = open_shards(folder).identity
    assert len(before) == 64
    assert open_shards(folder).identity == before
    assert open_shards([folder / "part-4.npy"]).identity != before
    npy(X[:40] + 1, folder / "part-4.npy")
    assert open_shards(folder).identity != before
    one = open_shards(X).identity
    assert one == open_shards(X.copy(order="F")).identity
    changed = X.copy()
    changed[-1, -1] += 1
    assert open_shards(changed).identity != one
    assert open_shards([X[:9], X[9:]]).identity != one
    assert open_shards(iter([X[:9], X[9:]])).identity == open_shards(iter([X])).identity


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shards_any_ranges(tmp_path_factory, data):
    name = data.draw(st.sampled_from(["npy", "parquet-fixed", "parquet-one-group", "arrow-flat-stream-zstd"]))
    sizes = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any))
    cuts = np.cumsum([0, *sizes])
    n = int(cuts[-1])
    x = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
    folder = write(tmp_path_factory.mktemp("any"), name, x, tuple(int(each) for each in cuts))
    shards = open_shards(folder, max_memory=data.draw(st.integers(16 * 20 * 4, 20_000)))
    for _ in range(5):
        start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
        assert shards.read(start, stop).tobytes() == x[start:stop].tobytes()
    numbers = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=40)), np.int64)
    assert shards.take(numbers).tobytes() == x[numbers].tobytes()


@pytest.mark.parametrize("name", ["npy", "parquet-one-group", "arrow-varying-file-zstd", "zarr-sharded"])
def test_another_process_reads_what_was_pickled(tmp_path, name):
    shards = open_shards(write(tmp_path / "a", name), max_memory=SMALL)
    shards.read(3, 5)
    (tmp_path / "pickled").write_bytes(pickle.dumps([shards, X]))
    code = (
        "import pickle, sys; s, x = pickle.load(open(sys.argv[1], 'rb'));"
        "print(s.read(0, 257).tobytes() == x.tobytes(), s.identity, s.where(50))"
    )
    told = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pickled")], capture_output=True, check=True)
    assert told.stdout.decode().split() == ["True", shards.identity, *shards.where(50).split()]


@pytest.mark.parametrize("name", ["npy", "parquet-fixed", "parquet-one-group", "arrow-flat-file-None", "zarr"])
def test_eight_threads_read_what_one_reads(tmp_path, name):
    shards = open_shards(write(tmp_path / "a", name), max_memory=SMALL)

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(25):
            start, stop = np.sort(rng.integers(0, 258, 2))
            assert shards.read(start, stop).tobytes() == X[start:stop].tobytes()
            numbers = rng.integers(0, 257, 9)
            assert shards.take(numbers).tobytes() == X[numbers].tobytes()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert not shards._pieces._gates
    assert shards._pieces.weight == sum(weight for _, weight in shards._pieces._kept.values())


def test_readers_at_once_decode_a_group_once(tmp_path):
    parquet(X, tmp_path / "x.parquet", fixed, 64)
    shards = open_shards(tmp_path / "x.parquet")
    gate = threading.Barrier(8)

    def work(_):
        gate.wait()
        return shards.read(70, 100).tobytes() == X[70:100].tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert shards._pieces.made == 1
    for start in range(0, 256, 8):
        shards.read(start, start + 8)
    assert shards._pieces.made == 4
    shards.take(np.arange(257)[::-1])
    assert shards._pieces.made == 5


def test_a_divided_row_group_is_decoded_once_in_a_pass(tmp_path):
    parquet(X, tmp_path / "x.parquet", fixed, 10_000)
    shards = open_shards(tmp_path / "x.parquet", max_memory=SMALL)
    part = shards._parts[0]
    started = []
    begin = part._at
    part._at = lambda group, **how: (started.append(group), begin(group, **how))[1]
    for start in range(0, 257, 10):
        assert shards.read(start, min(start + 10, 257)).tobytes() == X[start : start + 10].tobytes()
    assert len(part.bounds) - 1 == shards._pieces.made > 17
    assert started == [0]
    shards.read(0, 1)
    assert started == [0, 0]
    shards.read(50, 51)
    for start in (35, 20, 20):  # passed on the way, and kept
        assert np.array_equal(shards.read(start, start + 1), X[start : start + 1])
    assert started == [0, 0]


def test_more_shards_than_files_may_be_open(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    x = np.arange(600.0).reshape(300, 2)
    for row in range(300):
        np.save(tmp_path / f"{row}.npy", x[row : row + 1])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        shards = open_shards(tmp_path)
        assert all(np.array_equal(shards.read(row, row + 1), x[row : row + 1]) for row in range(300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 2), (0, 258)])
def test_ranges_that_are_not_there_are_refused(start, stop):
    with pytest.raises(InvalidInputError, match=r"0 <= start <= stop <= 257; got"):
        open_shards(X).read(start, stop)


@pytest.mark.parametrize("numbers", [[-1], [257], [0.5], [[1]]])
def test_numbers_that_are_not_there_are_refused(numbers):
    with pytest.raises(InvalidInputError, match="numbers must be"):
        open_shards(X).take(np.array(numbers))


def test_cuts_have_an_empty_shard():
    assert 0 in np.diff(CUTS)


def test_pieces_are_decoded_ahead_once_and_only_where_there_is_room(tmp_path):
    x = np.arange(4000.0, dtype="float32").reshape(1000, 4)
    pq.write_table(pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4)}), tmp_path / "a.parquet",
                   row_group_size=100)  # fmt: skip
    shards = open_shards(tmp_path)
    shards.prefetch(150, 320)
    shards._reader.shutdown(wait=True)
    assert shards._pieces.made == 3
    np.testing.assert_array_equal(shards.read(150, 320), x[150:320])
    assert shards._pieces.made == 3
    again = pickle.loads(pickle.dumps(shards))  # noqa: S301 (our own)
    again.prefetch(990, 5000)
    again._reader.shutdown(wait=True)
    assert again._pieces.made == 1
    # A piece takes 1600 bytes, and room is needed for two.
    small = open_shards(tmp_path)
    small._cache_bytes = 3000
    small.prefetch(0, 100)
    small._reader.shutdown(wait=True)
    assert small._pieces.made == 0
    # What breaks is said by who reads.
    (tmp_path / "a.parquet").write_bytes(b"")
    again = open_shards([x])
    again.prefetch(0, 10)
    broken = pickle.loads(pickle.dumps(shards))  # noqa: S301
    broken.prefetch(0, 10)
    broken._reader.shutdown(wait=True)
    with pytest.raises(InvalidInputError, match=r"a\.parquet"):
        broken.read(0, 10)


def as_csv(x, path):
    pd.DataFrame({"id": np.random.default_rng(0).permutation(len(x)), "v": x.tolist()}).to_csv(path, index=False)


def as_jsonl(x, path):
    path.write_text("".join(json.dumps({"id": 7, "v": row}) + "\n" for row in x.tolist()))


@pytest.mark.parametrize(("suffix", "how"), [(".csv", as_csv), (".jsonl", as_jsonl)])
def test_files_of_text_are_shards(tmp_path, suffix, how):
    cuts = (0, 40, 107, 108, 257)
    for number, (start, stop) in enumerate(pairwise(cuts)):
        how(X[start:stop], tmp_path / f"part-{number}{suffix}")
    shards = open_shards(tmp_path)
    assert (shards.shape, shards.dtype, shards.columns, shards.left_out) == ((257, 5), "float64", ["v"], ["id"])
    assert "left out ['id']" in shards.note
    for each in (shards, copied(shards)):
        assert np.array_equal(each.read(30, 200), X[30:200])
        assert np.array_equal(each.take(np.array([256, 0, 107])), X[[256, 0, 107]])
    assert shards.where(107) == f"row 0 of part-2{suffix}"
    fresh = open_shards(tmp_path)
    how(X[:9], tmp_path / f"part-0{suffix}")
    with pytest.raises(InvalidInputError, match="it changed since it was opened"):
        fresh.read(0, 3)
    with pytest.raises(
        InvalidInputError, match="text is read from local files alone; copy it here, or write it as Par"
    ):
        open_shards(to_memory(tmp_path, "text"))


def test_files_of_text_must_have_their_vectors_in_the_same_columns(tmp_path):
    (tmp_path / "0.csv").write_text("a,b\n0.5,0.25\n0.75,0.5\n")
    (tmp_path / "1.csv").write_text("b,a\n0.5,0.25\n0.75,0.5\n")
    with pytest.raises(InvalidInputError, match=r"its vectors are in \['b', 'a'\], those of .*0\.csv in \['a', 'b'\]"):
        open_shards(tmp_path)
    (tmp_path / "1.csv").write_text("0.5,0.25\n0.75,0.5\n")
    with pytest.raises(InvalidInputError, match=r"its vectors are in \['1', '2'\]"):
        open_shards(tmp_path)
    found = open_shards(str(tmp_path / "0.csv"), columns="b")
    assert np.array_equal(found.read(0, 2), [[0.25], [0.5]])
