"""Training of TopK sparse autoencoders, which goes on where it was stopped."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.cache import cache_folder, cached_folder, derived, key_of
from geomkit.core.deprecated import renamed_keywords
from geomkit.core.optional import require
from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.adam_state import resumed
from geomkit.interpret.sae.autoencoder import SINK, SparseAutoencoder, blocks, load_autoencoder
from geomkit.interpret.sae.learner import Learner, Settings, learning_share
from geomkit.interpret.saved_weights import write_checkpoint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Training", "cached_autoencoder", "train_autoencoder"]

_KIND, _FORMAT = "geomkit.meaning.sae.training", "1"
_EVERY = 20  # steps between two states that training can go on from


@dataclass(frozen=True)
class Training:
    """An autoencoder, and what its training took."""

    autoencoder: SparseAutoencoder
    curve: tuple[dict[str, float], ...] = field(repr=False)
    """Every so many steps: step, tokens seen, and over the steps since: share of variance unexplained, L0, and the
    share of features that did not fire for `Settings.dead_after` tokens."""
    n_tokens: int
    """Distinct tokens."""
    steps: int
    first_step: int
    """Steps that were there already, from an earlier run."""
    seconds: float
    """Of this run's steps."""
    device: str

    @property
    def seconds_per_token(self) -> float:
        """Seconds that a token takes each time it is seen; NaN where no step was left to do."""
        settings = self.autoencoder.settings
        seen = settings["epochs"] * self.n_tokens * (self.steps - self.first_step) / self.steps
        return self.seconds / seen if seen else float("nan")

    def to_frame(self) -> "pd.DataFrame":
        """Return the curve as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.curve))

    def to_dict(self) -> dict[str, Any]:
        """Scalars by name, those of the autoencoder included."""
        own = {name: getattr(self, name) for name in ("n_tokens", "steps", "first_step", "seconds", "device")}
        return {**self.autoencoder.to_dict(), **own}


@renamed_keywords(say="progress")
def train_autoencoder(
    states: NDArray[Any],
    rows: NDArray[np.int64],
    settings: Settings,
    *,
    model: str,
    layer: int,
    state_file: str | Path | None = None,
    every: int = _EVERY,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Training:
    """Train a TopK sparse autoencoder on states of a layer.

    Parameters
    ----------
    states : (tokens, d) float32 or float16
        Memory-mapped where they are many.
    rows : (n,) int64
        Which of them to train on, without attention sinks: `token_rows` leaves them out.
    settings : Settings
    model : str
        Identity of the model that the states are of: `Activations.model`.
    layer : int
    state_file : path, optional
        Where training leaves its state every so many steps. Where there is one, training goes on from there, and ends
        with the weights, to the bit, that it would have had without a stop (same threads, same machine). It is removed
        by nobody: a finished one gives the autoencoder at once.
    every : int, default 20
        Also how often the curve has a point.
    device : str, optional
        By default the CPU.
    progress : callable, optional
        Is told of the progress and its cost, in lines.

    Returns
    -------
    Training

    Raises
    ------
    InvalidInputError
        States that are not finite or all equal, attention sinks among the rows (norms above `SINK` times the median:
        a few would be most of the variance), or rows that are not there; `state_file` is of another training or not
        whole; or the loss is not finite: the learning rate is too high.
    SourceUnavailableError
        `state_file` cannot be written; the one before is still there.

    Notes
    -----
    The loss is the mean square distance over that of the batch from the mean of all training states (so 1 where every
    state is rebuilt as the mean), and `auxiliary_weight` times the same of the residual by dead features alone. The
    bias starts at the mean. Each epoch has each row once, in an order drawn from seed and epoch alone.
    `flops_per_token` says what a step costs.
    """
    torch = require("torch")
    if states.ndim != 2 or rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= len(states):
        msg = f"rows must be numbers of some of the {len(states)} rows of states; got shape {rows.shape}"
        raise InvalidInputError(msg)
    check_whole(every, "every", 1)
    centre, scale, longest = _standard(states, rows)
    identity = {
        "model": model, "layer": layer, "settings": asdict(settings), "scale": scale,
        "states": _hash(rows, centre),
    }  # fmt: skip
    file = None if state_file is None else Path(state_file)
    learner = Learner(settings, states.shape[1], device or "cpu")
    done, curve = 0, list[dict[str, float]]()
    if file is not None and file.exists():
        facts, tensors = resumed(file, _KIND, _FORMAT, identity, learner.shapes(), {"done": int, "curve": list})
        done, curve = facts["done"], facts["curve"]
        learner.restore(tensors, done)
    per_epoch = -(-len(rows) // settings.batch)
    steps, first, order = settings.epochs * per_epoch, done, (-1, rows)
    start = time.perf_counter()
    seen = _Meter()
    while done < steps:
        epoch, at = divmod(done, per_epoch)
        if order[0] != epoch:
            order = epoch, np.random.default_rng([settings.seed, epoch]).permutation(rows)
        chosen = np.sort(order[1][at * settings.batch : (at + 1) * settings.batch])
        block = (np.asarray(states[chosen], np.float32) - centre) * np.float32(scale)
        seen.add(learner.step(torch.from_numpy(block).to(learner.device), learning_share(done / steps)), len(chosen))
        done += 1
        if done % every == 0 or done == steps:
            tokens = (done // per_epoch) * len(rows) + min((done % per_epoch) * settings.batch, len(rows))
            curve.append(seen.point(done, tokens, learner.dead_fraction()))
            if progress:
                rate = (time.perf_counter() - start) / (done - first)
                progress(_progress(curve[-1], steps, rate))
            if file is not None:
                write_checkpoint(file, _KIND, _FORMAT, {**identity, "done": done, "curve": curve}, learner.state())
            seen = _Meter()
    seconds = time.perf_counter() - start
    weights = learner.weights()
    trained = SparseAutoencoder(
        model=model, layer=layer, k=settings.k, scale=scale, longest=longest,
        settings={**asdict(settings), "states": identity["states"]},
        **{**weights, "bias": centre + weights["bias"] / np.float32(scale)},
    )  # fmt: skip
    return Training(trained, tuple(curve), len(rows), steps, first, seconds, str(learner.device))


@renamed_keywords(say="progress")
def cached_autoencoder(
    states: Activations,
    layer: int,
    rows: NDArray[np.int64],
    settings: Settings,
    *,
    device: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Training:
    """Return an autoencoder of a layer from the cache, trained now where it has none.

    Parameters
    ----------
    states : Activations
        With `layer`.
    layer : int
    rows, settings, device, say
        As of `train_autoencoder`.

    Returns
    -------
    Training
        Of the run that filled the cache: its seconds and device are of then.

    Raises
    ------
    InvalidInputError
        `states` lack the layer; and what `train_autoencoder` refuses.
    SourceUnavailableError
        The disk is full or the cache folder cannot be written; nothing half-written is left.

    Notes
    -----
    A training that is stopped leaves its state under "unfinished" in the cache folder, and the next one goes on there.
    """
    if layer not in states.states:
        msg = f"layer is {layer}; the states are of layers {', '.join(map(str, states.layers))}"
        raise InvalidInputError(msg)
    parts: dict[str, object] = {
        "format": _FORMAT, "states": states.key, "layer": layer, "rows": _hash(rows), "settings": asdict(settings),
        "dtype": str(states.states[layer].dtype),
    }  # fmt: skip
    unfinished = cache_folder() / "unfinished" / f"sae-{key_of(parts)}.safetensors"

    def build(into: Path) -> None:
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        found = train_autoencoder(
            states.states[layer], rows, settings, model=states.model, layer=layer, state_file=unfinished, device=device,
            progress=progress,
        )  # fmt: skip
        found.autoencoder.save(into / "autoencoder.safetensors")
        facts = {name: value for name, value in vars(found).items() if name != "autoencoder"}
        (into / "training.json").write_text(json.dumps(facts), encoding="utf-8")

    folder = cached_folder(derived("sae", parts), parts, build)
    unfinished.unlink(missing_ok=True)
    autoencoder = load_autoencoder(folder / "autoencoder.safetensors")
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return Training(autoencoder, **{**facts, "curve": tuple(facts["curve"])})


class _Meter:
    """Means over the tokens of some steps."""

    def __init__(self) -> None:
        self.sums, self.tokens = np.zeros(2), 0

    def add(self, measured: tuple[float, float], tokens: int) -> None:
        self.sums += np.array(measured) * tokens
        self.tokens += tokens

    def point(self, step: int, tokens: int, dead_fraction: float) -> dict[str, float]:
        unexplained, l0 = (self.sums / self.tokens).tolist()
        return {"step": step, "tokens": tokens, "unexplained": unexplained, "l0": l0, "dead_fraction": dead_fraction}


def _hash(*arrays: NDArray[Any]) -> str:
    """Return 16 hexadecimal digits of what some arrays hold."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in arrays)).hexdigest()[:16]


def _standard(states: NDArray[Any], rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, float]:
    """Return the mean of the rows, what makes their mean square distance from it 1, and the norm that sinks exceed."""
    total, norms = np.zeros(states.shape[1]), []
    for block in blocks(states, rows):
        total += block.sum(axis=0, dtype=np.float64)
        norms.append(np.linalg.norm(block, axis=1))
    longest = SINK * float(np.median(np.concatenate(norms)))
    sinks = rows[np.concatenate(norms) > longest]
    if len(sinks):
        msg = (
            f"rows has {len(sinks)} attention sinks, more than {SINK:g} times as long as the median (first: "
            f"{', '.join(map(str, sinks[:3]))}); leave them out, as token_rows does"
        )
        raise InvalidInputError(msg)
    centre = (total / len(rows)).astype(np.float32)
    square = sum(float(np.square((block - centre).astype(np.float64)).sum()) for block in blocks(states, rows))
    if not square > 0:
        msg = "states are all equal; there is nothing to learn"
        raise InvalidInputError(msg)
    return centre, float(np.sqrt(len(rows) / square)), longest


def _progress(point: Mapping[str, float], steps: int, rate: float) -> str:
    left = rate * (steps - point["step"])
    return (
        f"step {point['step']:,} of {steps:,}: {1 - point['unexplained']:.1%} of variance explained, L0 "
        f"{point['l0']:.1f}, {point['dead_fraction']:.1%} dead; {rate:.2f} s a step, {left:.0f} s left"
    )
