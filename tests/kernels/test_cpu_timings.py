"""Timings are found again on the same machine, and anything else is as good as no timings."""

import importlib.metadata
import json
import logging
import os
import stat

import pytest

from geomkit.kernels import cpu_cache, cpu_product, cpu_timings
from geomkit.kernels.cpu_timings import machine, recall, remember

SECONDS = {"numpy": 1e-3, "torch": 2e-3}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_cache, "folder", lambda: tmp_path)
    cpu_timings._libraries.cache_clear()
    yield tmp_path
    cpu_timings._libraries.cache_clear()


def test_what_was_remembered_is_recalled_by_name(folder):
    assert recall("float32", SECONDS) is None
    remember("float32", SECONDS)
    assert recall("float32", list(SECONDS)) == SECONDS
    assert recall("float64", SECONDS) is None
    assert recall("float32", ["numpy"]) is None
    assert recall("float32", ["numpy", "torch", "other"]) is None
    remember("float32", {"numpy": 5.0, "torch": 6.0})
    assert recall("float32", SECONDS) == {"numpy": 5.0, "torch": 6.0}
    # One file for each, and nothing half-written beside it.
    remember("float64", SECONDS)
    assert len(list(folder.iterdir())) == 2
    assert all(each.name.startswith("timings-") for each in folder.iterdir())


def changed(monkeypatch, what):
    if what == "processor":
        monkeypatch.setattr(cpu_timings, "processor", lambda: {"model name": "another"})
    elif what == "torch":
        monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.1")
    elif what == "numpy":
        monkeypatch.setattr(cpu_timings.np, "__version__", "0.1")
    elif what == "blas":
        built = {"Build Dependencies": {"blas": {"name": "another"}}}
        monkeypatch.setattr(cpu_timings.np, "show_config", lambda mode: built)  # noqa: ARG005
    elif what == "format":
        monkeypatch.setattr(cpu_timings, "FORMAT", 2)
    else:
        monkeypatch.setenv(what, "Haswell")
    cpu_timings._libraries.cache_clear()


@pytest.mark.parametrize("what", ["processor", "torch", "numpy", "blas", "format", "OPENBLAS_CORETYPE", "MKL_CBWR"])
def test_another_machine_has_timings_of_its_own(monkeypatch, what):
    remember("float32", SECONDS)
    with monkeypatch.context() as patch:
        changed(patch, what)
        assert recall("float32", SECONDS) is None
        remember("float32", {"numpy": 5.0, "torch": 6.0})
        assert recall("float32", SECONDS) == {"numpy": 5.0, "torch": 6.0}
    cpu_timings._libraries.cache_clear()
    assert recall("float32", SECONDS) == SECONDS


@pytest.mark.parametrize("part", ["format", "what", "machine"])
def test_a_file_of_another_machine_is_not_trusted_by_its_name(folder, part, caplog):
    remember("float32", SECONDS)
    (file,) = folder.iterdir()
    found = json.loads(file.read_text())
    assert set(found) == {"format", "what", "machine", "seconds"}
    file.write_text(json.dumps(found | {part: "another"}))
    with caplog.at_level(logging.DEBUG, "geomkit"):
        assert recall("float32", SECONDS) is None
    assert "are not used: it is of another machine or format" in caplog.text


SPOILT = [
    b"", b"{", b"[]", b"3", b"null", b"\xff\xfe\x00", b"{}", b"[" * 100_000,
    {"seconds": None}, {"seconds": []}, {"seconds": {}}, {"seconds": {"numpy": 1e-3}},
    {"seconds": {"numpy": 1e-3, "torch": "2"}}, {"seconds": {"numpy": 1e-3, "torch": None}},
    {"seconds": {"numpy": 1e-3, "torch": float("nan")}}, {"seconds": {"numpy": 1e-3, "torch": float("inf")}},
    {"seconds": {"numpy": 1e-3, "torch": 0.0}}, {"seconds": {"numpy": 1e-3, "torch": -1.0}},
    {"seconds": {"numpy": 1e-3, "torch": True}},
]  # fmt: skip


@pytest.mark.parametrize("spoilt", SPOILT, ids=lambda each: str(each)[:40])
def test_a_corrupt_file_is_measured_again(folder, spoilt, caplog, monkeypatch):
    remember("float32", SECONDS)
    (file,) = folder.iterdir()
    found = json.loads(file.read_text())
    file.write_bytes(spoilt if isinstance(spoilt, bytes) else json.dumps(found | spoilt).encode())
    with caplog.at_level(logging.DEBUG, "geomkit"):
        assert recall("float32", SECONDS) is None
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert str(file) in caplog.text
    monkeypatch.setattr(cpu_product, "_chosen", {})
    monkeypatch.setattr(cpu_product, "_timed", lambda _: {"numpy": 7.0, "torch": 8.0})
    assert cpu_product.product("float32", 1e20) == "numpy"
    assert recall("float32", SECONDS) == {"numpy": 7.0, "torch": 8.0}


def test_a_folder_that_cannot_be_written_costs_a_line_in_the_log(folder, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "no")

    monkeypatch.setattr(cpu_timings.Path, "write_text", refuse)
    with caplog.at_level(logging.DEBUG, "geomkit"):
        remember("float32", SECONDS)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]
    assert "timings are not kept: [Errno 13] no" in caplog.text
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_read_or_is_a_folder(folder, caplog):
    remember("float32", SECONDS)
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    with caplog.at_level(logging.DEBUG, "geomkit"):
        assert recall("float32", SECONDS) is None
        remember("float32", SECONDS)
    assert len(caplog.records) == 2
    assert [each.name for each in folder.iterdir()] == [file.name]


def test_a_write_that_fails_leaves_what_was_there(folder, monkeypatch):
    remember("float32", SECONDS)

    def fail(*_):
        raise OSError(28, "full")

    monkeypatch.setattr(cpu_timings.Path, "replace", fail)
    remember("float32", {"numpy": 5.0, "torch": 6.0})
    assert recall("float32", SECONDS) == SECONDS
    assert len(list(folder.iterdir())) == 1


def test_without_a_folder_or_a_version_of_torch_nothing_is_kept(folder, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        patch.setattr(cpu_cache, "folder", lambda: None)
        remember("float32", SECONDS)
        assert recall("float32", SECONDS) is None

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    with caplog.at_level(logging.DEBUG, "geomkit"):
        remember("float32", SECONDS)
        assert recall("float32", SECONDS) is None
    assert list(folder.iterdir()) == []
    assert len(caplog.records) == 2


def test_a_folder_is_made_where_it_is_missing(folder, monkeypatch):
    monkeypatch.setattr(cpu_cache, "folder", lambda: folder / "a" / "b")
    remember("float32", SECONDS)
    assert recall("float32", SECONDS) == SECONDS


def test_the_folder_is_that_of_compiled_code(monkeypatch):
    monkeypatch.undo()
    found = cpu_cache.folder()
    assert found.is_dir()
    assert os.access(found, os.W_OK)
    assert stat.S_ISDIR(found.stat().st_mode)

    def nowhere(_):
        msg = "cannot cache function: no locator available"
        raise RuntimeError(msg)

    monkeypatch.setattr(cpu_cache, "FunctionCache", nowhere)
    assert cpu_cache.folder() is None


def test_a_processor_is_what_it_is_and_not_what_it_does(tmp_path):
    file = tmp_path / "cpuinfo"
    first = "processor\t: 0\nmodel name\t: A: B\ncpu MHz\t: 1234.5\nflags\t\t: sse avx2\nbogomips : 3\n"
    file.write_text(first + "\n" + first.replace("A: B", "C") + "\n")
    assert cpu_timings.processor(file) == {"model name": "A: B", "flags": "sse avx2"}
    file.write_text("Serial: 1\n")
    assert set(cpu_timings.processor(file)) == {"name"}
    assert set(cpu_timings.processor(tmp_path / "none")) == {"name"}


def test_a_machine_is_something_that_json_can_hold():
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == importlib.metadata.version("torch")
