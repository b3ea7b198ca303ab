"""How much memory a measurement may take for rows that it prepares."""

from pathlib import Path

from geomkit.core.matrix import Matrix

__all__ = ["RESIDENT_BYTES", "budget", "free_memory"]

RESIDENT_BYTES = 2**28
"""Prepared rows of an array are kept up to this size; the array itself takes more."""

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def budget(matrix: Matrix) -> int:
    """Bytes of prepared rows that the host may hold: of stored rows what they say, or half of what is free."""
    if matrix.kind != "stored":
        return RESIDENT_BYTES
    allowed: int | None = matrix.data.max_memory
    return max(free_memory() // 2, 2**20) if allowed is None else allowed


def free_memory() -> int:
    """Bytes that this process can still take: what the system has available, and what its control group allows.

    Raises
    ------
    OSError
        The system does not say.
    """
    import os

    if _MEMINFO.exists():
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = (_read(_CGROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _read(path: Path) -> int | None:
    """Return the number in a file of the control group; None where there is none, or no limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
