"""One pass of a causal language model over texts: what every layer holds, pooled by text and at sampled tokens."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.errors import InvalidInputError

MAX_TOKENS = 128  # of each text
_BATCH = 16  # texts in one forward pass


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
    torch = require("torch")
    ids = token_ids(tokenizer, texts, max_tokens)
    wanted = wanted_layers(model, layers)
    lengths = np.array([len(each) for each in ids])
    token_texts, token_positions = _sample_positions(lengths, sampled_tokens, seed)
    dim = model.get_input_embeddings().weight.shape[1]
    documents = np.empty((len(wanted), len(ids), dim), dtype=np.float32)
    tokens = np.empty((len(wanted), sampled_tokens, dim), dtype=np.float32)

    order = np.argsort(-lengths, kind="stable")
    batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    bar = require("tqdm").tqdm(total=len(ids), desc="hidden states", unit="text", disable=None)
    with bar, _evaluating(model), torch.inference_mode():
        for batch in batches:
            states = _forward(model, [ids[i] for i in batch])
            counts = torch.as_tensor(lengths[batch], device=states[0].device)
            real = torch.arange(states[0].shape[1], device=counts.device) < counts[:, None]
            chosen = (
                [(row, np.flatnonzero(token_texts == text)) for row, text in enumerate(batch)] if len(tokens) else []
            )
            for at, layer in enumerate(wanted):
                state = states[layer].float()
                documents[at, batch] = ((state * real[..., None]).sum(1) / counts[:, None]).cpu().numpy()
                for row, slots in chosen:
                    tokens[at, slots] = state[row, token_positions[slots]].cpu().numpy()
            bar.update(len(batch))
    labels = tuple(
        str(tokenizer.convert_ids_to_tokens(ids[text][position]))
        for text, position in zip(token_texts.tolist(), token_positions.tolist(), strict=True)
    )
    return HiddenStates(wanted, documents, tokens, labels, token_texts, token_positions)


def token_ids(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the numbers of each text's first tokens, refusing a text that has none."""
    if not len(texts):
        msg = "texts is empty; give at least one"
        raise InvalidInputError(msg)
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    empty = [i for i, each in enumerate(ids) if not each]
    if empty:
        msg = f"texts has {len(empty)} without a token (first: {', '.join(map(str, empty[:3]))}); drop them"
        raise InvalidInputError(msg)
    return ids


def wanted_layers(model: Any, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Return layers counted from 0, all of them for None, refusing one that the model does not have."""
    count = model.config.num_hidden_layers + 1
    if layers is None:
        return tuple(range(count))
    for layer in layers:
        if not -count <= layer < count:
            msg = f"layer is {layer}; {type(model).__name__} has layers 0 to {count - 1}"
            raise InvalidInputError(msg)
    return tuple(layer % count for layer in layers)


def _sample_positions(lengths: NDArray[np.intp], count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw positions, sorted by text and place, from all but the first of each text."""
    ends = np.cumsum(lengths - 1)
    if count > ends[-1]:
        msg = f"sampled_tokens is {count:,}, but the texts have only {ends[-1]:,} tokens after their first ones"
        raise InvalidInputError(msg)
    flat = np.sort(np.random.default_rng(seed).choice(ends[-1], size=count, replace=False))
    texts = np.searchsorted(ends, flat, side="right")
    return texts, flat - (ends - (lengths - 1))[texts] + 1


def _forward(model: Any, ids: list[list[int]]) -> Sequence[Any]:
    """Return the hidden states of all layers for one batch, padded on the right with a mask that hides the padding."""
    torch = require("torch")
    width = max(map(len, ids))
    padded = torch.zeros((len(ids), width), dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, each in enumerate(ids):
        padded[row, : len(each)] = torch.tensor(each)
        mask[row, : len(each)] = 1
    device = model.get_input_embeddings().weight.device
    out = model.base_model(
        input_ids=padded.to(device), attention_mask=mask.to(device), output_hidden_states=True, use_cache=False
    )
    return out.hidden_states


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off for as long as the states are taken."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
