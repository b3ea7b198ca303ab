"""Threads and the settings of libraries that belong to the whole process: who changes them waits for who does."""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["ieee", "map_in_threads", "one_thread_each", "processors"]

T = TypeVar("T")


def processors() -> int:
    """How many processors this process may use; not every system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_threads(work: Callable[..., T], *arguments: Sequence[Any], threads: int) -> list[T]:
    """Return ``list(map(work, *arguments))``, made in at most so many threads; in this one where one is enough."""
    threads = min(threads, len(arguments[0]))
    if threads <= 1:
        return list(map(work, *arguments))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, *arguments))


_BLAS = threading.RLock()


@contextmanager
def ieee() -> Iterator[None]:
    """Keep torch's products from rounding more than their rows, whatever the process allows: error bounds rest on it.

    Those settings belong to the process, so one sweep at a time may change them.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with _BLAS:
        settings = _strict_settings(torch)
        allowed = [getattr(owner, name) for owner, name, _ in settings]
        for owner, name, strict in settings:
            setattr(owner, name, strict)
        try:
            yield
        finally:
            for (owner, name, _), before in zip(settings, allowed, strict=True):
                setattr(owner, name, before)


def _strict_settings(torch: Any) -> list[tuple[Any, str, Any]]:
    """Owner, name and strict value of every setting that lets a product be less exact than its rows and float32."""
    cuda = torch.backends.cuda.matmul
    sums = (cuda, "allow_bf16_reduced_precision_reduction", False)
    if hasattr(cuda, "fp32_precision"):
        # Since torch 2.9 each kind of product has its own; the one of the process cannot be read once they differ.
        return [sums, (cuda, "fp32_precision", "ieee"), (torch.backends.mkldnn.matmul, "fp32_precision", "ieee")]
    return [sums, (cuda, "allow_tf32", False)]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS to one thread a call, since the sweep runs one Python thread a core around it.

    BLAS thread counts belong to the process, so one sweep at a time may change them.
    """
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    with _BLAS:
        # Read before the limit, which torch would report as its own count.
        threads = torch.get_num_threads() if torch is not None else 1
        with threadpool_limits(1):
            if torch is not None:
                torch.set_num_threads(1)
            try:
                yield
            finally:
                if torch is not None:
                    torch.set_num_threads(threads)
