"""States of every token, against each text alone; the cache; what is refused."""

import errno

import numpy as np
import pytest

from geomkit.core.cache import cache_folder
from geomkit.datasets.states import length_batches
from geomkit.errors import InvalidInputError, SourceUnavailableError
from geomkit.interpret import activations as module
from geomkit.interpret.activations import Deferred, activations
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def passes(monkeypatch):
    """Layers of each pass that ran."""
    seen = []
    plain = module._pass

    def counted(model, rows, layers, into, **how):
        seen.append(list(layers))
        plain(model, rows, layers, into, **how)

    monkeypatch.setattr(module, "_pass", counted)
    return seen


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt-projected", "gemma3"])
def test_states_are_those_of_each_text_alone(kind, cache, monkeypatch):
    monkeypatch.setattr(module, "length_batches", lambda lengths, **_: length_batches(lengths, tokens=40))
    model, texts = lens_models.loaded(kind), lens_models.texts()
    got = activations(model, texts, max_tokens=11)
    at = 0
    for text, words in enumerate(each.split() for each in texts):
        ids = [lens_models.WORDS.index(word) for word in words][:11]
        rows = slice(at, at + len(ids))
        assert got.tokens[rows].tolist() == ids
        assert got.texts[rows].tolist() == [text] * len(ids)
        assert got.positions[rows].tolist() == list(range(len(ids)))
        assert got.next_tokens[rows].tolist() == [*ids[1:], -1]
        for layer in range(4):
            want = lens_models.states_of(model.model, ids, layer).numpy()
            np.testing.assert_allclose(got.states[layer][rows], want, rtol=1e-4, atol=2e-5)
        at += len(ids)
    assert at == len(got.tokens)
    assert got.layers == (0, 1, 2, 3)
    assert (got.n_layers, got.n_texts) == (3, 12)
    assert got.n_truncated == sum(len(text.split()) > 11 for text in texts) > 0
    assert got.sinks.sum() == 12
    assert got.states[3].shape[1] == (16 if kind == "opt-projected" else 32)
    assert not got.states[1].flags.writeable
    assert isinstance(got.states[1], np.memmap)


def test_a_pass_fills_what_is_missing_and_nothing_else(cache, passes):
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    first = activations(model, texts, [1, -1])
    assert passes == [[1, 3]]
    deferred = Deferred(model.card, lambda: pytest.fail("loaded without need"))
    again = activations(deferred, texts, [3])
    assert passes == [[1, 3]]
    assert again.layers == (3,)
    assert (again.states[3] == first.states[3]).all()
    more = activations(model, texts, [0, 1, 2])
    assert passes == [[1, 3], [0, 2]]
    assert (more.states[1] == first.states[1]).all()


@pytest.mark.parametrize("change", ["model", "texts", "max_tokens", "dtype"])
def test_what_states_depend_on_makes_other_states(change, cache, passes):
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    one = activations(model, texts, [1])
    how = {"max_tokens": 5} if change == "max_tokens" else {"dtype": "float16"} if change == "dtype" else {}
    other = activations(
        lens_models.loaded("llama", "another") if change == "model" else model,
        texts[::-1] if change == "texts" else texts,
        [1],
        **how,
    )
    assert passes == [[1], [1]]
    assert (one.key == other.key) == (change == "dtype")
    if change == "dtype":
        assert other.states[1].dtype == np.float16
        assert (other.states[1] == one.states[1].astype(np.float16)).all()


def test_a_damaged_layer_is_made_again(cache, passes):
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    want = {layer: np.array(state) for layer, state in activations(model, texts, [0, 1, 2]).states.items()}
    files = sorted(cache_folder().glob("derived/activations-*/states.npy"))
    assert len(files) == 3
    for each in files:
        each.touch()  # as a copy does: found intact, and not made again
    activations(model, texts, [0, 1, 2])
    assert passes == [[0, 1, 2]]
    files[1].write_bytes(files[1].read_bytes()[:-100])
    got = activations(model, texts, [0, 1, 2])
    assert len(passes) == 2
    assert all((got.states[layer] == want[layer]).all() for layer in want)


def test_a_full_disk_leaves_nothing_behind(cache, monkeypatch):
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    plain, calls = module.forward, []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*args)

    monkeypatch.setattr(module, "length_batches", lambda lengths, **_: length_batches(lengths, tokens=40))
    monkeypatch.setattr(module, "forward", full)
    with pytest.raises(SourceUnavailableError, match="disk is full"):
        activations(model, texts, [0, 2])
    assert not list(cache_folder().glob("derived/*activations*"))
    monkeypatch.setattr(module, "forward", plain)
    assert activations(model, texts, [0, 2]).states[2].shape[0] == sum(len(text.split()) for text in texts)


def test_float16_that_cannot_hold_a_value_is_refused(cache):
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    model.model.model.embed_tokens.weight.data *= 1e6
    with pytest.raises(InvalidInputError, match="float16, which cannot hold"):
        activations(model, texts, [0], dtype="float16")
    assert not list(cache_folder().glob("derived/*activations*"))


@pytest.mark.parametrize(
    ("texts", "layers", "how", "said"),
    [
        ("w1 w2", None, {}, "one string"),
        ([], None, {}, "texts is empty"),
        (["w1", ""], None, {}, "without a token"),
        (["w1"], [4], {}, "layer is 4; tiny-llama has layers 0 to 3"),
        (["w1"], [-5], {}, "layer is -5"),
        (["w1"], [], {}, "layers is empty"),
        (["w1 " * 65], None, {}, "one of 65 tokens; the context of tiny-llama is 64"),
        (["w1"], None, {"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        (["w1"], None, {"dtype": "int8"}, "dtype must be"),
        (["w1"], None, {"device": "nowhere"}, "device is 'nowhere'"),
    ],
)
def test_bad_input_is_refused(texts, layers, how, said, cache):
    with pytest.raises(InvalidInputError, match=said):
        activations(lens_models.loaded("llama"), texts, layers, **how)


def test_batches_are_of_similar_length_and_of_so_many_tokens():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    batches = list(length_batches(lengths, tokens=64))
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= 64
    flat = lengths[np.concatenate(batches)]
    assert (np.diff(flat) <= 0).all()
    assert len(batches) < 200
