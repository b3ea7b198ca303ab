"""Tables of any columns, written in every format and read back: the exact matrix, or a refusal; never other numbers."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from geomkit.errors import InvalidInputError
from geomkit.io import files, open_shards
from tests.io.files.samples import arrow, parquet

NAMES = ["id", "embedding", "vector", "label", "text", "score", "created_at", "d0", "Unnamed: 0", "x.y", "weight"]
ARROW_FORMS = {
    "lists": lambda x: pa.array(x.tolist(), pa.list_(pa.from_numpy_dtype(x.dtype))),
    "fixed lists": lambda x: pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1]),
    "text": lambda x: pa.array([str(row.tolist()) for row in x.astype(float)]),
    "braces": lambda x: pa.array(["{" + ",".join(map(repr, row)) + "}" for row in x.astype(float).tolist()]),
    "bytes": lambda x: pa.array([row.tobytes() for row in x]),
    "tensor": pa.FixedShapeTensorArray.from_numpy_ndarray,
    "list of one list": lambda x: pa.array([[row.tolist()] for row in x]),
    "struct": lambda x: pa.array([{"values": row.tolist()} for row in x]),
    "booleans": lambda x: pa.array((x > 0).tolist()),
    "list view": lambda x: pa.array(x.tolist(), pa.list_view(pa.from_numpy_dtype(x.dtype))),
}
JSON_FORMS = {
    "lists": lambda row: row,
    "text": str,
    "list of one list": lambda row: [row],
    "struct": lambda row: {"values": row},
}


@st.composite
def tables(draw):
    """Columns beside the vectors, and the vectors in one to three columns or as coordinates."""
    n, d = draw(st.integers(3, 12)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    names = draw(st.permutations(NAMES))
    beside = {
        "counter": lambda: np.arange(n) + draw(st.sampled_from([0, 1, 1000])),
        "shuffled ids": lambda: rng.permutation(n) + 1,
        "times": lambda: 1_700_000_000 + rng.integers(0, 10**6, n),
        "categories": lambda: rng.integers(0, 3, n),
        "scores": lambda: rng.random(n),
        "text": lambda: [f"some text {at}" for at in range(n)],
        "nulls": lambda: [None] * n,
        "labels": lambda: rng.choice(["a", "b"], n).tolist(),
    }
    kinds = draw(st.lists(st.sampled_from(sorted(beside)), max_size=4))
    columns = [(names[at], beside[kind]()) for at, kind in enumerate(kinds)]
    vectors = [rng.standard_normal((n, d)).astype(np.float32) for _ in range(draw(st.integers(1, 3)))]
    flat = draw(st.booleans()) and len(vectors) == 1
    own = [names[len(columns) + at] for at in range(len(vectors))]
    forms = [draw(st.sampled_from(sorted(ARROW_FORMS))) for _ in vectors]
    return columns, list(zip(own, vectors, forms, strict=True)), flat, draw(st.randoms(use_true_random=False))


def arrow_table(columns, vectors, flat, random):
    whole = [(name, pa.array(values)) for name, values in columns]
    if flat:
        x = vectors[0][1]
        coordinates = [(f"dim_{at}", pa.array(x[:, at])) for at in range(x.shape[1])]
        where = random.randint(0, len(whole))
        whole[where:where] = coordinates
    else:
        whole += [(name, ARROW_FORMS[form](x)) for name, x, form in vectors]
        random.shuffle(whole)
    return pa.table(dict(whole))


def check(read, vectors, what):
    """Read, and hold what comes against the vectors that are there."""
    try:
        x = np.asarray(read())
    except InvalidInputError as why:
        message = str(why)
    else:
        message = ""
    assert "\n" not in message
    if message:
        return
    assert len(vectors) == 1, f"{what}: one of {len(vectors)} columns was taken"
    np.testing.assert_array_equal(x, vectors[0][1], err_msg=str(what))


def read_all(shards):
    return shards.read(0, shards.shape[0])


def both_ways(table, folder):
    columns, vectors, flat, random = table
    whole = arrow_table(columns, vectors, flat, random)
    assume(len(set(whole.column_names)) == whole.num_columns)
    half = len(whole) // 2
    for write, suffix in ((parquet, "parquet"), (arrow, "arrow")):
        path = folder / f"a.{suffix}"
        if suffix == "parquet" and any(pa.types.is_list_view(column.type) for column in whole.schema):
            continue
        write(whole, path)
        check(lambda path=path: files.read(path).vectors, vectors, (suffix, whole.schema))
        shards = [folder / f"part-{at}.{suffix}" for at in range(2)]
        for at, shard in enumerate(shards):
            write(whole.slice(at * half, half if at == 0 else None), shard)
        check(lambda shards=shards: read_all(open_shards(shards)), vectors, (suffix, "shards", whole.schema))
    check_text(columns, vectors, flat, random, folder)


def check_text(columns, vectors, flat, random, folder):
    """CSV and JSON lines, whose vectors are text, lists and coordinates."""
    frame = pd.DataFrame(dict(columns))
    n = len(vectors[0][1])
    rows = [{name: frame[name].tolist()[at] for name in frame} for at in range(n)]
    for name, x, form in vectors:
        value = JSON_FORMS.get(form, JSON_FORMS["lists"])
        for row, values in zip(rows, x.astype(float).tolist(), strict=True):
            row[name] = value(values)
    order = random.sample(list(rows[0]), len(rows[0]))
    lines = "".join(json.dumps({name: row[name] for name in order}) + "\n" for row in rows)
    (folder / "a.jsonl").write_text(lines)
    check(lambda: files.read(folder / "a.jsonl").vectors, vectors, lines)
    half = len(rows) // 2
    for at, part in enumerate((slice(half), slice(half, None))):
        (folder / f"part-{at}.jsonl").write_text("".join(lines.splitlines(keepends=True)[part]))
    check(lambda: read_all(open_shards(str(folder / "part-*.jsonl"))), vectors, ("shards", lines))
    if flat:
        x = vectors[0][1].astype(float)
        frame = pd.concat([frame, pd.DataFrame({f"dim_{at}": x[:, at] for at in range(x.shape[1])})], axis=1)
    else:
        frame = pd.DataFrame(rows)[order]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with_index = random.random() < 0.3
        frame.to_csv(folder / name, index=with_index, sep=delimiter)
        check(lambda name=name: files.read(folder / name).vectors, vectors, (folder / name).read_text())
        for at, part in enumerate((slice(half), slice(half, None))):
            frame[part].to_csv(folder / f"part-{at}{name[1:]}", index=with_index, sep=delimiter)
        check(
            lambda name=name: read_all(open_shards(str(folder / f"part-*{name[1:]}"))), vectors, (name, "shards", rows)
        )


@pytest.mark.parametrize("examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_tables_come_back_exactly_or_are_refused(examples):
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(tables())
    def run(table):
        both_ways(table, folder)

    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        run()
