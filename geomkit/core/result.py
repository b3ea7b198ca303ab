"""The base of every result, and how results are said: as a dictionary, as JSON, and as text."""

import math
from dataclasses import dataclass, fields
from typing import Any

from geomkit.core.deprecated import OldFields

__all__ = ["Result", "format_number", "json_safe"]


@dataclass(frozen=True, slots=True)
class Result(OldFields):
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


def json_safe(value: Any) -> Any:
    """Return the same with None for NaN and infinity, and lists for tuples, none of which JSON has."""
    if isinstance(value, dict):
        return {name: json_safe(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def format_number(value: float) -> str:
    """Write a number in four digits, and nothing where it is NaN."""
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"
