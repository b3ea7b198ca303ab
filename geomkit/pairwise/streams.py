"""Two streams of work on a device: products on the side, and everything else where it is called from.

The CPU has none, and does what it is told at once; the code that uses them is the same.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

__all__ = ["AtOnce", "Streams"]


class AtOnce:
    """Stands for a stream where work is done by the time it was asked for."""

    def record_event(self) -> None:
        """Mark what was asked for so far."""

    def wait_event(self, event: None) -> None:
        """Let what is asked for from now on wait for a mark."""

    def synchronize(self) -> None:
        """Wait for everything."""


class Streams:
    """The streams of one device, for one thread.

    Parameters
    ----------
    device : torch.device, optional
        The CPU unless given.
    two : bool
        Whether the side is a stream of its own.

    Attributes
    ----------
    main : stream
        The current one of this thread: what it computes, others may read without waiting.
    side : stream
        Must wait for the main one, and the main one for it.
    """

    def __init__(self, device: Any, *, two: bool) -> None:
        self.device = device
        self._real = device is not None and device.type == "cuda"
        self.main: Any = AtOnce()
        self.side: Any = AtOnce()
        if self._real:
            import torch

            self.main = torch.cuda.current_stream(device)
            self.side = _beside(device) if two else self.main

    def here(self) -> AbstractContextManager[Any]:
        """Make the device the current one, which is where kernels are launched."""
        if not self._real:
            return nullcontext()
        import torch

        return torch.cuda.device(self.device)

    def aside(self) -> AbstractContextManager[Any]:
        """Let work go to the side stream; memory that is asked for meanwhile belongs to it."""
        if not self._real:
            return nullcontext()
        import torch

        return torch.cuda.stream(self.side)

    def passed(self, mark: Any) -> bool:
        """Whether what was asked for before a mark is done; does not wait for it."""
        return not self._real or bool(mark.query())

    def settle(self) -> None:
        """Wait until both are done."""
        self.side.synchronize()
        self.main.synchronize()


@cache
def _beside(device: Any) -> Any:
    """One side stream for each device: memory that was freed there can only be used there again."""
    import torch

    return torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
