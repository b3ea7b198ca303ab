"""The tuned lens (Belrose et al. 2023): an affine translator a layer, so trained that it says what the last does.

Layers were never trained to be read through the final norm and the head; a translator h + A h + b turns a layer's
states into what these expect. How far KL from the last layer falls says how much of what the plain lens misses is only
written in other coordinates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.errors import InvalidInputError
from geomkit.interpret.lens.logit_lens import LogitLens
from geomkit.interpret.saved_weights import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TunedLens", "load_tuned_lens"]

_KIND, _FORMAT = "geomkit.meaning.tuned_lens", "1"


@dataclass(frozen=True)
class TunedLens:
    """Translators of some layers of one model: h + A h + b, read through the model's own norm and head."""

    model: str
    """Identity of the model: `Card.identity`."""
    n_layers: int
    """Blocks of the model. Its last layer needs no translator."""
    layers: tuple[int, ...]
    settings: Mapping[str, Any]
    """What it was trained with: texts by hash, rows, steps, batch, learning rate, seed."""
    weights: Mapping[int, NDArray[np.float32]] = field(repr=False)
    """A of each layer, (dim, dim)."""
    biases: Mapping[int, NDArray[np.float32]] = field(repr=False)
    """b of each layer, (dim,)."""

    def translate(self, states: "Tensor", layer: int) -> "Tensor":
        """Turn states of a layer, (..., dim), into what the final norm and the head expect.

        Raises
        ------
        InvalidInputError
            The layer has no translator.
        """
        if layer not in self.weights:
            msg = f"layer is {layer}; the tuned lens has translators of layers {', '.join(map(str, self.layers))}"
            raise InvalidInputError(msg)
        torch = require("torch")
        weight, bias = (torch.from_numpy(each[layer]).to(states) for each in (self.weights, self.biases))
        translated: Tensor = states + states @ weight.T + bias
        return translated

    def reader(self, lens: LogitLens) -> Callable[["Tensor", int], "Tensor"]:
        """Return a reader for `lens_statistics`: translated states through the norm and the head of `lens`."""
        self.check_model(lens)
        return lambda states, layer: lens.logits(self.translate(states, layer), layer)

    def check_model(self, lens: LogitLens) -> None:
        """Refuse a lens of another model than the translators were trained for."""
        if lens.loaded.card.identity != self.model:
            msg = (
                f"the tuned lens is of model {self.model}, not of {lens.loaded.card.name} ({lens.loaded.card.identity})"
            )
            raise InvalidInputError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Say what it is of and how it was trained, without the translators."""
        return {"model": self.model, "n_layers": self.n_layers, "layers": list(self.layers), **self.settings}

    def save(self, path: str | Path) -> None:
        """Write it to a safetensors file, complete or not at all.

        Raises
        ------
        SourceUnavailableError
            The file cannot be written; what was at `path` is still there.
        """
        tensors = {f"weight.{layer}": self.weights[layer] for layer in self.layers}
        tensors |= {f"bias.{layer}": self.biases[layer] for layer in self.layers}
        write_checkpoint(Path(path), _KIND, _FORMAT, self.to_dict(), tensors)


def load_tuned_lens(path: str | Path, lens: LogitLens) -> TunedLens:
    """Read a tuned lens that `TunedLens.save` wrote, for the model that it was trained on.

    Raises
    ------
    InvalidInputError
        There is no such file, it is not whole, of another format or of another model, or a translator has another
        shape than that model's states or is not finite.
    """
    file = Path(path)
    found, tensors = read_checkpoint(file, _KIND, _FORMAT)
    if found.get("model") != lens.loaded.card.identity:
        msg = f"{file} is a tuned lens of model {found.get('model')}, not of {lens.loaded.card.identity}"
        raise InvalidInputError(msg)
    layers = tuple(found.get("layers", ()))
    wanted = {f"{what}.{layer}" for layer in layers for what in ("weight", "bias")}
    if not layers or set(tensors) != wanted or not all(0 <= layer < lens.n_layers for layer in layers):
        msg = f"{file} does not have a weight and a bias of each of its layers {list(layers)}"
        raise InvalidInputError(msg)
    for layer in layers:
        width = len(tensors[f"bias.{layer}"])
        if tensors[f"weight.{layer}"].shape != (width, width) or width != _width(lens):
            msg = f"{file} has a translator of shape {tensors[f'weight.{layer}'].shape}; states are {_width(lens)} wide"
            raise InvalidInputError(msg)
    settings = {name: value for name, value in found.items() if name not in {"model", "n_layers", "layers"}}
    return TunedLens(
        model=lens.loaded.card.identity,
        n_layers=lens.n_layers,
        layers=layers,
        settings=settings,
        weights={layer: tensors[f"weight.{layer}"] for layer in layers},
        biases={layer: tensors[f"bias.{layer}"] for layer in layers},
    )


def _width(lens: LogitLens) -> int:
    return int(lens.loaded.model.config.get_text_config().hidden_size)
