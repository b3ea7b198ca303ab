"""The command line on samples of points: tables and rows that say `sampled`, and options that do not go together."""

import json

import numpy as np
import pyarrow as pa
import pytest

import geomkit
from geomkit.core.result import json_safe
from tests.cli.test_cli import run
from tests.io.files.samples import parquet


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *arguments: run(capsys, *map(str, arguments), monkeypatch=monkeypatch)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((600, 9)).astype("float32")


@pytest.fixture
def file(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


@pytest.mark.parametrize(("command", "metric"), [("cosine", "cosine"), ("concentration", "sqeuclidean")])
def test_json_is_what_the_library_says_and_how_the_file_was_read(call, file, x, command, metric):
    code, out, err = call(command, file, "--n-sample", 100, "--seed", 5, "--json")
    assert (code, err) == (0, "")
    expected = geomkit.sampled(x, 100, seed=5, metric=metric, source=str(file)).to_dict()
    # JSON has no NaN, and no infinity.
    assert json.loads(out) == json_safe(expected) | {"read": {"note": "", "columns": [], "left_out": []}}


@pytest.mark.parametrize("many", [False, True])
def test_json_says_what_was_left_out(call, tmp_path, x, many):
    lists = pa.table({"id": np.random.default_rng(1).permutation(600), "v": list(x)})
    parquet(lists, tmp_path / "x.parquet")
    code, out, err = call("cosine", tmp_path / ("" if many else "x.parquet"), "--n-sample", 100, "--json")
    assert code == 0
    assert json.loads(out)["read"] == {
        "note": "column 'v'; left out ['id']",
        "columns": ["v"],
        "left_out": ["id"],
    }
    assert "column 'v'; left out ['id']" in err


def test_a_table_says_sampled(call, file, x):
    code, out, _ = call("cosine", file, "--n-sample", 100)
    assert code == 0
    assert out == f"{geomkit.sampled(x, 100, seed=0)}\n"
    assert out.startswith("sampled 100 of 600 rows x 9, cosine; control: mean, variance\n")


def test_blocks_confidence_and_no_moments(call, file, x):
    options = ("--blocks", 4, "--confidence", 0.8, "--no-moments", "--precision", "float64")
    code, out, _ = call("cosine", file, "--n-sample", 100, *options)
    assert code == 0
    expected = geomkit.sampled(x, 100, seed=0, blocks=4, confidence=0.8, moments=False, precision="float64")
    assert out == f"{expected}\n"


def test_rows_in_many_files(call, tmp_path, x):
    (tmp_path / "parts").mkdir()
    for k in range(3):
        np.save(tmp_path / "parts" / f"{k}.npy", x[200 * k : 200 * (k + 1)])
    code, out, _ = call("cosine", tmp_path / "parts", "--n-sample", 100)
    assert code == 0
    assert out == f"{geomkit.sampled(x, 100, seed=0)}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", "--n-sample", 600), "n_sample must be fewer than the 600 rows there are; got 600"),
        (("cosine", "--n-sample", 5), "n_sample must be a whole number of at least 20; got 5"),
        (("cosine", "--blocks", 5), "--blocks is for a sample of points; give --n-sample POINTS, too"),
        (("concentration", "--confidence", 0.9), "--confidence is for a sample of points"),
        (("cosine", "--no-moments"), "--no-moments is for a sample of points"),
        (("cosine", "--n-sample", 100, "--backend", "torch"), "--backend must be left out, or be cpu, with --n-sample"),
        (
            ("concentration", "--n-sample", 100, "--device", "cuda"),
            "--device must be left out, or be cpu, with --n-sample",
        ),
        (("concentration", "--n-sample", 100, "--p", 1), "--p must be 2 with --n-sample"),
        (("cosine", "--n-sample", 100, "--confidence", 1), "confidence must be numbers inside (0, 1)"),
        (("cosine", "--n-sample", 100, "--blocks", 6), "blocks must be a whole number from 2"),
        (("cosine", "--n-sample", 100, "--seed", -1), "seed must be a whole number of at least 0; got -1"),
    ],
)
def test_refusals_are_one_line(call, file, arguments, message):
    command, *options = arguments
    code, out, err = call(command, file, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
