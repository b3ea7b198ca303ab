"""One command as a process of its own: its seconds and its peak memory.

Run as a script, ``python -I -S launcher.py REPORT OUT ERR COMMAND …`` is a parent of some ten megabytes: a child starts
with the peak of whoever spawned it, so that a large parent would hide what a small child takes. POSIX alone.
"""

import json
import os
import sys
import time


def launch(report: str, out: str, err: str, command: list[str]) -> None:
    """Run a command, its output into two files, and write what it took as JSON."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [(os.POSIX_SPAWN_OPEN, 1, out, write, 0o600), (os.POSIX_SPAWN_OPEN, 2, err, write, 0o600)]
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    # Linux counts in kibibytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    took = {"seconds": seconds, "peak": usage.ru_maxrss * unit, "code": os.waitstatus_to_exitcode(status)}
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would make the parent larger.
        json.dump(took, file)


if __name__ == "__main__":
    launch(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
