"""What lenses say over many positions of many texts, a layer at a time, and the geometry of the layers beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from geomkit.core.optional import require
from geomkit.core.validation import check_whole
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.lens.logit_lens import CHUNK, STATISTICS, LogitLens, chunks, measured
from geomkit.stats.cosine import cosine_stats
from geomkit.stats.dimension import intrinsic_dimension
from geomkit.stats.spectrum import spectrum

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["LensStatistics", "Reader", "constant_reader", "geometry", "lens_statistics", "over_texts", "rows_of"]

Reader = Callable[[Any, int], Any]
"""Turns states of a layer, (positions, dim), into logits, (positions, vocabulary)."""


@dataclass(frozen=True)
class LensStatistics:
    """Statistics of readers at layers, at each of some positions."""

    model: str
    top: int
    """k of the top tokens whose agreement with the last layer's is measured."""
    readings: tuple[tuple[str, int], ...]
    """Name of the reader and layer, in the order of the values."""
    texts: NDArray[np.int64] = field(repr=False)
    """Which text each position is in, (positions,)."""
    values: Mapping[str, NDArray[np.float64]] = field(repr=False)
    """By name in `STATISTICS`, (readings, positions)."""

    def to_frame(self) -> "pd.DataFrame":
        """Return a row a reader and layer: of each statistic the mean over texts and its 95 % interval over texts."""
        import pandas as pd

        rows = []
        for at, (reader, layer) in enumerate(self.readings):
            row: dict[str, Any] = {"reader": reader, "layer": layer}
            for name, values in self.values.items():
                row[name], row[f"{name}_low"], row[f"{name}_high"] = over_texts(values[at], self.texts)
            rows.append(row)
        return pd.DataFrame(rows)


def rows_of(states: Activations, per_text: int, seed: int) -> NDArray[np.int64]:
    """Draw rows to read: so many of each text, never its first token, and only where the next token is known.

    Parameters
    ----------
    states : Activations
    per_text : int
        Rows of each text; all that there are of a text with fewer.
    seed : int

    Returns
    -------
    (rows,) int64
        Ascending.

    Raises
    ------
    InvalidInputError
        `per_text` is less than 1, or no text has three tokens.
    """
    check_whole(per_text, "per_text", 1)
    usable = np.flatnonzero(~states.sinks & (states.next_tokens >= 0))
    if not len(usable):
        msg = "no text has a token between its first, which is a sink of attention, and its last, which nothing follows"
        raise InvalidInputError(msg)
    order = np.random.default_rng(seed).permutation(usable)
    order = order[np.argsort(states.texts[order], kind="stable")]
    first = np.r_[True, np.diff(states.texts[order]) != 0]
    within = np.arange(len(order)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return np.sort(order[within < per_text])


def lens_statistics(
    lens: LogitLens,
    states: Activations,
    rows: NDArray[np.int64],
    readers: Mapping[str, tuple[Sequence[int], Reader]] | None = None,
    *,
    top: int = 5,
    chunk: int = CHUNK,
) -> LensStatistics:
    """Measure what layers say at some positions, beside what the last one says there.

    Parameters
    ----------
    lens : LogitLens
    states : Activations
        Of the lens's model, with its last layer.
    rows : (positions,) int64
        Which rows of `states`; see `rows_of`.
    readers : mapping of str to (layers, reader), optional
        By default ``{"lens": (states.layers, lens.logits)}``. A tuned lens and a constant are read beside it.
    top : int, default 5
    chunk : int
        Positions whose scores are held at once.

    Returns
    -------
    LensStatistics

    Raises
    ------
    InvalidInputError
        The states are another model's, or lack a layer.

    Notes
    -----
    O(positions x readings x dim x vocabulary) time. Memory is of some ``chunk x vocabulary`` float32, 50 MB each for
    49,152 tokens, whatever the number of positions and layers.
    """
    readers = {"lens": (states.layers, lens.logits)} if readers is None else readers
    readings = tuple((name, layer) for name, (layers, _) in readers.items() for layer in layers)
    check_states(lens, states, {lens.n_layers, *(layer for _, layer in readings)})
    torch = require("torch")
    following = torch.from_numpy(states.next_tokens[rows])
    values = {name: np.empty((len(readings), len(rows))) for name in STATISTICS}
    with torch.inference_mode():
        for part in chunks(len(rows), chunk):
            final = final_of(lens, states, rows[part])
            for at, (name, layer) in enumerate(readings):
                logits = readers[name][1](tensor(lens, states.states[layer][rows[part]]), layer).float()
                got = measured(logits, final, following[part].to(logits.device), top)
                for each in STATISTICS:
                    values[each][at, part] = getattr(got, each).double().cpu().numpy()
    return LensStatistics(lens.loaded.card.name, top, readings, states.texts[rows], values)


def constant_reader(lens: LogitLens, states: Activations, rows: NDArray[np.int64]) -> Reader:
    """Return a reader that says the same of every state: the mean of the last layer's probabilities over some rows.

    Of all constant predictions this has the least KL from the last layer over those rows: a reading that is no better
    has seen nothing of the text.
    """
    torch = require("torch")
    total: Any = 0.0
    with torch.inference_mode():
        for part in chunks(len(rows)):
            total = total + final_of(lens, states, rows[part]).exp().sum(0, dtype=torch.float64)
        constant = (total / len(rows)).log().float()

    def read(seen: "Tensor", _layer: int) -> "Tensor":
        said: Tensor = constant.expand(len(seen), -1)
        return said

    return read


def final_of(lens: LogitLens, states: Activations, rows: NDArray[np.int64]) -> "Tensor":
    """Return the logarithms of the last layer's probabilities at some rows, (rows, vocabulary) float32."""
    last = tensor(lens, states.states[lens.n_layers][rows])
    final: Tensor = lens.logits(last, lens.n_layers).float().log_softmax(-1)
    return final


def tensor(lens: LogitLens, block: NDArray[Any]) -> "Tensor":
    """Put rows of states where the head is, in its numbers."""
    weight = lens.parts.head.weight
    moved: Tensor = require("torch").from_numpy(np.array(block, np.float32)).to(weight.device, weight.dtype)
    return moved


def check_states(lens: LogitLens, states: Activations, layers: set[int]) -> None:
    """Refuse states of another model, or without a layer that is wanted."""
    if states.model != lens.loaded.card.identity:
        msg = f"states are of model {states.model}; the lens is of {lens.loaded.card.identity}"
        raise InvalidInputError(msg)
    if lacking := sorted(layers - set(states.layers)):
        msg = f"states have the layers {list(states.layers)}; layers {lacking} are wanted too"
        raise InvalidInputError(msg)


def over_texts(values: NDArray[np.float64], texts: NDArray[np.int64]) -> tuple[float, float, float]:
    """Return the mean over texts of each text's mean, and its 95 % interval over texts (Student's t).

    Positions of a text depend on each other; texts do not. NaN bounds for a single text.
    """
    _, of = np.unique(texts, return_inverse=True)
    means = np.bincount(of, values) / np.bincount(of)
    count = len(means)
    mean = float(means.mean())
    if count < 2:
        return mean, float("nan"), float("nan")
    reach = float(stdtrit(count - 1, 0.975) * means.std(ddof=1) / np.sqrt(count))
    return mean, mean - reach, mean + reach


def geometry(states: Activations, rows: NDArray[np.int64], layers: Sequence[int] | None = None) -> "pd.DataFrame":
    """Measure how the states of each layer lie at some rows: mean cosine, effective rank, intrinsic dimension, norm.

    Parameters
    ----------
    states : Activations
    rows : (positions,) int64
        Leave out a text's first token: see `Activations.sinks`.
    layers : sequence of int, optional
        All by default.

    Returns
    -------
    DataFrame
        A row a layer. Intrinsic dimension is the maximum-likelihood estimate by Euclidean distance; a standard error
        is over positions.
    """
    import pandas as pd

    out = []
    for layer in states.layers if layers is None else layers:
        x = np.array(states.states[layer][rows], np.float32)
        cosine = cosine_stats(x)
        dimension = intrinsic_dimension(x, method="mle", metric="euclidean")
        out.append(
            {
                "layer": layer,
                "n": len(x),
                "d": x.shape[1],
                "mean_cosine": cosine.mean,
                "effective_rank": spectrum(x).effective_rank,
                "intrinsic_dimension": dimension.dimension,
                "intrinsic_dimension_se": dimension.dimension_se,
                "median_norm": float(np.median(np.linalg.norm(x, axis=1))),
            }
        )
    return pd.DataFrame(out)
