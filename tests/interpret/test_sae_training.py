"""Training on states of known features; stopped and gone on to the bit; what is refused."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from geomkit.errors import InvalidInputError, SourceUnavailableError
from geomkit.interpret import saved_weights
from geomkit.interpret.activations import Activations
from geomkit.interpret.sae import training
from geomkit.interpret.sae.learner import Settings
from geomkit.interpret.sae.quality import explained, quality
from geomkit.interpret.sae.training import cached_autoencoder, train_autoencoder

D, ACTIVE = 24, 3
SETTINGS = Settings(n_features=96, k=ACTIVE, epochs=12, batch=256, learning_rate=1e-2, auxiliary_k=16, dead_after=2000)
SHORT = replace(SETTINGS, epochs=2, batch=100, dead_after=150)
WEIGHTS = ("bias", "encoder", "encoder_bias", "decoder")


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are done before a second thread has woken up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mixed(n=6000, features=48, seed=0):
    """States that are sums of a few of some directions, far from 0, and the directions."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((features, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    which = np.argsort(rng.random((n, features)), axis=1)[:, :ACTIVE]
    states = (rng.uniform(1, 3, (n, ACTIVE))[..., None] * directions[which]).sum(axis=1) + 7
    return states.astype(np.float32), directions


def train(settings=SHORT, states=None, rows=None, **how):
    states = mixed(1000)[0] if states is None else states
    rows = np.arange(len(states)) if rows is None else rows
    return train_autoencoder(states, rows, settings, model="m", layer=4, **how)


def test_known_features_are_found():
    states, directions = mixed()
    rows = np.arange(0, 6000, 2)
    found = train(SETTINGS, states, rows)
    held, texts = np.arange(1, 6000, 2), np.arange(6000)
    got = quality(found.autoencoder, states, texts, held)
    assert got.explained_variance > 0.85
    assert got.l0 <= ACTIVE
    assert got.dead_fraction < 0.2
    centred = states[rows] - states[rows].mean(axis=0)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:ACTIVE]
    mean = states[rows].mean(axis=0)
    assert explained(states, texts, held, lambda x: mean + (x - mean) @ basis.T @ basis).explained_variance < 0.6
    cosines = directions @ found.autoencoder.decoder.T
    assert np.median(cosines.max(axis=1)) > 0.95
    assert 1 - found.curve[-1]["unexplained"] == pytest.approx(got.explained_variance, abs=0.05)


def test_what_is_told_of_a_training():
    said = []
    found = train(every=7, progress=said.append)
    assert [point["step"] for point in found.curve] == [7, 14, 20]
    assert [point["tokens"] for point in found.curve] == [700, 1400, 2000]
    assert all(0 < point["l0"] <= ACTIVE for point in found.curve)
    assert (found.n_tokens, found.steps, found.first_step, found.device) == (1000, 20, 0, "cpu")
    assert found.seconds_per_token == pytest.approx(found.seconds / 2000)
    assert len(said) == 3
    assert "step 14 of 20" in said[1]
    assert found.to_frame().step.tolist() == [7, 14, 20]
    told = found.to_dict()
    assert (told["model"], told["layer"], told["k"], told["settings"]["epochs"]) == ("m", 4, ACTIVE, 2)
    unknown = train(replace(SHORT, epochs=1, batch=300), every=2).curve
    assert [point["tokens"] for point in unknown] == [600, 1000]  # the last batch is smaller, not dropped


def test_states_are_scaled_to_unit_mean_square_distance():
    states = mixed(1000)[0]
    found = train(states=states).autoencoder
    apart = np.square(states - states.mean(axis=0, dtype=np.float64)).sum(axis=1)
    assert found.scale == pytest.approx(1 / np.sqrt(apart.mean()), rel=1e-5)
    assert found.longest == pytest.approx(10 * np.median(np.linalg.norm(states, axis=1)), rel=1e-6)
    shifted = train(states=8 * states, settings=SHORT).autoencoder
    np.testing.assert_allclose(shifted.decoder, found.decoder, atol=2e-3)
    np.testing.assert_allclose(shifted.bias, 8 * found.bias, rtol=1e-3)


def test_the_seed_and_nothing_else_draws(tmp_path):
    one, same, other = train(), train(), train(replace(SHORT, seed=1))
    for name in WEIGHTS:
        assert np.array_equal(getattr(one.autoencoder, name), getattr(same.autoencoder, name))
    assert not np.array_equal(one.autoencoder.decoder, other.autoencoder.decoder)


def test_the_autoencoder_is_what_was_learned_in_units_of_states(monkeypatch):
    learners, plain = [], training.Learner.step

    def watched(self, x, share):
        learners.append(self)
        return plain(self, x, share)

    monkeypatch.setattr(training.Learner, "step", watched)
    states = mixed(1000)[0]
    found = train(states=states).autoencoder
    learned = learners[0].weights()
    assert np.abs(learned["bias"]).max() > 0.01
    centre = states.mean(axis=0, dtype=np.float64)
    x = (states[:50] - centre) * found.scale - learned["bias"]
    scores = x @ learned["encoder"].T + learned["encoder_bias"]
    least = np.sort(scores, axis=1)[:, -ACTIVE][:, None]
    rebuilt = np.where(scores >= least, np.maximum(scores, 0), 0) @ learned["decoder"] + learned["bias"]
    want = rebuilt / found.scale + centre
    np.testing.assert_allclose(found.decode(found.encode(states[:50])), want, rtol=1e-3, atol=1e-3)


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(monkeypatch):
    seen, plain = [], training.Learner.step

    def watched(self, x, share):
        seen.append(x.numpy())
        return plain(self, x, share)

    monkeypatch.setattr(training.Learner, "step", watched)
    states, rows = mixed(1000)[0], np.arange(0, 1000, 2)
    train(replace(SHORT, batch=150), states, rows)
    assert [len(each) for each in seen] == [150, 150, 150, 50] * 2
    centre = states[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
    want = np.sort((states[rows] - centre)[:, 0])
    for epoch in (seen[:4], seen[4:]):
        found = np.sort(np.concatenate(epoch)[:, 0])
        np.testing.assert_allclose(found / found[0], want / want[0], rtol=1e-3, atol=1e-5)
    assert not np.array_equal(seen[0], seen[4])
    assert len(np.unique(seen[0][:, 0])) == 150


@pytest.mark.parametrize("stop", [5, 10, 15])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, stop):
    def stopping(line):
        if f"step {stop} " in line:
            raise KeyboardInterrupt

    file = tmp_path / "state.safetensors"
    # At the step where it stops the state of five steps before is all that there is.
    with pytest.raises(KeyboardInterrupt):
        train(every=5, state_file=file, progress=stopping)
    assert file.exists() is (stop > 5)
    gone_on, whole = train(every=5, state_file=file), train(every=5)
    assert gone_on.first_step == stop - 5
    for name in WEIGHTS:
        assert np.array_equal(getattr(gone_on.autoencoder, name), getattr(whole.autoencoder, name))
    assert gone_on.curve == whole.curve
    finished = train(every=5, state_file=file)
    assert finished.first_step == 20
    assert np.array_equal(finished.autoencoder.encoder, whole.autoencoder.encoder)
    assert np.isnan(finished.seconds_per_token)
    assert list(tmp_path.iterdir()) == [file]


def test_the_state_of_another_training_is_refused(tmp_path):
    file, states = tmp_path / "state.safetensors", mixed(1000)[0]
    train(state_file=file)
    for settings, own, rows in (
        (replace(SHORT, learning_rate=2e-2), states, None), (SHORT, states, np.arange(900)),
        (SHORT, states + 1, None), (replace(SHORT, n_features=95), states, None),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match="the state of another training"):
            train(settings, own, rows, state_file=file)
    with pytest.raises(InvalidInputError, match="layer 4, not 5"):
        train_autoencoder(states, np.arange(1000), SHORT, model="m", layer=5, state_file=file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises(InvalidInputError, match="cannot be read"):
        train(state_file=file)
    facts, tensors = (file.write_bytes(whole), saved_weights.read_checkpoint(file, training._KIND, "1"))[1]
    del tensors["decoder.first"]
    saved_weights.write_checkpoint(file, training._KIND, "1", facts, tensors)
    with pytest.raises(InvalidInputError, match="not hold a whole state"):
        train(state_file=file)


def test_a_full_disk_leaves_a_state_to_go_on_from(tmp_path, monkeypatch):
    file, calls, plain = tmp_path / "state.safetensors", [], os.fsync

    def filling(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", filling)
    with pytest.raises(SourceUnavailableError, match="No space left"):
        train(every=5, state_file=file)
    assert list(tmp_path.iterdir()) == [file]
    gone_on = train(every=5, state_file=file)
    assert gone_on.first_step == 10
    assert np.array_equal(gone_on.autoencoder.decoder, train(every=5).autoencoder.decoder)


def test_what_cannot_be_trained_on():
    states = mixed(1000)[0]
    for bad, rows, said in (
        (states[0], None, "rows must be"), (states, np.array([1000]), "rows must be"),
        (states, np.array([], int), "rows must be"),
        (states, np.array([-1, 3]), "rows must be"), (np.ones_like(states), None, "all equal"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            train(states=bad, rows=np.arange(len(bad)) if rows is None else rows)
    with pytest.raises(InvalidInputError, match="every must be"):
        train(every=0)
    long, broken = states.copy(), states.copy()
    long[[20, 30]] *= 100
    with pytest.raises(InvalidInputError, match=r"2 attention sinks.*first: 20, 30"):
        train(states=long)
    broken[50, 3] = np.nan
    with pytest.raises(InvalidInputError, match="first: 50"):
        train(states=broken)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    states = mixed(1000)[0]
    n = len(states)
    return Activations(
        model="m", key="k", layers=(4,), n_layers=6, n_texts=n, n_truncated=0, tokens=np.arange(n), texts=np.arange(n),
        positions=np.ones(n, int), states={4: states},
    )  # fmt: skip


def test_a_cached_training_is_the_one_that_ran(kept, tmp_path, monkeypatch):
    rows = np.arange(0, 1000, 2)
    plain = train(states=kept.states[4], rows=rows)
    one = cached_autoencoder(kept, 4, rows, SHORT)
    assert not list((tmp_path / "unfinished").iterdir())
    monkeypatch.setattr(training, "train_autoencoder", None)
    two = cached_autoencoder(kept, 4, rows, SHORT)
    assert vars(two) | {"autoencoder": 0} == vars(one) | {"autoencoder": 0}
    assert (two.curve, two.n_tokens, two.steps) == (plain.curve, plain.n_tokens, plain.steps)
    for name in WEIGHTS:
        assert np.array_equal(getattr(two.autoencoder, name), getattr(plain.autoencoder, name))
    with pytest.raises(TypeError):  # other rows are another training
        cached_autoencoder(kept, 4, rows + 1, SHORT)
    with pytest.raises(InvalidInputError, match="the states are of layers 4"):
        cached_autoencoder(kept, 3, rows, SHORT)


def test_a_cached_training_that_was_stopped_goes_on(kept, tmp_path, monkeypatch):
    trained = training.train_autoencoder.__wrapped__
    monkeypatch.setattr(trained, "__kwdefaults__", trained.__kwdefaults__ | {"every": 5})

    def stopping(line):
        if "step 15 " in line:
            raise KeyboardInterrupt

    rows = np.arange(1000)
    with pytest.raises(KeyboardInterrupt):
        cached_autoencoder(kept, 4, rows, SHORT, progress=stopping)
    assert not [path for path in (tmp_path / "derived").iterdir() if path.is_dir()]
    found = cached_autoencoder(kept, 4, rows, SHORT)
    assert found.first_step == 10
    assert np.array_equal(found.autoencoder.decoder, train(states=kept.states[4]).autoencoder.decoder)
