"""The logit lens against the definitions in float64, a text at a time; SmolLM2's known answers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from geomkit.datasets.layers import smollm2
from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import activations
from geomkit.interpret.lens import logit_lens as module
from geomkit.interpret.lens.logit_lens import STATISTICS, logit_lens, measured, reading_of
from geomkit.interpret.lens.statistics import constant_reader, geometry, lens_statistics, over_texts, rows_of
from geomkit.stats.cosine import cosine_stats
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401

TEXT = "w3 w1 w4 w1 w5 w9 w2 w6"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path / "cache"))


def by_hand(logits, final, following, top):
    """Every statistic of one position by its definition, from float64 scores."""
    q, p = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (logits, final))
    best, wanted = np.argsort(-logits, kind="stable")[:top], np.argsort(-final, kind="stable")[:top]
    return {
        "entropy": -(q * np.log(q)).sum(),
        "kl": (p * (np.log(p) - np.log(q))).sum(),
        "cross_entropy": -math.log(q[following]) if following >= 0 else math.nan,
        "rank": float((logits > logits[following]).sum()) if following >= 0 else math.nan,
        "agreement": len(set(best) & set(wanted)) / top,
        "top": best,
        "probabilities": q[best],
    }


def test_statistics_are_as_defined():
    rng = np.random.default_rng(0)
    logits, final = (3 * rng.standard_normal((20, 50)) for _ in range(2))
    following = rng.integers(0, 50, 20)
    following[7] = -1
    got = measured(
        torch.tensor(logits, dtype=torch.float32), torch.tensor(final).log_softmax(-1).float(),
        torch.tensor(following), 4,
    )  # fmt: skip
    for at in range(20):
        want = by_hand(logits[at], final[at], following[at], 4)
        for name in (*STATISTICS, "top", "probabilities"):
            np.testing.assert_allclose(getattr(got, name)[at].numpy(), want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(lens_models.CAUSAL))
def test_a_reading_is_the_layers_states_through_norm_and_head(kind, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    loaded = lens_models.loaded(kind)
    lens = logit_lens(loaded)
    got = reading_of(lens, TEXT, [0, 2, -1], top=3)
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    with torch.no_grad():
        final = loaded.model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
        for row, layer in enumerate((0, 2, 3)):
            states = lens_models.states_of(loaded.model, ids, layer)
            said = lens.logits(states, layer).double().numpy() if layer < 3 else final
            for at, following in enumerate([*ids[1:], -1]):
                want = by_hand(said[at], final[at], following, 3)
                for name in STATISTICS:
                    np.testing.assert_allclose(got.values[name][row, at], want[name], rtol=2e-4, atol=1e-4)
                assert got.top_tokens[row][at] == tuple(f"w{i}" for i in want["top"])
                np.testing.assert_allclose(got.top_probabilities[row, at], want["probabilities"], rtol=2e-4)
    assert got.layers == (0, 2, 3)
    assert got.tokens == tuple(TEXT.split())
    assert np.abs(got.values["kl"][2]).max() < 1e-6
    assert (got.values["agreement"][2] == 1).all()


def test_a_reading_as_json_and_as_a_table():
    got = reading_of(logit_lens(lens_models.loaded("llama")), TEXT, [1, 3], top=2)
    told = got.to_dict()
    assert len(told["cells"]) == 16
    cell = told["cells"][9]
    assert (cell["layer"], cell["position"], cell["token"]) == (3, 1, "w1")
    assert cell["kl"] == got.values["kl"][1, 1]
    assert [said["token"] for said in cell["top"]] == list(got.top_tokens[1][1])
    assert told["cells"][7]["rank"] is None
    frame = got.to_frame()
    assert len(frame) == 32
    assert set(frame.columns) >= {"layer", "position", "token", "top", "said", "probability", *STATISTICS}


def test_what_cannot_be_read_is_refused():
    lens = logit_lens(lens_models.loaded("llama"))
    long = " ".join(["w1"] * 70)
    with pytest.raises(InvalidInputError, match="text is empty"):
        reading_of(lens, "")
    with pytest.raises(InvalidInputError, match="must be a string; got 3"):
        reading_of(lens, 3)
    with pytest.raises(InvalidInputError, match="has no token"):
        reading_of(lens, "  ")
    with pytest.raises(InvalidInputError, match="70 tokens; the context of tiny-llama is 64"):
        reading_of(lens, long)
    cut = reading_of(lens, long, [1], truncate=True)
    assert (len(cut.tokens), cut.n_truncated) == (64, 6)
    with pytest.raises(InvalidInputError, match="layer is 4"):
        reading_of(lens, TEXT, [4])
    for top in (0, 61):
        with pytest.raises(InvalidInputError, match=f"top must be a whole number from 1 to .*; got {top}"):
            reading_of(lens, TEXT, top=top)


def test_rows_are_drawn_within_texts_and_never_first_or_last(cache):
    states = activations(lens_models.loaded("llama"), lens_models.texts(30), [3])
    rows = rows_of(states, 4, 0)
    lengths = np.bincount(states.texts)
    assert (np.diff(rows) > 0).all()
    assert (states.positions[rows] > 0).all()
    assert (states.positions[rows] < lengths[states.texts[rows]] - 1).all()
    assert np.bincount(states.texts[rows], minlength=30).tolist() == np.minimum(lengths - 2, 4).tolist()
    assert (rows == rows_of(states, 4, 0)).all()
    assert len(rows) != len(rows_of(states, 4, 1)) or (rows != rows_of(states, 4, 1)).any()
    everything = rows_of(states, 64, 0)
    assert len(everything) == (lengths - 2).sum()
    with pytest.raises(InvalidInputError, match="per_text must be a whole number of at least 1; got 0"):
        rows_of(states, 0, 0)
    with pytest.raises(InvalidInputError, match="no text has a token between"):
        rows_of(activations(lens_models.loaded("llama"), ["w1 w2", "w3"], [3]), 1, 0)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_statistics_over_texts_are_those_of_each_text_read_alone(chunk, cache):
    loaded, texts = lens_models.loaded("gemma3"), lens_models.texts()
    lens, states = logit_lens(loaded), activations(loaded, texts)
    rows = rows_of(states, 5, 0)
    got = lens_statistics(lens, states, rows, top=3, chunk=chunk)
    assert got.readings == tuple(("lens", layer) for layer in range(4))
    for text in range(len(texts)):
        alone = reading_of(lens, texts[text], top=3)
        mine = states.texts[rows] == text
        for name in STATISTICS:
            want = alone.values[name][:, states.positions[rows][mine]]
            np.testing.assert_allclose(got.values[name][:, mine], want, rtol=1e-3, atol=1e-4)
    frame = got.to_frame()
    assert frame.layer.tolist() == [0, 1, 2, 3]
    kl = got.values["kl"][1]
    means = [kl[states.texts[rows] == text].mean() for text in range(len(texts))]
    interval = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert frame.kl[1] == pytest.approx(np.mean(means))
    assert (frame.kl_low[1], frame.kl_high[1]) == pytest.approx((interval.low, interval.high))


def test_no_more_than_a_chunk_of_scores_is_held(cache, monkeypatch):
    loaded = lens_models.loaded("llama")
    lens, states = logit_lens(loaded), activations(loaded, lens_models.texts(40))
    seen = []
    hook = lens.parts.head.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    lens_statistics(lens, states, rows_of(states, 20, 0), chunk=16)
    hook.remove()
    assert len(seen) > 20
    assert max(int(np.prod(shape[:-1])) for shape in seen) == 16


def test_a_constant_is_the_mean_of_what_the_last_layer_says(cache):
    loaded = lens_models.loaded("llama")
    lens, states = logit_lens(loaded), activations(loaded, lens_models.texts())
    rows = rows_of(states, 5, 0)
    read = constant_reader(lens, states, rows)
    with torch.no_grad():
        each = loaded.model.lm_head(torch.tensor(np.array(states.states[3][rows]))).double().softmax(-1)
    said = read(torch.zeros(2, 32), 3)
    np.testing.assert_allclose(said.exp().numpy(), each.mean(0).expand(2, -1).numpy(), rtol=1e-4)
    own = lens_statistics(lens, states, rows, {"constant": ((3,), read)}).values["kl"].mean()
    # No other constant is nearer on average: here, what is said somewhere, and the uniform one.
    for other in (each[0].log().float(), torch.zeros(60)):
        asked = {"other": ((3,), lambda seen, _, other=other: other.expand(len(seen), -1))}
        assert own < lens_statistics(lens, states, rows, asked).values["kl"].mean()


def test_states_of_another_model_or_without_a_layer_are_refused(cache):
    states = activations(lens_models.loaded("llama"), lens_models.texts(), [1])
    rows = rows_of(states, 2, 0)
    with pytest.raises(InvalidInputError, match="states are of model id-llama; the lens is of other"):
        lens_statistics(logit_lens(lens_models.loaded("llama", "other")), states, rows)
    with pytest.raises(InvalidInputError, match=r"layers \[3\] are wanted too"):
        lens_statistics(logit_lens(lens_models.loaded("llama")), states, rows)


def test_one_text_has_no_interval():
    mean, low, high = over_texts(np.array([1.0, 3.0]), np.array([4, 4]))
    assert mean == 2
    assert math.isnan(low)
    assert math.isnan(high)
    # Texts weigh the same, however many positions they have.
    assert over_texts(np.array([1.0, 1.0, 1.0, 3.0]), np.array([0, 0, 0, 1]))[0] == 2


def test_geometry_is_that_of_the_rows(cache):
    states = activations(lens_models.loaded("llama"), lens_models.texts(30), [0, 3])
    rows = rows_of(states, 20, 0)
    frame = geometry(states, rows)
    assert frame.layer.tolist() == [0, 3]
    assert (frame.n == len(rows)).all()
    assert frame.mean_cosine[1] == cosine_stats(np.array(states.states[3][rows])).mean
    assert frame.median_norm[0] == pytest.approx(np.median(np.linalg.norm(states.states[0][rows], axis=1)))


@pytest.mark.real
def test_smollm2_says_paris_and_from_which_layer_on():
    lens = logit_lens(smollm2())
    got = reading_of(lens, "The capital of France is Paris", [0, 24, 30])
    at = 4
    assert got.tokens[at] == " is"
    assert got.top_tokens[2][at][0] == " Paris"
    assert got.top_probabilities[2, at, 0] == pytest.approx(0.77, abs=0.01)
    assert got.values["rank"][2, at] == 0
    # Near ties may change places with the processor.
    assert got.values["rank"][1, at] == pytest.approx(395, rel=0.05)
    assert got.values["rank"][0, at] == pytest.approx(4315, rel=0.05)
