"""Where the training of a tuned lens starts: the least-squares map from a layer to what the final norm is given."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomkit.core.optional import require
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.lens.logit_lens import LogitLens
from geomkit.interpret.lens.statistics import final_of, tensor

__all__ = ["Begin", "divisor", "regressions"]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried in the regression, beside columns of variance 1."""

_TRIED = 128  # rows that a ridge is chosen by


class Begin(NamedTuple):
    """A translator to start from: h + A h + b, and how far the columns of what it gives are spread."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    spread: NDArray[np.float64]


def regressions(
    lens: LogitLens, states: Activations, layers: Sequence[int], rows: NDArray[np.int64]
) -> dict[int, Begin]:
    """Map layers to what the final norm is given at the last layer, by ridge regression over some rows.

    Parameters
    ----------
    lens : LogitLens
    states : Activations
        With `layers` and the last one.
    layers : sequence of int
    rows : (n,) int64
        In the order of their texts.

    Returns
    -------
    dict of int to Begin

    Raises
    ------
    InvalidInputError
        Fewer than two rows, or what follows the last block is not a norm alone. (A norm can be undone up to a length,
        which it ignores.)

    Notes
    -----
    The ridge is, of five, the one of least KL from the last layer on (up to 128 of) the last fifth of the rows, which
    are but for one text of other texts, where it is fitted to the others; then it is fitted to all. The one of least
    squared error is larger, and worse: it draws vectors to their mean, and the norm takes that length away again.
    O(rows x dim² + dim³) time a layer.
    """
    torch = require("torch")
    if len(rows) < 2:
        msg = f"rows has {len(rows)}; a regression takes at least 2"
        raise InvalidInputError(msg)
    given = _given_to_norm(lens, states, rows)
    cut = len(rows) * 4 // 5
    tried = np.arange(cut, len(rows))[:: max(1, (len(rows) - cut) // _TRIED)]
    with torch.inference_mode():
        final = final_of(lens, states, rows[tried])
    begins = {}
    for layer in layers:
        block = np.asarray(states.states[layer][rows], np.float64)
        errors = []
        for ridge, (weight, bias) in zip(RIDGES, _ridges(block[:cut], given[:cut], RIDGES), strict=True):
            said = block[tried] + block[tried] @ weight.T + bias
            with torch.inference_mode():
                logits = lens.logits(tensor(lens, said), layer).float().log_softmax(-1)
                errors.append((float((final.exp() * (final - logits)).sum(-1).mean()), ridge))
        [(weight, bias)] = _ridges(block, given, (min(errors)[1],))
        begins[layer] = Begin(weight, bias, divisor(given))
    return begins


def divisor(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spread of each column; 1 where it never changes, since centred it is 0 whatever divides it."""
    spread = values.std(axis=0)
    return np.where(spread == 0, 1.0, spread)


def _ridges(
    block: NDArray[np.float64], given: NDArray[np.float64], ridges: Sequence[float]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield A and b of h + A h + b for each ridge, from one decomposition."""
    centre, scale, middle = block.mean(axis=0), divisor(block), given.mean(axis=0)
    columns = (block - centre) / scale
    values, vectors = np.linalg.eigh(columns.T @ columns / len(columns))
    along = vectors.T @ (columns.T @ (given - middle)) / len(columns)
    for ridge in ridges:
        slope = (vectors @ (along / (values + ridge)[:, None])).T / scale
        yield slope - np.eye(len(centre)), middle - slope @ centre


def _given_to_norm(lens: LogitLens, states: Activations, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return vectors that the final norm turns into the last states of some rows, (rows, dim).

    A norm multiplies directions by a weight and adds a bias: both are read off what it does to a vector of mean 0 and
    mean square 1 and to its negative. Whether it was one is then seen from what it makes of the answer.
    """
    torch = require("torch")
    last = np.array(states.states[lens.n_layers][rows], np.float64)
    why = "what follows the last block of the model is not a norm alone"
    if len(lens.parts.tail) != 1:
        raise _refused(why)
    signs = torch.ones(last.shape[1]).to(lens.parts.head.weight)
    signs[1::2] = -1
    with torch.inference_mode():
        try:
            up, down = (lens.parts.normed(each, 0).double() for each in (signs, -signs))
        except RuntimeError as wide:  # a projection from another width
            raise _refused(why) from wide
        bias, weight = ((up + down) / 2).cpu().numpy(), ((up - down) / 2 * signs).cpu().numpy()
        if not weight.all():
            why = "a weight of the final norm is 0"
            raise _refused(why)
        given: NDArray[np.float64] = (last - bias) / weight
        again = lens.parts.normed(tensor(lens, given[:64]), 0).double().cpu().numpy()
    if np.abs(again - last[:64]).max() > 1e-3 * np.abs(last[:64]).max():
        raise _refused(why)
    return given


def _refused(why: str) -> InvalidInputError:
    return InvalidInputError(f'start is "regression", but {why}; use start="identity"')
