"""Causal models of six architectures and more, of a few thousand random weights, and a tokenizer of a word a number."""

import pytest
import torch
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers

from geomkit.datasets.language_model import Card, LanguageModel

WORDS = [f"w{i}" for i in range(60)]
CONTEXT = 64
SIZE = {"vocab_size": 60, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
SIZE |= {"max_position_embeddings": CONTEXT, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SIZE |= {"initializer_range": 0.3}
GROUPED = SIZE | {"num_key_value_heads": 2}
GPT2 = {"vocab_size": 60, "n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": CONTEXT, "resid_pdrop": 0.5}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
OPT = {"vocab_size": 60, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "ffn_dim": 48}
OPT |= {"max_position_embeddings": CONTEXT, "pad_token_id": 1, "init_std": 0.3}

CAUSAL = {
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**GPT2)),
    "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**SIZE)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**OPT, word_embed_proj_dim=32)),
    "opt-projected": lambda: t.OPTForCausalLM(t.OPTConfig(**OPT, word_embed_proj_dim=16)),
    "opt-post-norm": lambda: t.OPTForCausalLM(t.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=False)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED, tie_word_embeddings=False)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**GROUPED)),
    "gemma3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**GROUPED, head_dim=8, final_logit_softcapping=2.0)),
    "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**GROUPED, logit_scale=0.25)),
    "granite": lambda: t.GraniteForCausalLM(t.GraniteConfig(**GROUPED, logits_scaling=3.0)),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Matrices this small wait for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def causal(kind):
    """Return a model whose norms do something: weights of one dimension are drawn too."""
    torch.manual_seed(0)
    model = CAUSAL[kind]()
    for name, each in model.named_parameters():
        if each.dim() == 1:
            torch.nn.init.normal_(each, 0.0 if name.endswith("bias") else 1.0, 0.2)
        elif name.endswith(("embed_tokens.weight", "embed_in.weight", "wte.weight")):
            torch.nn.init.normal_(each, 0.0, 0.3)  # the row of a padding token would be 0
    return model.eval()


def bert():
    torch.manual_seed(0)
    return t.BertLMHeadModel(t.BertConfig(**SIZE)).eval()


def tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return t.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")  # noqa: S106


def loaded(kind, identity=None):
    model = causal(kind)
    card = Card(f"tiny-{kind}", identity or f"id-{kind}", model.config.num_hidden_layers, "", "")
    return LanguageModel(card, model, tokenizer())


def texts(count=12, seed=0, longest=20):
    """Return texts of 3 to `longest` words."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (count,), generator=draw).tolist()
    return [" ".join(WORDS[int(i)] for i in torch.randint(0, 60, (n,), generator=draw)) for n in lengths]


def states_of(model, tokens, layer):
    """Return (tokens, dim): one text through the whole model, alone; the last layer has its norm."""
    with torch.no_grad():
        out = model.base_model(input_ids=torch.tensor([list(tokens)]), output_hidden_states=True)
    return out.hidden_states[layer][0] if layer < len(out.hidden_states) - 1 else out.last_hidden_state[0]
