"""What a sparse autoencoder is measured beside: principal components, features at random, the nearest known token."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from geomkit.interpret.sae.autoencoder import SparseAutoencoder, blocks
from geomkit.interpret.sae.learner import Settings
from geomkit.interpret.sae.quality import Rebuild

Floats = NDArray[np.float32]

FITTED = 4096
"""Training tokens that the length of random features is fitted on."""


def principal_components(states: Floats, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the mean of some rows and their principal directions, (d,) and (d, d), a row a direction, widest first."""
    count, width = len(rows), states.shape[1]
    mean, square = np.zeros(width), np.zeros((width, width))
    for block in blocks(states, rows):
        mean += block.sum(axis=0, dtype=np.float64)
    mean /= count
    for block in blocks(states, rows):
        apart = (block - mean.astype(np.float32)).astype(np.float32)
        square += apart.T @ apart
    directions = np.linalg.eigh(square)[1][:, ::-1].T
    return mean.astype(np.float32), np.ascontiguousarray(directions, dtype=np.float32)


def projected(mean: Floats, directions: Floats) -> Rebuild:
    """Return a reconstruction from as many numbers as there are directions."""

    def rebuild(block: Floats) -> Floats:
        out: Floats = mean + ((block - mean) @ directions.T @ directions).astype(np.float32)
        return out

    return rebuild


def nearest(known: Floats) -> Rebuild:
    """Return a reconstruction of each state by the nearest of some: one feature, and no number beside it."""
    half = np.square(known).sum(axis=1) / 2

    def rebuild(block: Floats) -> Floats:
        out: Floats = known[np.argmax(block @ known.T - half, axis=1)]
        return out

    return rebuild


def untrained(
    states: Floats, rows: NDArray[np.int64], mean: Floats, settings: Settings, model: str, layer: int, longest: float
) -> SparseAutoencoder:
    """Return an autoencoder whose features are random directions, of the length that explains most.

    The length of all of them together is fitted by least squares on some of the rows; nothing else is learned.
    """
    rng = np.random.default_rng([settings.seed, 1])
    drawn = rng.standard_normal((settings.n_features, states.shape[1]))
    directions = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    some = np.sort(rng.choice(rows, min(FITTED, len(rows)), replace=False))
    plain = SparseAutoencoder(
        model=model, layer=layer, k=settings.k, scale=1.0, longest=longest, settings=asdict(settings), bias=mean,
        encoder=directions, encoder_bias=np.zeros(len(directions), np.float32), decoder=directions,
    )  # fmt: skip
    block = np.asarray(states[some], np.float32)
    rebuilt = plain.decode(plain.encode(block)) - mean
    gain = np.float32((rebuilt * (block - mean)).sum(dtype=np.float64) / np.square(rebuilt).sum(dtype=np.float64))
    return SparseAutoencoder(**{**vars(plain), "encoder": gain * directions})
