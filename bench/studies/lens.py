"""What each layer of SmolLM2 says of held-out texts: by the logit lens, by a tuned lens, and by decoders of others."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.runner import Context, Study
from geomkit.meaning.activations import SMOLLM2, Activations, Deferred, activations
from geomkit.meaning.lens import STATISTICS, LogitLens, logit_lens
from geomkit.meaning.lens_statistics import (
    LensStatistics,
    Reader,
    constant_reader,
    geometry,
    lens_statistics,
    over_texts,
    rows_of,
)
from geomkit.meaning.tuned_lens_training import Trained, train_tuned_lens
from geomkit.report.lens import lens as drawn
from geomkit.sources.corpora import bbc

TOP = 5
"""Tokens whose agreement with the last layer's is measured."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is read, trained and measured."""

    train_texts: int
    held_texts: int
    train_tokens: int
    held_tokens: int
    positions: int
    """Of each held-out text that are read."""
    layers: tuple[int, ...] | None
    """That the lens reads; all for None."""
    tuned: tuple[int, ...]
    """That get translators."""
    steps: int
    batch: int


FULL = Size(120, 40, 128, 64, 12, None, (6, 12, 18, 24, 28), 50, 128)
QUICK = Size(8, 5, 64, 32, 8, (0, 10, 20, 30), (10, 20), 4, 64)


def run(context: Context) -> None:
    """Train a tuned lens, read held-out texts with it and without, and write lens.csv and the figure."""
    size = QUICK if context.quick else FULL
    table = study(SMOLLM2, bbc().texts, size, context)
    context.table("lens.csv", table)


def draw(context: Context) -> None:
    """Draw lens.svg and lens.png."""
    context.figure("lens", drawn(context.read("lens.csv")))


def study(model: Deferred, texts: tuple[str, ...], size: Size, context: Context) -> pd.DataFrame:
    """Return a row a reader and layer: means over held-out texts with intervals, and the layer's geometry.

    Parameters
    ----------
    model : Deferred
    texts : tuple of str
        Some are drawn to train on and others to measure on.
    size : Size
    context : Context
        Its seed draws texts, positions and batches.
    """
    lens = logit_lens(model.load())
    model = Deferred(model.card, lambda: lens.loaded)
    order = np.random.default_rng(context.seed).permutation(len(texts))
    drawn_texts = [texts[at] for at in order[: size.train_texts + size.held_texts]]
    begun = time.perf_counter()
    train = activations(model, drawn_texts[: size.train_texts], (*size.tuned, -1), max_tokens=size.train_tokens)
    held = activations(model, drawn_texts[size.train_texts :], size.layers, max_tokens=size.held_tokens)
    read = time.perf_counter() - begun
    seen = rows_of(train, size.train_tokens, context.seed)
    rows = rows_of(held, size.positions, context.seed)
    starts = _train(lens, train, seen, size, 0, context)
    trained = _train(lens, train, seen, size, size.steps, context)
    begun = time.perf_counter()
    # Of the training texts: a constant fitted to what it is measured on would look better than it is.
    constant = constant_reader(lens, train, seen[:: max(1, len(seen) // 1000)])
    readers = _readers(lens, held, starts, trained, constant, size, context.seed)
    found = lens_statistics(lens, held, rows, readers, top=TOP)
    measured = time.perf_counter() - begun
    _say_cost(context, lens, held, len(rows) * len(found.readings), (read, trained, measured), size)
    table = tidy(found, len(rows), size.held_texts)
    # All that is there of each text: a thousand rows would cap the rank of 576 columns.
    lie = geometry(held, np.flatnonzero(~held.sinks))
    lie = lie.rename(columns={"n": "geometry_rows"}).assign(reader="lens")
    return table.merge(lie, on=["reader", "layer"], how="left", validate="one_to_one")


def _train(
    lens: LogitLens, states: Activations, rows: NDArray[np.int64], size: Size, steps: int, context: Context
) -> Trained:
    return train_tuned_lens(
        lens, states, size.tuned, rows, steps=steps, batch=size.batch, seed=context.seed, say=context.say
    )


def _readers(
    lens: LogitLens, held: Activations, starts: Trained, trained: Trained, constant: Reader, size: Size, seed: int
) -> dict[str, tuple[tuple[int, ...], Reader]]:
    last = lens.n_layers
    others = (*size.tuned, last)
    return {
        "lens": (held.layers, lens.logits),
        "regression": (size.tuned, starts.tuned.reader(lens)),
        "tuned": (size.tuned, trained.tuned.reader(lens)),
        "constant": ((last,), constant),
        "other_basis": (others, other_basis(lens, seed)),
        "nearest_input": (others, nearest_input(lens)),
    }


def other_basis(lens: LogitLens, seed: int) -> Reader:
    """Return the model's own head with its columns permuted: that of a model that learned the same in another basis."""
    import torch

    width = int(lens.parts.head.weight.shape[1])
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(width))

    def read(states: Any, layer: int) -> Any:
        return lens.parts.unembed(lens.parts.normed(states, layer)[:, order.to(states.device)])

    return read


def nearest_input(lens: LogitLens) -> Reader:
    """Return a reader by cosine with the input embeddings, which anyone can do without the rest of the model."""
    import torch

    table = torch.nn.functional.normalize(lens.loaded.model.get_input_embeddings().weight.detach(), dim=-1)

    def read(states: Any, _layer: int) -> Any:
        return torch.nn.functional.normalize(states, dim=-1) @ table.T

    return read


def tidy(found: LensStatistics, positions: int, texts: int) -> pd.DataFrame:
    """Add to each reading by how much its KL is below the logit lens's of the same layer, paired by text."""
    table = found.to_frame()
    # Cosines are scores without a temperature: they rank tokens and give no probabilities.
    scored = table.reader == "nearest_input"
    table.loc[scored, [name for name in table if str(name).startswith(("entropy", "kl", "cross"))]] = np.nan
    place = {reading: at for at, reading in enumerate(found.readings)}
    falls = []
    for reader, layer in found.readings:
        if reader not in {"regression", "tuned"}:
            falls.append((np.nan,) * 3)
            continue
        kl = found.values["kl"]
        falls.append(over_texts(kl[place["lens", layer]] - kl[place[reader, layer]], found.texts))
    table[["kl_fall", "kl_fall_low", "kl_fall_high"]] = falls
    table.insert(2, "n_positions", positions)
    table.insert(2, "n_texts", texts)
    return table


def _say_cost(
    context: Context, lens: LogitLens, held: Activations, readings: int, took: tuple[float, Trained, float], size: Size
) -> None:
    read, trained, measured = took
    context.say(f"reading the texts took {read:.1f} s (0 where they are cached)")
    whole = trained.seconds_per_step * 250 * lens.n_layers * 2**18 / size.batch
    context.say(
        f"training took {trained.seconds:.1f} s, {trained.seconds_per_step:.2f} s for a step of {size.batch} positions "
        f"of a layer; the 250 steps of 262,144 positions of Belrose et al. for all {lens.n_layers} layers would take "
        f"{whole / 86400:,.0f} days here"
    )
    context.say(
        f"measuring took {measured:.1f} s for {len(STATISTICS)} statistics of {readings:,} readings, "
        f"{1000 * measured / readings:.2f} ms each; a million positions of {len(held.layers)} layers would take "
        f"{measured / readings * 1e6 * len(held.layers) / 3600:,.0f} hours"
    )


STUDY = Study(
    "lens", "what each layer says of held-out texts, by the logit lens, a tuned lens and others", run, draw=draw
)
