"""A file is there as a whole or not at all, whatever stops the writing."""

import errno
import os

import pytest

from geomkit.core.atomic import replacing, written
from geomkit.errors import SourceUnavailableError, StorageError


def full(_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_complete_file_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    flushed, plain = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(handle) or plain(handle))
    out = tmp_path / "table.csv"
    out.write_text("before")
    with written(out) as part:
        part.write_text("after")
        assert out.read_text() == "before"
        assert not flushed
    assert out.read_text() == "after"
    assert len(flushed) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, OSError])
def test_what_stops_the_writing_leaves_the_file_before(tmp_path, stop):
    out = tmp_path / "table.csv"
    out.write_text("before")
    with pytest.raises(stop), replacing(out) as part:  # noqa: PT012 (the body is what is stopped)
        part.write_text("half")
        raise stop
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_a_full_disk_is_an_error_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full)
    message = r"table\.csv could not be written: No space left on device; what was there before still is"
    with pytest.raises(StorageError, match=message), written(tmp_path / "table.csv") as part:
        part.write_text("whole")
    with pytest.raises(SourceUnavailableError), written(tmp_path / "table.csv", SourceUnavailableError) as part:
        part.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(StorageError, match="could not be written"), written(tmp_path / "no" / "file") as part:
        part.write_text("whole")
