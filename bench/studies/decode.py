"""How much of a text can be read back from vectors: by layer, by strangers, from means, and in how few bytes."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.figures.decode import decode as figure
from bench.figures.decode import half_bytes
from bench.harness.study import Context, Study, Tables, Unit
from geomkit import datasets
from geomkit.datasets import corpora, word2vec
from geomkit.datasets.language_model import input_vectors
from geomkit.interpret.activations import SMOLLM2, Activations, activations
from geomkit.interpret.decode import (
    Bag,
    Scorer,
    by_lens,
    nearest_in,
    overlap,
    procrustes_map,
    pursuit,
    ridge_map,
    rotation,
    token_ranks,
)
from geomkit.interpret.lens.logit_lens import LogitLens, logit_lens
from geomkit.interpret.lens.statistics import over_texts, rows_of
from geomkit.interpret.quantise import quantiser
from geomkit.stats.alignment import overlap_of
from geomkit.stats.neighbors import neighbors

LAYERS = (0, 6, 12, 18, 24, 30)
BAG_LAYERS = (0, 12, 30)
LENGTHS = (4, 8, 16, 32, 64, 120)
CODES = (
    *(("float32", None), ("float16", None), ("int8", None), ("int4", None), ("sign", None)),
    *(("float32", k) for k in (512, 256, 128, 64, 32, 16, 8)),
    *(("int8", k) for k in (256, 64, 16, 8)),
    *(("int4", k) for k in (256, 64, 16, 8)),
    *(("sign", k) for k in (256, 64, 32, 16)),
)
"""Kind of code and principal directions, None for the coordinates as they are."""

SPACES = ("googlenews-300", "minilm-384", "smollm2-documents-layer16-576", "smollm2-documents-layer30-576")
"""Whose neighbours are looked for after quantising."""

K = 10
NEIGHBOUR_ROWS = 2000
READ_LAYERS = (0, 12)
"""Layers whose tokens are read after quantising."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is read, and with what."""

    states: Activations
    lens: LogitLens
    table: NDArray[np.float32]
    """Input embeddings of the model, (vocabulary, d)."""
    fitted: NDArray[np.int64]
    """Rows of the states that maps and codes are fitted to: the first half of the texts, first tokens left out."""
    rows: NDArray[np.int64]
    """Rows that are read: of the other half."""
    seed: int

    def of(self, layer: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """States of a layer at some rows."""
        return np.array(self.states.states[layer][rows], np.float32)

    def mapped(self, layer: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Fit a linear map from states of a layer to the embeddings of their tokens."""
        return ridge_map(self.of(layer, self.fitted), self.table[self.states.tokens[self.fitted]])

    @property
    def usual(self) -> list[int]:
        """Tokens of the fitted rows, the most frequent first."""
        return [token for token, _ in Counter(self.states.tokens[self.fitted].tolist()).most_common()]


TOKENS, BAGS, CODES_OF, READ = "tokens of layer", "bags of layer", "codes of", "codes of layer"


def units(context: Context) -> tuple[Unit, ...]:
    """Return the layers whose tokens are read, those whose bags are, and the spaces that are quantised."""
    model, states = ("smollm2-input-576",), "states that decode reads"
    return (
        *(Unit(f"{TOKENS} {layer}", model, shares=states) for layer in layers_of(context)),
        *(Unit(f"{BAGS} {layer}", model, shares=states) for layer in BAG_LAYERS),
        *(Unit(f"{CODES_OF} {name}", (name,)) for name in SPACES[: 1 if context.quick else None]),
        *(Unit(f"{READ} {layer}", model, shares=states) for layer in READ_LAYERS[-1 if context.quick else 0 :]),
    )


def measure(context: Context, unit: Unit) -> Tables:
    """Measure one unit: rows of decode_tokens.csv, decode_bags.csv or decode_rate.csv."""
    kind, _, of = unit.name.rpartition(" ")
    if kind == CODES_OF:
        vectors = datasets.load(of, n=NEIGHBOUR_ROWS if not context.quick else 400, seed=context.seed)
        return {"decode_rate.csv": pd.DataFrame(list(neighbours_kept(of, np.asarray(vectors.vectors), context.seed)))}
    setting, layer = prepared(context), int(of)
    if kind == BAGS:
        texts = 6 if context.quick else 20
        return {"decode_bags.csv": pd.DataFrame(list(bag_rows(setting, layer, texts)))}
    if kind == READ:
        return {"decode_rate.csv": pd.DataFrame(list(tokens_kept(setting, layer)))}
    start = time.perf_counter()
    table = pd.DataFrame(list(token_rows(setting, layer)))
    seconds = time.perf_counter() - start
    read = len(setting.rows) * table.reader.nunique()
    context.say(
        f"reading layer {layer} takes {1e3 * seconds / read:.2f} ms a vector: {seconds / read * 1e6:,.0f} s a million"
    )
    return {"decode_tokens.csv": table}


def conclude(context: Context) -> None:
    """Write decode_bytes.csv: the fewest bytes that keep half of what float32 does."""
    context.table("decode_bytes.csv", half_bytes(context.read("decode_rate.csv")))


def draw(context: Context) -> None:
    """Draw decode.svg."""
    context.figure(
        "decode", figure(*(context.read(f"decode_{name}.csv") for name in ("tokens", "bags", "rate", "bytes")))
    )


def prepared(context: Context) -> Setting:
    """Run the model over some articles, or find that it was; deal these into two halves."""
    count, tokens, per_text = (12, 32, 5) if context.quick else (120, 128, 10)
    corpus = corpora.bbc()
    chosen = np.sort(np.random.default_rng(context.seed).permutation(len(corpus.texts))[:count])
    loaded = SMOLLM2.load()
    # The model is loaded once.
    held = replace(SMOLLM2, load=lambda: loaded)
    texts = [corpus.texts[at] for at in chosen]
    layers = sorted({*layers_of(context), *BAG_LAYERS, *READ_LAYERS})
    states = activations(held, texts, layers, max_tokens=tokens)
    rows = rows_of(states, per_text, context.seed)
    return Setting(
        states=states, lens=logit_lens(loaded), table=input_vectors(loaded.model),
        fitted=np.flatnonzero(~states.sinks & (states.texts < count // 2)),
        rows=rows[states.texts[rows] >= count // 2], seed=context.seed,
    )  # fmt: skip


def layers_of(context: Context) -> Sequence[int]:
    """Layers that are read in this run."""
    if context.everything:
        return range(31)
    if context.quick:
        return BAG_LAYERS
    return LAYERS


def token_rows(setting: Setting, layer: int) -> Iterator[dict[str, Any]]:
    """Read the token of each vector and the one that follows, by the model's own means and by strangers'."""
    states, rows = setting.states, setting.rows
    targets = {"same": states.tokens[rows], "next": states.next_tokens[rows]}
    own = nearest_in(setting.table)
    turned = nearest_in(setting.table @ rotation(setting.table.shape[1], setting.seed))
    x = setting.of(layer, rows)
    readers: dict[str, tuple[NDArray[Any], Scorer]] = {
        "nearest input embedding": (x, own),
        "logit lens": (x, by_lens(setting.lens, layer)),
        "trained linear map": (setting.mapped(layer)(x), own),
        "rotated table": (x, turned),
    }
    for name, (vectors, read) in readers.items():
        ranks = token_ranks(vectors, read, targets)
        for target, rank in ranks.items():
            floor = float(np.mean(targets[target] == setting.usual[0]))
            yield _scores(name, target, layer, rank, states.texts[rows], len(setting.table), floor)
    yield from _stranger(setting, layer)


def _scores(
    reader: str, target: str, layer: int, ranks: NDArray[np.int64], texts: NDArray[np.int64], candidates: int,
    floor: float,
) -> dict[str, Any]:  # fmt: skip
    share, low, high = over_texts((ranks == 0).astype(float), texts)
    ten = over_texts((ranks < 10).astype(float), texts)
    return {
        "layer": layer, "reader": reader, "target": target, "top1": share, "low": max(low, 0.0), "high": min(high, 1.0),
        "top10": ten[0], "top10_low": max(ten[1], 0.0), "top10_high": min(ten[2], 1.0),
        "median_rank": float(np.median(ranks)), "chance": 1 / candidates, "most_frequent": floor,
        "candidates": candidates, "n": len(ranks), "n_texts": len(np.unique(texts)),
    }  # fmt: skip


def _stranger(setting: Setting, layer: int) -> Iterator[dict[str, Any]]:
    """Read words by vectors of Word2Vec, aligned over the words of one half and asked for those of the other."""
    rows_of_word, vectors = shared_words(setting.lens.loaded.tokenizer, len(setting.table))
    order = np.random.default_rng(setting.seed).permutation(len(rows_of_word))
    fit, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    place = np.full(len(setting.table), -1)
    place[rows_of_word[held_out]] = np.arange(len(held_out))
    fitted_place = np.full(len(setting.table), -1)
    fitted_place[rows_of_word[fit]] = fit
    states = setting.states
    # Every row of the other half of the texts, for words are rarer than tokens.
    test = np.flatnonzero(~states.sinks & (states.texts >= states.n_texts // 2))
    test = test[place[states.tokens[test]] >= 0]
    train = setting.fitted[fitted_place[states.tokens[setting.fitted]] >= 0]
    if not len(test) or len(train) < 2:
        return
    x, words = setting.of(layer, test), place[states.tokens[test]]
    paired = procrustes_map(setting.table[rows_of_word[fit]], vectors[fit])
    mapped = ridge_map(setting.of(layer, train), vectors[fitted_place[states.tokens[train]]], ridge=0.01)
    read = nearest_in(vectors[held_out] - vectors[fit].mean(axis=0))
    shift = vectors[fit].mean(axis=0)
    ways = {
        "Word2Vec, turned onto it": (paired(x) - shift, read),
        "Word2Vec, trained linear map": (mapped(x) - shift, read),
        "input embedding, same words": (x, nearest_in(setting.table[rows_of_word[held_out]])),
    }
    often = float(np.bincount(words).max() / len(words))
    for name, (mine, reader) in ways.items():
        ranks = token_ranks(mine, reader, {"same": words})["same"]
        yield _scores(name, "same", layer, ranks, states.texts[test], len(held_out), often)


def shared_words(tokenizer: Any, vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the tokens that are whole words of Google News, and these words' vectors."""
    google_news = word2vec.googlenews()
    place = {word: row for row, word in enumerate(google_news.words)}
    tokens = tokenizer.convert_ids_to_tokens(list(range(min(vocabulary, len(tokenizer)))))
    pairs = [(at, place[token[1:]]) for at, token in enumerate(tokens) if token[:1] == "Ġ" and token[1:] in place]
    ids, rows = np.array(pairs, np.int64).reshape(-1, 2).T
    return ids, google_news.vectors[rows]


def bag_rows(setting: Setting, layer: int, n_texts: int) -> Iterator[dict[str, Any]]:
    """Recover the tokens of a mean of states, beside the most frequent tokens and the tokens of another text."""
    states = setting.states
    texts = np.unique(states.texts[setting.rows])[:n_texts]
    longest = int(states.positions.max())
    spans_by_length = [
        (length, spans)
        for length in LENGTHS
        if length <= longest
        and (spans := [span for text in texts.tolist() if len(span := spans_of(states, text, length)) == length])
    ]
    # All lengths in one call, for each call goes through the whole table.
    every = [span for _, spans in spans_by_length for span in spans]
    means = np.stack([setting.of(layer, span).mean(axis=0) for span in every])
    bags = iter(
        pursuit(means if layer == 0 else setting.mapped(layer)(means), setting.table, [len(span) for span in every])
    )
    for length, spans in spans_by_length:
        there = [Bag.of(states.tokens[span]) for span in spans]
        recovered = [next(bags) for _ in spans]
        guesses = {
            "own": recovered,
            "another text's": recovered[1:] + recovered[:1],
            "most frequent tokens": [Bag(dict.fromkeys(setting.usual[:length], 1))] * len(spans),
        }
        for kind, guessed in guesses.items():
            pairs = [overlap(bag, true) for bag, true in zip(guessed, there, strict=True)]
            row: dict[str, Any] = {"layer": layer, "length": length, "guess": kind, "n_texts": len(spans)}
            for name, values in zip(("precision", "recall"), np.array(pairs).T, strict=True):
                share, low, high = over_texts(values, np.arange(len(values)))
                row |= {name: share, f"{name}_low": max(low, 0.0), f"{name}_high": min(high, 1.0)}
            yield row


def spans_of(states: Activations, text: int, length: int) -> NDArray[np.int64]:
    """Rows of a text's tokens from the second on, `length` of them at most."""
    return np.flatnonzero((states.texts == text) & (states.positions >= 1) & (states.positions <= length))


def tokens_kept(setting: Setting, layer: int) -> Iterator[dict[str, Any]]:
    """Quantise the states of a layer; see which of their tokens can still be read, against bytes a vector."""
    states, rows = setting.states, setting.rows[::2]
    wanted, own, texts = {"same": states.tokens[rows]}, nearest_in(setting.table), states.texts[rows]
    x, mapped = setting.of(layer, rows), setting.mapped(layer)
    floor = float(np.mean(wanted["same"] == setting.usual[0]))
    for code in _codes(setting.of(layer, setting.fitted), setting.seed):
        ranks = token_ranks(mapped(code.decode(code.encode(x))), own, wanted)["same"]
        span = over_texts((ranks == 0).astype(float), texts)
        yield _rate(f"smollm2 tokens, layer {layer}", "tokens", code, span, floor, len(x), code.outside(x))


def neighbours_kept(name: str, vectors: NDArray[np.float32], seed: int) -> Iterator[dict[str, Any]]:
    """Fit codes to one half of the rows; compare the neighbours of the other half, by cosine, with exact ones."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    known, rows = vectors[order[: len(order) // 2]], vectors[order[len(order) // 2 :]]
    exact = neighbors(rows, k=K)
    for code in _codes(known, seed):
        kept = overlap_of(exact, neighbors(code.decode(code.encode(rows)), k=K))
        span = (kept.value, max(kept.value - 1.96 * kept.value_se, 0.0), min(kept.value + 1.96 * kept.value_se, 1.0))
        yield _rate(name, "neighbours", code, span, kept.chance, len(rows), code.outside(rows))


def _codes(known: NDArray[Any], seed: int) -> Iterator[Any]:
    most = min(len(known) - 1, known.shape[1])
    for kind, directions in CODES:
        if directions is None or directions <= most:
            yield quantiser(known, kind, directions=directions, seed=seed)


def _rate(
    space: str, what: str, code: Any, span: tuple[float, float, float], floor: float, n: int, outside: float
) -> dict[str, Any]:
    return {
        "space": space, "what": what, "code": code.name, "kind": code.kind, "width": code.width, "d": code.d,
        "bytes": code.bytes_per_vector, "kept": span[0], "low": span[1], "high": span[2], "floor": floor, "n": n,
        "outside": outside,
    }  # fmt: skip


STUDY = Study(
    "decode", "how much of a text can be read back from vectors, and in how few bytes", measure, units, conclude, draw
)
