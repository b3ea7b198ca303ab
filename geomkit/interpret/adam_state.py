"""The state of a training by Adam: what its next step depends on, saved and put back."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.errors import InvalidInputError
from geomkit.interpret.saved_weights import read_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["restore_learned", "resumed", "state_of", "state_shapes"]

_MOMENTS = {"first": "exp_avg", "second": "exp_avg_sq"}


def state_of(learned: "Mapping[str, Tensor]", fixed: "Mapping[str, Tensor]", adam: Any) -> dict[str, NDArray[Any]]:
    """Copy what is learned with both of its moments, and what is fixed."""
    tensors = {**fixed, **learned}
    for name, value in learned.items():
        tensors |= {f"{name}.{moment}": adam.state[value][key] for moment, key in _MOMENTS.items()}
    return {name: np.array(value.detach().cpu().numpy()) for name, value in tensors.items()}


def state_shapes(learned: "Mapping[str, Tensor]", fixed: "Mapping[str, Tensor]") -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of what `state_of` copies."""
    shapes = {name: tuple(value.shape) for name, value in learned.items()}
    moments = {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in _MOMENTS}
    return {**shapes, **moments, **{name: tuple(value.shape) for name, value in fixed.items()}}


def restore_learned(learned: "Mapping[str, Tensor]", adam: Any, state: Mapping[str, NDArray[Any]], done: int) -> None:
    """Put what is learned and its moments back to a state after so many steps."""
    torch = require("torch")
    for name, value in learned.items():
        with torch.no_grad():
            value.copy_(torch.from_numpy(state[name]))
        moments = {key: torch.from_numpy(state[f"{name}.{moment}"]).to(value) for moment, key in _MOMENTS.items()}
        adam.state[value] = {"step": torch.tensor(float(done)), **moments}


def resumed(
    file: Path,
    kind: str,
    version: str,
    identity: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, type],
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read the facts and tensors of a training that was stopped.

    Parameters
    ----------
    file, kind, version
        As for `read_checkpoint`.
    identity : mapping
        Facts that the file must have: those of this training.
    shapes : mapping of str to tuple of int
        Tensors that it must have, and no others.
    types : mapping of str to type
        Further facts that it must have.

    Raises
    ------
    InvalidInputError
        The state is of another training or not whole.
    """
    facts, tensors = read_checkpoint(file, kind, version)
    other = [
        f"{name} {facts.get(name)!r}, not {value!r}" for name, value in identity.items() if facts.get(name) != value
    ]
    if other:
        msg = f"{file} is the state of another training: {'; '.join(other)}; remove it, or name another file"
        raise InvalidInputError(msg)
    whole = {name: value.shape for name, value in tensors.items()} == shapes
    if not whole or not all(isinstance(facts.get(name), known) for name, known in types.items()):
        msg = f"{file} does not hold a whole state of training; remove it to begin again"
        raise InvalidInputError(msg)
    return facts, tensors
