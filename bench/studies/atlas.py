"""Chosen words and their nearest in the embedding table of a language model, and in Word2Vec, as graphs."""

from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd

import geomkit
from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from geomkit import datasets

SPACES, SPACES_QUICK = ("smollm2-input-576", "googlenews-300", "glove-50"), ("googlenews-300",)

WORDS = ("dog", "king", "river", "music", "doctor", "happy", "seven", "bank", "red", "run")
"""Nouns, a number, a colour, a feeling, and two with several meanings; each is one token of the model."""

NEAREST = 8

MARK = "Ġ"
"""What a token begins with that follows a space."""


def units(context: Context) -> tuple[Unit, ...]:
    """Every space is a unit, for each graph is laid out by itself."""
    return spaces.units(context, SPACES_QUICK if context.quick else SPACES)


def measure(context: Context, unit: Unit) -> Tables:
    """Find the nearest of each word in one space, and lay the graph out: atlas.csv."""
    found = datasets.load(unit.name, seed=context.seed)
    return {"atlas.csv": graph_of(unit.name, found.vectors, found.labels, context.seed)}


def graph_of(space: str, vectors: Any, labels: Sequence[str], seed: int) -> pd.DataFrame:
    """Return nodes and edges of one space, with places in the plane.

    Words that the space lacks are rows of the kind ``missing``. A model's token that begins a word stands for it.
    """
    numbers = {label: row for row, label in reversed(list(enumerate(labels)))}
    tokens = MARK + WORDS[0] in numbers
    rows: list[dict[str, Any]] = []
    graph = nx.Graph()
    for word in WORDS:
        at = numbers.get(MARK + word, numbers.get(word))
        if at is None:
            rows.append({"space": space, "kind": "missing", "word": word, "name": word, "rank": 0})
            continue
        cosines = geomkit.cosine_similarity(vectors[at : at + 1], vectors)[0]
        nearest = np.argsort(-np.asarray(cosines), kind="stable")
        nearest = nearest[nearest != at][:NEAREST].tolist()
        for rank, row in enumerate([at, *nearest]):
            cosine = 1.0 if row == at else float(cosines[row])
            rows.append(
                {"space": space, "kind": "node", "word": word, "name": said(labels[row], tokens=tokens), "rank": rank,
                 "cosine": cosine, "row": row}
            )  # fmt: skip
            if rank:
                graph.add_edge(at, row, weight=max(cosine, 0.0))
                rows.append(
                    {"space": space, "kind": "edge", "word": word, "name": said(labels[row], tokens=tokens),
                     "rank": rank, "cosine": cosine, "row": at, "row2": row}
                )  # fmt: skip
    places = nx.spring_layout(graph, k=0.6, iterations=300, seed=seed)
    for each in rows:
        if "row" in each:
            each["x"], each["y"] = places[each["row"]]
        if "row2" in each:
            each["x2"], each["y2"] = places[each["row2"]]
    columns = ("space", "kind", "word", "name", "rank", "cosine", "row", "row2", "x", "y", "x2", "y2")
    return pd.DataFrame(rows, columns=list(columns)).astype({"row": "Int64", "row2": "Int64"})


def said(label: str, *, tokens: bool) -> str:
    """Write a word as it is; of tokens, one that goes on a word has a dash before it."""
    if not tokens:
        return label
    return label.removeprefix(MARK) if label.startswith(MARK) else f"-{label}"


STUDY = Study("atlas", "chosen words and their nearest tokens, as graphs", measure, units)
