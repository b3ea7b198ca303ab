"""The study of decoding on a model of a few thousand random weights, and its arithmetic by hand."""

import numpy as np
import pandas as pd
import pytest

from bench.figures import decode as report
from bench.harness.study import Context
from bench.studies import decode
from geomkit.datasets.corpora import Corpus
from geomkit.datasets.language_model import Card, LanguageModel, input_vectors
from geomkit.datasets.record import Vectors
from geomkit.interpret.activations import Deferred, activations
from geomkit.interpret.lens.logit_lens import logit_lens
from tests.bench.answering import answer
from tests.datasets.tiny import WORDS, llama, tokenizer

LAYERS = (0, 1, 2)


def context_of(out, *, quick=False):
    return Context("decode", out, quick=quick)


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))
    for name in ("LAYERS", "BAG_LAYERS"):
        monkeypatch.setattr(decode, name, LAYERS)
    monkeypatch.setattr(decode, "READ_LAYERS", (0, 2))
    monkeypatch.setattr(decode, "LENGTHS", (2, 4, 200))
    monkeypatch.setattr(decode, "SPACES", ("toy-8",))
    monkeypatch.setattr(decode, "NEIGHBOUR_ROWS", 120)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 12)) for _ in range(20)]
    loaded = LanguageModel(Card("tiny", "tiny", 2, "", ""), llama(), tokenizer())
    states = activations(loaded, texts, LAYERS)
    table = input_vectors(loaded.model)
    rows = decode.rows_of(states, 6, 0)
    return decode.Setting(
        states, logit_lens(loaded), table, np.flatnonzero(~states.sinks & (states.texts < 10)),
        rows[states.texts[rows] >= 10], 0,
    )  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((120, 8)) * np.linspace(4, 0.2, 8)).astype(np.float32)
    found = Vectors(x, [], None, name="toy-8", family="random", dim=8, origin="", licence="", seed=0, note="")
    monkeypatch.setattr(decode.datasets, "load", lambda *_, **__: found)
    words = np.arange(1, 13), rng.standard_normal((12, 6)).astype(np.float32)
    monkeypatch.setattr(decode, "shared_words", lambda *_: words)
    return x


def test_a_run_leaves_tokens_bags_and_bytes(setting, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decode, "prepared", lambda _: setting)
    context = context_of(tmp_path)

    assert answer(decode.STUDY, context) == [
        "decode.svg", "decode_bags.csv", "decode_bytes.csv", "decode_rate.csv", "decode_tokens.csv",
    ]  # fmt: skip
    tokens, bags, rate, few = (
        pd.read_csv(tmp_path / f"decode_{name}.csv") for name in ("tokens", "bags", "rate", "bytes")
    )
    same = tokens[tokens.target == "same"].set_index(["reader", "layer"])
    # At layer 0 a state is its token's embedding: its own table reads all, a turned one next to nothing.
    assert same.top1["nearest input embedding", 0] == 1.0
    assert same.top1["rotated table", 0] < 0.3
    # What the last layer says next is what the model says: the lens is that by definition.
    assert set(tokens.target) == {"same", "next"}
    assert {"Word2Vec, turned onto it", "Word2Vec, trained linear map", "input embedding, same words"} <= set(
        same.index.get_level_values(0)
    )
    assert same.top1["input embedding, same words", 0] == 1.0
    assert (tokens.low <= tokens.top1).all()
    assert (tokens.top1 <= tokens.top10).all()
    assert (tokens.candidates[tokens.reader == "logit lens"] == 24).all()
    assert tokens.chance.to_numpy() == pytest.approx(1 / tokens.candidates.to_numpy(), rel=1e-6)
    own = bags[(bags.guess == "own") & (bags.layer == 0)].set_index("length")
    assert list(own.index) == [2, 4]  # no text is as long as the third
    assert (own.precision > 0.9).all()
    assert (own.recall > 0.9).all()
    others = bags[(bags.guess == "another text's") & (bags.layer == 0)]
    assert (others.recall < 0.7).all()
    assert (rate[rate.code == "float32"].kept == 1.0).tolist()[0]
    assert rate.bytes.min() >= 1
    assert set(few.space) == set(rate.space)
    assert "a million" in capsys.readouterr().err


def test_neighbours_kept_are_counted_over_the_other_half(toy):
    rows = pd.DataFrame(list(decode.neighbours_kept("toy-8", toy, 0))).set_index("code")
    assert rows.kept["float32"] == 1.0
    assert rows.kept["float16"] > 0.95
    assert rows.kept["int8"] > rows.kept["int4"] > rows.kept["sign"] > rows.floor["sign"]
    assert (rows.n == 60).all()
    assert rows.floor.unique() == pytest.approx([10 / 59])
    order = np.random.default_rng(0).permutation(120)
    known, asked = toy[order[:60]].astype(float), toy[order[60:]].astype(float)
    low, high = known.min(axis=0), known.max(axis=0)
    levels = np.clip(np.rint((asked - low) / (high - low) * 15), 0, 15)
    back = low + levels * (high - low) / 15

    def lists(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        full = unit @ unit.T
        np.fill_diagonal(full, -np.inf)
        return np.argsort(-full, axis=1)[:, :10]

    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(lists(asked), lists(back), strict=True)])
    assert rows.kept["int4"] == pytest.approx(kept, abs=0.004)
    assert rows.outside["int4"] == pytest.approx(np.mean((asked < low) | (asked > high)))


def test_what_is_read_is_of_texts_that_nothing_was_fitted_to(setting, tmp_path, monkeypatch):
    texts = tuple(" ".join(np.random.default_rng(at).choice(WORDS, 8)) for at in range(30))
    monkeypatch.setattr(decode.corpora, "bbc", lambda: Corpus(texts, (), np.array([]), "", "", ""))
    loaded = setting.lens.loaded
    monkeypatch.setattr(decode, "SMOLLM2", Deferred(loaded.card, lambda: loaded))

    made = decode.prepared(context_of(tmp_path, quick=True))

    states = made.states
    assert set(states.texts[made.fitted]) == set(range(6))
    assert set(states.texts[made.rows]) == set(range(6, 12))
    assert (states.positions[made.rows] > 0).all()
    assert (states.positions[made.fitted] > 0).all()
    assert made.of(1, made.rows).shape == (len(made.rows), 32)


def test_units_share_no_draw(setting, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "prepared", lambda _: setting)
    context = context_of(tmp_path)
    units = decode.units(context)
    assert [each.name for each in units] == [
        *(f"tokens of layer {layer}" for layer in LAYERS), *(f"bags of layer {layer}" for layer in LAYERS),
        "codes of toy-8", "codes of layer 0", "codes of layer 2",
    ]  # fmt: skip
    found = [{each.name: decode.measure(context, each) for each in order} for order in (units, units[::-1])]
    for name, tables in found[0].items():
        for file, table in tables.items():
            pd.testing.assert_frame_equal(table, found[1][name][file])
    quick = [each.name for each in decode.units(context_of(tmp_path, quick=True))]
    assert quick[-2:] == ["codes of toy-8", "codes of layer 2"]


def test_the_lens_reads_what_the_model_says(setting, toy):
    rows = pd.DataFrame(list(decode.token_rows(setting, 2)))
    last = rows[(rows.reader == "logit lens") & (rows.target == "next")].iloc[0]
    states = setting.states
    head = setting.lens.parts.head.weight.detach().numpy()
    said = (setting.of(2, setting.rows) @ head.T).argmax(axis=1)
    right = said == states.next_tokens[setting.rows]
    by_text = pd.Series(right).groupby(states.texts[setting.rows]).mean()
    assert last.top1 == pytest.approx(by_text.mean())
    assert last.n_texts == 10


def test_bags_of_later_layers_are_read_through_a_map_to_the_table(setting):
    rows = pd.DataFrame(list(decode.bag_rows(setting, 2, 20))).set_index(["layer", "length", "guess"])
    states = setting.states
    spans = [decode.spans_of(states, text, 4) for text in range(10, 20)]
    known, table = setting.of(2, setting.fitted), setting.table[states.tokens[setting.fitted]]
    means = decode.ridge_map(known, table)(np.stack([setting.of(2, span).mean(axis=0) for span in spans]))
    found = decode.pursuit(means, setting.table, [4] * 10)
    want = [decode.overlap(bag, decode.Bag.of(states.tokens[span])) for bag, span in zip(found, spans, strict=True)]
    row = rows.loc[2, 4, "own"]
    assert (row.precision, row.recall) == pytest.approx(tuple(np.mean(want, axis=0)))
    assert row.recall > rows.loc[2, 4, "another text's"].recall


def test_a_span_leaves_out_the_first_token(setting):
    states = setting.states
    span = decode.spans_of(states, 3, 5)
    assert states.positions[span].tolist() == [1, 2, 3, 4, 5]
    assert (states.texts[span] == 3).all()


def test_fewest_bytes_by_hand():
    rate = pd.DataFrame({
        "space": "s", "what": "tokens", "code": ["float32", "int8", "sign", "tiny"], "d": 8,
        "bytes": [32, 8, 1, 1], "kept": [0.8, 0.5, 0.39, 0.2], "low": [0.7, 0.45, 0.3, 0.1],
        "high": [0.9, 0.55, 0.41, 0.3], "floor": 0.05,
    })  # fmt: skip
    row = report.half_bytes(rate).iloc[0]
    assert (row.bytes, row.code, row.low, row.high) == (8, "int8", 1, 8)
    assert (row.whole, row.float32_bytes, row.floor) == (0.8, 32, 0.05)
    none = report.half_bytes(rate.assign(low=[0.3, 0.2, 0.1, 0.0])).iloc[0]
    assert np.isinf(none.high)


def test_words_of_google_news_that_are_tokens(monkeypatch):
    known = decode.word2vec.WordVectors(("dog", "cat"), np.array([[1.0, 2], [3, 4]], np.float32))
    monkeypatch.setattr(decode.word2vec, "googlenews", lambda: known)

    class Tokens:
        def __len__(self):
            return 5

        def convert_ids_to_tokens(self, ids):
            return ["Ġcat", "cat", "Ġbird", "dog", "Ġdog"][: len(ids)]

    ids, vectors = decode.shared_words(Tokens(), 6)
    assert ids.tolist() == [0, 4]
    assert vectors.tolist() == [[3, 4], [1, 2]]
