"""The base of every result: its scalars as a dictionary and as lines of text."""

from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """A frozen result, whose scalars are the fields that its repr shows.

    Declare arrays, and whatever else is not to be printed, with ``field(repr=False)``.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar field by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.repr}

    def __str__(self) -> str:
        scalars = self.to_dict()
        width = max(map(len, scalars))
        return "\n".join(f"{name:<{width}} {value}" for name, value in scalars.items())
