"""The gallery's script: run as a person runs it, but in this process."""

import re
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "examples" / "gallery.py"
FIGURES = ("cosines", "orthogonality", "hubs", "spectrum", "contrast", "mended")


def ran(*arguments):
    """Return the exit code of the script, and what it said."""
    out, err = StringIO(), StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(SCRIPT), run_name="__main__")
    return left.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def headings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    random = np.random.default_rng(3).standard_normal((400, 32), dtype=np.float32)
    shapes = {"round": random, "shifted": random * np.geomspace(1, 0.01, 32, dtype=np.float32) + 0.5}
    said = {}
    for name, x in shapes.items():
        np.save(folder / f"{name}.npy", x)
        code, out, err = ran(folder / f"{name}.npy", "--out", folder / name, "--seed", 5)
        assert code == 0, err
        said[name] = dict(re.findall(r"(\w+)\.svg: (.+)", out))
        for figure in FIGURES:
            for suffix in ("svg", "png"):
                assert (folder / name / f"{figure}.{suffix}").stat().st_size > 5000
        assert len(list((folder / name).iterdir())) == 2 * len(FIGURES)
    return said


def test_every_figure_says_what_it_shows(headings):
    assert list(headings["round"]) == list(headings["shifted"]) == list(FIGURES)
    assert all(headings["round"][name] != headings["shifted"][name] for name in FIGURES)


def test_random_vectors_look_random_and_others_do_not(headings):
    def number(which, name, pattern):
        return float(re.search(pattern, headings[which][name])[1])

    assert abs(number("round", "cosines", r"Mean cosine (\S+),")) < 0.01
    assert number("shifted", "cosines", r"Mean cosine (\S+),") > 0.5
    assert number("round", "cosines", r", (\S+) times as spread") == 1.0
    within = number("round", "orthogonality", r"^(\d+)%")
    assert within == pytest.approx(number("round", "orthogonality", r"directions (\d+)%"), abs=1)
    assert number("shifted", "orthogonality", r"^(\d+)%") < within / 4
    low, high = map(float, re.search(r"sets (\S+) to (\S+)$", headings["round"]["hubs"]).groups())
    assert low - 0.3 < number("round", "hubs", r"skewness (\S+),") < high + 0.3
    gaussian = number("round", "spectrum", r"sets (\d+)")
    assert number("round", "spectrum", r"rank (\d+)") == pytest.approx(gaussian, abs=1)
    assert number("shifted", "spectrum", r"rank (\d+)") < 0.6 * gaussian
    assert number("round", "contrast", r"distances (\S+),") == pytest.approx(
        number("round", "contrast", r"sets (\S+)$"), rel=0.1
    )
    assert number("shifted", "mended", r"Mean cosine (\S+),") > 0.5
    assert number("shifted", "mended", r"(\S+) from zero;") < 0.05


def test_what_cannot_be_drawn_is_one_line(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    for arguments, word in (
        ((tmp_path / "none.npy",), "cannot be opened"),
        ((tmp_path / "x.npy", "--n", 2), "--n is for sources"),
        (("no-such-source",), "no-such-source"),
    ):
        code, _, err = ran(*arguments, "--out", tmp_path / "out")
        assert code == 2
        assert err.count("\n") == 1
        assert word in err
        assert not (tmp_path / "out").exists()
