"""Hidden states of tiny models, against each text run by hand and alone."""

import numpy as np
import pytest
import tiny
import torch
import transformers

from geomkit.datasets import states as pass_over
from geomkit.datasets.language_model import (
    from_language_model,
    hidden_states,
    input_vectors,
    language_model,
    unembedding_vectors,
)
from geomkit.errors import InvalidInputError, SourceUnavailableError

KINDS = pytest.mark.parametrize("kind", ["gpt2", "llama"])


def by_hand(model, text: str, layer: int, *, max_tokens: int = 128) -> np.ndarray:
    """Return (tokens, dim): one text through the whole model, no batch, no padding."""
    ids = torch.tensor([tiny.tokenizer()(text)["input_ids"][:max_tokens]])
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0].numpy()


@KINDS
def test_pooled_vectors_are_means_over_the_tokens_of_each_text_alone(kind, tmp_path, cache):
    model = tiny.MAKERS[kind]()
    folder = tiny.saved(kind, tmp_path)

    for layer in range(model.config.num_hidden_layers + 1):
        got = from_language_model(folder, texts=tiny.TEXTS, layer=layer)
        want = np.stack([by_hand(model, text, layer).mean(axis=0) for text in tiny.TEXTS])

        assert got.vectors.shape == (4, 32)
        assert got.vectors.dtype == np.float32
        np.testing.assert_allclose(got.vectors, want, atol=1e-5)
        assert got.name == f"tiny-{kind}-documents-layer{layer:02}-32"
        assert list(got.labels) == ["0", "1", "2", "3"]
        assert (got.family, got.dim, got.categories) == ("llm", 32, None)
        assert "first 128 tokens of each text" in got.note


@KINDS
def test_padding_is_ignored(kind):
    model, tokenizer = tiny.MAKERS[kind](), tiny.tokenizer()
    texts = [" ".join(tiny.WORDS[: 1 + i % 13]) for i in range(40)]  # more than one batch, every length from 1 to 13

    together = hidden_states(model, tokenizer, texts)
    alone = [hidden_states(model, tokenizer, [text]).documents[:, 0] for text in texts]

    np.testing.assert_allclose(together.documents, np.stack(alone, axis=1), atol=1e-5)


@KINDS
def test_last_layer_has_the_final_norm_applied(kind):
    model = tiny.MAKERS[kind]()
    got = hidden_states(model, tiny.tokenizer(), [tiny.TEXTS[1]], layers=[-1])
    ids = torch.tensor([tiny.tokenizer()(tiny.TEXTS[1])["input_ids"]])
    with torch.no_grad():
        want = model.base_model(input_ids=ids).last_hidden_state[0].mean(0).numpy()

    assert got.layers == (model.config.num_hidden_layers,)
    np.testing.assert_allclose(got.documents[0, 0], want, atol=1e-5)


@KINDS
def test_sampled_tokens_are_states_in_context_and_never_the_first(kind):
    model = tiny.MAKERS[kind]()
    texts = tiny.TEXTS * 10
    got = hidden_states(model, tiny.tokenizer(), texts, sampled_tokens=60, seed=3)

    assert got.tokens.shape == (model.config.num_hidden_layers + 1, 60, 32)
    places = list(zip(got.token_texts.tolist(), got.token_positions.tolist(), strict=True))
    assert places == sorted(set(places))
    assert min(got.token_positions) == 1
    for slot, (text, position) in enumerate(places):
        assert got.token_labels[slot] == texts[text].split()[position]
        for layer in got.layers:
            want = by_hand(model, texts[text], layer)[position]
            np.testing.assert_allclose(got.tokens[layer, slot], want, atol=1e-5)


def test_every_position_but_the_first_can_be_sampled():
    lengths = [len(text.split()) for text in tiny.TEXTS]
    got = hidden_states(tiny.llama(), tiny.tokenizer(), tiny.TEXTS, sampled_tokens=sum(lengths) - 4)

    wanted = [(text, position) for text, length in enumerate(lengths) for position in range(1, length)]
    assert list(zip(got.token_texts.tolist(), got.token_positions.tolist(), strict=True)) == wanted


def test_positions_depend_on_the_seed_only():
    def places(seed: int) -> list[int]:
        found = hidden_states(tiny.gpt2(), tiny.tokenizer(), tiny.TEXTS * 5, sampled_tokens=20, seed=seed)
        return (found.token_texts * 1000 + found.token_positions).tolist()

    assert places(1) == places(1)
    assert places(1) != places(2)


def test_reads_the_first_tokens_only():
    model = tiny.gpt2()
    long = " ".join(tiny.WORDS * 12)
    assert len(long.split()) > 200

    got = hidden_states(model, tiny.tokenizer(), [long], layers=[2])
    short = hidden_states(model, tiny.tokenizer(), [long], layers=[2], max_tokens=7)

    np.testing.assert_allclose(got.documents[0, 0], by_hand(model, long, 2).mean(axis=0), atol=1e-5)
    want = by_hand(model, long, 2, max_tokens=7).mean(axis=0)
    np.testing.assert_allclose(short.documents[0, 0], want, atol=1e-5)


def test_dropout_is_off_and_the_model_is_given_back_as_it_was():
    model = tiny.gpt2()
    want = hidden_states(model, tiny.tokenizer(), tiny.TEXTS).documents
    model.train()

    np.testing.assert_array_equal(hidden_states(model, tiny.tokenizer(), tiny.TEXTS).documents, want)
    assert model.training


@KINDS
def test_tables(kind, tmp_path, cache):
    model = tiny.MAKERS[kind]()
    folder = tiny.saved(kind, tmp_path)
    given, scored = (from_language_model(folder, layer=which) for which in ("input", "unembedding"))

    np.testing.assert_array_equal(given.vectors, model.get_input_embeddings().weight.detach().numpy())
    np.testing.assert_array_equal(scored.vectors, model.get_output_embeddings().weight.detach().numpy())
    np.testing.assert_array_equal(input_vectors(model), given.vectors)
    np.testing.assert_array_equal(unembedding_vectors(model), scored.vectors)
    assert given.labels[:3] == ["[UNK]", "the", "cat"]
    assert len(given.labels) == len(given.vectors) == 24
    assert given.labels[-1] == "[unused 23]"
    assert given.name == f"tiny-{kind}-input-32"
    tied = kind == "gpt2"
    assert np.array_equal(given.vectors, scored.vectors) == tied
    assert ("are one" in given.note) == tied


def test_tables_are_copies():
    model = tiny.llama()
    input_vectors(model)[:] = 0
    assert model.get_input_embeddings().weight.detach().abs().sum() > 0


def test_token_rows_and_samples(tmp_path, cache):
    folder = tiny.saved("llama", tmp_path)
    whole = from_language_model(folder, texts=tiny.TEXTS, layer=1, rows="tokens")
    some = from_language_model(folder, texts=tiny.TEXTS, layer=1, rows="tokens", n=5, seed=2)

    assert whole.vectors.shape == (sum(len(text.split()) - 1 for text in tiny.TEXTS), 32)
    assert whole.labels[:3] == ("cat", "sat", "dog")
    assert "position 0 left out" in whole.note
    assert some.vectors.shape == (5, 32)
    assert set(some.labels) <= set(whole.labels)


def test_one_pass_serves_every_layer_and_other_weights_get_their_own(tmp_path, cache, monkeypatch):
    folder = tiny.saved("llama", tmp_path)
    calls = []
    forward = pass_over.forward
    monkeypatch.setattr(pass_over, "forward", lambda *given: calls.append(1) or forward(*given))

    for layer in range(3):
        from_language_model(folder, texts=tiny.TEXTS, layer=layer)
    assert len(calls) == 1

    from_language_model(folder, texts=tiny.TEXTS[:2], layer=0)
    assert len(calls) == 2

    other = tiny.llama()
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    other.save_pretrained(folder)
    doubled = from_language_model(folder, texts=tiny.TEXTS, layer=0)
    assert len(calls) == 3
    want = 2 * from_language_model(language_model(tiny.saved("llama", tmp_path)), texts=tiny.TEXTS, layer=0).vectors
    np.testing.assert_allclose(doubled.vectors, want, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"texts": []}, "texts is empty"),
        ({"texts": ["the cat", "", "  "]}, r"2 without a token \(first: 1, 2\)"),
        ({"texts": ["the cat"], "layers": [3]}, "layer is 3; LlamaForCausalLM has layers 0 to 2"),
        ({"texts": ["the cat"], "layers": [-4]}, "layer is -4"),
        ({"texts": ["the cat sat"], "sampled_tokens": 3}, "only 2 tokens after"),
    ],
)
def test_refusals(given, message):
    texts = given.pop("texts")
    with pytest.raises(InvalidInputError, match=message):
        hidden_states(tiny.llama(), tiny.tokenizer(), texts, **given)


def test_refuses_one_string_for_texts(tmp_path, cache):
    with pytest.raises(InvalidInputError, match="one string"):
        from_language_model(tiny.saved("llama", tmp_path), texts="the cat", layer=0)


def test_a_model_without_a_head_has_no_unembedding():
    with pytest.raises(InvalidInputError, match="no output embeddings"):
        unembedding_vectors(tiny.llama().base_model)


def test_a_missing_folder_is_said_without_asking_a_network(tmp_path, monkeypatch):
    def never(*given, **options):
        pytest.fail("the network was asked for")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", never)
    for asked in (tmp_path / "absent", str(tmp_path / "absent"), "a/relative/folder"):
        with pytest.raises(SourceUnavailableError, match="there is no such folder"):
            language_model(asked)


def test_no_network_is_one_line(monkeypatch):
    def offline(*given, **options):
        msg = "We couldn't connect to the hub.\nCheck your internet connection."
        raise OSError(msg)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(SourceUnavailableError) as caught:
        language_model("someone/model")

    assert str(caught.value) == "language model someone/model cannot be loaded: We couldn't connect to the hub."


def test_a_folder_that_is_no_model_is_said(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SourceUnavailableError, match="cannot be loaded"):
        language_model(tmp_path)
