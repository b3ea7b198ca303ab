"""Losses against the model's own, text by text; what is replaced and what is passed through."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from geomkit.errors import InvalidInputError
from geomkit.interpret.sae import splicing
from geomkit.interpret.sae.autoencoder import SparseAutoencoder
from geomkit.interpret.sae.splicing import CLEAN, constant, reconstruction
from tests.interpret import lens_models

D = 32
splice = partial(splicing.splice, max_tokens=20)


@pytest.fixture(autouse=True)
def one_thread():
    """Products this small are done before a second thread has woken up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def whole(layer=2, identity="id-llama"):
    """An autoencoder that rebuilds every state: a feature for each direction and one for its opposite."""
    both = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
    return SparseAutoencoder(
        model=identity, layer=layer, k=D, scale=0.5, longest=1e6, settings={}, bias=np.full(D, 0.1, np.float32),
        encoder=both, encoder_bias=np.zeros(2 * D, np.float32), decoder=both,
    )  # fmt: skip


def losses(model, texts, change=None, layer=2, most=128):
    """Σ -ln p after the first token of each text alone, its states changed where they leave a block."""
    out = []
    for text in texts:
        ids = torch.tensor([[lens_models.WORDS.index(word) for word in text.split()][:most]])

        def hook(_module, _inputs, output):
            plain = isinstance(output, torch.Tensor)
            states = (output if plain else output[0]).clone()
            for place in range(1, states.shape[1]):
                states[0, place] = change(states[0, place])
            return states if plain else (states, *output[1:])

        blocks = (each for each in model.modules() if isinstance(each, torch.nn.ModuleList) and len(each) == 3)
        handle = next(blocks)[layer - 1].register_forward_hook(hook) if change else None
        with torch.no_grad():
            said = model(input_ids=ids).logits[0].log_softmax(-1)
        if handle:
            handle.remove()
        out.append(-sum(float(said[at, ids[0, at + 1]]) for at in range(1, ids.shape[1] - 1)))
    return out


def hooks(model):
    """Count hooks; the library leaves some of its own after a first pass."""
    return sum(len(each._forward_hooks) for each in model.model.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3", "opt-projected"])
def test_losses_are_those_of_each_text_alone(kind, monkeypatch):
    monkeypatch.setattr(splicing, "_BATCH_TOKENS", 40)
    monkeypatch.setattr(splicing, "_CHUNK", 7)
    model, texts = lens_models.loaded(kind), [*lens_models.texts(), "w1 w2", "w3"]
    splice(model, texts, 2, {})
    before = hooks(model)
    ways = {"zero": constant(np.zeros(D)), "half": lambda x: x / 2, "same": lambda x: x}
    found = splice(model, texts, 2, ways, max_tokens=15)
    changes = {CLEAN: None, "zero": torch.zeros_like, "half": lambda x: x / 2, "same": None}
    for name, change in changes.items():
        want = losses(model.model, texts, change, most=15)
        np.testing.assert_allclose(found.losses[name], want, rtol=1e-4, atol=1e-4)
    lengths = np.array([min(len(text.split()), 15) for text in texts])
    assert found.counts.tolist() == np.maximum(lengths - 2, 0).tolist()
    assert (found.n, found.n_texts, found.n_read) == (found.counts.sum(), len(texts), lengths.sum())
    assert np.array_equal(found.losses["same"], found.losses[CLEAN])
    assert found.cross_entropy("half") == pytest.approx(sum(found.losses["half"]) / found.n)
    lost = found.cross_entropy("zero") - found.cross_entropy(CLEAN)
    share = (found.cross_entropy("zero") - found.cross_entropy("half")) / lost
    assert found.recovered("half", "zero") == pytest.approx(share)
    assert (found.recovered(CLEAN, "zero"), found.recovered("zero", "zero")) == (1, 0)
    assert math.isnan(found.recovered("half", "same"))
    assert set(found.seconds) == set(changes)
    assert found.to_dict()["cross_entropy_zero"] == found.cross_entropy("zero")
    assert hooks(model) == before


def test_an_autoencoder_that_rebuilds_all_loses_nothing():
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    put = reconstruction(whole(), model.card, 2)
    found = splice(model, texts, 2, {"sae": put, "one": reconstruction(whole(), model.card, 2, k=1)})
    assert found.recovered("sae", "one") == pytest.approx(1, abs=1e-4)
    assert found.cross_entropy("one") != pytest.approx(found.cross_entropy(CLEAN), rel=1e-3)


def test_sinks_are_passed_through():
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    norms = []
    splice(model, texts, 2, {"watch": lambda x: norms.append(x.norm(dim=1)) or x})
    norms = torch.cat(norms)
    assert len(norms) == sum(len(text.split()) - 1 for text in texts)
    limit = float(norms.median())
    seen = []
    found = splice(
        model, texts, 2, {"watch": lambda x: seen.append(x.norm(dim=1)) or torch.zeros_like(x)}, longest=limit
    )
    assert sum(map(len, seen)) == int((norms <= limit).sum())
    want = losses(model.model, texts, lambda x: torch.zeros_like(x) if float(x.norm()) <= limit else x)
    np.testing.assert_allclose(found.losses["watch"], want, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_spliced():
    model, texts = lens_models.loaded("llama"), lens_models.texts()
    splice(model, texts, 2, {})
    before = hooks(model)
    for layer in (0, 3, -1):
        with pytest.raises(InvalidInputError, match="layers 1 to 2 of tiny-llama"):
            splice(model, texts, layer, {})
    for bad, said in (([], "texts is empty"), ("w1 w2 w3", "one string"), (["w1 w2", "w3"], "none of three tokens"),
                      (["w1", ""], "without a token")):  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            splice(model, bad, 2, {})
    with pytest.raises(InvalidInputError, match="named 'clean'"):
        splice(model, texts, 2, {CLEAN: lambda x: x})
    with pytest.raises(InvalidInputError, match="context = 64"):
        splice(model, texts, 2, {}, max_tokens=65)
    with pytest.raises(InvalidInputError, match="width of 32"):
        splice(model, texts, 2, {"bad": constant(np.zeros(31))})
    with pytest.raises(InvalidInputError, match="a replacement returned shape"):
        splice(model, texts, 2, {"bad": lambda x: x[:1]})
    assert hooks(model) == before
    with pytest.raises(InvalidInputError, match="an encoder"):
        splice(type(model)(model.card, lens_models.bert(), model.tokenizer), texts, 2, {})
    for of, said in ((whole(identity="other"), "is of model other"), (whole(layer=1), "not of layer 2")):
        with pytest.raises(InvalidInputError, match=said):
            reconstruction(of, model.card, 2)
