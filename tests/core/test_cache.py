"""Derived arrays: computed once, noticed when damaged, never half there."""

import errno
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from geomkit.core import cache as caching
from geomkit.core.cache import cache_folder, cached_array, cached_folder, key_of
from geomkit.errors import SourceUnavailableError

PARTS = {"texts": "abc", "seed": 0}


class Counted:
    """Computes an array and counts how often it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.arange(12, dtype=np.float32).reshape(3, 4)


def stored(cache: Path) -> Path:
    [path] = cache.rglob("array.npy")
    return path


def test_computes_once_and_maps_the_file(cache: Path) -> None:
    compute = Counted()
    first, second = cached_array("x", PARTS, compute), cached_array("x", PARTS, compute)

    assert compute.calls == 1
    assert isinstance(second, np.memmap)
    np.testing.assert_array_equal(first, np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(second, first)


def test_another_key_is_another_array(cache: Path) -> None:
    compute = Counted()
    cached_array("x", PARTS, compute)
    cached_array("x", {**PARTS, "seed": 1}, compute)
    assert compute.calls == 2

    cached_array("x", PARTS, compute)
    assert compute.calls == 2  # the second did not take the first one's place


def test_key_ignores_order_but_not_values() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1, "b": 2}) != key_of({"a": 2, "b": 1})


def test_a_truncated_file_is_computed_again_with_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    compute = Counted()
    cached_array("x", PARTS, compute)
    path = stored(cache)
    path.write_bytes(path.read_bytes()[:-8])  # the header now promises more than there is

    with caplog.at_level(logging.WARNING):
        again = cached_array("x", PARTS, compute)

    assert compute.calls == 2
    assert "making it again" in caplog.text
    np.testing.assert_array_equal(again, np.arange(12).reshape(3, 4))


def test_a_flipped_byte_is_noticed(cache: Path) -> None:
    compute = Counted()
    cached_array("x", PARTS, compute)
    data = bytearray(stored(cache).read_bytes())
    data[-1] ^= 0x40
    stored(cache).write_bytes(data)

    np.testing.assert_array_equal(cached_array("x", PARTS, compute), np.arange(12).reshape(3, 4))
    assert compute.calls == 2


def test_a_failed_computation_leaves_nothing(cache: Path) -> None:
    def fails() -> np.ndarray:
        msg = "half-way"
        raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError, match="half-way"):
        cached_array("x", PARTS, fails)

    assert list((cache / "derived").rglob("*")) == []


def test_a_full_disk_is_said_and_leaves_nothing(cache: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SourceUnavailableError, match=r"disk is full.*GEOMKIT_CACHE"):
        cached_folder("derived/x", PARTS, full)

    assert not list(cache.rglob("half"))


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(SourceUnavailableError, match="cannot be written"):
        cached_array("x", PARTS, Counted())


def test_other_errors_of_the_disk_come_through(cache: Path) -> None:
    def missing(folder: Path) -> None:
        (folder / "absent").read_bytes()

    with pytest.raises(FileNotFoundError):
        cached_folder("derived/x", PARTS, missing)


def test_environment_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path

    monkeypatch.setenv("GEOMKIT_CACHE", "")
    assert cache_folder().name == "geomkit"
    assert cache_folder() != tmp_path


def test_waiting_for_another_run_is_said(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with caching.locked("x"):
            held.set()
            release.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    timer = threading.Timer(0.3, release.set)
    timer.start()
    with caplog.at_level(logging.WARNING), caching.locked("x"):
        assert release.is_set()  # we got in only after the other let go
    other.join()

    assert "waiting for another run that is preparing x" in caplog.text
