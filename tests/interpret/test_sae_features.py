"""Contexts by looking through all rows; promoted tokens by the lens of a decoder's row."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from geomkit.errors import InvalidInputError
from geomkit.interpret.activations import Activations
from geomkit.interpret.causal import parts_of
from geomkit.interpret.sae.features import promoted, top_contexts
from tests.interpret import lens_models
from tests.interpret.test_sae import made


def some():
    """Tokens 0 to 59 in six texts, and the activity of 4 features at all but first tokens."""
    texts, positions = np.repeat(np.arange(6), 10), np.tile(np.arange(10), 6)
    states = Activations(
        model="m", key="k", layers=(2,), n_layers=3, n_texts=6, n_truncated=0, tokens=np.arange(60)[::-1].copy(),
        texts=texts, positions=positions, states={},
    )  # fmt: skip
    rows = np.flatnonzero(positions)
    dense = np.random.default_rng(0).integers(1, 9, (len(rows), 4)) * (
        np.random.default_rng(1).random((len(rows), 4)) < 0.4
    )
    dense[:, 3] = 0
    dense[[4, 5, 20], 3] = [7, 8, 1]
    return states, rows, dense.astype(np.float32)


def test_contexts_are_the_strongest_of_each_text():
    states, rows, dense = some()
    found = top_contexts(csr_array(dense), states, rows, lens_models.tokenizer(), [3, 0], count=4, width=3)
    for feature in (3, 0):
        best = {}
        for at, row in enumerate(rows):
            if dense[at, feature] > best.get(states.texts[row], (0, 0))[0]:
                best[states.texts[row]] = (dense[at, feature], row)
        want = sorted(best.values(), key=lambda each: (-each[0], each[1]))[:4]
        mine = [each for each in found if each.feature == feature]
        assert [each.activation for each in mine] == [value for value, _ in want]
        assert [(each.text, each.position) for each in mine] == [divmod(int(row), 10) for _, row in want]
        for each in mine:
            words = [f"w{59 - row}" for row in range(each.text * 10, each.text * 10 + 10)]
            assert each.token == words[each.position]
            assert each.before.split() == words[max(0, each.position - 3) : each.position]
            assert each.after.split() == words[each.position + 1 : each.position + 4]
    assert [each.feature for each in found] == [3, 3, 0, 0, 0, 0]
    assert found[0].activation == 8
    assert set(found[0].to_dict()) >= {"feature", "activation", "token", "before", "after"}


def test_rows_and_features_must_be_there():
    states, rows, dense = some()
    with pytest.raises(InvalidInputError, match="54 rows; rows has 53"):
        top_contexts(csr_array(dense), states, rows[1:], lens_models.tokenizer(), [0])
    for bad in (4, -1):
        with pytest.raises(InvalidInputError, match="numbered 0 to 3"):
            top_contexts(csr_array(dense), states, rows, lens_models.tokenizer(), [bad])


def test_promoted_tokens_are_those_of_the_lens():
    model = lens_models.causal("llama")
    parts, of = parts_of(model), made(features=20, d=32)
    found = promoted(of, parts, [5, 2], top=3)
    for feature, tokens in zip([5, 2], found, strict=True):
        with torch.no_grad():
            direction = torch.from_numpy(of.decoder[feature]) / of.scale
            said = model.get_output_embeddings()(model.base_model.norm(direction))
        assert tokens == said.topk(3).indices.tolist()
