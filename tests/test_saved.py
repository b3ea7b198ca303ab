"""What version 0.8.0 saved is read by this one. tests/saved/0.8.0 was written by that version."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

import geomkit
from geomkit.distributed.api import distribute
from geomkit.interpret.lens.logit_lens import logit_lens
from geomkit.interpret.lens.tuned_lens import load_tuned_lens
from geomkit.interpret.sae.autoencoder import load_autoencoder
from geomkit.transforms import load
from tests.interpret import lens_models, test_sae

SAVED = Path(__file__).parent / "saved" / "0.8.0"


@pytest.mark.parametrize("name", ["AllButTheTop", "Centering", "Standardizing", "Whitening"])
def test_a_transform_does_what_it_did(name):
    transform = load(SAVED / f"{name}.safetensors")
    assert type(transform).__name__ == name
    rows = (np.random.default_rng(0).standard_normal((60, 5)) * [3, 2, 1, 0.5, 0.25] + 1)[:3]
    expected = np.load(SAVED / "expected.npz")[name]
    np.testing.assert_allclose(transform.transform(rows), expected, rtol=1e-13, atol=1e-13)


def test_a_sparse_autoencoder_is_the_same():
    loaded, made = load_autoencoder(SAVED / "sae.safetensors", test_sae.CARD, 2), test_sae.made()
    assert loaded.to_dict() == made.to_dict()
    assert np.array_equal(loaded.decoder, made.decoder)
    assert np.array_equal(loaded.encoder, made.encoder)


def test_a_tuned_lens_is_the_same():
    tuned = load_tuned_lens(SAVED / "tuned_lens.safetensors", logit_lens(lens_models.loaded("llama")))
    assert tuned.layers == (1, 2)
    assert tuned.settings == {"steps": 7, "seed": 0}
    weights = np.random.default_rng(2).standard_normal((2, 32, 32)).astype(np.float32) * np.float32(0.01)
    np.testing.assert_allclose(tuned.weights[2], weights[1], rtol=1e-6)


def test_a_folder_of_partial_results_gives_the_same_values(tmp_path):
    folder = copytree(SAVED / "run", tmp_path / "run")
    expected = np.load(SAVED / "expected.npz")
    with distribute(np.load(SAVED / "rows.npy"), checkpoint_dir=folder, checkpoint_every=0.0, threads=1) as rows:
        moments, cosine = geomkit.moments(rows), geomkit.cosine_stats(rows)
    found = [moments.cosine_mean, moments.squared_distance_variance, cosine.mean, cosine.std]
    np.testing.assert_allclose(found, [*expected["moments"], *expected["cosine"]], rtol=1e-12)
