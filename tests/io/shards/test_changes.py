"""Shards that change, vanish or break while they are in use, and what reading them costs in memory."""

import os
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from geomkit.errors import InvalidInputError
from geomkit.io.shards.shards import CACHE_BYTES, CACHE_SHARE, open_shards
from tests.io.shards.samples import FORMATS, X, copied, fixed, parquet, to_memory, write

NAMES = ["npy", "npy-fortran", "parquet-fixed", "parquet-one-group", "arrow-fixed-file-None", "arrow-flat-stream-zstd",
         "zarr", "zarr-version-2"]  # fmt: skip
SMALL = 4 * 4 * 300


def pieces_of(folder, suffix):
    """The file of the third shard that holds its first rows."""
    top = folder / f"part-12{suffix}"
    return next(top / inner for inner in ("c/0/0", "0.0") if (top / inner).exists()) if top.is_dir() else top


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("how", ["vanishes", "shrinks", "is written anew"])
def test_a_local_shard_that_changed_is_named(tmp_path, name, warm, how):
    folder = write(tmp_path / "a", name)
    path = pieces_of(folder, FORMATS[name][0])
    shards = open_shards(folder, max_memory=SMALL)
    copy = copied(shards)
    if warm:
        shards.read(107, 257)
        shards.read(41, 42)
        shards.read(0, 40)
        shards.read(107, 257)
    if how == "vanishes":
        path.unlink()
    elif how == "shrinks":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    match = {"vanishes": "there is no such file", "shrinks": "had .* bytes, now it has", "is written anew": "anew"}[how]
    for each in (shards, copy):
        with pytest.raises(InvalidInputError, match=rf"part-12.*{match}"):
            each.read(40, 107)
        with pytest.raises(InvalidInputError, match=rf"part-12.*{match}"):
            each.take(np.array([3, 41]))
        assert np.array_equal(each.read(0, 40), X[:40])


@pytest.mark.parametrize("name", NAMES)
def test_a_remote_shard_that_changed_is_named(tmp_path, name):
    folder = write(tmp_path / "a", name)
    path = pieces_of(folder, FORMATS[name][0])
    shards = open_shards(to_memory(folder, "far"), max_memory=SMALL)
    there = fsspec.filesystem("memory")
    address = f"/far/{path.relative_to(folder).as_posix()}"
    there.pipe(address, there.cat(address))
    with pytest.raises(InvalidInputError, match=r"memory:///far/part-12.*written anew"):
        shards.read(40, 107)
    there.rm(address)
    with pytest.raises(InvalidInputError, match=r"memory:///far/part-12.*no such file"):
        shards.read(40, 107)
    assert np.array_equal(shards.read(0, 40), X[:40])


def test_a_remote_file_that_ends_early_is_named(tmp_path, monkeypatch):
    shards = open_shards(to_memory(write(tmp_path / "a", "npy"), "far"))
    there = type(fsspec.filesystem("memory"))
    whole = there.cat_file
    monkeypatch.setattr(there, "cat_file", lambda *given, **how: whole(*given, **how)[:-1])
    with pytest.raises(InvalidInputError, match=r"part-12\.npy: bytes 128 to 1,468 should be there, .* 1,339 b"):
        shards.read(40, 107)


def flipped(path, at):
    """Change one byte without a trace in size or time."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_wrong_checksum_of_parquet_is_told(tmp_path):
    path = tmp_path / "x.parquet"
    parquet(X, path, fixed, write_page_checksum=True, compression="none", use_dictionary=False)
    shards = open_shards(path)
    at = path.read_bytes().index(X[20].tobytes())
    flipped(path, at + 5)
    assert np.array_equal(shards.read(0, 16), X[:16])
    with pytest.raises(InvalidInputError, match=r"x\.parquet: .*(CRC|checksum|corrupt)"):
        shards.read(16, 32)
    flipped(path, at + 5)
    assert np.array_equal(shards.read(16, 32), X[16:32])  # what failed is not kept
    assert shards._pieces.weight == 2 * 16 * 20


@pytest.mark.parametrize("name", ["parquet-columns", "arrow-fixed-file-zstd", "arrow-varying-stream-zstd"])
def test_damage_ends_in_an_error_or_in_rows(tmp_path, name):
    folder = write(tmp_path / "a", name, cuts=(0, 257))
    path = folder / f"part-4{FORMATS[name][0]}"
    whole, rng, told = path.read_bytes(), np.random.default_rng(2), 0
    for _ in range(60):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            assert open_shards(path).read(0, 257).shape == (257, 5)
        except InvalidInputError as why:
            told += str(path) in str(why)
    assert told > 5


def test_kept_pieces_stay_within_their_share(tmp_path):
    parquet(X, tmp_path / "x.parquet", fixed, 16)
    shards = open_shards(tmp_path / "x.parquet", max_memory=8 * 16 * 20)
    for start in (*range(257), *range(256, -1, -1)):
        assert np.array_equal(shards.read(start, start + 1), X[start : start + 1])
    kept = shards._pieces
    assert kept.limit == 8 * 16 * 20 // CACHE_SHARE == 2 * 16 * 20
    assert kept.most <= kept.limit
    assert kept.weight == sum(rows.nbytes for rows, _ in kept._kept.values())
    assert open_shards(tmp_path / "x.parquet")._pieces.limit == CACHE_BYTES


PEAK = """
import sys, threading, numpy as np, pyarrow as pa
from geomkit.io.shards.shards import open_shards
def anonymous():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))
shards = open_shards(sys.argv[1], max_memory=int(sys.argv[2]))
np.ones((64, 64), np.float32) @ np.ones((64, 64), np.float32)
shards.read(0, 1); shards._pieces.clear()
pa.default_memory_pool().release_unused()
before, most, total = anonymous(), 0, 0.0
for start in range(0, shards.shape[0], 8192):
    rows = shards.read(start, min(start + 8192, shards.shape[0]))
    total += float(rows.sum(dtype=np.float64))
    most = max(most, anonymous() - before)
print(most, total, shards._pieces.most)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's account of memory")  # noqa: PTH110
@pytest.mark.parametrize("group", [8192, 10**6])
def test_a_folder_beyond_the_cap_is_read_within_it(tmp_path, group):
    rng, total, cap = np.random.default_rng(0), 0.0, 64 * 2**20
    for at in range(4):
        x = rng.standard_normal((65_536, 192), np.float32)
        total += float(x.sum(dtype=np.float64))
        table = pa.table({"row": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 192)})
        parquet(x, tmp_path / f"{at}.parquet", lambda _, table=table: table, group, compression="none",
                use_dictionary=False)  # fmt: skip
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) > 200e6
    code = [sys.executable, "-c", PEAK, str(tmp_path), str(cap)]
    most, got, kept = subprocess.run(code, capture_output=True, check=True, text=True).stdout.split()
    assert float(got) == pytest.approx(total, rel=1e-9)
    assert int(kept) <= cap // CACHE_SHARE
    assert int(most) < cap
