"""The table of the page about files: each command reads the file that its line speaks of."""

import json
import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from tests.cli.test_cli import call, run  # noqa: F401
from tests.io.files.samples import parquet, shaped, text, text_of

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "files.md"
ROWS = re.findall(r"^\| (.+) \| `(geomkit .+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
X = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
LISTS = X.astype(float).tolist()
IDS = np.random.default_rng(1).permutation(40).tolist()
NAMES = [f"w{at}" for at in range(40)]
WIDE = {f"dim_{at}": X[:, at].astype(float) for at in range(6)}


def ann(path):
    with h5py.File(path, "w") as file:
        file["train"], file["test"] = X, X[:5]


def lines(make):
    return lambda path: text("".join(json.dumps(make(row)) + "\n" for row in LISTS), path)


def folders(path, *parts):
    for at, part in enumerate(parts):
        (path / part).mkdir(parents=True)
        parquet(pa.table({"v": LISTS[20 * at : 20 * at + 20]}), path / part / f"part-{at}.parquet")


def text_parts(path):
    for at in range(2):
        half = slice(20 * at, 20 * at + 20)
        frame = pd.DataFrame({"id": IDS[half], "v": map(str, LISTS[half])})
        frame.to_csv(path.parent / f"text-{at}.csv", index=False)


def reversed_words(path):
    text(text_of(X[::-1], NAMES[::-1]), path)


WRITERS = {
    "matrix.npy": lambda path: np.save(path, X),
    "arrays.npz": lambda path: np.savez(path, embeddings=X, other=X, texts=np.array(["t"] * 40, object)),
    "tensor.pt": lambda path: torch.save(torch.tensor(X), path),
    "tensors.pt": lambda path: torch.save({"embeddings": torch.tensor(X), "other": torch.tensor(X), "n": 3}, path),
    "lists.parquet": lambda path: parquet(pa.table({"id": IDS, "v": LISTS}), path),
    "two.parquet": lambda path: parquet(pa.table({"title": (-2 * X).tolist(), "body": LISTS}), path),
    "text.csv": lambda path: pd.DataFrame({"id": IDS, "v": map(str, LISTS)}).to_csv(path, index=False),
    "bytes.parquet": lambda path: parquet(pa.table({"id": IDS, "v": [row.tobytes() for row in X]}), path),
    "nested.parquet": lambda path: parquet(pa.table({"embedding": [{"values": row} for row in LISTS]}), path),
    "wide.csv": lambda path: pd.DataFrame({"doc_id": IDS, **WIDE}).to_csv(path, index=False),
    "wide-score.csv": lambda path: pd.DataFrame({**WIDE, "score": X[:, 0]}).to_csv(path, index=False),
    "rows.jsonl": lines(lambda row: {"id": 1, "v": row}),
    "batch.jsonl": lines(lambda row: {"id": "b", "response": {"body": {"data": [{"embedding": row}]}}}),
    "points.jsonl": lines(lambda row: {"id": 1, "vector": {"dense": row}}),
    "chroma.json": lambda path: text(json.dumps({"ids": NAMES, "embeddings": LISTS}), path),
    "words.vec": lambda path: text(text_of(X, NAMES), path),
    "latin.vec": lambda path: path.write_bytes(text_of(X, ["zwölf", *NAMES[1:]]).encode("latin-1")),
    "plain.txt": lambda path: np.savetxt(path, X),
    "bits.npy": lambda path: np.save(path, np.packbits(X > -1, axis=1)),
    "ann.hdf5": ann,
    "base.fbin": lambda path: shaped(path, X),
    "shards": lambda path: folders(path, ""),
    "text-*.csv": text_parts,
    "partitions": lambda path: folders(path, "lang=en", "lang=fr"),
    "first.vec": lambda path: text(text_of(X, NAMES), path),
    "second.vec": reversed_words,
    "first.parquet": lambda path: parquet(pa.table({"name": NAMES, "v": LISTS}), path),
    "second.parquet": lambda path: parquet(pa.table({"name": NAMES[::-1], "v": LISTS[::-1]}), path),
}


def test_the_table_is_there():
    assert len(ROWS) > 20
    assert {Path(word).name for _, command in ROWS for word in shlex.split(command)} >= set(WRITERS)


@pytest.mark.parametrize("command", [command for _, command in ROWS])
def test_a_command_of_the_table(call, command, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    words = shlex.split(command)[1:]
    for word in dict.fromkeys(words[1:]):
        if word in WRITERS:
            WRITERS[word](tmp_path / word)
    code, out, err = call(*words, "--json")
    assert code == 0, err
    found = json.loads(out)
    if words[0] == "compare":
        assert next(each["value"] for each in found["alignments"] if each["method"] == "cka") == pytest.approx(1)
    else:
        assert (found["n"], found["d"]) in {(40, 6), (20, 6), (40, 8)}
        assert found["d"] == (8 if "--bits" in words else 6)
        assert found["n"] == (20 if words[1] == "shards" else 40)
    assert "read" in found
