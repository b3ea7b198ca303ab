"""Rows of several files that are about the same things, matched by what the files call them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geomkit.errors import InvalidInputError

__all__ = ["Matched", "match_rows"]

_LEAST_SHARE = 0.5
"""Of the rows of the smallest file that must be in all files, for rows to be paired by their names."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Vectors of several files, row by row about the same things where files have names for their rows."""

    vectors: dict[str, Any]
    labels: Any
    """Of the rows, where a column of the files has them."""
    is_paired: bool | None
    """Whether row i is the same thing in each: True or False where names say so, None where none do."""
    note: str
    """How many rows were matched; empty where rows stay as they are."""


def match_rows(spaces: Mapping[str, Any], *, paired: bool | None) -> Matched:
    """Pick the rows that all files have, in the order of the first file, by the names of rows.

    Parameters
    ----------
    spaces : mapping of name to Opened or Vectors
    paired : bool or None
        Whether rows are to be paired; None to find out.

    Raises
    ------
    InvalidInputError
        Few names are in all files of as many rows, names are there twice, or files have different labels.
    """
    vectors = {name: space.vectors for name, space in spaces.items()}
    first, *others = spaces
    labels = spaces[first].labels
    names: dict[str, Any] = {name: getattr(space, "names", None) for name, space in spaces.items()}
    if paired is False or any(own is None for own in names.values()) or len(set(names.values())) == 1:
        _check_labels(spaces)
        return Matched(vectors, labels, None if paired is None else paired, "")
    for space, own in names.items():
        if len(set(own)) < len(own):
            twice = next(name for name in own if own.count(name) > 1)
            msg = (
                f"{space}: row {own.index(twice)} is called {twice!r}, and another is, too; names must differ for rows"
            )
            msg += " to be matched by them, or give --independent"
            raise InvalidInputError(msg)
    rows = {space: {name: row for row, name in enumerate(own)} for space, own in names.items()}
    common = [name for name in names[first] if all(name in rows[other] for other in others)]
    heights = {name: len(own) for name, own in names.items()}
    if len(common) < max(2, _LEAST_SHARE * min(heights.values())):
        if paired is None and len(set(heights.values())) > 1:
            return Matched(vectors, labels, False, "")
        msg = f"{len(common)} rows are called alike in all of {heights}; half of the smallest must be for rows to be"
        msg += " paired: name them with --id, or give --independent"
        raise InvalidInputError(msg)
    chosen = {space: np.array([own[name] for name in common]) for space, own in rows.items()}
    picked = {name: x[_as_index(x, chosen[name])] for name, x in vectors.items()}
    if labels is not None:
        of_space = {name: [space.labels[row] for row in chosen[name]] for name, space in spaces.items()}
        _check_same(of_space)
        labels = of_space[first]
    note = (
        f"{len(common):,} rows were matched by name, of {', '.join(f'{rows:,} of {n}' for n, rows in heights.items())}"
    )
    return Matched(picked, labels, True, note)


def _as_index(x: Any, rows: Any) -> Any:
    """Return row numbers as what indexes such a matrix."""
    if type(x).__module__.split(".")[0] == "torch":
        import torch

        return torch.from_numpy(rows)
    return rows


def _check_labels(spaces: Mapping[str, Any]) -> None:
    """Refuse columns of labels that differ, for a comparison has one label for row i of every space."""
    labels = {name: list(space.labels) for name, space in spaces.items() if getattr(space, "format", "") != ""
              and space.labels is not None}  # fmt: skip
    if labels:
        _check_same(labels)


def _check_same(labels: Mapping[str, list[str]]) -> None:
    first, *others = labels
    for other in others:
        pairs = zip(labels[first], labels[other], strict=False)
        row = next((row for row, (a, b) in enumerate(pairs) if a != b), None)
        if row is not None or len(labels[first]) != len(labels[other]):
            has = f"{len(labels[first])} and {len(labels[other])} rows"
            if row is not None:
                has = f"row {row} is {labels[first][row]!r} in one and {labels[other][row]!r} in the other"
            msg = (
                f"labels of {first} and {other} differ ({has}), so that their rows are not the same things in one order"
            )
            msg += "; match rows with --id, or leave --labels out"
            raise InvalidInputError(msg)
