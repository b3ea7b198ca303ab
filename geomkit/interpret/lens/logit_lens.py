"""The logit lens (nostalgebraist 2020): what a causal model would say if each of its layers were the last."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.core.result import json_safe
from geomkit.core.validation import check_whole
from geomkit.datasets.language_model import LanguageModel
from geomkit.datasets.states import forward, running, wanted_layers
from geomkit.errors import InvalidInputError
from geomkit.interpret.causal import CausalParts, context_length, parts_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["STATISTICS", "LogitLens", "Measured", "Reading", "Translator", "logit_lens", "measured", "reading_of"]

STATISTICS = ("entropy", "kl", "cross_entropy", "rank", "agreement")
"""What is measured of each layer at each position; entropy, KL and cross-entropy in nats."""

CHUNK = 256
"""Positions whose scores of all the vocabulary are held at once."""


@dataclass(frozen=True, slots=True)
class LogitLens:
    """A causal model whose layers can be read through its final norm and its head."""

    loaded: LanguageModel
    parts: CausalParts

    @property
    def n_layers(self) -> int:
        """Blocks of the model, and the number of its last layer."""
        return self.parts.n_layers

    def logits(self, states: "Tensor", layer: int) -> "Tensor":
        """Return what states of a layer say, (..., vocabulary); those of the last layer have the final norm already."""
        return self.parts.logits(states, layer)


class Translator(Protocol):
    """Turns states of a layer into what the last steps of a model expect, as a `TunedLens` does."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that it can translate."""

    def check_model(self, lens: LogitLens) -> None:
        """Refuse a lens of another model."""

    def translate(self, states: "Tensor", layer: int) -> "Tensor":
        """Turn states of a layer, (..., dim), into what the final norm and the head expect."""


class Measured(NamedTuple):
    """What scores say beside those of the last layer, (positions,) each but for the last two."""

    entropy: "Tensor"
    """-Σ q ln q, in [0, ln vocabulary]."""
    kl: "Tensor"
    """KL(p ‖ q) = Σ p ln(p/q) of the last layer's p against this one's q, at least 0."""
    cross_entropy: "Tensor"
    """-ln q of the token that follows; NaN where none does."""
    rank: "Tensor"
    """Tokens that score higher than the one that follows: 0 is the best; NaN where none does."""
    agreement: "Tensor"
    """Share of the last layer's top tokens that are among this one's, in [0, 1]."""
    top: "Tensor"
    """Numbers of the tokens that score highest, (positions, k)."""
    probabilities: "Tensor"
    """And what q gives them, (positions, k)."""


@dataclass(frozen=True)
class Reading:
    """What each layer of a model says after each token of a text."""

    model: str
    reader: str
    """"logit lens", or "tuned lens" for the layers that it was trained for and the logit lens for the last."""
    tokens: tuple[str, ...]
    """Of the text, as it writes them."""
    layers: tuple[int, ...]
    n_layers: int
    n_truncated: int
    """Tokens of the text that were not read."""
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...] = field(repr=False)
    """By layer, position and rank."""
    top_probabilities: NDArray[np.float64] = field(repr=False)
    """(layers, positions, k), in [0, 1]."""
    values: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """By name in `STATISTICS`, (layers, positions). NaN at the last position where the next token is asked for."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: None where a value is not a number."""
        cells = [
            {
                "layer": layer,
                "position": position,
                "token": token,
                "top": [
                    {"token": said, "probability": float(probability)}
                    for said, probability in zip(
                        self.top_tokens[at][position], self.top_probabilities[at, position], strict=True
                    )
                ],
                **{name: json_safe(float(values[at, position])) for name, values in self.values.items()},
            }
            for at, layer in enumerate(self.layers)
            for position, token in enumerate(self.tokens)
        ]
        return {
            "model": self.model,
            "reader": self.reader,
            "n_layers": self.n_layers,
            "n_truncated": self.n_truncated,
            "units": "nats",
            "cells": cells,
        }

    def to_frame(self) -> "pd.DataFrame":
        """Return a row a layer, position and rank of a top token."""
        import pandas as pd

        rows = [
            {key: value for key, value in cell.items() if key != "top"}
            | {"top": rank, "said": said["token"], "probability": said["probability"]}
            for cell in self.to_dict()["cells"]
            for rank, said in enumerate(cell["top"])
        ]
        return pd.DataFrame(rows)


def logit_lens(loaded: LanguageModel) -> LogitLens:
    """Return the lens of a causal language model, after asserting that its last layer gives the model's own logits.

    Parameters
    ----------
    loaded : LanguageModel
        Any causal model of transformers.

    Raises
    ------
    InvalidInputError
        As `parts_of`: an encoder, no head, or parts that do not give the model's logits.
    """
    return LogitLens(loaded, parts_of(loaded.model))


def reading_of(
    lens: LogitLens,
    text: str,
    layers: Sequence[int] | None = None,
    *,
    top: int = 5,
    truncate: bool = False,
    tuned: Translator | None = None,
    device: str | None = None,
) -> Reading:
    """Read what each layer says after each token of a text.

    Parameters
    ----------
    lens : LogitLens
    text : str
        Not empty, and no longer than the model's context unless `truncate`.
    layers : sequence of int, optional
        Which of 0 to the number of blocks, negative ones from there; by default all, or those of `tuned` and the last.
    top : int, default 5
        Tokens that are named at each place.
    truncate : bool
        Read the beginning of a text that is longer than the context.
    tuned : TunedLens, optional
        Reads through its translators; every layer but the last must have one.
    device : str, optional
        Where it runs; by default where the model is.

    Returns
    -------
    Reading

    Raises
    ------
    InvalidInputError
        The text is empty or too long; a layer is not there or has no translator; `top` is not in 1 to the vocabulary.
    """
    ids, n_truncated = _ids(lens, text, truncate)
    check_whole(top, "top", 1, lens.parts.vocabulary, high_is="tokens of the vocabulary")
    if tuned is not None:
        tuned.check_model(lens)
        layers = (*tuned.layers, lens.n_layers) if layers is None else layers
    chosen = wanted_layers(lens.loaded.model, layers)
    torch = require("torch")
    found: dict[int, list[Measured]] = {layer: [] for layer in chosen}
    with running(lens.loaded.model, device), torch.inference_mode():
        states = forward(lens.loaded.model, [ids], sorted({*chosen, lens.n_layers}))
        following = torch.tensor([*ids[1:], -1], device=states[lens.n_layers].device)
        for part in chunks(len(ids), CHUNK):
            final = lens.logits(states[lens.n_layers][0, part], lens.n_layers).float()
            for layer in chosen:
                state = states[layer][0, part]
                if tuned is not None and layer != lens.n_layers:
                    state = tuned.translate(state, layer)
                said = lens.logits(state, layer).float() if layer != lens.n_layers else final
                found[layer].append(measured(said, final.log_softmax(-1), following[part], top))
    each = {name: np.stack([_joined(found[layer], at) for layer in chosen]) for at, name in enumerate(Measured._fields)}
    convert = lens.loaded.tokenizer.decode
    return Reading(
        model=lens.loaded.card.name,
        reader="logit lens" if tuned is None else "tuned lens",
        tokens=tuple(convert([number]) for number in ids),
        layers=chosen,
        n_layers=lens.n_layers,
        n_truncated=n_truncated,
        top_tokens=tuple(
            tuple(tuple(convert([number]) for number in place) for place in rows)
            for rows in each["top"].astype(np.int64).tolist()
        ),
        top_probabilities=each["probabilities"],
        values={name: each[name] for name in STATISTICS},
    )


def measured(logits: "Tensor", final: "Tensor", following: "Tensor", top: int) -> Measured:
    """Measure scores of all tokens at some positions beside the last layer's.

    Parameters
    ----------
    logits : (positions, vocabulary) float32
    final : (positions, vocabulary) float32
        Logarithms of the last layer's probabilities.
    following : (positions,) int64
        The token that follows each, -1 where none does.
    top : int
        k of the top tokens.
    """
    torch = require("torch")
    said = logits.log_softmax(-1)
    shares = said.exp()
    entropy = -(shares * said).sum(-1)
    best = said.topk(top, dim=-1)
    kl = (final.exp() * (final - said)).sum(-1)
    wanted = final.topk(top, dim=-1).indices
    agreement = (best.indices[:, :, None] == wanted[:, None, :]).any(1).double().mean(-1)
    known = following >= 0
    at = following.clamp(min=0)[:, None]
    rank = (logits > logits.gather(-1, at)).sum(-1).double()
    cross = -said.gather(-1, at)[:, 0].double()
    missing = torch.full_like(rank, math.nan)
    return Measured(
        entropy, kl, torch.where(known, cross, missing), torch.where(known, rank, missing), agreement, best.indices,
        best.values.exp(),
    )  # fmt: skip


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Yield slices of at most `size` over so many rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _ids(lens: LogitLens, text: str, truncate: bool) -> tuple[list[int], int]:
    """Return the tokens of a text that are read, and how many are not."""
    if not isinstance(text, str) or not text:
        msg = "text is empty; there is nothing to read" if text == "" else f"text must be a string; got {text!r}"
        raise InvalidInputError(msg)
    ids: list[int] = lens.loaded.tokenizer(text, verbose=False)["input_ids"]
    if not ids:
        msg = f"text {text!r} has no token"
        raise InvalidInputError(msg)
    longest = context_length(lens.loaded.model)
    if longest is None or len(ids) <= longest:
        return ids, 0
    if not truncate:
        msg = f"text has {len(ids):,} tokens; the context of {lens.loaded.card.name} is {longest:,}; cut it or truncate"
        raise InvalidInputError(msg)
    return ids[:longest], len(ids) - longest


def _joined(parts: Sequence[Measured], at: int) -> NDArray[np.float64]:
    return np.concatenate([part[at].double().cpu().numpy() for part in parts])
