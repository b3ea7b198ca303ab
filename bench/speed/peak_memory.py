"""The most memory that processes took, without what the system caches of files."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self


def private_bytes(pid: int) -> int:
    """Bytes of a process that are in no file (``RssAnon``).

    Raises
    ------
    OSError
        There is no such process, or the system does not say.
    """
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    msg = f"/proc/{pid}/status does not say RssAnon"
    raise OSError(msg)


class PeakMemory:
    """Looks at processes every `step` seconds while it is entered.

    Attributes
    ----------
    before, peak : dict of int to int
        By process: bytes when it was entered, and the most since.
    """

    def __init__(self, pids: Sequence[int], step: float = 0.01) -> None:
        self.before = {pid: private_bytes(pid) for pid in pids}
        self.peak = dict(self.before)
        self._step, self._over = step, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(self._step):
            for pid, most in self.peak.items():
                self.peak[pid] = max(most, private_bytes(pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        """Most bytes that one of them took beyond what it had before."""
        return max(most - self.before[pid] for pid, most in self.peak.items())
