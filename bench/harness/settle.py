"""What a process of a run does first, before a library counts the cores: so this imports nothing that does."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing import Queue

__all__ = ["settle"]


def settle(places: "Queue[int | None]") -> None:
    """Keep this process to one core, if it is given one; bars of libraries are for people."""
    core = places.get()
    os.environ["TQDM_DISABLE"] = "1"
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
