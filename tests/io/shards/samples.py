"""Shards of every format, written by the libraries themselves."""

import pickle
from functools import partial
from itertools import pairwise
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr

X = np.random.default_rng(5).standard_normal((257, 5)).astype(np.float32)
CUTS = (0, 40, 40, 107, 108, 257)
"""Where shards end: one is empty, one has a single row."""


def fixed(x):
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"topic": pa.array(["a"] * len(x)).dictionary_encode(), "row": column})


def varying(x):
    nested = pa.array([{"a": [1, 2]}] * len(x), pa.struct([("a", pa.list_(pa.int8()))]))
    return pa.table({"extra": nested, "row": pa.array(list(x), pa.list_(pa.from_numpy_dtype(x.dtype)))})


def flat(x):
    return pa.table({f"c{at}": x[:, at] for at in range(x.shape[1])})


def npy(x, path, dtype=None, order="C"):
    np.save(path, np.asarray(x, dtype, order=order))


def parquet(x, path, table=fixed, rows=16, **how):
    pyarrow.parquet.write_table(table(x), path, row_group_size=rows, **how)


def arrow(x, path, table=fixed, *, stream=False, compression=None, rows=16):
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    made = table(x)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, new(sink, made.schema, options=options) as writer:
        writer.write_table(made, max_chunksize=rows)


def zarr_array(x, path, dtype=None, **how):
    zarr.create_array(str(path), data=x if dtype is None else x.astype(dtype), **how)


FORMATS = {
    "npy": (".npy", npy),
    "npy-fortran": (".npy", partial(npy, order="F")),
    "npy-big-endian": (".npy", partial(npy, dtype=">f4")),
    "npy-fortran-big-endian": (".npy", partial(npy, dtype=">f4", order="F")),
    "parquet-fixed": (".parquet", parquet),
    "parquet-varying": (".pq", partial(parquet, table=varying)),
    "parquet-columns": (".parquet", partial(parquet, table=flat, compression="zstd")),
    "parquet-one-group": (".parquet", partial(parquet, rows=10_000, data_page_size=64)),
    **{
        f"arrow-{name}-{'stream' if stream else 'file'}-{packed}": (
            end,
            partial(arrow, table=table, stream=stream, compression=packed),
        )
        for name, table, end in (
            ("fixed", fixed, ".arrow"),
            ("varying", varying, ".ipc"),
            ("flat", flat, ".feather"),
        )
        for stream in (False, True)
        for packed in (None, "zstd")
    },
    "zarr": (".zarr", partial(zarr_array, chunks=(16, 5))),
    "zarr-narrow-chunks": (".zarr", partial(zarr_array, chunks=(16, 2))),
    "zarr-sharded": (".zarr", partial(zarr_array, chunks=(4, 5), shards=(16, 5))),
    "zarr-version-2": (".zarr", partial(zarr_array, chunks=(16, 5), zarr_format=2)),
    "zarr-big-endian": (".zarr", partial(zarr_array, chunks=(16, 5), dtype=">f4")),
}


def write(folder, name, x=X, cuts=CUTS):
    """Write the rows of x between the cuts as shards 1, 2, ... and return the folder."""
    suffix, how = FORMATS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for number, (start, stop) in enumerate(pairwise(cuts), 1):
        if start < stop or suffix != ".zarr":
            how(x[start:stop], folder / f"part-{4 * number}{suffix}")
    return folder


def copied(value):
    """What comes out of a pickle."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


def to_memory(folder, name):
    """Copy a folder to fsspec's file system in memory, and return its address."""
    there = fsspec.filesystem("memory")
    if there.exists(f"/{name}"):
        there.rm(f"/{name}", recursive=True)
    for path in Path(folder).rglob("*"):
        if path.is_file():
            there.pipe(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return f"memory://{name}"
