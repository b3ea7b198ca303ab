"""How commands open files: which part is read, what is said of it, and rows that are matched by name."""

import io
import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

import geomkit
from tests.cli.test_cli import call, run  # noqa: F401
from tests.io.files.samples import parquet, text, text_of
from tests.io.test_page import WRITERS

X = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
QUICK = ("--null-draws", "2", "-k", "5")
HERE = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
"""The environment of a process that runs this copy of the package, wherever it starts."""
MEASURES = ["cosine", "orthogonality", "concentration", "moments", "survey"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def two_columns(folder):
    table = pa.table({"title": [row.tolist() for row in -2 * X], "body": [row.tolist() for row in X]})
    parquet(table, folder / "a.parquet")
    (folder / "set").mkdir()
    for part in range(2):
        parquet(table.slice(30 * part, 30), folder / "set" / f"part-{part}.parquet")


@pytest.mark.parametrize("source", ["a.parquet", "set"])
@pytest.mark.parametrize("command", MEASURES)
def test_every_measure_takes_a_part_and_says_it(call, two_columns, command, source):  # noqa: F811
    code, out, err = call(command, source)
    assert (code, out) == (2, "")
    assert "2 things in it are a column of lists" in err
    read = {"note": "column 'body'; left out ['title']", "columns": ["body"], "left_out": ["title"]}
    for option in (("--key", "body"), ("--exclude", "title")):
        code, out, err = call(command, source, *option, "--json")
        assert code == 0
        assert json.loads(out)["read"] == read
        assert err == f"geomkit: {source}: {read['note']}\n"
    want = getattr(geomkit, {"cosine": "cosine_stats"}.get(command, command))(X).to_dict()
    assert json.loads(out)["n"] == want["n"] == 60


def test_columns_by_names_and_patterns(call, folder):  # noqa: F811
    lines = [f"{at * 7 % 60},{','.join(map(repr, row))}" for at, row in enumerate(X.astype(float).tolist())]
    text("\n".join([f"score,{','.join(f'd{at}' for at in range(8))}", *lines]) + "\n", folder / "a.csv")
    code, _, err = call("moments", "a.csv")
    assert code == 2
    assert "['score'] hold whole numbers alone" in err
    assert "such as --columns d" in err or "--columns dim_*" in err
    for option in (("--columns", "d*"), ("--columns", "d0,d1,d2,d3,d4,d5,d6,d7"), ("--exclude", "score")):
        code, out, _ = call("moments", "a.csv", *option, "--json")
        assert code == 0
        assert json.loads(out)["cosine_mean"] == pytest.approx(geomkit.moments(X.astype(float)).cosine_mean)


def test_the_page_says_what_was_read(call, two_columns, folder):  # noqa: F811
    code, *_ = call("audit", "a.parquet", "--key", "body", *QUICK, "--no-try", "--html", "a.html")
    assert code == 0
    page = (folder / "a.html").read_text(encoding="utf-8")
    assert "left out" in page
    assert "title" in page


def words_of(path, words, x):
    rows = "".join(f"{word} {' '.join(f'{v:.6f}' for v in row)}\n" for word, row in zip(words, x, strict=True))
    path.write_text(f"{len(words)} {x.shape[1]}\n{rows}")


def compared(call, *arguments):  # noqa: F811
    code, out, err = call("compare", *arguments, *QUICK, "--json")
    assert code == 0, err
    found = json.loads(out)
    return found, next((a["value"] for a in found["alignments"] if a["method"] == "cka"), None)


def test_rows_are_matched_by_their_names(call, folder):  # noqa: F811
    rng = np.random.default_rng(0)
    y, order = X + 0.05 * rng.standard_normal(X.shape), rng.permutation(60)[:50]
    words = [f"word{at}" for at in range(60)]
    words_of(folder / "a.vec", words, X)
    words_of(folder / "b.vec", [words[at] for at in order], y[order])
    kept = np.sort(order)
    np.save(folder / "a.npy", X[kept])
    np.save(folder / "b.npy", y[kept])
    matched, cka = compared(call, "a.vec", "b.vec")
    assert cka == pytest.approx(compared(call, "a.npy", "b.npy")[1], abs=1e-5)
    assert matched["paired"]
    note = "50 rows were matched by name, of 60 of a.vec, 50 of b.vec"
    assert matched["notes"] == [note]
    assert note in call("compare", "a.vec", "b.vec", *QUICK)[2]
    assert compared(call, "a.vec", "b.vec", "--independent")[1] is None


def test_few_names_in_common_and_names_twice_are_refused(call, folder):  # noqa: F811
    words_of(folder / "a.vec", [f"a{at}" for at in range(60)], X)
    words_of(folder / "b.vec", [f"b{at}" for at in range(60)], X)
    words_of(folder / "c.vec", ["a0", *(f"a{at}" for at in range(59))], X)
    code, _, err = call("compare", "a.vec", "b.vec", *QUICK)
    assert code == 2
    assert "0 rows are called alike" in err
    code, _, err = call("compare", "a.vec", "c.vec", *QUICK)
    assert code == 2
    assert "c.vec: row 0 is called 'a0', and another is, too" in err


def test_labels_of_files_in_another_order_are_refused_or_matched(call, folder):  # noqa: F811
    order = np.random.default_rng(0).permutation(60)
    topics = np.array(["x", "y", "z"] * 20)
    ids = np.array([f"row{at}" for at in range(60)])
    for name, at in (("a", np.arange(60)), ("b", order)):
        rows = [row.tolist() for row in X[at]]
        parquet(pa.table({"id": ids[at], "topic": topics[at], "v": rows}), folder / f"{name}.parquet")
    code, _, err = call("compare", "a.parquet", "b.parquet", "--labels", "topic", *QUICK)
    assert code == 2
    assert "labels of a.parquet and b.parquet differ (row 0 is" in err or "(row 1 is" in err
    found, cka = compared(call, "a.parquet", "b.parquet", "--labels", "topic", "--id", "id")
    assert cka == pytest.approx(1, abs=1e-5)
    values = [{f["statistic"]: f["value"] for f in audit["findings"]} for audit in found["audits"].values()]
    assert values[0]["same_label_rate"] == values[1]["same_label_rate"]


def test_queries_of_ann_benchmarks_are_its_test(call, folder):  # noqa: F811
    import h5py

    with h5py.File(folder / "ann.hdf5", "w") as file:
        file["train"], file["test"], file["other"] = X, X[:7] + 1, X[:9]
    assert "dataset 'test'" in call("audit", "ann.hdf5", "--queries", "ann.hdf5", *QUICK, "--no-try")[2]
    queries = ("--queries", "ann.hdf5", "--queries-key", "other")
    assert "dataset 'other'" in call("audit", "ann.hdf5", *queries, *QUICK, "--no-try")[2]
    code, _, err = call("audit", "ann.hdf5", "--queries-key", "other")
    assert code == 2
    assert "--queries-key names a part of --queries" in err


@pytest.mark.parametrize("content", ["{}\n", "\ufeff{}\r\n", "\ufeff{}"])
def test_labels_of_a_text_file_are_its_lines(call, folder, content):  # noqa: F811
    from geomkit.cli.options import lines_of

    labels = ["a", "b\u2028b", "c\fc", "", "d"]
    ending = "\r\n" if "\r" in content else "\n"
    (folder / "labels.txt").write_bytes(content.replace("{}", ending.join(labels)).encode())
    assert lines_of(folder / "labels.txt", "--labels") == labels


def test_labels_that_are_not_there(call, folder):  # noqa: F811
    np.save(folder / "a.npy", X)
    code, _, err = call("audit", "a.npy", "--labels", "nothing.txt", *QUICK)
    assert code == 2
    assert "--labels nothing.txt: there is no such file" in err


def test_brackets_in_the_name_of_a_file(call, folder):  # noqa: F811
    np.save(folder / "a[1].npy", X)
    assert call("moments", "a[1].npy")[0] == 0


def limited(*arguments, folder, **how):
    command = [sys.executable, "-m", "geomkit", *arguments]
    return subprocess.run(command, cwd=folder, env=HERE, stderr=subprocess.PIPE, text=True, check=False, **how)


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))


@pytest.mark.parametrize("arguments", [("survey", "--out", "o.npz"), ("audit", *QUICK, "--no-try", "--csv", "o.csv")])
def test_a_disk_that_is_full_is_one_line_and_exit_2(folder, arguments):
    np.save(folder / "a.npy", X)
    command, *options = arguments
    done = limited(command, "a.npy", *options, folder=folder, stdout=subprocess.DEVNULL, preexec_fn=small_files)
    last = [line for line in done.stderr.splitlines() if "could not be written" in line]
    assert (done.returncode, len(last)) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("o.", ".o"))) == []


def test_output_that_cannot_be_written_is_exit_2_and_a_reader_that_went_is_none(folder):
    np.save(folder / "a.npy", X)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = limited("moments", "a.npy", folder=folder, stdout=full)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the output could not be written: No space left" in done.stderr
    with subprocess.Popen([sys.executable, "-m", "geomkit", "sources"], cwd=folder, env=HERE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as gone:  # fmt: skip
        gone.stdout.close()
        assert gone.wait() in {0, 141}
        assert b"Traceback" not in gone.stderr.read()


def test_a_warning_is_one_line(call, folder, monkeypatch):  # noqa: F811
    np.save(folder / "a.npy", X)
    measure = geomkit.moments

    def warns(*given, **how):
        warnings.warn("a library\nsays something", RuntimeWarning, stacklevel=1)
        return measure(*given, **how)

    monkeypatch.setattr("geomkit.stats.moments.moments", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = call("moments", "a.npy")
    assert (code, err) == (0, "geomkit: warning: a library says something\n")


INPUTS = {
    "matrix.npy": ".npy", "lists.parquet": ".parquet", "text.csv": ".csv", "rows.jsonl": ".jsonl", "words.vec": ".txt",
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_standard_input_is_read_as_what_it_starts_like(call, folder, monkeypatch, name):  # noqa: F811
    WRITERS[name](folder / name)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO((folder / name).read_bytes())))
    code, out, err = call("moments", "-", "--json")
    assert code == 0, err
    assert f"geomkit: standard input: read as {INPUTS[name]}\n" in err
    assert json.loads(out)["cosine_mean"] == json.loads(call("moments", name, "--json")[1])["cosine_mean"]


def test_the_page_calls_rows_by_their_words(call, folder):  # noqa: F811
    text(text_of(np.repeat(X[:30], 2, 0), [f"word-{at}" for at in range(60)]), folder / "a.vec")
    code, *_ = call("audit", "a.vec", *QUICK, "--no-try", "--html", "a.html")
    assert code == 0
    assert "word-" in (folder / "a.html").read_text(encoding="utf-8")
