"""Sparse autoencoders of a middle layer of SmolLM2: what they explain and lose, and what their training costs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.figures.sae import sae as drawn
from bench.harness.study import Context, Study, Tables, Unit
from bench.measures.intervals import bootstrap
from bench.measures.sae_rivals import nearest, principal_components, projected, untrained
from geomkit.datasets.corpora import bbc
from geomkit.interpret.activations import SMOLLM2, Activations, Deferred, activations, loaded
from geomkit.interpret.causal import CausalParts, parts_of
from geomkit.interpret.sae.autoencoder import SparseAutoencoder
from geomkit.interpret.sae.features import promoted, top_contexts
from geomkit.interpret.sae.learner import Settings, flops_per_token
from geomkit.interpret.sae.quality import Explained, Quality, explained, quality, token_rows
from geomkit.interpret.sae.splicing import CLEAN, Replace, Splicing, constant, reconstruction, splice
from geomkit.interpret.sae.training import Training, cached_autoencoder

LAYER = 16
"""Of 30, counted from the input embedding: the middle."""

MAIN = 64
"""Features active at a token in the autoencoder whose features are shown, and that other studies read."""

FEATURES_SHOWN = 24
"""Drawn from those that are not dead: not the best ones."""

SCALE = 1_000_000_000
"""Tokens that costs are scaled to: what autoencoders of larger models are trained on and beyond (Gao et al.: 40e9)."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is read, trained on and measured."""

    stride: int
    """Every so many texts are read."""
    held_texts: int
    train_texts: int
    spliced_texts: int
    """Of the held-out ones: how many the model runs over with its states replaced."""
    ks: tuple[int, ...]
    settings: Settings
    max_tokens: int = 128


FULL = Size(1, 200, 1100, 20, (16, 32, MAIN), Settings())
QUICK = Size(42, 11, 40, 2, (MAIN,), Settings(n_features=512, batch=128, auxiliary_k=64, dead_after=2000), 96)


@dataclass(frozen=True)
class Prepared:
    """States of the layer, and which of their rows are trained on and which are held out, by text."""

    states: Activations
    train: NDArray[np.int64]
    held: NDArray[np.int64]
    held_texts: NDArray[np.int64]


ACTIVE, NEAREST, FIRES, SPLICED, CONTEXTS = (
    "active features", "nearest token", "training tokens", "spliced", "contexts of features"
)  # fmt: skip


def units(context: Context) -> tuple[Unit, ...]:
    """Return each number of active features, and what is measured of all autoencoders or of the largest."""
    size = QUICK if context.quick else FULL
    names = (*(f"{k} {ACTIVE}" for k in size.ks), NEAREST, FIRES, SPLICED, CONTEXTS)
    # All are of one layer of this model, whose states the first unit makes.
    return tuple(Unit(name, (f"smollm2-tokens-layer{LAYER}-576",), shares="states that sae reads") for name in names)


def measure(context: Context, unit: Unit) -> Tables:
    """Measure one unit: rows of sae.csv, and the curves of sae_training.csv or the contexts of sae_features.csv.

    A row of sae.csv is a measured value, its interval over texts, and the floor beside it. The seed draws texts, first
    weights, batches and the features that are shown.
    """
    size = QUICK if context.quick else FULL
    texts = bbc().texts
    ready = prepared(SMOLLM2, texts, LAYER, size, context.seed)
    if unit.name.endswith(ACTIVE):
        return _of_k(ready, int(unit.name.split()[0]), size, context)
    if unit.name == NEAREST:
        return {"sae.csv": pd.DataFrame(list(_nearest_rows(ready, size, context)))}
    if unit.name == SPLICED:
        return {"sae.csv": pd.DataFrame(list(_spliced(ready, texts[:: size.stride], size, context)))}
    last = trained(ready, LAYER, size.ks[-1], size, context)
    if unit.name == FIRES:
        fires = quality(last.autoencoder, ready.states.states[LAYER], ready.states.texts, ready.train)
        return {"sae.csv": pd.DataFrame(list(_training_rows(fires)))}
    model = loaded(SMOLLM2)
    return {"sae_features.csv": _features(last, ready, LAYER, parts_of(model.model), model.tokenizer, context.seed)}


def draw(context: Context) -> None:
    """Draw sae.svg."""
    context.figure("sae", drawn(context.read("sae.csv"), context.read("sae_training.csv")))


def study_autoencoder(context: Context, k: int = MAIN) -> Training:
    """Return the study's autoencoder of SmolLM2 from the cache, trained now where it has none, for other studies.

    Its ``autoencoder.encode`` turns states of layer `LAYER` into a sparse matrix of features; give it no attention
    sinks. The texts that it was not trained on are those of `prepared`.
    """
    size = QUICK if context.quick else FULL
    return trained(prepared(SMOLLM2, bbc().texts, LAYER, size, context.seed), LAYER, k, size, context)


def prepared(model: Deferred, texts: tuple[str, ...], layer: int, size: Size, seed: int) -> Prepared:
    """Read the states, leave out attention sinks, and deal texts into held-out ones and ones to train on."""
    read = texts[:: size.stride]
    states = activations(model, read, [layer], max_tokens=size.max_tokens)
    order = np.random.default_rng(seed).permutation(len(read))
    held, train = np.split(order[: size.held_texts + size.train_texts], [size.held_texts])
    return Prepared(states, token_rows(states, layer, train), token_rows(states, layer, held), np.sort(held))


def trained(ready: Prepared, layer: int, k: int, size: Size, context: Context) -> Training:
    """Train an autoencoder of k active features, or read it from the cache."""
    settings = replace(size.settings, k=k, seed=context.seed)
    return cached_autoencoder(ready.states, layer, ready.train, settings)


def _of_k(ready: Prepared, k: int, size: Size, context: Context) -> Tables:
    """Train an autoencoder, and measure it beside random features and principal components of as many numbers."""
    training = trained(ready, LAYER, k, size, context)
    states, of = ready.states.states[LAYER], ready.states.texts
    mean, directions = principal_components(states, ready.train)
    floor = _floor(ready, mean, training, size)
    qualities = {
        ("sae", k): quality(training.autoencoder, states, of, ready.held),
        ("random features", k): quality(floor, states, of, ready.held),
        ("pca", k): explained(states, of, ready.held, projected(mean, directions[:k])),
    }
    return {
        "sae.csv": pd.DataFrame(list(_quality_rows(qualities, context.seed))),
        "sae_training.csv": training.to_frame().assign(k=k),
    }


def _floor(ready: Prepared, mean: NDArray[np.float32], training: Training, size: Size) -> SparseAutoencoder:
    """Return random features, as many at a time as an autoencoder has."""
    of = training.autoencoder
    settings = replace(size.settings, k=of.k)
    return untrained(ready.states.states[LAYER], ready.train, mean, settings, of.model, LAYER, of.longest)


def _nearest_rows(ready: Prepared, size: Size, context: Context) -> Iterator[dict[str, Any]]:
    """Rebuild each state as the nearest of as many training states as an autoencoder has features."""
    states, of = ready.states.states[LAYER], ready.states.texts
    known = np.random.default_rng(context.seed).choice(ready.train, size.settings.n_features, replace=False)
    rebuilt = explained(states, of, ready.held, nearest(states[np.sort(known)]))
    return _quality_rows({("nearest token", 1): rebuilt}, context.seed)


def _spliced(ready: Prepared, texts: Sequence[str], size: Size, context: Context) -> Iterator[dict[str, Any]]:
    """Run the model over held-out texts with its states replaced, and hold the costs of a token against each other."""
    trainings = {k: trained(ready, LAYER, k, size, context) for k in size.ks}
    mean, directions = principal_components(ready.states.states[LAYER], ready.train)
    model = loaded(SMOLLM2)
    ways: dict[str, Replace] = {"zero": constant(np.zeros_like(mean)), "mean": constant(mean)}
    ways |= {f"sae {k}": reconstruction(training.autoencoder, model.card, LAYER) for k, training in trainings.items()}
    top = size.ks[-1]
    ways[f"random features {top}"] = reconstruction(_floor(ready, mean, trainings[top], size), model.card, LAYER)
    ways[f"pca {top}"] = _tensors(projected(mean, directions[:top]))
    chosen = ready.held_texts[: size.spliced_texts]
    spliced = splice(
        model, [texts[at] for at in chosen], LAYER, ways, longest=trainings[top].autoencoder.longest,
        max_tokens=size.max_tokens,
    )  # fmt: skip
    yield from _spliced_rows(spliced, context.seed)
    yield from _cost_rows(trainings, spliced, parts_of(model.model), context)


def _tensors(rebuild: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Replace:
    """Turn a reconstruction of arrays into one of tensors."""
    import torch

    return lambda states: torch.from_numpy(rebuild(states.float().cpu().numpy())).to(states)


def _row(part: str, method: str, k: int, statistic: str, value: float, unit: str, **rest: Any) -> dict[str, Any]:
    """One measured value; `floor` is what needs no learning of features, and `floor_is` says what that is."""
    return {
        "part": part, "method": method, "k": k, "statistic": statistic, "value": value, "low": np.nan, "high": np.nan,
        "floor": np.nan, "floor_is": "", "unit": unit, "texts": 0, "tokens": 0,
    } | rest  # fmt: skip


def _quality_rows(qualities: Mapping[tuple[str, int], Explained], seed: int) -> Iterator[dict[str, Any]]:
    for (method, k), measured in qualities.items():
        size = {"texts": measured.n_texts, "tokens": measured.n}
        low, high = bootstrap(
            np.column_stack([measured.residual, measured.deviation]), lambda x: 1 - x[:, 0].sum() / x[:, 1].sum(), seed
        )
        floor = qualities.get(("random features", k), measured)
        for name in ("explained_variance", "explained_about_zero", "explained_of_a_dimension"):
            beside = (
                {"floor": getattr(floor, name), "floor_is": "random features"} if method != "random features" else {}
            )
            beside = {} if method == "nearest token" else beside
            interval = {"low": low, "high": high} if name == "explained_variance" else {}
            yield _row("quality", method, k, name, getattr(measured, name), "share", **size, **beside, **interval)
        if isinstance(measured, Quality):
            for name in ("l0", "dead_fraction", "dense_fraction"):
                unit = "features a token" if name == "l0" else "share of features"
                yield _row("quality", method, k, name, getattr(measured, name), unit, **size)


def _training_rows(measured: Quality) -> Iterator[dict[str, Any]]:
    """Dead features by the tokens that it was trained on: fewer held-out tokens call rare features dead."""
    size = {"texts": measured.n_texts, "tokens": measured.n}
    yield _row("training tokens", "sae", measured.k, "explained_variance", measured.explained_variance, "share", **size)
    yield _row(
        "training tokens", "sae", measured.k, "dead_fraction", measured.dead_fraction, "share of features", **size
    )


def _spliced_rows(splicing: Splicing, seed: int) -> Iterator[dict[str, Any]]:
    size = {"texts": splicing.n_texts, "tokens": splicing.n}
    for name in splicing.losses:
        method, _, k = name.rpartition(" ")
        method, active = (method, int(k)) if k.isdigit() else (name, 0)
        sums = np.column_stack([splicing.losses[name], splicing.counts])
        low, high = bootstrap(sums, lambda x: x[:, 0].sum() / x[:, 1].sum(), seed)
        yield _row(
            "spliced", method, active, "cross_entropy", splicing.cross_entropy(name), "nats", low=low, high=high,
            floor=splicing.cross_entropy("mean"), floor_is="every state replaced by the mean", **size,
        )  # fmt: skip
        for ablated in ("mean", "zero"):
            if name in (CLEAN, ablated) or (name, ablated) == ("zero", "mean"):
                continue
            three = np.column_stack([splicing.losses[way] for way in (name, ablated, CLEAN)])
            low, high = bootstrap(
                three, lambda x: (x[:, 1].sum() - x[:, 0].sum()) / (x[:, 1].sum() - x[:, 2].sum()), seed
            )
            floor = {"floor": 0.0, "floor_is": f"every state replaced by {'0' if ablated == 'zero' else 'the mean'}"}
            share = splicing.recovered(name, ablated)
            statistic = f"recovered_from_{ablated}"
            yield _row("spliced", method, active, statistic, share, "share", low=low, high=high, **floor, **size)


def _cost_rows(
    trainings: Mapping[int, Training], spliced: Splicing, parts: CausalParts, context: Context
) -> Iterator[dict[str, Any]]:
    """Cost of a token in training beside a token of the model's own forward pass, head included."""
    forward = spliced.seconds[CLEAN] / spliced.n_read
    weights = sum(p.numel() for block in parts.blocks for p in block.parameters() if p.ndim == 2)
    flops = 2.0 * (weights + parts.head.weight.numel())  # attention between tokens left out: they are few
    yield _row("cost", "model", 0, "forward_seconds", forward, "s a token", tokens=spliced.n_read)
    yield _row("cost", "model", 0, "forward_flops", flops, "operations a token")
    for k, training in trainings.items():
        own = flops_per_token(training.autoencoder.d, Settings(**_settings(training)))
        seconds, size = training.seconds_per_token, {"tokens": training.n_tokens}
        hours, at_scale = seconds * SCALE / 3600, f"hours for {SCALE:,} tokens here"
        parity = flops / own * training.autoencoder.n_features
        beside = {"floor_is": "forward", **size}
        for statistic, value, unit, rest in (
            ("training_seconds", seconds, "s a token", {"floor": forward, **beside}),
            ("training_flops", own, "operations a token", {"floor": flops, **beside}),
            ("training_over_forward", seconds / forward, "ratio of seconds", size),
            ("training_over_forward_flops", own / flops, "ratio of operations", size),
            ("hours_at_scale", hours, at_scale, size),
            ("forward_hours_at_scale", forward * SCALE / 3600, at_scale, {}),
            ("features_at_parity", parity, "features at which a token costs a forward pass", {}),
        ):
            yield _row("cost", "sae", k, statistic, value, unit, **rest)
        context.say(
            f"k = {k}: {seconds * 1e3:.2f} ms a token in training, {forward * 1e3:.2f} ms in the model's forward pass; "
            f"at {SCALE:,} tokens {hours:.0f} hours for this layer, and {forward * SCALE / 3600:.0f} for its states"
        )


def _settings(training: Training) -> dict[str, Any]:
    return {name: value for name, value in training.autoencoder.settings.items() if name != "states"}


def _features(
    training: Training, ready: Prepared, layer: int, parts: CausalParts, tokenizer: Any, seed: int
) -> pd.DataFrame:
    """Contexts in held-out texts of features drawn from those that fire there."""
    autoencoder = training.autoencoder
    activity = autoencoder.encode(ready.states.states[layer][ready.held])
    fires = np.bincount(activity.indices, minlength=autoencoder.n_features)
    alive = np.flatnonzero(fires)
    chosen = np.sort(np.random.default_rng(seed).choice(alive, min(FEATURES_SHOWN, len(alive)), replace=False)).tolist()
    speaks = dict(zip(chosen, promoted(autoencoder, parts, chosen), strict=True))
    rows = []
    for context in top_contexts(activity, ready.states, ready.held, tokenizer, chosen):
        tokens = " | ".join(tokenizer.decode([token]) for token in speaks[context.feature])
        share = {"k": autoencoder.k, "firing_fraction": fires[context.feature] / len(ready.held), "promotes": tokens}
        rows.append(share | context.to_dict())
    return pd.DataFrame(rows)


STUDY = Study(
    "sae", "what a sparse autoencoder of a middle layer explains, and what it costs", measure, units, draw=draw
)
