"""The commands in README.md and docs/ run: each line of every shell block, on files of the names that they use.

Lines that begin with a command of ours run in this process. A shell runs those that need one.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from geomkit import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

ELSEWHERE = {
    # The tests are what runs this, and `make results` takes hours.
    "make results",
    "make results-full",
    "make test",
    "make test-all",
    # Installs, of which the extras are looked up below.
    "git clone … geomkit && cd geomkit",
    "python3 -m venv .venv",
    ".venv/bin/pip install -c constraints.txt '.[files,report]'",
    "pip install 'geomkit[atlas]' embedding-atlas",
    "pip install 'geomkit[bench]'",
    # A viewer that runs until it is stopped, and machines of a cluster.
    "embedding-atlas atlas.parquet --x projection_x --y projection_y --neighbors neighbors --text label",
    "dask scheduler &",
    "dask worker ADDRESS --nworkers 2 --nthreads 1 --memory-limit 24GiB",
    "geomkit moments s3://bucket/vectors/ --scheduler ADDRESS --run partial/",
}
"""Lines that are not run here, and why."""


def lines_of(page):
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            command = line.split("  #")[0].strip()
            if command:
                yield command


LINES = [(page, line) for page in PAGES for line in lines_of(page)]
RUN = [(page, line) for page, line in LINES if line not in ELSEWHERE]


def test_what_is_not_run_is_known():
    assert {line for _, line in LINES} >= ELSEWHERE
    assert len(RUN) > 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that pages speak of, and the commands on the path."""
    x = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    for name in ("vectors", "before", "after", "old", "new"):
        np.save(tmp_path / f"{name}.npy", x + np.float32(name in {"after", "new"}))
    titles = pa.array([f"text {row}" for row in range(400)])
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 16), "title": titles})
    parquet.write_table(table, tmp_path / "vectors.parquet")
    (tmp_path / "shards").mkdir()
    for at in range(4):
        np.save(tmp_path / "shards" / f"{at}.npy", x[100 * at : 100 * (at + 1)])
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "geomkit").symlink_to(Path(sys.executable).parent / "geomkit")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def in_a_shell(command, folder):
    return subprocess.run(  # noqa: S602 - ours
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def here(command, folder, monkeypatch, capsys):
    """Run a command of ours, and return its exit code and what it said."""
    program, *arguments = shlex.split(command)
    if program == "python":
        program, *arguments = arguments
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main() if program == "geomkit" else runpy.run_path(program, run_name="__main__")
    return left.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(("page", "line"), RUN, ids=[f"{page.stem}: {line}" for page, line in RUN])
def test_a_command_runs(folder, page, line, monkeypatch, capsys):
    # Of 400 rows a sample has fewer than pages, which speak of millions, ask for; a verdict is no failure.
    command = line.replace("--n-sample 20000", "--n-sample 50")
    before = {path.name for path in folder.iterdir()}
    if command.startswith(("geomkit ", "python ")) and ">" not in command:
        code, out, err = here(command, folder, monkeypatch, capsys)
    else:
        done = in_a_shell(command, folder)
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0 or (code == 1 and "--fail-on" in line), err
    words = shlex.split(command.split(">")[0])
    named = {words[at + 1] for at, word in enumerate(words[:-1]) if word in {"--html", "--out", "--run"}}
    assert {name.rstrip("/") for name in named} <= {path.name for path in folder.iterdir()} - before
    assert out or named or ">" in command


def test_some_commands_run_in_a_shell():
    assert [line.split()[0] for _, line in RUN if not line.startswith(("geomkit ", "python ")) or ">" in line] == [
        ".venv/bin/geomkit", "geomkit",
    ]  # fmt: skip


def test_extras_that_pages_install_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = ",".join(re.findall(r"(?:geomkit|\.)\[([\w,]+)\]", text)).split(",")
    assert named
    assert set(named) <= set(extras)
