"""Partial results on disk: what is done and what it came to, in one file that is replaced as a whole."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.atomic import written
from geomkit.core.executor import State
from geomkit.errors import BackendUnavailableError, StorageError

__all__ = ["Checkpoint", "CheckpointDir"]

SHARE = 20
"""Writing takes at most one part in so many of the wall time."""


class CheckpointDir:
    """A folder in which one run at a time keeps its partial results.

    Parameters
    ----------
    path : str or path
        Made if it is not there.
    every : float
        Seconds between two writings of a checkpoint, at least.

    Raises
    ------
    StorageError
        The folder cannot be made or written to, or another run has it.
    BackendUnavailableError
        filelock is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, every: float = 10.0) -> None:
        try:
            import filelock
        except ImportError as why:
            msg = f"a run folder needs filelock, which cannot be imported ({why}): pip install 'geomkit[scale]'"
            raise BackendUnavailableError(msg) from why
        self.path, self.every = Path(path), every
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The system lets go of it when the process ends, however that happens.
            self._lock = filelock.FileLock(self.path / "lock")
            self._lock.acquire(timeout=0)
        except filelock.Timeout as why:
            msg = f"run folder {self.path} is in use by another run; checkpoint_dir must be a folder of its own"
            raise StorageError(msg) from why
        except OSError as why:
            msg = f"run folder {self.path} cannot be written to ({why.strerror or why})"
            raise StorageError(msg) from why

    def checkpoint(self, what: str, settings: dict[str, Any]) -> "Checkpoint":
        """Open the partial results of one pass over the rows or the pairs; settings tell it from all others."""
        text = json.dumps({"what": what, **settings}, sort_keys=True)
        return Checkpoint(self, what, text)

    def close(self) -> None:
        """Let other runs have the folder."""
        self._lock.release()


class Checkpoint:
    """The partial results of one pass: which tasks are done, and the state that their results merged to.

    Raises
    ------
    StorageError
        The file is damaged, or of something else.
    """

    def __init__(self, folder: CheckpointDir, what: str, settings: str) -> None:
        self._settings, self._every = settings, folder.every
        self.path = folder.path / f"{what}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npz"
        self.done = np.zeros(0, np.bool_)
        self.state: State | None = None
        for left in folder.path.glob(f".{self.path.name}.*.part"):
            left.unlink(missing_ok=True)
        if self.path.exists():
            self._load()
        self._saved, self._cost = time.monotonic(), 0.0

    def _load(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            known, done = str(found.pop("settings")), found.pop("done")
        except (OSError, ValueError, KeyError, EOFError, MemoryError) as why:
            msg = f"partial results {self.path} cannot be read ({why}); remove the file to begin anew"
            raise StorageError(msg) from why
        except Exception as why:
            # zipfile and zlib have errors of their own for damaged files.
            msg = f"partial results {self.path} are damaged ({why}); remove the file to begin anew"
            raise StorageError(msg) from why
        if known != self._settings:
            msg = f"partial results {self.path} are of another run; remove the file to begin anew"
            raise StorageError(msg)
        self.done, self.state = done, found

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        return time.monotonic() - self._saved >= max(self._every, SHARE * self._cost)

    def save(self, done: NDArray[np.bool_], state: State) -> None:
        """Put a complete file in the place of the one before.

        Raises
        ------
        StorageError
            There is no room, or the folder is gone; the file before is as it was.
        """
        start = time.monotonic()
        with written(self.path) as part, part.open("wb") as file:
            np.savez(file, settings=np.array(self._settings), done=done, **state)  # type: ignore[arg-type]
        self._saved = time.monotonic()
        self._cost = self._saved - start
