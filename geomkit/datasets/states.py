"""One pass of a causal language model over texts: what every layer holds, pooled by text and at sampled tokens."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENS = 128  # of each text
BATCH_TEXTS = 16  # in one forward pass


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """What a model holds at its layers: layer 0 is the input embedding, the last one has its final norm applied."""

    layers: tuple[int, ...]
    documents: NDArray[np.float32]  # (layers, texts, dim): mean over the tokens of a text
    tokens: NDArray[np.float32]  # (layers, sampled tokens, dim)
    token_labels: tuple[str, ...]
    token_texts: NDArray[np.intp]  # which text each sampled token is in
    token_positions: NDArray[np.intp]  # where in it, from 1


def hidden_states(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_tokens: int = MAX_TOKENS,
    layers: Sequence[int] | None = None,
    sampled_tokens: int = 0,
    seed: int = 0,
) -> HiddenStates:
    """Run a model once over texts and keep what each layer holds, pooled by text and at sampled tokens.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With or without its head; no scores of tokens are computed.
    tokenizer : transformers tokenizer
    texts : sequence of str
        Each must have at least one token.
    max_tokens : int, default 128
        Tokens of each text that are read.
    layers : sequence of int, optional
        Which of 0 (the input embedding) to the number of blocks; all of them by default.
    sampled_tokens : int, default 0
        Positions drawn without replacement from those of all texts but the first of each. That one is a sink of
        attention (Xiao et al., 2024): in the middle layers of SmolLM2 its norm is some 130 times that of the others.
    seed : int, default 0
        Draws the positions.

    Returns
    -------
    HiddenStates
        float32. Texts are averaged over all their tokens, the first one too.

    Raises
    ------
    InvalidInputError
        No texts, a text without tokens, a layer that is not there, or more tokens to sample than there are.

    Notes
    -----
    Texts go in batches of similar length, padded on the right where a causal model cannot see. Progress is shown on
    standard error where that is a terminal.
    """
    ids = token_ids(tokenizer, texts, max_tokens)
    chosen = wanted_layers(model, layers)
    lengths = np.array([len(tokens) for tokens in ids])
    token_texts, token_positions = _sample_positions(lengths, sampled_tokens, seed)
    dim = model.get_input_embeddings().weight.shape[1]
    documents = np.empty((len(chosen), len(ids), dim), dtype=np.float32)
    tokens = np.empty((len(chosen), sampled_tokens, dim), dtype=np.float32)
    bar = require("tqdm").tqdm(total=len(ids), desc="hidden states", unit="text", disable=None)
    with bar, running(model):
        for batch in length_batches(lengths):
            states = forward(model, [ids[text] for text in batch], chosen)
            for at, layer in enumerate(chosen):
                state = states[layer].float()
                documents[at, batch] = token_means(state, lengths[batch]).cpu().numpy()
                for row, text in enumerate(batch if sampled_tokens else ()):
                    slots = np.flatnonzero(token_texts == text)
                    tokens[at, slots] = state[row, token_positions[slots]].cpu().numpy()
            bar.update(len(batch))
    labels = tuple(
        str(tokenizer.convert_ids_to_tokens(ids[text][position]))
        for text, position in zip(token_texts.tolist(), token_positions.tolist(), strict=True)
    )
    return HiddenStates(chosen, documents, tokens, labels, token_texts, token_positions)


def token_ids(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the numbers of each text's first tokens, refusing a text that has none."""
    if not len(texts):
        msg = "texts is empty; give at least one"
        raise InvalidInputError(msg)
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    empty = [number for number, tokens in enumerate(ids) if not tokens]
    if empty:
        msg = f"texts has {len(empty)} without a token (first: {', '.join(map(str, empty[:3]))}); drop them"
        raise InvalidInputError(msg)
    return ids


def wanted_layers(model: Any, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return layers of a model counted from 0, all of them for None, refusing one that it does not have."""
    return layers_of(layers, model.config.num_hidden_layers, type(model).__name__)


def layers_of(layers: Sequence[int] | None, n_layers: int, model: str) -> tuple[int, ...]:
    """Return layers counted from 0, all of them for None, refusing one that a model does not have.

    `n_layers` are the blocks, the last of which is the last layer; `model` is a name for messages.
    """
    count = n_layers + 1
    if layers is None:
        return tuple(range(count))
    if not len(layers):
        msg = "layers is empty; give at least one, or None for all"
        raise InvalidInputError(msg)
    for layer in layers:
        if not -count <= layer < count:
            msg = f"layer is {layer}; {model} has layers 0 to {n_layers}"
            raise InvalidInputError(msg)
    return tuple(int(layer) % count for layer in layers)


def _sample_positions(lengths: NDArray[np.intp], count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw positions, sorted by text and place, from all but the first of each text."""
    ends = np.cumsum(lengths - 1)
    if count > ends[-1]:
        msg = f"sampled_tokens is {count:,}, but the texts have only {ends[-1]:,} tokens after their first ones"
        raise InvalidInputError(msg)
    flat = np.sort(np.random.default_rng(seed).choice(ends[-1], size=count, replace=False))
    texts = np.searchsorted(ends, flat, side="right")
    return texts, flat - (ends - (lengths - 1))[texts] + 1


def length_batches(
    lengths: NDArray[Any], texts: int = BATCH_TEXTS, tokens: int | None = None
) -> Iterator[NDArray[Any]]:
    """Yield the numbers of texts in batches, longest first, so that little is padded.

    Parameters
    ----------
    lengths : (texts,) int
        Tokens of each text.
    texts : int
        Most texts of a batch.
    tokens : int, optional
        Most tokens of a batch instead, padding included; a longer text has a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = texts if tokens is None else max(1, tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def forward(model: Any, ids: Sequence[Sequence[int]], layers: Sequence[int]) -> "dict[int, Tensor]":
    """Run a model over tokens; return the states of chosen layers, (texts, longest, dim), in inference mode.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Its head does not run.
    ids : sequence of sequences of int
        Tokens of each text, at least one. Shorter ones are padded on the right; states there mean nothing.
    layers : sequence of int
        From 0, the input embedding, to the number of blocks, which has the final norm applied.
    """
    torch = require("torch")
    width = max(map(len, ids))
    padded = torch.zeros((len(ids), width), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    device = model.get_input_embeddings().weight.device
    with torch.inference_mode():
        out = model.base_model(
            input_ids=padded.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
        )
    last = len(out.hidden_states) - 1
    # Some models leave the last of their hidden states without its norm.
    return {layer: out.last_hidden_state if layer == last else out.hidden_states[layer] for layer in layers}


def token_means(states: "Tensor", lengths: NDArray[Any]) -> "Tensor":
    """Average the states of each text over its tokens, padding left out: (texts, dim)."""
    torch = require("torch")
    counts = torch.as_tensor(lengths, device=states.device)
    present = torch.arange(states.shape[1], device=states.device) < counts[:, None]
    means: Tensor = (states * present[..., None]).sum(1) / counts[:, None]
    return means


@contextlib.contextmanager
def running(model: Any, device: str | None = None) -> Iterator[None]:
    """Keep a model without dropout and on a device; afterwards it is as it was, and where.

    Raises
    ------
    InvalidInputError
        There is no such device here.
    """
    training, home = model.training, model.get_input_embeddings().weight.device
    try:
        if device is not None:
            model.to(device)
    except (RuntimeError, AssertionError) as why:
        msg = f"device is {device!r}, where the model cannot be put: {next(iter(str(why).splitlines()), '')}"
        raise InvalidInputError(msg) from why
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        if device is not None:
            model.to(home)
