"""A TopK sparse autoencoder: states of a layer as a few active features out of thousands (Gao et al. 2024).

``z = TopK(ReLU(E s (x - b) + e))`` and ``x̂ = b + zᵀ D / s``: rows of the decoder D are unit vectors, one a feature; b
is what is subtracted before encoding, s the scale that gives training states a mean square distance of 1 from their
mean. Attention sinks, tokens of huge norm such as the first of every text, are left out: see `sae_quality.token_rows`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from geomkit.core.optional import require
from geomkit.core.validation import check_number, check_whole
from geomkit.datasets.language_model import Card
from geomkit.errors import InvalidInputError
from geomkit.interpret.saved_weights import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SINK", "Coder", "SparseAutoencoder", "blocks", "load_autoencoder"]

BLOCK = 4096
"""Rows that are encoded at once: what is held of all features is ``BLOCK x n_features x 4`` bytes."""

SINK = 10.0
"""How many times longer than the median a state is that counts as an attention sink. In layer 16 of SmolLM2 norms of
other tokens are within a third of the median, but for one in a thousand, and those of most sinks 130 times it."""

_KIND, _FORMAT = "geomkit.meaning.sae", "1"
_UNIT = 1e-4  # how far the length of a decoder's row may be from 1


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """Encoder and decoder of the states of one layer of one model."""

    model: str
    """Identity of the model: `Card.identity`."""
    layer: int
    k: int
    """Features that may be active at a token."""
    scale: float
    """What centred states are multiplied with before they are encoded."""
    longest: float
    """States of a greater norm are attention sinks, which it was not trained on: spliced into a model they are passed
    through unchanged."""
    settings: dict[str, Any]
    """What it was trained with."""
    bias: NDArray[np.float32] = field(repr=False)
    """Subtracted from states before encoding and added after decoding, (d,), in the units of states."""
    encoder: NDArray[np.float32] = field(repr=False)
    """(n_features, d)."""
    encoder_bias: NDArray[np.float32] = field(repr=False)
    """(n_features,)."""
    decoder: NDArray[np.float32] = field(repr=False)
    """(n_features, d), rows of length 1."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together."""
        features, d = self.decoder.shape if self.decoder.ndim == 2 else (0, 0)
        shapes = {"bias": (d,), "encoder": (features, d), "encoder_bias": (features,), "decoder": (features, d)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or value.dtype != np.float32 or not value.size or not np.isfinite(value).all():
                msg = f"{name} must be finite float32 of shape {shape}; got {value.dtype} of shape {value.shape}"
                raise InvalidInputError(msg)
        check_whole(self.k, "k", 1, features, high_is="n_features")
        for name in ("scale", "longest"):
            check_number(getattr(self, name), name, 0, open_low=True)
        lengths = np.linalg.norm(self.decoder.astype(np.float64), axis=1)
        if abs(lengths - 1).max() > _UNIT:
            msg = f"decoder must have rows of length 1; they have {lengths.min():.4g} to {lengths.max():.4g}"
            raise InvalidInputError(msg)

    @property
    def n_features(self) -> int:
        """Features, active or not."""
        return len(self.decoder)

    @property
    def d(self) -> int:
        """Width of the states."""
        return int(self.decoder.shape[1])

    def coder(self, k: int | None = None, device: str | None = None) -> "Coder":
        """Put it on a device for states that are tensors; k other than its own keeps more features, or fewer."""
        return Coder(
            self, self.k if k is None else check_whole(k, "k", 1, self.n_features, high_is="n_features"), device
        )

    def encode(self, states: NDArray[Any], *, k: int | None = None, device: str | None = None) -> csr_array:
        """Return the activations of the features at each token.

        Parameters
        ----------
        states : (n, d) float32 or float16
            Of the layer that it was trained on, without attention sinks: these would be encoded like any other.
        k : int, optional
            Features that may be active at a token; by default as many as in training.
        device : str, optional
            Where products run; by default the CPU.

        Returns
        -------
        csr_array
            (n, n_features) float32, above 0 where a feature is active: at most k a row, its columns in order.

        Raises
        ------
        InvalidInputError
            States of another width, or not finite.

        Notes
        -----
        ``2 n d n_features`` operations, a few thousand rows at a time.
        """
        coder = self.coder(k, device)
        data, columns, counts = [], [], [np.zeros(1, np.int64)]
        for block in blocks(self.checked(states), np.arange(len(states))):
            values, at = coder.sparse(block)
            active = values > 0
            data.append(values[active])
            columns.append(at[active])
            counts.append(active.sum(axis=1))
        ends = np.cumsum(np.concatenate(counts))
        out = csr_array((np.concatenate(data), np.concatenate(columns), ends), shape=(len(states), self.n_features))
        out.sort_indices()
        return out

    def decode(self, features: csr_array) -> NDArray[np.float32]:
        """Return the states that features at their activations stand for, (n, d) float32, in the units of states."""
        if features.ndim != 2 or features.shape[1] != self.n_features:
            msg = f"features must have {self.n_features} columns; got shape {features.shape}"
            raise InvalidInputError(msg)
        out: NDArray[np.float32] = np.asarray(features @ self.decoder, np.float32) / np.float32(self.scale) + self.bias
        return out

    def check_model(self, card: Card, layer: int | None = None) -> None:
        """Refuse a model, or a layer, that it was not trained on."""
        if self.model != card.identity:
            msg = f"the autoencoder is of model {self.model}, not of {card.name} ({card.identity})"
            raise InvalidInputError(msg)
        if layer is not None and layer != self.layer:
            msg = f"the autoencoder is of layer {self.layer}, not of layer {layer}"
            raise InvalidInputError(msg)

    def to_dict(self) -> dict[str, Any]:
        """Return what it is of and how it was trained, without the weights."""
        return {
            "model": self.model, "layer": self.layer, "d": self.d, "n_features": self.n_features, "k": self.k,
            "scale": self.scale, "longest": self.longest, "settings": self.settings,
        }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write it to a safetensors file, complete or not at all.

        Raises
        ------
        SourceUnavailableError
            The file cannot be written; what was at `path` is still there.
        """
        names = ("bias", "encoder", "encoder_bias", "decoder")
        write_checkpoint(Path(path), _KIND, _FORMAT, self.to_dict(), {name: getattr(self, name) for name in names})

    def checked(self, states: NDArray[Any]) -> NDArray[Any]:
        """Return states as they are, refusing some of another width or dtype."""
        if states.ndim != 2 or states.shape[1] != self.d or not len(states):
            msg = f"states must have rows of {self.d} numbers; got shape {states.shape}"
            raise InvalidInputError(msg)
        if states.dtype not in (np.float32, np.float16):
            msg = f"states must be float32 or float16; got {states.dtype}"
            raise InvalidInputError(msg)
        return states


def load_autoencoder(path: str | Path, card: Card | None = None, layer: int | None = None) -> SparseAutoencoder:
    """Read an autoencoder that `SparseAutoencoder.save` wrote.

    Parameters
    ----------
    path : path
        A safetensors file.
    card : Card, optional
        Of the model that it must belong to.
    layer : int, optional
        That it must be of.

    Raises
    ------
    InvalidInputError
        There is no such file, it is not whole, of another format, model or layer, or its tensors are not an
        autoencoder's: names, dtypes, shapes, values, or rows of the decoder that are not of length 1.
    """
    file = Path(path)
    facts, tensors = read_checkpoint(file, _KIND, _FORMAT)
    wanted = {"bias", "encoder", "encoder_bias", "decoder"}
    if set(tensors) != wanted:
        msg = f"{file} has the tensors {sorted(tensors)}; an autoencoder has {sorted(wanted)}"
        raise InvalidInputError(msg)
    kinds: dict[str, type | tuple[type, ...]] = {
        "model": str, "layer": int, "k": int, "scale": (int, float), "longest": (int, float), "settings": dict,
    }  # fmt: skip
    wrong = [name for name, kind in kinds.items() if not isinstance(facts.get(name), kind)]
    if wrong:
        msg = f"{file} does not say its {', '.join(wrong)}"
        raise InvalidInputError(msg)
    try:
        parts: dict[str, Any] = {name: facts[name] for name in kinds} | tensors
        found = SparseAutoencoder(**parts)
    except InvalidInputError as why:
        msg = f"{file} does not hold an autoencoder: {why}"
        raise InvalidInputError(msg) from why
    if (facts.get("d"), facts.get("n_features")) != (found.d, found.n_features):
        msg = (
            f"{file} says {facts.get('d')} x {facts.get('n_features')}; its tensors are {found.d} x {found.n_features}"
        )
        raise InvalidInputError(msg)
    if card is not None:
        found.check_model(card, layer)
    elif layer not in (None, found.layer):
        msg = f"{file} is of layer {found.layer}, not of layer {layer}"
        raise InvalidInputError(msg)
    return found


class Coder:
    """An autoencoder on a device, for states that are tensors."""

    def __init__(self, of: SparseAutoencoder, k: int, device: str | None) -> None:
        torch = require("torch")
        self.of, self.k, self.device = of, k, device
        put = {name: torch.from_numpy(getattr(of, name)) for name in ("bias", "encoder", "encoder_bias", "decoder")}
        try:
            moved = {name: value.to(device or "cpu") for name, value in put.items()}
        except (RuntimeError, AssertionError) as why:
            msg = f"device is {device!r}, which cannot be used: {next(iter(str(why).splitlines()), '')}"
            raise InvalidInputError(msg) from why
        self._bias, self._encoder, self._shift, self._decoder = moved.values()

    def codes(self, states: "Tensor") -> "tuple[Tensor, Tensor]":
        """Return the k largest activations at each row, 0 where fewer are above 0, and of which features; (n, k)."""
        torch = require("torch")
        centred = (states.to(self._bias) - self._bias) * self.of.scale
        values, at = torch.addmm(self._shift, centred, self._encoder.T).topk(self.k, dim=1, sorted=False)
        return values.relu(), at

    def rebuilt(self, values: "Tensor", at: "Tensor") -> "Tensor":
        """Return the states that these activations stand for, (n, d) float32."""
        torch = require("torch")
        summed = torch.nn.functional.embedding_bag(at, self._decoder, per_sample_weights=values, mode="sum")
        out: Tensor = summed / self.of.scale + self._bias
        return out

    def sparse(self, block: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return `codes` of a block of rows as arrays."""
        torch = require("torch")
        with torch.inference_mode():
            values, at = self.codes(torch.from_numpy(block))
        return values.cpu().numpy(), at.cpu().numpy()


def blocks(states: NDArray[Any], rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Yield some rows of `states` in float32, a few thousand at a time, refusing one that is not finite."""
    for start in range(0, len(rows), BLOCK):
        block = np.asarray(states[rows[start : start + BLOCK]], np.float32)
        if not np.isfinite(block).all():
            bad = rows[start + int(np.argmin(np.isfinite(block).all(axis=1)))]
            msg = f"states has rows that are not finite (first: {bad})"
            raise InvalidInputError(msg)
        yield block
