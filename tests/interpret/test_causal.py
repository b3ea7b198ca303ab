"""The parts of causal models, against the models' own logits; and models that have none."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from geomkit.datasets.states import forward, running
from geomkit.errors import InvalidInputError
from geomkit.interpret.causal import context_length, parts_of
from tests.interpret import lens_models
from tests.interpret.lens_models import one_thread  # noqa: F401

KINDS = pytest.mark.parametrize("kind", list(lens_models.CAUSAL))
IDS = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5]]


def raw_of(model, parts, ids):
    """Return what each block puts out, by hooks of this test's own."""
    seen = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in parts.blocks
    ]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0]
    for hook in hooks:
        hook.remove()
    return [each[0] for each in seen], logits


@KINDS
def test_the_last_layer_through_norm_and_head_is_the_models_logits(kind):
    model = lens_models.causal(kind)
    parts = parts_of(model)
    raw, logits = raw_of(model, parts, IDS[0])
    with torch.no_grad():
        last = forward(model, IDS[:1], [parts.n_layers])[parts.n_layers][0]
        torch.testing.assert_close(parts.unembed(parts.normed(raw[-1], 0)), logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(parts.logits(last, parts.n_layers), logits, rtol=1e-5, atol=1e-5)
    assert parts.n_layers == model.config.num_hidden_layers == 3
    assert parts.vocabulary == 60


@KINDS
def test_states_are_what_the_blocks_put_out_and_padding_changes_nothing(kind):
    model = lens_models.causal(kind)
    parts = parts_of(model)
    together = forward(model, IDS, [0, 1, 2, 3])
    for row, ids in enumerate(IDS):
        raw, _ = raw_of(model, parts, ids)
        for layer in (1, 2):
            got, largest = together[layer][row, : len(ids)], float(raw[layer - 1].abs().max())
            torch.testing.assert_close(got, raw[layer - 1], rtol=1e-4, atol=1e-5 * max(1, largest))
    assert all(each.is_inference() for each in together.values())


@KINDS
def test_a_middle_layer_is_read_as_if_it_were_the_last(kind):
    """Against the model cut after that layer."""
    model = lens_models.causal(kind)
    parts = parts_of(model)
    states = forward(model, IDS[:1], [2])[2][0]
    with torch.no_grad():
        got = parts.logits(states, 2)
    holder = next(m for m in model.base_model.modules() if getattr(m, "layers", getattr(m, "h", None)) is not None)
    name = "layers" if hasattr(holder, "layers") else "h"
    setattr(holder, name, torch.nn.ModuleList(list(getattr(holder, name))[:2]))
    model.config.num_hidden_layers = 2
    for each in model.modules():
        if getattr(each, "config", None) is not None:
            each.config.num_hidden_layers = 2
    with torch.no_grad():
        want = model(input_ids=torch.tensor(IDS[:1]), use_cache=False).logits[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_softcap_and_scale_are_read_from_the_configuration():
    assert parts_of(lens_models.causal("gemma3")).softcap == 2.0
    assert parts_of(lens_models.causal("cohere")).scale == 0.25
    assert parts_of(lens_models.causal("granite")).scale == pytest.approx(1 / 3)
    assert parts_of(lens_models.causal("llama")).softcap is None
    assert parts_of(lens_models.causal("llama")).scale == 1
    assert [type(m).__name__ for m in parts_of(lens_models.causal("opt-projected")).tail] == ["LayerNorm", "Linear"]


def test_encoders_are_refused():
    with pytest.raises(InvalidInputError, match=r"BertLMHeadModel.*encoder"):
        parts_of(lens_models.bert())
    torch.manual_seed(0)
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    )
    with pytest.raises(InvalidInputError, match="encoder with a decoder"):
        parts_of(t5)


def test_a_model_without_its_head_is_refused():
    with pytest.raises(InvalidInputError, match=r"LlamaModel.*no output embeddings"):
        parts_of(lens_models.causal("llama").model)


def test_a_norm_that_is_no_module_is_refused(monkeypatch):
    model = lens_models.causal("llama")
    # What the last block puts out is scaled outside any module.
    base = model.model.forward

    def scaled(*args, **kwargs):
        out = base(*args, **kwargs)
        out.last_hidden_state = out.last_hidden_state * 1.5
        return out

    monkeypatch.setattr(model.model, "forward", scaled)
    with pytest.raises(InvalidInputError, match="does not become its last state through LlamaRMSNorm"):
        parts_of(model)


def test_a_head_that_is_not_all_there_is_to_logits_is_refused(monkeypatch):
    model = lens_models.causal("llama")
    plain = model.forward

    def shifted(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = out.logits + 0.01
        return out

    monkeypatch.setattr(model, "forward", shifted)
    with pytest.raises(InvalidInputError, match=r"not its logits but 0\.01 away"):
        parts_of(model)


def test_a_list_of_blocks_must_be_the_only_one():
    model = lens_models.causal("llama")
    model.model.others = torch.nn.ModuleList([torch.nn.Identity() for _ in range(3)])
    with pytest.raises(InvalidInputError, match="2 lists of 3 blocks"):
        parts_of(model)
    model = lens_models.causal("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(InvalidInputError, match="0 lists of 7 blocks"):
        parts_of(model)


def test_dropout_is_off_while_running_and_the_model_is_given_back_as_it_was():
    model = lens_models.causal("gpt2").train()
    parts_of(model)
    assert model.training
    with running(model):
        assert not model.training
    assert model.training
    with pytest.raises(InvalidInputError, match="device is 'nowhere'"), running(model, "nowhere"):
        pass
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_context_is_what_the_configuration_says():
    assert context_length(lens_models.causal("gpt2")) == 64
    assert context_length(lens_models.causal("llama")) == 64
    config = SimpleNamespace(get_text_config=SimpleNamespace)
    assert context_length(SimpleNamespace(config=config)) is None
