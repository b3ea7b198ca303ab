"""The command line on rows in many files, with workers, within a given memory, and resumed."""

import json

import numpy as np
import pytest

import geomkit
from geomkit.cli import scale
from geomkit.errors import InvalidInputError
from tests.cli.test_cli import run


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *arguments: run(capsys, *map(str, arguments), monkeypatch=monkeypatch)


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2000, 9)).astype("float32")


@pytest.fixture
def folder(tmp_path, x):
    (tmp_path / "x").mkdir()
    for k in range(4):
        np.save(tmp_path / "x" / f"part-{k}.npy", x[500 * k : 500 * (k + 1)])
    return tmp_path / "x"


@pytest.mark.parametrize("command", ["cosine", "orthogonality", "concentration", "survey"])
def test_a_folder_is_one_matrix(call, folder, x, command):
    np.save(folder.parent / "whole.npy", x)
    code, out, err = call(command, folder, "--json", "--max-memory", "1MB")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(call(command, folder.parent / "whole.npy", "--json")[1])


def test_a_glob_and_an_address_name_shards(call, folder, x):
    expected = geomkit.moments(x[1000:]).cosine_mean
    for name in (f"{folder}/part-[23].npy", f"file://{folder}/part-[23].npy"):
        code, out, _ = call("moments", name, "--json")
        assert code == 0
        assert json.loads(out)["cosine_mean"] == pytest.approx(expected, rel=1e-12)


def test_workers_give_the_same_and_say_where_their_dashboard_is(call, folder, x):
    code, out, err = call("cosine", folder, "--workers", 2, "--json")
    assert code == 0
    assert err.startswith("geomkit: dashboard at http")
    assert len(err.splitlines()) == 1
    assert json.loads(out)["std"] == geomkit.cosine_stats(x).std


def test_a_scheduler_is_found_by_its_address(call, folder, x, cluster):
    code, out, _ = call("moments", folder, "--scheduler", cluster.scheduler.address, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 2000
    code, out, _ = call("audit", folder, "--scheduler", cluster.scheduler.address, "--null-draws", 2, "--json")
    assert code == 0
    assert json.loads(out)["n"] == 2000


@pytest.fixture
def cluster():
    from geomkit.distributed.executors import local_cluster

    with local_cluster(1, dashboard=False) as client:
        yield client


def test_a_run_folder_is_written_and_read(call, folder):
    at = folder.parent / "run"
    first = call("cosine", folder, "--run", at, "--json")
    assert first[0] == 0
    (kept,) = at.glob("pairs-*.npz")
    written = kept.stat().st_mtime_ns
    assert call("cosine", folder, "--run", at, "--json") == first
    assert kept.stat().st_mtime_ns == written


def test_files_of_any_format_and_sources_can_be_shared_out(call, tmp_path, x):
    np.savetxt(tmp_path / "x.csv", x[:200], delimiter=",", header=",".join("abcdefghi"), comments="")
    for name in (tmp_path / "x.csv", "sphere-50"):
        more = ("--n", 300) if name == "sphere-50" else ()
        code, out, _ = call("moments", name, *more, "--run", tmp_path / "run", "--json")
        assert code == 0
        plain = json.loads(call("moments", name, *more, "--json")[1])
        assert json.loads(out)["cosine_mean"] == pytest.approx(plain["cosine_mean"], rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 2, "--scheduler", "tcp://a:1"), "--workers starts a cluster and --scheduler names one"),
        (("--workers", 0), "workers must be a whole number of at least 1; got 0"),
        (
            ("--max-memory", "many"),
            "--max-memory must be a number of bytes, or a size such as 500MB or 4GiB; got 'many'",
        ),
        (("--max-memory", "0"), "--max-memory must be"),
        (("--n", 5), "--n is for sources; all rows of"),
        (("--run", "/dev/null/run"), "run folder /dev/null/run cannot be written to"),
    ],
)
def test_refusals_are_one_line(call, folder, arguments, message):
    code, out, err = call("cosine", folder, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_empty_folder_and_labels_of_many_files_are_refused(call, folder, tmp_path):
    (tmp_path / "none").mkdir()
    code, _, err = call("cosine", tmp_path / "none")
    assert code == 2
    assert "none" in err
    code, _, err = call("audit", folder, "--labels", "topic")
    assert code == 2
    assert "--labels of rows in many files, or measured at scale, must be a text file; got topic" in err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500", 500),
        ("1kB", None),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5MB", 1_500_000),
        ("4GiB", 2**32),
        (" 2 TB ", 2 * 10**12),
    ],
)
def test_sizes(text, size):
    if size is None:
        with pytest.raises(InvalidInputError, match="must be a number of bytes"):
            scale.size(text)
    else:
        assert scale.size(text) == size
