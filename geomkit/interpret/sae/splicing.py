"""What a model loses when states of a layer are replaced while it runs, by their reconstruction or by nothing."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.core.result import Result
from geomkit.core.validation import check_whole
from geomkit.datasets.language_model import Card, LanguageModel
from geomkit.datasets.states import MAX_TOKENS, forward, length_batches, running, token_ids
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Deferred, loaded
from geomkit.interpret.causal import CausalParts, context_length, parts_of
from geomkit.interpret.sae.autoencoder import SparseAutoencoder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CLEAN", "Replace", "Splicing", "constant", "reconstruction", "splice"]

CLEAN = "clean"
"""Name of the model as it is."""

Replace = Callable[["Tensor"], "Tensor"]
"""Takes states of a layer, (tokens, d), and returns what to put in their place."""

_BATCH_TOKENS = 1024
_CHUNK = 256  # positions whose scores of all the vocabulary are held at once


@dataclass(frozen=True)
class Splicing(Result):
    """Cross-entropy of a model as it is and with its states replaced, over the same tokens."""

    model: str
    """Identity of the model."""
    layer: int
    n: int
    """Predictions: those made at positions whose states are replaced, so not at a text's first token."""
    n_texts: int
    counts: NDArray[np.int64] = field(repr=False)
    """Predictions in each text, (n_texts,)."""
    losses: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """Σ -ln p of the token that follows, in nats, by replacement and text; ``"clean"`` is among them."""
    seconds: Mapping[str, float] = field(repr=False)
    """That the forward passes of each took, heads included."""
    n_read: int
    """Tokens that each forward pass read, first ones included, padding not."""

    def cross_entropy(self, name: str) -> float:
        """Mean -ln p of the token that follows, in nats."""
        return float(self.losses[name].sum() / self.n)

    def recovered(self, name: str, ablated: str) -> float:
        """Share of the loss by an ablation that a replacement avoids: (H_ablated - H) / (H_ablated - H_clean).

        1 where nothing is lost, 0 where it is no better than the ablation; NaN where that costs nothing.
        """
        lost = self.cross_entropy(ablated) - self.cross_entropy(CLEAN)
        return (self.cross_entropy(ablated) - self.cross_entropy(name)) / lost if lost else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return every scalar by name, and the cross-entropy of each replacement."""
        return super().to_dict() | {f"cross_entropy_{name}": self.cross_entropy(name) for name in self.losses}


def splice(
    model: LanguageModel | Deferred,
    texts: Sequence[str],
    layer: int,
    replacements: Mapping[str, Replace],
    *,
    longest: float = math.inf,
    max_tokens: int = MAX_TOKENS,
    device: str | None = None,
) -> Splicing:
    """Run a model over texts as it is, and again with the states of a layer replaced in each of some ways.

    Parameters
    ----------
    model : LanguageModel or Deferred
    texts : sequence of str
        Held out from whatever learned the replacements.
    layer : int
        From 1 to the layer before the last: states are replaced where a block puts them out.
    replacements : mapping of str to callable
        By name, not ``"clean"``; see `reconstruction` and `constant`. States of a text's first token, an attention
        sink, are passed through unchanged, and predictions made there are not counted.
    longest : float, optional
        States of a greater norm are passed through too: other sinks (`SparseAutoencoder.longest`). Predictions made
        there are counted.
    max_tokens : int, default 128
        Tokens of each text that are read.
    device : str, optional
        Where the model runs; by default where it is. It is put back afterwards.

    Returns
    -------
    Splicing

    Raises
    ------
    InvalidInputError
        A layer whose output no other block reads, no texts, no text of three tokens or more, a name that is taken, more
        tokens than the context, or a replacement of another shape; and what `parts_of` refuses.

    Notes
    -----
    One forward pass for each replacement and one for the model as it is. Scores of the vocabulary are held for a few
    hundred positions at a time.
    """
    if CLEAN in replacements:
        msg = f"replacements has one named {CLEAN!r}, which is the model as it is; name it otherwise"
        raise InvalidInputError(msg)
    if isinstance(texts, str):
        msg = "texts is one string; it must be a sequence of texts"
        raise InvalidInputError(msg)
    ready = loaded(model)
    context = context_length(ready.model)
    check_whole(max_tokens, "max_tokens", 1, context, high_is="the model's context")
    ids = token_ids(ready.tokenizer, texts, max_tokens)
    lengths = np.array([len(each) for each in ids], np.int64)
    counts = np.maximum(lengths - 2, 0)
    if not counts.sum():
        msg = "texts has none of three tokens or more: no prediction is made at a state that is replaced"
        raise InvalidInputError(msg)
    with running(ready.model, device):
        parts = parts_of(ready.model)
        if not 1 <= layer < parts.n_layers:
            msg = f"layer is {layer}; states can be replaced at layers 1 to {parts.n_layers - 1} of {ready.card.name}"
            raise InvalidInputError(msg)
        ways: dict[str, Replace | None] = {CLEAN: None, **replacements}
        losses = {name: np.zeros(len(ids)) for name in ways}
        seconds = dict.fromkeys(ways, 0.0)
        for batch in length_batches(lengths, tokens=_BATCH_TOKENS):
            for name, replace in ways.items():
                start = time.perf_counter()
                losses[name][batch] = _losses(parts, [ids[i] for i in batch], layer, replace, longest)
                seconds[name] += time.perf_counter() - start
    return Splicing(
        model=ready.card.identity, layer=layer, n=int(counts.sum()), n_texts=len(ids), counts=counts, losses=losses,
        seconds=seconds, n_read=int(lengths.sum()),
    )  # fmt: skip


def reconstruction(
    autoencoder: SparseAutoencoder, card: Card, layer: int, *, k: int | None = None, device: str | None = None
) -> Replace:
    """Return a replacement of states by what an autoencoder rebuilds of them.

    Raises
    ------
    InvalidInputError
        It was trained on another model or layer.
    """
    autoencoder.check_model(card, layer)
    coder = autoencoder.coder(k, device)

    def replace(states: "Tensor") -> "Tensor":
        return coder.rebuilt(*coder.codes(states)).to(states)

    return replace


def constant(state: NDArray[Any]) -> Replace:
    """Return a replacement of every state by one and the same, (d,): zeros, or the mean, as an ablation."""
    torch = require("torch")
    fixed = torch.from_numpy(np.array(state, np.float32))

    def replace(states: "Tensor") -> "Tensor":
        if fixed.shape != states.shape[1:]:
            msg = f"state must have the model's width of {states.shape[1]}; got shape {tuple(fixed.shape)}"
            raise InvalidInputError(msg)
        out: Tensor = fixed.to(states).expand_as(states)
        return out

    return replace


def _losses(
    parts: CausalParts, ids: Sequence[Sequence[int]], layer: int, replace: Replace | None, longest: float
) -> list[float]:
    """Return the sum of -ln p over the predictions of each text that are made after its first token."""
    torch = require("torch")
    width = max(map(len, ids))
    lengths = torch.tensor([len(each) for each in ids])
    places = torch.arange(width)[None]
    device = parts.head.weight.device
    replaced = ((places >= 1) & (places < lengths[:, None])).to(device)
    hook = contextlib.nullcontext() if replace is None else _hooked(parts.blocks[layer - 1], replace, replaced, longest)
    with hook, torch.inference_mode():
        last = forward(parts.model, ids, [parts.n_layers])[parts.n_layers]
        rows, at = ((places >= 1) & (places < lengths[:, None] - 1)).nonzero(as_tuple=True)
        following = torch.tensor([ids[row][place + 1] for row, place in zip(rows.tolist(), at.tolist(), strict=True)])
        sums = torch.zeros(len(ids), dtype=torch.float64)
        for start in range(0, len(rows), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            logits = parts.unembed(last[rows[chunk].to(device), at[chunk].to(device)]).float()
            lost = torch.nn.functional.cross_entropy(logits, following[chunk].to(device), reduction="none")
            sums.index_add_(0, rows[chunk], lost.double().cpu())
    return [float(each) for each in sums]


@contextlib.contextmanager
def _hooked(block: Any, replace: Replace, places: "Tensor", longest: float) -> Iterator[None]:
    """Replace what a block puts out at some positions, for as long as this is open."""

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        where = places & (states.float().norm(dim=-1) <= longest)
        new = replace(states[where])
        if new.shape != states[where].shape:
            msg = f"a replacement returned shape {tuple(new.shape)} for states of shape {tuple(states[where].shape)}"
            raise InvalidInputError(msg)
        put = states.clone()
        put[where] = new
        return (put, *output[1:]) if isinstance(output, tuple) else put

    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
