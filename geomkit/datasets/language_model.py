"""Vectors inside causal language models: input table, unembedding, and the hidden states of every layer.

Any causal model that `transformers` loads by hub name or from a folder goes through the same functions.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geomkit.core.cache import cached_folder, derived, key_of, read_array
from geomkit.core.optional import require
from geomkit.datasets.corpora import Corpus, bbc, texts_hash
from geomkit.datasets.record import RowNumbers, Vectors, taken
from geomkit.datasets.states import MAX_TOKENS, HiddenStates, hidden_states, token_ids, wanted_layers
from geomkit.errors import InvalidInputError, SourceUnavailableError

__all__ = ["Card", "HiddenStates", "LanguageModel", "from_language_model", "hidden_states", "input_vectors"]
__all__ += ["language_model", "layer_vectors", "quiet", "table_vectors", "unembedding_vectors"]

SAMPLED_TOKENS = 4096  # positions kept for sources of token vectors
_FORMAT = 1  # of cached states


@dataclass(frozen=True, slots=True)
class Card:
    """What is known of a language model before it is loaded; cached vectors need no more."""

    name: str  # how sources are called after it
    identity: str  # changes when the weights do; keys what is cached of it
    layers: int  # blocks
    origin: str
    licence: str


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal model in float32 with its tokenizer."""

    card: Card
    model: Any  # transformers.PreTrainedModel
    tokenizer: Any


def language_model(repository_or_folder: str | Path) -> LanguageModel:
    """Load a causal language model by hub name or from a local folder, in float32, running none of its code.

    Parameters
    ----------
    repository_or_folder : str or Path
        Such as "openai-community/gpt2", or a folder that `save_pretrained` wrote.

    Returns
    -------
    LanguageModel

    Raises
    ------
    SourceUnavailableError
        There is no such folder, no network, or nothing there that is a causal language model.
    """
    name = str(repository_or_folder)
    folder = Path(name).expanduser()
    # A hub name has at most one slash, so anything longer can only have meant a folder.
    if not folder.is_dir() and (isinstance(repository_or_folder, Path) or folder.is_absolute() or name.count("/") > 1):
        msg = f"language model {name}: there is no such folder"
        raise SourceUnavailableError(msg)
    try:
        tokenizer, model = pretrained(folder if folder.is_dir() else name)
    except (OSError, ValueError, KeyError, ImportError) as why:
        first = next(iter(str(why).splitlines()), "") or type(why).__name__
        msg = f"language model {name} cannot be loaded: {first}"
        raise SourceUnavailableError(msg) from why
    local = folder.is_dir()
    commit = getattr(model.config, "_commit_hash", None)
    card = Card(
        name=folder.resolve().name if local else name.rpartition("/")[2],
        identity=_stamp(folder) if local else f"{name}@{commit}",
        layers=model.config.num_hidden_layers,
        origin=f"local folder {folder.name}" if local else f"{name} at {commit}",
        licence="as its publisher says",
    )
    return LanguageModel(card, model, tokenizer)


def pretrained(repository_or_folder: str | Path, kind: str = "AutoModelForCausalLM") -> tuple[Any, Any]:
    """Return the tokenizer and the model of one of transformers' classes, in float32 and without dropout."""
    transformers, torch = require("transformers"), require("torch")
    name = str(repository_or_folder)
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        model = getattr(transformers, kind).from_pretrained(name, dtype=torch.float32)
    return tokenizer, model.eval()


def input_vectors(model: Any) -> NDArray[np.float32]:
    """Return the table of vectors that a model turns its input tokens into.

    Parameters
    ----------
    model : transformers.PreTrainedModel

    Returns
    -------
    (vocabulary, dim) float32
    """
    return _table(model.get_input_embeddings().weight)


def unembedding_vectors(model: Any) -> NDArray[np.float32]:
    """Return the rows that a model multiplies its last state with to score each token.

    Parameters
    ----------
    model : transformers.PreTrainedModel

    Returns
    -------
    (vocabulary, dim) float32
        Equal to `input_vectors` where the model ties the two.

    Raises
    ------
    InvalidInputError
        The model has no head.
    """
    head = model.get_output_embeddings()
    if head is None:
        msg = f"model {type(model).__name__} has no output embeddings; load it as a causal language model"
        raise InvalidInputError(msg)
    return _table(head.weight)


def from_language_model(
    repository_or_folder: str | Path | LanguageModel,
    *,
    layer: int | Literal["input", "unembedding"],
    texts: Sequence[str] | None = None,
    rows: Literal["documents", "tokens"] = "documents",
    n: int | None = None,
    seed: int = 0,
) -> Vectors:
    """Return vectors of one layer of any causal language model.

    Parameters
    ----------
    repository_or_folder : str, Path or LanguageModel
        What `language_model` takes, or what it returned.
    layer : int or {"input", "unembedding"}
        0 is the input embedding of the texts, the number of blocks is the last layer, negative numbers count from
        there. "input" and "unembedding" are the tables of the whole vocabulary and need no texts.
    texts : sequence of str, optional
        The distinct articles of BBC News by default. Their first 128 tokens are read.
    rows : {"documents", "tokens"}, default "documents"
        A row a text, averaged over its tokens; or 4,096 sampled tokens in context (fewer where the texts have fewer).
    n : int, optional
        Rows to keep, sampled without replacement; all by default.
    seed : int, default 0
        Chooses the rows.

    Returns
    -------
    Vectors
        Of family "llm". One pass serves all layers and is cached by the model and the texts.

    Raises
    ------
    InvalidInputError, SourceUnavailableError
        As `language_model` and `hidden_states`.
    """
    given = repository_or_folder
    loaded = given if isinstance(given, LanguageModel) else language_model(given)
    if layer == "input" or layer == "unembedding":  # noqa: PLR1714 - the checker narrows `layer` to int only so
        return taken(table_vectors(loaded, layer), n, seed)
    corpus = bbc() if texts is None else _own(texts)
    [at] = wanted_layers(loaded.model, [layer])
    return taken(layer_vectors(loaded.card, corpus, at, rows, lambda: loaded), n, seed)


def table_vectors(loaded: LanguageModel, which: Literal["input", "unembedding"]) -> Vectors:
    """Return every row of a model's input or unembedding table, labelled with its token."""
    table = input_vectors(loaded.model) if which == "input" else unembedding_vectors(loaded.model)
    tokens = loaded.tokenizer.convert_ids_to_tokens(list(range(min(len(table), len(loaded.tokenizer)))))
    # Tables are often padded to a round number of rows that no token uses.
    unused = [f"[unused {i}]" for i in range(len(tokens), len(table))]
    tied = loaded.model.get_output_embeddings() is not None and (
        loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    )
    return Vectors(
        vectors=table,
        labels=[*map(str, tokens), *unused],
        categories=None,
        name=f"{loaded.card.name}-{which}-{table.shape[1]}",
        family="llm",
        dim=table.shape[1],
        origin=loaded.card.origin,
        licence=loaded.card.licence,
        seed=None,
        note=f"{which} table; input and unembedding are {'one' if tied else 'different'}",
    )


def layer_vectors(
    card: Card, corpus: Corpus, layer: int, rows: Literal["documents", "tokens"], load: Callable[[], LanguageModel]
) -> Vectors:
    """Return one layer's vectors of a corpus; the model is loaded only where the cache has no pass of it over them."""
    folder = _cached_states(card, corpus.texts, load)
    state = read_array(folder / f"{rows}.npy")[layer]
    notes = [corpus.note, f"first {MAX_TOKENS} tokens of each text"]
    if rows == "documents":
        labels, categories = corpus.labels, corpus.categories
        notes.append("mean over all tokens, the first included")
    else:
        labels, categories = tuple(json.loads((folder / "tokens.json").read_text(encoding="utf-8"))), None
        notes.append(
            f"{len(labels):,} token positions sampled with seed 0; position 0 left out, an attention sink of huge norm"
        )
    notes.append("final norm applied" if layer == card.layers else "no final norm")
    return Vectors(
        vectors=state,
        labels=labels,
        categories=categories if categories is not None and len(categories) else None,
        name=f"{card.name}-{rows}-layer{layer:02}-{state.shape[1]}",
        family="llm",
        dim=state.shape[1],
        origin=f"{card.origin}, layer {layer} of {card.layers}; {corpus.origin}",
        licence=f"{card.licence}; text: {corpus.licence}",
        seed=None,
        note="; ".join(filter(None, notes)),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars out of logs: they are shown on a terminal only."""
    logging = require("transformers").utils.logging
    silence = logging.is_progress_bar_enabled() and not sys.stderr.isatty()
    if silence:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if silence:
            logging.enable_progress_bar()


def _cached_states(card: Card, texts: Sequence[str], load: Callable[[], LanguageModel]) -> Path:
    parts: dict[str, object] = {
        "format": _FORMAT,
        "model": card.identity,
        "texts": texts_hash(texts),
        "max_tokens": MAX_TOKENS,
        "sampled_tokens": SAMPLED_TOKENS,
        "seed": 0,
    }

    def build(folder: Path) -> None:
        loaded = load()
        available = sum(len(tokens) - 1 for tokens in token_ids(loaded.tokenizer, texts, MAX_TOKENS))
        states = hidden_states(
            loaded.model, loaded.tokenizer, texts, sampled_tokens=min(SAMPLED_TOKENS, available), seed=0
        )
        np.save(folder / "documents.npy", states.documents)
        np.save(folder / "tokens.npy", states.tokens)
        (folder / "tokens.json").write_text(json.dumps(states.token_labels), encoding="utf-8")

    return cached_folder(derived(f"states-{card.name}", parts), parts, build)


def _own(texts: Sequence[str]) -> Corpus:
    if isinstance(texts, str):
        msg = "texts is one string; it must be a sequence of texts"
        raise InvalidInputError(msg)
    labels = tuple(RowNumbers(len(texts)))
    return Corpus(tuple(texts), labels, np.array([], dtype=np.str_), "texts of the caller", "the caller's", "")


def _table(weight: Any) -> NDArray[np.float32]:
    return np.array(weight.detach().float().cpu().numpy(), dtype=np.float32, order="C")


def _stamp(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return key_of({path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files})
