"""What each layer of SmolLM2 says of held-out texts: by the logit lens, by a tuned lens, and by decoders of others."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.figures.lens import lens as drawn
from bench.harness.study import Context, Study, Tables, Unit
from geomkit.datasets.corpora import bbc
from geomkit.interpret.activations import SMOLLM2, Activations, Deferred, activations
from geomkit.interpret.lens.logit_lens import STATISTICS, LogitLens, logit_lens
from geomkit.interpret.lens.statistics import (
    LensStatistics,
    Reader,
    constant_reader,
    geometry,
    lens_statistics,
    over_texts,
    rows_of,
)
from geomkit.interpret.lens.tuned_training import Trained, train_tuned_lens

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


PLAIN, LAST = "logit lens", "last layer"


def units(context: Context) -> tuple[Unit, ...]:
    """Return the logit lens of all layers, each layer that has a translator, and the last layer."""
    size = QUICK if context.quick else FULL
    names = (PLAIN, *(f"layer {layer}" for layer in size.tuned), LAST)
    # All run the model whose input embeddings this source is, and share its states, which the first unit makes.
    return tuple(Unit(name, ("smollm2-input-576",), shares="states that lens reads") for name in names)


def measure(context: Context, unit: Unit) -> Tables:
    """Read held-out texts with the readers of one unit: rows of lens.csv, a row a reader and layer.

    Means over held-out texts have intervals, and those of the logit lens the geometry of its layer beside them.
    """
    ready = prepared(SMOLLM2, bbc().texts, QUICK if context.quick else FULL, context)
    if unit.name == PLAIN:
        return {"lens.csv": _plain(ready, context)}
    if unit.name == LAST:
        return {"lens.csv": _last(ready, context)}
    return {"lens.csv": _tuned(ready, int(unit.name.removeprefix("layer ")), context)}


def draw(context: Context) -> None:
    """Draw lens.svg."""
    context.figure("lens", drawn(context.read("lens.csv")))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model, and the states of texts to train on and of others to measure on."""

    size: Size
    lens: LogitLens
    train: Activations
    held: Activations
    seen: NDArray[np.int64]
    """Rows of `train` that are trained on."""
    rows: NDArray[np.int64]
    """Rows of `held` that are read."""
    seconds: float
    """That reading the texts took."""


def prepared(model: Deferred, texts: tuple[str, ...], size: Size, context: Context) -> Prepared:
    """Draw texts to train on and others to measure on, and read them.

    Parameters
    ----------
    model : Deferred
    texts : tuple of str
    size : Size
    context : Context
        Its seed draws texts and positions.
    """
    lens = logit_lens(model.load())
    model = Deferred(model.card, lambda: lens.loaded)
    order = np.random.default_rng(context.seed).permutation(len(texts))
    drawn_texts = [texts[at] for at in order[: size.train_texts + size.held_texts]]
    begun = time.perf_counter()
    train = activations(model, drawn_texts[: size.train_texts], (*size.tuned, -1), max_tokens=size.train_tokens)
    held = activations(model, drawn_texts[size.train_texts :], size.layers, max_tokens=size.held_tokens)
    seconds = time.perf_counter() - begun
    seen = rows_of(train, size.train_tokens, context.seed)
    return Prepared(size, lens, train, held, seen, rows_of(held, size.positions, context.seed), seconds)


def _plain(ready: Prepared, context: Context) -> pd.DataFrame:
    """Read every layer by the logit lens, and measure how its states lie."""
    lens, held = ready.lens, ready.held
    begun = time.perf_counter()
    table = _read(ready, {"lens": (held.layers, lens.logits)})
    measured = time.perf_counter() - begun
    readings = len(ready.rows) * len(held.layers)
    context.say(f"reading the texts took {ready.seconds:.1f} s (0 where they are cached)")
    context.say(
        f"measuring took {measured:.1f} s for {len(STATISTICS)} statistics of {readings:,} readings, "
        f"{1000 * measured / readings:.2f} ms each; a million positions of {len(held.layers)} layers would take "
        f"{measured / readings * 1e6 * len(held.layers) / 3600:,.0f} hours"
    )
    # All that is there of each text: a thousand rows would cap the rank of 576 columns.
    lie = geometry(held, np.flatnonzero(~held.sinks)).rename(columns={"n": "geometry_rows"})
    return table.merge(lie, on="layer", how="left", validate="one_to_one")


def _tuned(ready: Prepared, layer: int, context: Context) -> pd.DataFrame:
    """Train a translator of a layer, and read it with that, with what training starts from and with strangers'."""
    starts, trained = (_train(ready, layer, steps, context) for steps in (0, ready.size.steps))
    readers: dict[str, Reader] = {
        # Is there for what it is above the two that follow, text by text; its row is of another unit.
        "lens": ready.lens.logits,
        "regression": starts.tuned.reader(ready.lens),
        "tuned": trained.tuned.reader(ready.lens),
        **_strangers(ready.lens, context.seed),
    }
    whole = trained.seconds_per_step * 250 * ready.lens.n_layers * 2**18 / ready.size.batch
    context.say(
        f"training took {trained.seconds:.1f} s at layer {layer}, {trained.seconds_per_step:.2f} s for a step of "
        f"{ready.size.batch} positions; the 250 steps of 262,144 positions of Belrose et al. for all "
        f"{ready.lens.n_layers} layers would take {whole / 86400:,.0f} days here"
    )
    table = _read(ready, {name: ((layer,), reader) for name, reader in readers.items()})
    return table[table.reader != "lens"]


def _last(ready: Prepared, context: Context) -> pd.DataFrame:
    """Read the last layer by one answer for every text, and with strangers' readers."""
    lens, seen = ready.lens, ready.seen
    # Of the training texts: a constant fitted to what it is measured on would look better than it is.
    constant = constant_reader(lens, ready.train, seen[:: max(1, len(seen) // 1000)])
    readers = {"constant": constant, **_strangers(lens, context.seed)}
    return _read(ready, {name: ((lens.n_layers,), reader) for name, reader in readers.items()})


def _read(ready: Prepared, readers: dict[str, tuple[tuple[int, ...], Reader]]) -> pd.DataFrame:
    found = lens_statistics(ready.lens, ready.held, ready.rows, readers, top=TOP)
    return tidy(found, len(ready.rows), ready.size.held_texts)


def _train(ready: Prepared, layer: int, steps: int, context: Context) -> Trained:
    return train_tuned_lens(
        ready.lens, ready.train, (layer,), ready.seen, steps=steps, batch=ready.size.batch, seed=context.seed
    )


def _strangers(lens: LogitLens, seed: int) -> dict[str, Reader]:
    return {"other_basis": other_basis(lens, seed), "nearest_input": nearest_input(lens)}


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


STUDY = Study(
    "lens", "what each layer says of held-out texts, by the logit lens, a tuned lens and others", measure, units,
    draw=draw,
)  # fmt: skip
