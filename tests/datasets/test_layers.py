"""SmolLM2, for real: it knows a capital, and its middle layers point almost all one way."""

import numpy as np
import pytest
import tiny
import torch

from geomkit import cosine_stats, neighbors
from geomkit.datasets import get, layers, load, names
from geomkit.datasets.corpora import Corpus, bbc
from geomkit.datasets.language_model import Card, LanguageModel, hidden_states
from geomkit.datasets.layers import smollm2
from geomkit.errors import IntegrityError
from tests.bounds import assert_within
from tests.stats.nearest import METRICS, assert_nearest, same
from tests.stats.oracle import cosines, force


@pytest.fixture(scope="module")
def model():
    return smollm2()


def mean_cosine(x: np.ndarray) -> float:
    """Return the mean over distinct pairs of rows."""
    x = x.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    n = len(x)
    return float((np.square(x.sum(axis=0)).sum() - n) / (n * (n - 1)))


def test_every_layer_is_offered():
    for what in ("documents", "tokens"):
        found = [name for name in names(family="llm", optional=False) if name.startswith(f"smollm2-{what}-")]
        assert found == [f"smollm2-{what}-layer{layer:02}-576" for layer in range(31)]
    assert get("gpt2-documents-layer12-768").optional
    assert "smollm2-input-576" in names(optional=False)


@pytest.mark.real
def test_the_capital_of_france_is_paris(model):
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        chances = model.model(input_ids=ids).logits[0, -1].softmax(-1)

    assert model.tokenizer.decode(int(chances.argmax())) == " Paris"
    assert 0.70 < float(chances.max()) < 0.85


@pytest.fixture(scope="module")
def documents(model):
    """Documents at the start, in the middle and at the end of the model."""
    texts = bbc().texts[::22]
    assert len(texts) == 97
    layers = {"layers": [0, 16, 30], "max_tokens": 32, "sampled_tokens": 500}
    return hidden_states(model.model, model.tokenizer, texts, **layers).documents


@pytest.mark.real
def test_middle_layers_point_one_way(documents):
    start, middle, end = (mean_cosine(each) for each in documents)
    assert middle > 0.98
    assert start < 0.9
    assert end < 0.9


@pytest.mark.real
@pytest.mark.parametrize("product", ["", "torch"])
def test_cosines_of_a_middle_layer_in_bfloat16(documents, monkeypatch, product):
    """All cosines lie within less than a bfloat16 can resolve."""
    force(monkeypatch, product)
    middle = documents[1]
    values, shares = cosines(middle), [0.01, 0.5, 0.99]
    low, high = np.quantile(values, [0.0, 1.0])
    assert high - low < 2**-7
    found = cosine_stats(middle, precision="bfloat16")
    assert found.matmul == (product or "numpy in float32")
    assert_within(found.quantile(shares), np.quantile(values, shares), 1e-4)
    assert_within([found.min, found.max], [low, high], found.error_bound)
    assert_within(found.std, values.std(), found.error_bound)
    assert found.error_bound < 1e-3


@pytest.mark.real
@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_of_documents_are_exact(documents, monkeypatch, metric):
    for x in documents:
        want = neighbors(x, 10, metric=metric, precision="float64")
        assert_nearest(want, x, metric)
        for precision, product in (("float32", ""), ("bfloat16", ""), ("bfloat16", "torch")):
            force(monkeypatch, product)
            found = neighbors(x, 10, metric=metric, precision=precision)
            assert same(found, want)
            assert found.n_recomputed < len(x) / 2


@pytest.mark.real
def test_the_first_token_is_a_sink_and_is_not_sampled(model):
    texts = bbc().texts[::200]
    first = hidden_states(model.model, model.tokenizer, texts, layers=[16], max_tokens=1).documents[0]
    later = hidden_states(model.model, model.tokenizer, texts, layers=[16], max_tokens=32, sampled_tokens=300).tokens[0]

    usual = np.median(np.linalg.norm(later, axis=1))
    assert np.linalg.norm(first, axis=1).min() > 50 * usual
    assert np.linalg.norm(later, axis=1).max() < 5 * usual


@pytest.mark.real
def test_input_table_is_the_models(model):
    got = load("smollm2-input-576")

    assert got.vectors.shape == (49_152, 576)
    assert got.vectors.dtype == np.float32
    assert len(set(got.labels)) == 49_152
    assert got.labels[model.tokenizer(" Paris")["input_ids"][0]] == "ĠParis"
    assert "input and unembedding are one" in got.note


@pytest.mark.real
def test_layer_sources_read_what_one_pass_left(model, cache, monkeypatch):
    whole = bbc()
    few = Corpus(whole.texts[::400], whole.labels[::400], whole.categories[::400], "a few articles", "none", "")
    monkeypatch.setattr(layers, "bbc", lambda: few)
    monkeypatch.setattr(layers, "smollm2", lambda: model)
    got = load("smollm2-documents-layer16-576")
    monkeypatch.setattr(layers, "smollm2", lambda: pytest.fail("the model was loaded again"))
    tokens, last = load("smollm2-tokens-layer16-576", n=200, seed=1), load("smollm2-documents-layer30-576")

    want = hidden_states(model.model, model.tokenizer, few.texts, layers=[16, 30]).documents
    np.testing.assert_allclose(got.vectors, want[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(last.vectors, want[1], rtol=1e-4, atol=1e-3)
    assert got.labels == few.labels
    assert list(got.categories) == list(few.categories)
    assert tokens.vectors.shape == (200, 576)
    assert "no final norm" in got.note
    assert "final norm applied" in last.note


def test_a_hub_model_that_is_not_as_catalogued(cache, monkeypatch):
    card = Card(name="tiny", identity="tiny", layers=2, origin="here", licence="none")
    monkeypatch.setattr(layers, "language_model", lambda _: LanguageModel(card, tiny.llama(), tiny.tokenizer()))
    with pytest.raises(IntegrityError, match="gpt2-input-768 came out with dimension 32"):
        load("gpt2-input-768")
