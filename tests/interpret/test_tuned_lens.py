"""Tuned lenses: what training does, that it goes on to the bit, and which files are refused."""

import errno
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from geomkit.errors import InvalidInputError, SourceUnavailableError
from geomkit.interpret.activations import activations
from geomkit.interpret.lens import tuned_training as training
from geomkit.interpret.lens.logit_lens import logit_lens, reading_of
from geomkit.interpret.lens.statistics import lens_statistics, rows_of
from geomkit.interpret.lens.tuned_lens import load_tuned_lens
from geomkit.interpret.lens.tuned_start import RIDGES, regressions
from geomkit.interpret.lens.tuned_training import train_tuned_lens
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def made(cache):
    return ready("llama")


def ready(kind):
    loaded = lens_models.loaded(kind)
    states = activations(loaded, lens_models.texts(80))
    return logit_lens(loaded), states, rows_of(states, 20, 0)


def train(made, **how):
    lens, states, rows = made
    settings = {"steps": 12, "batch": 64, "start": "identity", "learning_rate": 1e-2, "every": 4}
    return train_tuned_lens(lens, states, [1, 2], rows, **settings | how)


def test_nothing_is_translated_before_the_first_step(made):
    tuned = train(made, steps=0).tuned
    states = torch.randn(5, 32)
    for layer in (1, 2):
        assert not tuned.weights[layer].any()
        assert not tuned.biases[layer].any()
        assert (tuned.translate(states, layer) == states).all()


@pytest.mark.parametrize("kind", ["gpt2", "opt-projected", "opt-post-norm", "gemma3"])
def test_kl_falls_on_texts_that_were_held_out(kind, cache):
    lens, states, rows = ready(kind)
    held = states.texts[rows] >= 60
    start = "identity" if kind.startswith("opt") else "regression"
    how = {"steps": 60, "batch": 128, "start": start, "learning_rate": 3e-3}
    got = train_tuned_lens(lens, states, [1, 2], rows[~held], **how)
    readers = {"lens": ((1, 2), lens.logits), "tuned": ((1, 2), got.tuned.reader(lens))}
    kl = lens_statistics(lens, states, rows[held], readers).values["kl"].mean(axis=1)
    assert (kl[2:] < 0.9 * kl[:2]).all()
    assert got.losses.shape == (60, 2)
    assert got.first_step == 0
    assert got.seconds_per_step > 0


def test_the_losses_are_mean_kl_and_one_step_is_adams(made):
    """A step by autograd through the definition, by a plain Adam in the same columns."""
    lens, states, rows = made
    got = train(made, steps=1)
    assert all(each.grad is None for each in lens.loaded.model.parameters())
    drawn = np.sort(np.random.default_rng([0, 0]).permutation(rows)[:64])
    h = torch.tensor(np.array(states.states[2][drawn]))
    every = np.array(states.states[2][rows], np.float64)
    centre, scale = (torch.tensor(f(every, axis=0), dtype=torch.float32) for f in (np.mean, np.std))
    a, b = torch.zeros(32, 32, requires_grad=True), torch.zeros(32, requires_grad=True)
    final = lens.logits(torch.tensor(np.array(states.states[3][drawn])), 3).log_softmax(-1).detach()
    said = lens.logits(h + scale * (((h - centre) / scale) @ a.T + b), 2).log_softmax(-1)
    loss = torch.nn.functional.kl_div(said, final, log_target=True, reduction="batchmean")
    adam = torch.optim.Adam([a, b], lr=1e-2)
    loss.backward()
    adam.step()
    assert got.losses[0, 1] == pytest.approx(float(loss.detach()), rel=1e-5)
    moved = h + scale * (((h - centre) / scale) @ a.T + b)
    torch.testing.assert_close(got.tuned.translate(h, 2), moved.detach(), rtol=1e-4, atol=1e-3)


def test_an_epoch_sees_each_row_once_and_epochs_differ():
    rows = np.arange(100, 160)
    first = [training._batch(rows, step, 20, 0) for step in range(3)]
    assert sorted(np.concatenate(first).tolist()) == rows.tolist()
    assert (training._batch(rows, 3, 20, 0) != first[0]).any()
    assert (training._batch(rows, 0, 20, 0) == first[0]).all()
    assert (training._batch(rows, 0, 20, 1) != first[0]).any()


def test_the_regression_is_the_ridge_regression_on_what_the_norm_is_given(made):
    lens, states, rows = made
    begin = regressions(lens, states, [2], rows)[2]
    h, last = (np.array(states.states[layer][rows], np.float64) for layer in (2, 3))
    given = last / lens.parts.tail[0].weight.detach().double().numpy()
    z = (h - h.mean(0)) / h.std(0)
    fits = []
    for ridge in RIDGES:
        slope = np.linalg.solve(z.T @ z + ridge * len(z) * np.eye(32), z.T @ (given - given.mean(0)))
        fits.append(np.abs(z @ slope + given.mean(0) - (h + h @ begin.weight.T + begin.bias)).max())
    assert min(fits) < 1e-4
    plain = lens_statistics(lens, states, rows, {"lens": ((2,), lens.logits)}).values["kl"].mean()
    started = train(made, start="regression", steps=0).tuned
    assert lens_statistics(lens, states, rows, {"r": ((2,), started.reader(lens))}).values["kl"].mean() < 0.8 * plain


def test_a_regression_takes_a_norm_alone(cache):
    for kind in ("opt-projected", "opt-post-norm"):
        with pytest.raises(InvalidInputError, match=r"start is .regression., but .* start=.identity."):
            train(ready(kind), start="regression")


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("start", ["identity", "regression"])
@pytest.mark.parametrize("stop", [5, 8])
def test_an_interrupted_training_goes_on_to_the_same_bits(start, stop, made, tmp_path, monkeypatch):
    whole = train(made, start=start).tuned
    file = tmp_path / "state.safetensors"
    plain, calls = training._batch, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == stop + 1:
            raise Stopped
        return plain(*args)

    monkeypatch.setattr(training, "_batch", interrupted)
    with pytest.raises(Stopped):
        train(made, start=start, state_file=file)
    monkeypatch.setattr(training, "_batch", plain)
    resumed = train(made, start=start, state_file=file)
    assert resumed.first_step == (4 if stop == 5 else 8)
    for layer in (1, 2):
        assert (resumed.tuned.weights[layer] == whole.weights[layer]).all()
        assert (resumed.tuned.biases[layer] == whole.biases[layer]).all()
    finished = train(made, start=start, state_file=file)
    assert (finished.first_step, len(finished.losses)) == (12, 0)
    assert (finished.tuned.weights[1] == whole.weights[1]).all()


@pytest.mark.parametrize(
    "how", [{"steps": 13}, {"batch": 32}, {"seed": 1}, {"learning_rate": 1e-3}, {"start": "regression"}]
)
def test_a_state_of_another_training_is_refused(how, made, tmp_path):
    file = tmp_path / "state.safetensors"
    train(made, state_file=file)
    with pytest.raises(InvalidInputError, match=f"state of another training: {next(iter(how))}"):
        train(made, state_file=file, **how)
    lens, states, rows = made
    with pytest.raises(InvalidInputError, match="another training: rows"):
        train((lens, states, rows[1:]), state_file=file)


def test_a_saved_lens_reads_the_same_and_only_its_model(made, tmp_path):
    lens, *_ = made
    tuned, file = train(made).tuned, tmp_path / "lens.safetensors"
    tuned.save(file)
    again = load_tuned_lens(file, lens)
    assert again.to_dict() == tuned.to_dict()
    assert again.to_dict()["model"] == "id-llama"
    for layer in (1, 2):
        assert (again.weights[layer] == tuned.weights[layer]).all()
        assert (again.biases[layer] == tuned.biases[layer]).all()
    one = reading_of(lens, "w1 w2 w3", tuned=again)
    assert one.layers == (1, 2, 3)
    assert one.reader == "tuned lens"
    assert np.abs(one.values["kl"][2]).max() < 1e-6
    assert (one.values["kl"][:2] != reading_of(lens, "w1 w2 w3", [1, 2]).values["kl"]).all()
    with pytest.raises(InvalidInputError, match="layer is 0; the tuned lens has translators of layers 1, 2"):
        reading_of(lens, "w1 w2", [0], tuned=again)
    other = logit_lens(lens_models.loaded("llama", "other"))
    with pytest.raises(InvalidInputError, match="is a tuned lens of model id-llama, not of other"):
        load_tuned_lens(file, other)
    with pytest.raises(InvalidInputError, match="the tuned lens is of model id-llama"):
        reading_of(other, "w1 w2", tuned=again)


def test_files_that_are_not_whole_are_refused(made, tmp_path):
    lens, *_ = made
    tuned, file = train(made, steps=1).tuned, tmp_path / "lens.safetensors"
    with pytest.raises(InvalidInputError, match="is not a file"):
        load_tuned_lens(file, lens)
    tuned.save(file)
    data = file.read_bytes()
    for cut in (data[:-1], data[:40], b"", b"not one"):
        file.write_bytes(cut)
        with pytest.raises(InvalidInputError, match="cannot be read"):
            load_tuned_lens(file, lens)
    state = tmp_path / "state.safetensors"
    train(made, state_file=state)
    with pytest.raises(InvalidInputError, match=r"is of kind 'geomkit.meaning.tuned_lens.training'"):
        load_tuned_lens(state, lens)
    file.write_bytes(data.replace(b"bias.1", b"bias.9"))
    with pytest.raises(InvalidInputError, match="does not have a weight and a bias of each"):
        load_tuned_lens(file, lens)
    tuned.biases[1][3] = np.nan
    tuned.save(file)
    with pytest.raises(InvalidInputError, match=r"NaN or infinity in bias\.1"):
        load_tuned_lens(file, lens)


def test_a_full_disk_leaves_the_last_state(made, tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    train(made, steps=12, state_file=file, every=4)
    before = file.read_bytes()
    tuned = train(made, steps=1).tuned
    plain = os.fsync

    def full(handle):
        plain(handle)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SourceUnavailableError, match="No space left on device"):
        tuned.save(file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["state.safetensors"]
    assert set(load_file(file))


@pytest.mark.parametrize(
    ("layers", "how", "said"),
    [
        ([3], {}, "layers are .3.; they must be from 0 to 2"),
        ([], {}, "layers are"),
        ([1], {"steps": -1}, "steps must be a whole number of at least 0; got -1"),
        ([1], {"batch": 0}, "batch must be a whole number of at least 1; got 0"),
        ([1], {"learning_rate": 0.0}, "learning_rate must be a number above 0; got 0"),
        ([1], {"start": "zero"}, r"start must be one of \['regression', 'identity'\]"),
        ([1], {"batch": 10_000}, "a batch takes 10,000"),
    ],
)
def test_bad_settings_are_refused(layers, how, said, made):
    lens, states, rows = made
    with pytest.raises(InvalidInputError, match=said):
        train_tuned_lens(lens, states, layers, rows, **how)


def test_the_cost_is_said(made):
    lines = []
    train(made, progress=lines.append)
    assert len(lines) == 3
    assert "step 4 of 12" in lines[0]
    assert "s for all 3 layers" in lines[0]
