"""Training of tuned lenses: from a regression on the last layer, then by KL over the whole vocabulary."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from geomkit.core.deprecated import renamed_keywords
from geomkit.core.optional import require
from geomkit.core.validation import check_choice, check_number, check_whole
from geomkit.datasets.states import running
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.adam_state import restore_learned, resumed, state_of, state_shapes
from geomkit.interpret.lens.logit_lens import LogitLens
from geomkit.interpret.lens.statistics import check_states, final_of, tensor
from geomkit.interpret.lens.tuned_lens import TunedLens
from geomkit.interpret.lens.tuned_start import Begin, divisor, regressions
from geomkit.interpret.saved_weights import write_checkpoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BATCH", "LEARNING_RATE", "STEPS", "Trained", "train_tuned_lens"]

STEPS, BATCH, LEARNING_RATE = 100, 128, 3e-4
EVERY = 20  # steps between two states that training can go on from

T = TypeVar("T")

_TRAINING, _FORMAT = "geomkit.meaning.tuned_lens.training", "1"


@dataclass(frozen=True)
class Trained:
    """A tuned lens, and what its training took this time."""

    tuned: TunedLens
    first_step: int
    """Steps that were there already, from an earlier run."""
    losses: NDArray[np.float64] = field(repr=False)
    """Mean KL of each batch of this run in nats, (steps, layers)."""
    seconds: float

    @property
    def seconds_per_step(self) -> float:
        """Of one step of one layer; NaN where no step was left to do."""
        return self.seconds / self.losses.size if self.losses.size else float("nan")


@renamed_keywords(say="progress")
def train_tuned_lens(
    lens: LogitLens,
    states: Activations,
    layers: Sequence[int],
    rows: NDArray[np.int64],
    *,
    steps: int = STEPS,
    batch: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    start: str = "regression",
    seed: int = 0,
    state_file: str | Path | None = None,
    every: int = EVERY,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """Train translators of some layers against what the last layer says.

    Parameters
    ----------
    lens : LogitLens
    states : Activations
        Of the lens's model, with `layers` and its last one.
    layers : sequence of int
        From 0 to the layer before the last.
    rows : (n,) int64
        Rows to train on, at least `batch`. Leave out first tokens; `rows_of` does.
    steps : int, default 100
        0 leaves what training starts from.
    batch : int, default 128
        Rows of a step; those of an epoch are shuffled by its number and the seed.
    learning_rate : float, default 3e-4
        Of the first step; it falls linearly towards 0.
    start : {"regression", "identity"}, default "regression"
        Where translators begin: at the least-squares map from the layer to what the final norm is given at the last
        layer (as in Din et al. 2023), over `rows`, which costs next to nothing; or at 0, where nothing is translated,
        as Belrose et al. do.
    seed : int, default 0
    state_file : path, optional
        Where training leaves its state every so many steps. Where there is one, training goes on from there, and ends
        with the weights, to the bit, that it would have had without a stop (same threads, same machine). It is removed
        by nobody: a finished one gives the finished lens at once.
    every : int, default 20
    device : str, optional
        By default where the model is.
    progress : callable, optional
        Is told of the cost, in lines.

    Returns
    -------
    Trained

    Raises
    ------
    InvalidInputError
        The states are another model's or lack a layer, a layer is the last, too few rows, or a number is out of range;
        or `state_file` is of other settings, another model, or not whole; or
        the model has something else than a norm after its last block, and `start` is not "identity".
    SourceUnavailableError
        `state_file` cannot be written; the one before is still there.

    Notes
    -----
    The loss is KL(last ‖ translated) over the whole vocabulary, by Adam. It moves A' and b' of s + τ (A' z + b'), where
    s is what the start makes of a state h, z = (h - μ)/σ by column over `rows`, and τ the spread of the columns of s:
    all translators there are, but a few columns of language models are a hundred times larger than others, and would
    take every step for themselves. A step of a layer takes ``4 x batch x dim x vocabulary`` operations, and half of
    that once for all layers. The regression is `regressions`.

    References
    ----------
    N. Belrose et al.: Eliciting latent predictions from transformers with the tuned lens. 2023.
    A. Y. Din, T. Karidi, L. Choshen, M. Geva: Jump to conclusions: short-cutting transformers with linear
    transformations. 2023.
    """
    torch = require("torch")
    chosen = _checked(lens, states, layers, rows, steps, batch, learning_rate, start)
    settings = {
        "states": states.key, "rows": len(rows), "steps": steps, "batch": batch, "learning_rate": learning_rate,
        "start": start, "seed": seed,
    }  # fmt: skip
    identity = {"model": states.model, "n_layers": lens.n_layers, "layers": list(chosen), **settings, **_sum_of(rows)}
    file = None if state_file is None else Path(state_file)
    with running(lens.loaded.model, device):
        begins = regressions(lens, states, chosen, rows) if start == "regression" else {}
        device_of_head = lens.parts.head.weight.device
        translators = {
            layer: _Translator(states.states[layer][rows], begins.get(layer), device_of_head, learning_rate)
            for layer in chosen
        }
        done = 0 if file is None or not file.exists() else _resume(file, identity, translators)
        losses = []
        began = time.perf_counter()
        for step in range(done, steps):
            drawn = _batch(rows, step, batch, seed)
            with torch.inference_mode():
                final = final_of(lens, states, drawn)
            share = 1 - step / steps
            losses.append(
                [
                    translators[layer].step(
                        lens, tensor(lens, states.states[layer][drawn]), layer, final.clone(), share
                    )
                    for layer in chosen
                ]
            )
            if progress and (step + 1 == steps or (step + 1) % every == 0):
                progress(_cost(step + 1, steps, lens, losses, time.perf_counter() - began))
            if file is not None and (step + 1 == steps or (step + 1) % every == 0):
                state = _of_layers({layer: translator.state() for layer, translator in translators.items()})
                write_checkpoint(file, _TRAINING, _FORMAT, {**identity, "done": step + 1}, state)
        seconds = time.perf_counter() - began
        merged = {layer: translator.merged() for layer, translator in translators.items()}
    tuned = TunedLens(
        model=states.model, n_layers=lens.n_layers, layers=chosen, settings=settings,
        weights={layer: a for layer, (a, _) in merged.items()}, biases={layer: b for layer, (_, b) in merged.items()},
    )  # fmt: skip
    return Trained(tuned, done, np.array(losses, np.float64).reshape(len(losses), len(chosen)), seconds)


class _Translator:
    """A translator while it is trained: a start, and a change in standardised columns that Adam moves."""

    def __init__(self, block: NDArray[Any], begin: Begin | None, device: Any, learning_rate: float) -> None:
        torch = require("torch")
        states = np.asarray(block, np.float64)
        centre, scale = states.mean(axis=0), divisor(states)
        width = len(centre)
        weight, bias, spread = (np.zeros((width, width)), np.zeros(width), scale) if begin is None else begin
        made = {"device": device, "dtype": torch.float32}
        fixed = {"start_weight": weight, "start_bias": bias, "centre": centre, "scale": scale, "spread": spread}
        self.put = {name: torch.tensor(value, **made) for name, value in fixed.items()}
        self.learned = {"weight": torch.zeros((width, width), **made), "bias": torch.zeros(width, **made)}
        for value in self.learned.values():
            value.requires_grad_()
        self.learning_rate = learning_rate
        self.adam = torch.optim.Adam(list(self.learned.values()), lr=learning_rate)

    def step(self, lens: LogitLens, states: "Tensor", layer: int, final: "Tensor", share: float) -> float:
        """Move by one batch at a share of the learning rate; return its mean KL before."""
        torch = require("torch")
        put, states = self.put, states.float()
        began = states + states @ put["start_weight"].T + put["start_bias"]
        columns = (states - put["centre"]) / put["scale"]
        moved = began + put["spread"] * (columns @ self.learned["weight"].T + self.learned["bias"])
        logits = lens.logits(moved.to(lens.parts.head.weight.dtype), layer)
        with torch.no_grad():
            log_scores = logits.float().log_softmax(-1)
            kl = float((final.exp() * (final - log_scores)).sum(-1).mean())
            # The gradient of KL by the logits is q - p: cheaper than a graph through the softmax of all the vocabulary.
            slope = (log_scores.exp_() - final.exp_()) / len(states)
        # Of the translator alone: the model's own numbers stay as they are, and get no gradient.
        slopes = torch.autograd.grad(logits, list(self.learned.values()), slope.to(logits.dtype))
        for value, gradient in zip(self.learned.values(), slopes, strict=True):
            value.grad = gradient
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * share
        self.adam.step()
        return kl

    def merged(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return A and b of h + A h + b."""
        values = {name: one.detach().double().cpu().numpy() for name, one in {**self.put, **self.learned}.items()}
        change = values["spread"][:, None] * values["weight"] / values["scale"][None, :]
        bias = values["start_bias"] + values["spread"] * values["bias"] - change @ values["centre"]
        return (values["start_weight"] + change).astype(np.float32), bias.astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the next step depends on."""
        return state_of(self.learned, self.put, self.adam)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the state."""
        return state_shapes(self.learned, self.put)

    def restore(self, stored: Mapping[str, NDArray[Any]], done: int) -> None:
        """Go back to a state."""
        torch = require("torch")
        self.put = {name: torch.from_numpy(stored[name]).to(value) for name, value in self.put.items()}
        restore_learned(self.learned, self.adam, stored, done)


def _of_layers(parts: Mapping[int, Mapping[str, T]]) -> dict[str, T]:
    """Name what each layer has after the layer."""
    return {f"{layer}.{name}": value for layer, named in parts.items() for name, value in named.items()}


def _resume(file: Path, identity: Mapping[str, Any], translators: Mapping[int, _Translator]) -> int:
    """Put translators back to what a file says, after it was found to be of this training; return the steps done."""
    shapes = {layer: translator.shapes() for layer, translator in translators.items()}
    facts, tensors = resumed(file, _TRAINING, _FORMAT, identity, _of_layers(shapes), {"done": int})
    for layer, translator in translators.items():
        translator.restore({name: tensors[f"{layer}.{name}"] for name in shapes[layer]}, facts["done"])
    return int(facts["done"])


def _checked(
    lens: LogitLens, states: Activations, layers: Sequence[int], rows: NDArray[np.int64], steps: int, batch: int,
    learning_rate: float, start: str,
) -> tuple[int, ...]:  # fmt: skip
    chosen = tuple(sorted(set(layers)))
    if not chosen or not all(0 <= layer < lens.n_layers for layer in chosen):
        msg = f"layers are {list(layers)}; they must be from 0 to {lens.n_layers - 1}, before the last"
        raise InvalidInputError(msg)
    check_states(lens, states, {*chosen, lens.n_layers})
    check_choice(start, "start", ("regression", "identity"))
    check_whole(steps, "steps", 0)
    check_whole(batch, "batch", 1)
    check_number(learning_rate, "learning_rate", 0, open_low=True)
    if len(rows) < batch:
        msg = f"rows has {len(rows):,}; a batch takes {batch:,}"
        raise InvalidInputError(msg)
    return chosen


def _batch(rows: NDArray[np.int64], step: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Return the rows of a step, which depend on nothing before it: each row once in an epoch, but for a remainder."""
    epoch, at = divmod(step, len(rows) // batch)
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return np.sort(order[at * batch : (at + 1) * batch])


def _sum_of(rows: NDArray[np.int64]) -> dict[str, str]:
    return {"rows_hash": hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()[:16]}


def _cost(step: int, steps: int, lens: LogitLens, losses: Sequence[Sequence[float]], seconds: float) -> str:
    rate = seconds / len(losses) / len(losses[0])
    whole = rate * steps * lens.n_layers
    now = ", ".join(f"{kl:.2f}" for kl in losses[-1])
    return (
        f"step {step} of {steps}: KL {now} nats; {rate:.2f} s a step of a layer, so {whole:,.0f} s for all "
        f"{lens.n_layers} layers"
    )
