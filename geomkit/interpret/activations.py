"""States of every token of some texts at chosen layers of a language model: one pass, cached a layer at a time."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.core.cache import cache_folder, cached_folder, derived, is_complete, key_of, read_array
from geomkit.core.optional import require
from geomkit.core.validation import check_choice, check_whole
from geomkit.datasets.corpora import texts_hash
from geomkit.datasets.language_model import Card, LanguageModel
from geomkit.datasets.layers import SMOLLM2_CARD, smollm2
from geomkit.datasets.states import MAX_TOKENS, forward, layers_of, length_batches, running, token_ids
from geomkit.errors import InvalidInputError
from geomkit.interpret.causal import context_length

__all__ = ["SMOLLM2", "Activations", "Deferred", "activations", "loaded"]

_FORMAT = 1  # of cached states
_BATCH_TOKENS = 2048  # of one forward pass, padding included
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)

DType = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class Deferred:
    """A model that is loaded only where the cache lacks something of it."""

    card: Card
    load: Callable[[], LanguageModel]


SMOLLM2 = Deferred(SMOLLM2_CARD, smollm2)
"""The model that comes as a package."""


@dataclass(frozen=True)
class Activations:
    """States of every token of some texts, a row a token, in the order of the texts and of their tokens."""

    model: str
    """Identity of the model: `Card.identity`."""
    key: str
    """Changes when the model, the texts or how many of their tokens are read do."""
    layers: tuple[int, ...]
    """In ascending order; 0 is the input embedding, k what block k puts out."""
    n_layers: int
    """Blocks of the model; states of this layer have the final norm applied, all others none."""
    n_texts: int
    n_truncated: int
    """Texts that have more tokens than were read."""
    tokens: NDArray[np.int64] = field(repr=False)
    """Number of each token in the vocabulary, (rows,)."""
    texts: NDArray[np.int64] = field(repr=False)
    """Which text each is in, (rows,), ascending."""
    positions: NDArray[np.int64] = field(repr=False)
    """Where in its text, (rows,), from 0."""
    states: Mapping[int, NDArray[Any]] = field(repr=False)
    """By layer, (rows, dim), float32 or float16: read-only memory maps."""

    @property
    def sinks(self) -> NDArray[np.bool_]:
        """Which rows are of a text's first token, (rows,).

        Attention sinks there (Xiao et al., 2024): in the middle layers of SmolLM2 the norm of such a row is some 130
        times that of the others. Leave them out, or treat them apart.
        """
        return np.asarray(self.positions == 0)

    @property
    def next_tokens(self) -> NDArray[np.int64]:
        """Number of the token that follows, (rows,); -1 at the last that was read of a text."""
        follows = np.append(self.tokens[1:], -1)
        follows[np.append(self.texts[1:] != self.texts[:-1], True)] = -1
        return follows


def activations(
    model: LanguageModel | Deferred,
    texts: Sequence[str],
    layers: Sequence[int] | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    dtype: DType = "float32",
    device: str | None = None,
) -> Activations:
    """Return the states of every token of some texts at chosen layers, from the cache where it has them.

    Parameters
    ----------
    model : LanguageModel or Deferred
        What `language_model` returns, such as `SMOLLM2`, which is loaded only where a layer is missing.
    texts : sequence of str
        Each must have at least one token.
    layers : sequence of int, optional
        Which of 0 (the input embedding) to the number of blocks; negative numbers count from there. All by default.
    max_tokens : int, default 128
        Tokens of each text that are read; how many texts have more is counted.
    dtype : {"float32", "float16"}, default "float32"
        What is stored. Half the size costs three digits, and is refused where a value would be infinite.
    device : str, optional
        Where the model runs; by default where it is. It is put back afterwards.

    Returns
    -------
    Activations
        Memory-mapped: no more is read from disk than is looked at.

    Raises
    ------
    InvalidInputError
        No texts, a text without tokens, a layer that is not there, more tokens of a text than the model's context, or a
        value
        that float16 cannot hold.
    SourceUnavailableError
        The disk is full or the cache folder cannot be written; nothing half-written is left.

    Notes
    -----
    One pass fills all layers that are missing, in batches of texts of similar length, padded on the right where a
    causal model cannot see. Which texts share a batch changes states by the rounding of float32, no more. On disk a
    layer takes ``rows x dim x 4`` bytes: 627 MB for all BBC News at 128 tokens and 576 dimensions.
    """
    check_choice(dtype, "dtype", ("float32", "float16"))
    if isinstance(texts, str):
        msg = "texts is one string; it must be a sequence of texts"
        raise InvalidInputError(msg)
    check_whole(max_tokens, "max_tokens", 1)
    card = model.card
    wanted = tuple(sorted(set(layers_of(layers, card.layers, card.name))))
    parts: dict[str, object] = {
        "format": _FORMAT, "model": card.identity, "texts": texts_hash(texts), "max_tokens": max_tokens,
    }  # fmt: skip
    rows = cached_folder(
        derived(f"tokens-{card.name}", parts), parts, lambda into: _write_rows(into, loaded(model), texts, max_tokens)
    )
    arrays: dict[str, Any] = {name: read_array(rows / f"{name}.npy") for name in ("tokens", "texts", "positions")}
    facts = json.loads((rows / "facts.json").read_text(encoding="utf-8"))
    made_of = {layer: {**parts, "layer": layer, "dtype": dtype} for layer in wanted}
    places = {layer: derived(f"activations-{card.name}", made_of[layer]) for layer in wanted}
    # A folder that a copy only re-dated is found intact and needs no pass; then the others may still need one.
    while missing := [layer for layer in wanted if not is_complete(places[layer], made_of[layer])]:
        _fill(missing, places, made_of, partial(_pass, loaded(model), arrays, missing, dtype=dtype, device=device))
    states = {layer: read_array(cache_folder() / places[layer] / "states.npy") for layer in wanted}
    return Activations(
        model=card.identity, key=key_of(parts), layers=wanted, n_layers=card.layers, n_texts=len(texts),
        n_truncated=int(facts["n_truncated"]), states=states, **arrays,
    )  # fmt: skip


def loaded(model: LanguageModel | Deferred) -> LanguageModel:
    """Return a model, loaded now where that was put off."""
    return model.load() if isinstance(model, Deferred) else model


def _write_rows(into: Path, model: LanguageModel, texts: Sequence[str], max_tokens: int) -> None:
    """Write which token each row is, and how many texts were cut."""
    ids = token_ids(model.tokenizer, texts, max_tokens)
    more = token_ids(model.tokenizer, texts, max_tokens + 1)
    longest, most = context_length(model.model), max(map(len, ids))
    if longest is not None and most > longest:
        msg = f"texts has one of {most} tokens; the context of {model.card.name} is {longest}; set max_tokens to that"
        raise InvalidInputError(msg)
    lengths = np.array([len(tokens) for tokens in ids], np.int64)
    facts = {"n_truncated": sum(len(a) > len(b) for a, b in zip(more, ids, strict=True))}
    np.save(into / "tokens.npy", np.concatenate([np.array(tokens, np.int64) for tokens in ids]))
    np.save(into / "texts.npy", np.repeat(np.arange(len(ids)), lengths))
    np.save(into / "positions.npy", np.concatenate([np.arange(length) for length in lengths]))
    (into / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _fill(
    missing: Sequence[int],
    places: Mapping[int, str],
    made_of: Mapping[int, Mapping[str, object]],
    one_pass: Callable[[Path], None],
) -> None:
    """Fill the folders of all layers that are missing from one pass.

    The pass writes into the unfinished folder of the lowest layer, so that whatever stops it leaves nothing; the other
    layers' files are moved from there. Locks are taken in ascending order, so that two runs cannot wait for each other.
    """
    first, *others = missing

    def build(into: Path) -> None:
        one_pass(into)
        for layer in others:
            cached_folder(places[layer], made_of[layer], _mover(_file_of(into, layer)))
            _file_of(into, layer).unlink(missing_ok=True)
        _file_of(into, first).replace(into / "states.npy")

    cached_folder(places[first], made_of[first], build)


def _mover(file: Path) -> Callable[[Path], None]:
    def move(into: Path) -> None:
        file.replace(into / "states.npy")

    return move


def _file_of(folder: Path, layer: int) -> Path:
    return folder / f"layer{layer}.npy"


def _pass(
    model: LanguageModel,
    rows: Mapping[str, NDArray[Any]],
    layers: Sequence[int],
    into: Path,
    *,
    dtype: DType,
    device: str | None,
) -> None:
    """Run the model over all texts, and write the rows of each text where they belong in the files of the layers.

    Files are written, not mapped: a full disk is then an error that can be reported, and not a signal.
    """
    starts = np.flatnonzero(rows["positions"] == 0)
    lengths = np.diff(np.append(starts, len(rows["tokens"])))
    bar = require("tqdm").tqdm(total=len(lengths), desc="activations", unit="text", disable=None)
    files: dict[int, tuple[BinaryIO, int]] = {}
    try:
        with bar, running(model.model, device):
            for batch in length_batches(lengths, tokens=_BATCH_TOKENS):
                ids = [rows["tokens"][starts[text] : starts[text] + lengths[text]].tolist() for text in batch]
                for layer, state in forward(model.model, ids, layers).items():
                    block = _stored(state.float().cpu().numpy(), dtype, layer)
                    if layer not in files:
                        files[layer] = _opened(_file_of(into, layer), len(rows["tokens"]), block)
                    file, offset = files[layer]
                    for row, text in enumerate(batch):
                        file.seek(offset + int(starts[text]) * block.shape[2] * block.itemsize)
                        file.write(block[row, : lengths[text]].tobytes())
                bar.update(len(batch))
    finally:
        for file, _ in files.values():
            file.close()


def _opened(path: Path, count: int, block: NDArray[Any]) -> tuple[BinaryIO, int]:
    """Open a .npy file of `count` rows like those of `block`; return it and where its numbers begin."""
    file = path.open("wb")
    head = {
        "descr": np.lib.format.dtype_to_descr(block.dtype),
        "fortran_order": False,
        "shape": (count, block.shape[2]),
    }
    np.lib.format.write_array_header_1_0(file, head)
    return file, file.tell()


def _stored(block: NDArray[np.float32], dtype: DType, layer: int) -> NDArray[Any]:
    if dtype == "float16" and float(np.abs(block).max()) > _LARGEST_FLOAT16:
        msg = f"dtype is float16, which cannot hold the {np.abs(block).max():.3g} of layer {layer}; use float32"
        raise InvalidInputError(msg)
    return block.astype(dtype, copy=False)
