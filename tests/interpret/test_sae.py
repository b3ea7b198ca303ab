"""Encoding and decoding against loops over features; checkpoints, whole or refused."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_array

from geomkit.datasets.language_model import Card
from geomkit.errors import InvalidInputError, SourceUnavailableError
from geomkit.interpret.sae import autoencoder
from geomkit.interpret.sae.autoencoder import SparseAutoencoder, load_autoencoder

CARD = Card("tiny", "id-tiny", 3, "", "")


def made(features=20, d=6, k=3, seed=0):
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((features, d))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    arrays = {
        "bias": rng.standard_normal(d), "encoder": rng.standard_normal((features, d)),
        "encoder_bias": rng.standard_normal(features) - 0.5, "decoder": decoder,
    }  # fmt: skip
    return SparseAutoencoder(
        model="id-tiny", layer=2, k=k, scale=0.7, longest=50.0, settings={"seed": seed},
        **{name: value.astype(np.float32) for name, value in arrays.items()},
    )  # fmt: skip


def naive(of, states, k):
    """Activations by sorting, a row and a feature at a time, in float64."""
    out = np.zeros((len(states), of.n_features))
    for row, state in enumerate(np.asarray(states, np.float64)):
        scores = [
            float(of.encoder[f].astype(float) @ (of.scale * (state - of.bias)) + of.encoder_bias[f])
            for f in range(of.n_features)
        ]
        for f in sorted(range(of.n_features), key=lambda f: -scores[f])[:k]:
            out[row, f] = max(scores[f], 0.0)
    return out


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("block", [7, 4096])
def test_encoding_is_what_the_formula_says(k, block, monkeypatch):
    monkeypatch.setattr(autoencoder, "BLOCK", block)
    of = made()
    states = np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32)
    found, want = of.encode(states, k=k), naive(of, states, k)
    np.testing.assert_allclose(found.toarray(), want, rtol=1e-5, atol=1e-5)
    assert (found.data > 0).all()
    assert found.has_sorted_indices
    assert (np.diff(found.indptr) == (want > 0).sum(axis=1)).all()
    assert found.dtype == np.float32
    if k == 3:
        assert (of.encode(states) != found).nnz == 0
    assert np.diff(found.indptr).max() <= k
    assert (np.diff(found.indptr).min() < k) == (k == 20)  # scores below 0 are no activations
    rebuilt = want @ of.decoder / of.scale + of.bias
    np.testing.assert_allclose(of.decode(found), rebuilt, rtol=1e-4, atol=1e-4)
    coder = of.coder(k)
    again = coder.rebuilt(*coder.codes(torch.from_numpy(states))).numpy()
    np.testing.assert_allclose(again, rebuilt, rtol=1e-4, atol=1e-4)


def test_half_precision_states_are_read_as_they_are():
    of, states = made(), np.random.default_rng(1).standard_normal((9, 6)).astype(np.float16)
    assert (of.encode(states) != of.encode(states.astype(np.float32))).nnz == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.sampled_from([0.25, 4.0, 64.0]))
def test_a_change_of_units_changes_nothing(seed, factor):
    of = made(seed=seed)
    states = np.random.default_rng(seed).standard_normal((8, 6)).astype(np.float32)
    scaled = replace(of, bias=of.bias * np.float32(factor), scale=of.scale / factor)
    found = scaled.encode(states * np.float32(factor))
    np.testing.assert_allclose(found.toarray(), of.encode(states).toarray(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scaled.decode(found), factor * of.decode(found), rtol=1e-4, atol=1e-4 * factor)


def test_states_that_cannot_be_encoded():
    of, states = made(), np.ones((5, 6), np.float32)
    for bad, said in ((np.ones((5, 7), np.float32), "6 numbers"), (np.ones(6, np.float32), "6 numbers"),
                      (np.ones((0, 6), np.float32), "6 numbers"), (np.ones((5, 6)), "float32 or float16")):  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            of.encode(bad)
    states[3, 2] = np.nan
    with pytest.raises(InvalidInputError, match=r"not finite .first: 3"):
        of.encode(states)
    for k in (0, 21, True, 2.0):
        with pytest.raises(InvalidInputError, match="k must be a whole number from 1 to n_features = 20"):
            of.encode(states, k=k)
    with pytest.raises(InvalidInputError, match="20 columns"):
        of.decode(csr_array(np.ones((2, 19))))
    with pytest.raises(InvalidInputError, match="device is 'nowhere'"):
        of.encode(np.ones((5, 6), np.float32), device="nowhere")


def test_parts_that_do_not_fit_are_refused():
    of = made()
    for change, said in (
        ({"bias": of.bias[1:]}, "bias must be"), ({"encoder": of.encoder[1:]}, "encoder must be"),
        ({"encoder_bias": of.encoder_bias.astype(np.float64)}, "float32"), ({"decoder": 2 * of.decoder}, "length 1"),
        ({"encoder": of.encoder * np.float32(np.nan)}, "finite"), ({"k": 21}, "k must be"), ({"scale": 0.0}, "scale"),
        ({"longest": np.inf}, "longest"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            replace(of, **change)


def test_a_saved_autoencoder_is_the_same(tmp_path):
    of = made()
    of.save(tmp_path / "one.safetensors")
    found = load_autoencoder(tmp_path / "one.safetensors", CARD, 2)
    assert found.to_dict() == of.to_dict()
    for name in ("bias", "encoder", "encoder_bias", "decoder"):
        assert np.array_equal(getattr(found, name), getattr(of, name))
    assert [path.name for path in tmp_path.iterdir()] == ["one.safetensors"]


def test_files_that_are_no_autoencoder_of_this_are_refused(tmp_path):
    of, file = made(), tmp_path / "one.safetensors"
    of.save(file)
    for card, layer, said in (
        (replace(CARD, identity="another"), 2, "is of model id-tiny, not of tiny"), (CARD, 1, "not of layer 1"),
        (None, 1, "not of layer 1"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            load_autoencoder(file, card, layer)
    whole = file.read_bytes()
    for size in (0, 7, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(InvalidInputError, match=r"one\.safetensors"):
            load_autoencoder(file)
    with pytest.raises(InvalidInputError, match="is not a file"):
        load_autoencoder(tmp_path / "none")


def test_every_part_of_a_file_is_checked(tmp_path):
    of, file = made(), tmp_path / "one.safetensors"
    names = ("bias", "encoder", "encoder_bias", "decoder")
    tensors = {name: getattr(of, name) for name in names}
    facts = of.to_dict()
    for changed, others, said in (
        (facts | {"d": 7}, {}, "says 7 x 20"), (facts | {"k": 21}, {}, "k must be"), (facts | {"k": "3"}, {}, "its k"),
        (facts | {"model": None}, {}, "its model"), (facts, {"bias": of.bias[1:]}, "bias must be"),
        (facts, {"decoder": of.decoder.astype(np.float64)}, "decoder must be"), (facts, {"more": of.bias}, "tensors"),
        (facts, {"encoder": of.encoder * np.float32(np.inf)}, "NaN or infinity"),
    ):  # fmt: skip
        autoencoder.write_checkpoint(file, autoencoder._KIND, autoencoder._FORMAT, changed, tensors | others)
        with pytest.raises(InvalidInputError, match=said):
            load_autoencoder(file)
    save_file(tensors, file, {"kind": "another"})
    with pytest.raises(InvalidInputError, match="kind 'another'"):
        load_autoencoder(file)
    assert set(load_file(file)) == set(names)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    of, file = made(), tmp_path / "one.safetensors"
    of.save(file)
    before = file.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceUnavailableError, match="No space left"):
        made(seed=1).save(file)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
