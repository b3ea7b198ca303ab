"""What the features of a sparse autoencoder are about: where they fire most, and which tokens they speak for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from geomkit.core.optional import require
from geomkit.core.result import Result
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.causal import CausalParts
from geomkit.interpret.sae.autoencoder import SparseAutoencoder

__all__ = ["FeatureContext", "promoted", "top_contexts"]


@dataclass(frozen=True, slots=True)
class FeatureContext(Result):
    """A token at which a feature fires, and its neighbours."""

    feature: int
    activation: float
    text: int
    position: int
    token: str
    before: str
    after: str


def top_contexts(
    activity: csr_array,
    states: Activations,
    rows: NDArray[np.int64],
    tokenizer: Any,
    features: Sequence[int],
    *,
    count: int = 5,
    width: int = 8,
) -> list[FeatureContext]:
    """Return where some features fire most, at most once a text.

    Parameters
    ----------
    activity : csr_array
        (n, n_features), what `SparseAutoencoder.encode` returns for ``states.states[layer][rows]``.
    states : Activations
    rows : (n,) int64
        Which of its rows those are of.
    tokenizer : transformers tokenizer
    features : sequence of int
    count : int, default 5
        Texts of each feature; it has fewer where it fires in fewer.
    width : int, default 8
        Tokens before and after.

    Returns
    -------
    list of FeatureContext
        In the order of `features`, the strongest first; of equals the one that comes first.

    Raises
    ------
    InvalidInputError
        Other rows than `activity` has, or a feature that is not there.
    """
    if activity.shape[0] != len(rows):
        msg = f"activity has {activity.shape[0]} rows; rows has {len(rows)}"
        raise InvalidInputError(msg)
    for each in features:
        if not 0 <= each < activity.shape[1]:
            msg = f"features has {each}; they are numbered 0 to {activity.shape[1] - 1}"
            raise InvalidInputError(msg)
    columns = activity[:, list(features)].tocsc()
    out = []
    for at, feature in enumerate(features):
        part = slice(columns.indptr[at], columns.indptr[at + 1])
        order = np.lexsort((columns.indices[part], -columns.data[part]))
        seen: set[int] = set()
        for value, row in zip(columns.data[part][order], rows[columns.indices[part][order]], strict=True):
            text = int(states.texts[row])
            if text not in seen and len(seen) < count:
                seen.add(text)
                out.append(FeatureContext(feature, float(value), text, *_words(states, int(row), tokenizer, width)))
    return out


def promoted(
    autoencoder: SparseAutoencoder, parts: CausalParts, features: Sequence[int], *, top: int = 5
) -> list[list[int]]:
    """Return the tokens that some features speak for most, through the model's final norm and head (the logit lens).

    Parameters
    ----------
    autoencoder : SparseAutoencoder
        Of the model that `parts` is of.
    parts : CausalParts
    features : sequence of int
    top : int, default 5

    Returns
    -------
    list of list of int
        Numbers of tokens, a list a feature, the most promoted first.

    Notes
    -----
    A feature's row of the decoder is read as if it were a state. The head does not know what the layers between would
    make of it: of features in the middle of a model this says little (see the tuned lens).
    """
    torch = require("torch")
    weight = parts.head.weight
    with torch.inference_mode():
        directions = torch.from_numpy(autoencoder.decoder[list(features)]).to(weight) / autoencoder.scale
        found: list[list[int]] = parts.logits(directions, autoencoder.layer).topk(top, dim=-1).indices.tolist()
    return found


def _words(states: Activations, row: int, tokenizer: Any, width: int) -> tuple[int, str, str, str]:
    """Return position, token, and what is before and after it in its text."""
    same = states.texts == states.texts[row]
    first, last = int(np.argmax(same)), len(same) - int(np.argmax(same[::-1]))
    before = states.tokens[max(first, row - width) : row]
    after = states.tokens[row + 1 : min(last, row + 1 + width)]
    token, left, right = (
        tokenizer.decode(list(map(int, part))) for part in (states.tokens[row : row + 1], before, after)
    )
    return int(states.positions[row]), token, left, right
