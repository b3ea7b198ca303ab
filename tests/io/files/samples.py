"""Small valid files of every format: what they hold is X, with LABELS where the format has labels."""

import gzip
import io
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import safetensors.numpy
import safetensors.torch
import torch
from scipy import sparse

X = np.random.default_rng(5).standard_normal((7, 5)).astype(np.float32)
LABELS = ("a", "b", "a", "zwölf", "", "a b", "c")
WORDS = ("the", "zwölf", "日本", "a", "a", ".", "end")
SPARSE = sparse.csr_array(np.where(np.abs(X) > 0.7, X, 0))


@dataclass(frozen=True)
class Sample:
    """How to write one file, and what must come back."""

    format: str
    file: str
    write: object
    dtype: str = "float32"
    labels: str | None = None
    names: tuple[str, ...] | None = None
    key: str | None = None
    mapped: bool = False
    x: object = field(default_factory=lambda: X)

    def at(self, folder: Path) -> Path:
        path = folder / self.file
        self.write(path)
        return path


def lists(x=X, kind=pa.list_):
    return pa.table({"row": pa.array(list(x), kind(pa.from_numpy_dtype(x.dtype))), "topic": list(LABELS)})


def fixed(x=X):
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    return pa.table({"row": column, "topic": list(LABELS)})


def flat(x=X):
    return pa.table({f"c{i}": x[:, i] for i in range(x.shape[1])}).append_column("topic", [list(LABELS)])


def parquet(table, path, **how):
    pyarrow.parquet.write_table(table, path, **how)


def arrow(table, path, *, stream=False, rows=None, compression=None):
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


def hdf5(path, x=X, labels=LABELS, **how):
    with h5py.File(path, "w") as file:
        file.create_dataset("inner/x", data=x, **how)
        if labels is not None:
            file["topic"] = list(labels)


def ann(path, x=X):
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        file["train"], file["test"] = x, x[:2]
        file["neighbors"], file["distances"] = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)


def vecs(path, x=X):
    path.write_bytes(b"".join(np.int32(len(row)).tobytes() + row.tobytes() for row in x))


def shaped(path, x=X):
    path.write_bytes(np.array(x.shape, np.uint32).tobytes() + x.tobytes())


def text_of(x=X, words=WORDS, *, header=True):
    lines = [f"{word} {' '.join(repr(float(v)) for v in row)}" for word, row in zip(words, x, strict=True)]
    return "\n".join([f"{len(x)} {x.shape[1]}", *lines] if header else lines) + "\n"


def csv_of(x=X, labels=LABELS, delimiter=","):
    def quoted(label):
        return '"' + label.replace('"', '""') + '"'

    lines = [
        delimiter.join([quoted(label or "-"), *map(repr, row.tolist())]) for label, row in zip(labels, x, strict=True)
    ]
    return "\n".join([delimiter.join(["topic", *(f"c{i}" for i in range(x.shape[1]))]), *lines]) + "\n"


def jsonl_of(x=X, labels=LABELS):
    return "".join(
        json.dumps({"id": i, "row": row.tolist(), "topic": label}, ensure_ascii=False) + "\n"
        for i, (row, label) in enumerate(zip(x, labels, strict=True))
    )


def binary(path, x=X, words=WORDS, *, between=b"\n"):
    rows = b"".join(word.encode() + b" " + row.tobytes() + between for word, row in zip(words, x, strict=True))
    path.write_bytes(f"{len(x)} {x.shape[1]}\n".encode() + rows)


def text(content, path):
    path.write_bytes(content.encode())


def zipped(content, path):
    path.write_bytes(gzip.compress(content.encode()))


def bfloat16(path):
    safetensors.torch.save_file({"x": torch.tensor(X).bfloat16()}, path)


def scipy(path, x, **how):
    sparse.save_npz(path, x, **how)


def numpy(path, x):
    file = io.BytesIO()
    np.save(file, x)  # which would change the suffix of a file
    path.write_bytes(file.getvalue())


def user_block(path):
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"], file["topic"] = X, list(LABELS)


HALF, DOUBLE, BYTES = X.astype(np.float16), X.astype(np.float64) / 3, (X * 50).astype(np.int64).astype(np.uint8)
LABELLED = {"x": X, "topic": np.array(LABELS)}
CSV_LABELS = tuple(label or "-" for label in LABELS)

SAMPLES = [
    Sample("npy", "a.npy", lambda p: np.save(p, X), mapped=True),
    Sample("npy", "half.npy", lambda p: np.save(p, HALF), "float16", x=HALF, mapped=True),
    Sample("npy", "double.NPY", partial(numpy, x=np.asfortranarray(DOUBLE)), "float64", x=DOUBLE, mapped=True),
    Sample("npy", "big.npy", lambda p: np.save(p, X.astype(">f4")), mapped=True),
    Sample("npz", "a.npz", lambda p: np.savez(p, **LABELLED), labels="topic", mapped=True),
    Sample("npz", "one.npz", lambda p: np.savez(p, HALF), "float16", x=HALF, mapped=True),
    Sample("npz", "packed.npz", lambda p: np.savez_compressed(p, **LABELLED), labels="topic"),
    Sample("npz", "key.npz", lambda p: np.savez(p, y=X + 1, z=DOUBLE), "float64", key="z", x=DOUBLE, mapped=True),
    Sample("npz", "csr.npz", partial(scipy, x=SPARSE), x=SPARSE),
    Sample("npz", "csc.npz", partial(scipy, x=SPARSE.tocsc(), compressed=False), x=SPARSE),
    Sample("npz", "coo.npz", partial(scipy, x=SPARSE.tocoo()), x=SPARSE),
    Sample("npz", "old.npz", partial(scipy, x=sparse.csr_matrix(SPARSE)), x=SPARSE),
    Sample("parquet", "lists.parquet", partial(parquet, lists()), labels="topic"),
    Sample("parquet", "large.pq", partial(parquet, lists(DOUBLE, pa.large_list)), "float64", labels="topic", x=DOUBLE),
    Sample("parquet", "groups.parquet", partial(parquet, lists(HALF), row_group_size=3), "float16", x=HALF),
    Sample("parquet", "fixed.parquet", partial(parquet, fixed(), compression="zstd"), labels="topic"),
    Sample("parquet", "flat.parquet", partial(parquet, flat()), labels="topic"),
    Sample("parquet", "bytes.parquet", partial(parquet, flat(BYTES)), "uint8", x=BYTES),
    Sample("arrow", "lists.arrow", partial(arrow, lists()), labels="topic"),
    Sample("arrow", "fixed.arrow", partial(arrow, fixed(HALF)), "float16", labels="topic", x=HALF),
    Sample("arrow", "parts.arrow", partial(arrow, fixed(), rows=3), labels="topic"),
    Sample("arrow", "stream.arrow", partial(arrow, lists(), stream=True), labels="topic"),
    Sample("arrow", "packed.ipc", partial(arrow, lists(DOUBLE), compression="zstd"), "float64", x=DOUBLE),
    Sample("arrow", "a.feather", partial(pa.feather.write_feather, flat()), labels="topic"),
    Sample("jsonl", "a.jsonl", partial(text, jsonl_of()), "float64", labels="topic", key="row"),
    Sample("jsonl", "lists.ndjson", partial(text, "".join(f"{row.tolist()}\n" for row in DOUBLE)), "float64", x=DOUBLE),
    Sample("jsonl", "a.jsonl.gz", partial(zipped, jsonl_of()), "float64", labels="topic"),
    Sample("json", "rows.json", partial(text, f"[{','.join(jsonl_of().splitlines())}]"), "float64", labels="topic"),
    Sample(
        "json",
        "columns.json",
        partial(text, json.dumps({"row": X.tolist(), "topic": LABELS})),
        "float64",
        labels="topic",
    ),
    Sample("csv", "a.csv", partial(text, csv_of()), "float64", labels="topic"),
    Sample("csv", "a.csv.gz", partial(zipped, csv_of()), "float64", labels="topic"),
    Sample("csv", "bare.csv", lambda p: np.savetxt(p, DOUBLE, delimiter=",", fmt="%.17g"), "float64", x=DOUBLE),
    Sample("tsv", "a.tsv", partial(text, csv_of(DOUBLE, delimiter="\t")), "float64", labels="topic", x=DOUBLE),
    Sample("hdf5", "a.h5", hdf5, labels="topic"),
    Sample(
        "hdf5",
        "packed.hdf5",
        partial(hdf5, x=HALF, compression="gzip", chunks=(2, 5)),
        "float16",
        key="inner/x",
        x=HALF,
    ),
    Sample("hdf5", "block.hdf", user_block, labels="topic"),
    Sample("hdf5", "ann.hdf5", ann),
    Sample("hdf5", "test.hdf5", ann, key="test", x=X[:2]),
    Sample("fvecs", "a.fvecs", vecs, mapped=True),
    Sample("bvecs", "a.bvecs", partial(vecs, x=BYTES), "uint8", x=BYTES, mapped=True),
    Sample("ivecs", "a.ivecs", partial(vecs, x=BYTES.astype(np.int32)), "int32", x=BYTES, mapped=True),
    Sample("fbin", "a.fbin", shaped, mapped=True),
    Sample("u8bin", "a.u8bin", partial(shaped, x=BYTES), "uint8", x=BYTES, mapped=True),
    Sample("i8bin", "a.i8bin", partial(shaped, x=BYTES.view(np.int8)), "int8", x=BYTES.view(np.int8), mapped=True),
    Sample("ibin", "a.ibin", partial(shaped, x=BYTES.astype(np.int32)), "int32", x=BYTES.astype(np.int32), mapped=True),
    Sample(
        "safetensors", "a.safetensors", partial(safetensors.numpy.save_file, {"x": X, "n": np.arange(7)}), mapped=True
    ),
    Sample("safetensors", "d.safetensors", partial(safetensors.numpy.save_file, {"x": DOUBLE}), "float64", x=DOUBLE),
    Sample("safetensors", "b.safetensors", bfloat16, "bfloat16", x=torch.tensor(X).bfloat16()),
    Sample("pt", "a.pt", lambda p: torch.save(torch.tensor(X), p)),
    Sample("pt", "half.pth", lambda p: torch.save({"x": torch.tensor(HALF), "n": "7"}, p), "float16", key="x", x=HALF),
    Sample("pt", "turned.pt", lambda p: torch.save(torch.nn.Parameter(torch.tensor(X.T).T[1:]), p), x=X[1:]),
    Sample("pt", "b.pt", lambda p: torch.save(torch.tensor(X).bfloat16(), p), "bfloat16", x=torch.tensor(X).bfloat16()),
    Sample("word2vec-text", "a.txt", partial(text, text_of()), names=WORDS),
    Sample("word2vec-text", "a.vec.gz", partial(zipped, text_of()), names=WORDS),
    Sample("glove", "glove.txt", partial(text, text_of(header=False)), names=WORDS),
    Sample("word2vec-binary", "a.bin", binary, names=WORDS),
    Sample("word2vec-binary", "tight.bin", partial(binary, between=b""), names=WORDS),
]
