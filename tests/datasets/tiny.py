"""Language models and a tokenizer of a few thousand random weights, made where they are needed."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

STORY = "the cat sat on a mat and dog ran far from home while rain fell over old roofs"
WORDS = STORY.split()
UNKNOWN = {"unk_token": "[UNK]"}
TEXTS = ["the cat sat", "a dog ran far from home while rain fell over the old roofs", "rain", "the mat and the dog"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one number a word, that adds nothing and has no padding token."""
    vocabulary = {word: i for i, word in enumerate(["[UNK]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, **UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, **UNKNOWN)


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=24, n_embd=32, n_layer=3, n_head=2, n_positions=256, resid_pdrop=0.5, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


def llama() -> PreTrainedModel:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def bert() -> PreTrainedModel:
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=24,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    return BertModel(config).eval()


MAKERS = {"gpt2": gpt2, "llama": llama}


def saved(kind: str, folder: Path) -> Path:
    """Write a model and its tokenizer under a folder; return where."""
    where = folder / f"tiny-{kind}"
    MAKERS[kind]().save_pretrained(where)
    tokenizer().save_pretrained(where)
    return where
