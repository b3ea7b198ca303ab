"""That something is compiled is said once, and where it is kept; and `warm` leaves nothing for later."""

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit

import geomkit
from geomkit import cli, kernels
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.kernels import KERNELS, Backend, cpu_cache, module
from geomkit.stats import warmup

ROOT = Path(__file__).parents[2]

# Two kernels, so that a message a function would show; small ones, for they are compiled.
SMALL = """
import numpy as np
from geomkit.kernels import cpu, cpu_cache
for dtype in ("float32", "float64"):
    cpu.distances_in_place(np.ones((2, 2), dtype), np.ones(2, dtype), np.ones(2, dtype))
found = cpu_cache.kept()
print(found.compiled, found.found, *found.folders)
"""


def process(folder):
    done = subprocess.run(
        [sys.executable, "-c", SMALL],
        cwd=ROOT,
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.split(), done.stderr


def test_the_first_process_says_that_it_compiles_and_the_second_has_nothing_to_say(tmp_path):
    (compiled, found, *folders), said = process(tmp_path)
    assert (compiled, found) == ("2", "0")
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders)
    assert said.count("\n") == 1
    assert said.startswith("compiling the CPU kernels for this processor, once, about ")
    assert f"cached in {folders[0]}; `geomkit warm` does it ahead of time" in said

    (compiled, found, *_), said = process(tmp_path)
    assert (compiled, found, said) == ("0", "2", "")


def test_a_folder_that_cannot_be_written_is_named_beside_the_one_that_is_used(monkeypatch):
    monkeypatch.setattr(cpu_cache.config, "CACHE_DIR", "")
    assert cpu_cache.place("/a/b") == "/a/b"
    monkeypatch.setattr(cpu_cache.config, "CACHE_DIR", "/a")
    assert cpu_cache.place("/a/b") == "/a/b"
    monkeypatch.setattr(cpu_cache.config, "CACHE_DIR", "/c")
    assert cpu_cache.place("/a/b") == "/a/b, since NUMBA_CACHE_DIR=/c cannot be written"
    assert cpu_cache.place(None).startswith("no folder")


def compile_one(owner):
    def function(x):
        return x + 1

    function.__module__ = owner
    njit(function)(1)


def compiled_now(monkeypatch, caplog, owner, times=1):
    """What the log says while functions of this owner are compiled."""
    monkeypatch.setattr(cpu_cache._herald, "silent", False)
    with caplog.at_level(logging.WARNING, "geomkit"):
        for _ in range(times):
            compile_one(owner)
    return [record.getMessage() for record in caplog.records]


def test_only_our_functions_are_announced_and_only_once(monkeypatch, caplog):
    assert compiled_now(monkeypatch, caplog, "somebody.else") == []
    assert len(compiled_now(monkeypatch, caplog, "geomkit.kernels.none", times=2)) == 1


def test_nothing_is_announced_by_a_caller_that_says_it_better(monkeypatch, caplog):
    with cpu_cache.unannounced():
        assert cpu_cache._herald.silent
        with cpu_cache.unannounced():
            pass
        assert cpu_cache._herald.silent
    assert len(compiled_now(monkeypatch, caplog, "geomkit.kernels.none")) == 1


def test_nowhere_to_keep_what_is_compiled_is_a_refusal(monkeypatch):
    def fail(name):
        msg = "cannot cache function 'x': no locator available for file 'y'"
        raise RuntimeError(msg)

    monkeypatch.setattr(kernels.importlib, "import_module", fail)
    with pytest.raises(BackendUnavailableError, match=r"nowhere to keep compiled kernels.*set NUMBA_CACHE_DIR"):
        module(Backend.CPU)


def test_other_errors_of_an_import_are_not_mistaken_for_that(monkeypatch):
    def fail(name):
        msg = "something else"
        raise RuntimeError(msg)

    monkeypatch.setattr(kernels.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match=r"^something else$") as raised:
        module(Backend.CPU)
    assert not isinstance(raised.value, BackendUnavailableError)


def test_warming_calls_every_kernel_and_says_what_it_did(monkeypatch):
    loaded = set()

    class Seen:
        """A module that remembers which of its names were asked for."""

        def __init__(self, name):
            self.__dict__["module"] = importlib.import_module(name)

        def __getattr__(self, name):
            loaded.add(f"{self.module.__name__}:{name}")
            return getattr(self.module, name)

    monkeypatch.setattr(kernels, "importlib", SimpleNamespace(import_module=Seen))
    lines = []
    found = geomkit.warm("float32", progress=lines.append)

    # What only bfloat16 needs is left to that.
    rows = [row[Backend.CPU] for row in KERNELS.values()]
    assert {row.target for row in rows if row.dtypes != ("bfloat16",)} - loaded == set()
    assert lines[:2] == [
        f"[1/{len(lines)}] which product is the fastest for float32",
        f"[2/{len(lines)}] float32 rows in float32",
    ]
    assert found.folders
    again = geomkit.warm("float32")
    assert (again.n_compiled, again.n_found) == (0, 0)


def test_after_warming_other_rows_find_everything_compiled(tmp_path):
    geomkit.warm("float32")
    before = cpu_cache.kept().compiled
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 33)).astype(np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    geomkit.survey(x, k=5)
    for metric in ("cosine", "euclidean", "dot"):
        geomkit.neighbors(x, 5, metric=metric)
    for p in (0.3, 1.5, 2, 7.3, np.inf):
        geomkit.concentration(x, p=p)
    assert cpu_cache.kept().compiled == before


def test_warming_says_what_it_does_once(monkeypatch, caplog):
    use = ("one", lambda: compile_one("geomkit.kernels.none"))
    monkeypatch.setattr(warmup, "_uses", lambda _: [use])
    monkeypatch.setattr(cpu_cache._herald, "silent", False)
    lines = []
    geomkit.warm(progress=lines.append)
    assert lines == ["[1/1] one"]
    assert caplog.records == []


def test_an_unknown_precision_is_refused():
    with pytest.raises(InvalidInputError, match=r"precision must be one of .*'all'.*; got 'half'"):
        geomkit.warm("half")


def test_what_was_done_in_words():
    done = warmup.Warmed(n_compiled=3, n_found=4, seconds=2.0, folders=("/a", "/b"))
    assert str(done) == "3 kernels compiled in 2.0 s, 4 were there; cached in /a, /b"
    done = warmup.Warmed(n_compiled=0, n_found=4, seconds=0.25, folders=("/a",))
    assert str(done) == "all 4 kernels were there; looked up in 0.2 s, in /a"


def test_the_command(monkeypatch, capsys):
    def warm(precision, progress):
        progress(f"[1/1] {precision}")
        return "done"

    monkeypatch.setattr(warmup, "warm", warm)
    monkeypatch.setattr(sys, "argv", ["geomkit", "warm", "--precision", "float64"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr() == ("done\n", "[1/1] float64\n")
