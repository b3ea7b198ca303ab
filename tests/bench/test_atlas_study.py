"""The study `atlas`: the nearest of each word are those that all cosines give, and the graph says so."""

import numpy as np
import pandas as pd
import pytest

from bench.studies import atlas
from bench.studies.atlas import MARK, NEAREST, WORDS, graph_of, said
from geomkit.datasets import Vectors
from tests.bench.answering import answer, context_of


@pytest.fixture
def space():
    labels = [
        MARK + WORDS[0],
        *(f"{MARK}word{row}" for row in range(30)),
        *(MARK + each for each in WORDS[1:-1]),
        "dog",
    ]
    return np.random.default_rng(0).standard_normal((len(labels), 6)).astype("float32"), labels


def test_the_nearest_are_those_of_all_cosines(space):
    x, labels = space
    found = graph_of("some", x, labels, 0)
    unit = x.astype(float) / np.linalg.norm(x, axis=1, keepdims=True)
    for word in WORDS[:-1]:
        at = labels.index(MARK + word)
        cosines = unit @ unit[at]
        cosines[at] = -2
        want = np.argsort(-cosines)[:NEAREST]
        mine = found[(found.word == word) & (found.kind == "edge")].sort_values("rank")
        assert mine.row2.tolist() == want.tolist()
        assert mine.cosine.to_numpy() == pytest.approx(cosines[want], abs=1e-6)
        assert (mine.row == at).all()
    places = found[found.kind == "node"].drop_duplicates("row").set_index("row")[["x", "y"]]
    edges = found[found.kind == "edge"]
    np.testing.assert_array_equal(edges[["x2", "y2"]].to_numpy(), places.loc[edges.row2].to_numpy())


def test_a_word_that_is_missing_is_said_to_be(space):
    found = graph_of("some", *space, 0)
    assert found[found.kind == "missing"].word.tolist() == [WORDS[-1]]


def test_the_same_seed_lays_out_the_same_graph(space):
    one, two, other = (graph_of("some", *space, seed) for seed in (1, 1, 2))
    assert one.equals(two)
    assert not one.x.equals(other.x)


def test_every_space_is_a_unit_and_their_order_does_not_matter(space, tmp_path, monkeypatch):
    x, labels = space
    made = Vectors(x, labels, None, "some", "llm", 6, "", "", None, "")
    monkeypatch.setattr(atlas.datasets, "load", lambda *_, **__: made)
    context = context_of("atlas", tmp_path)
    units = atlas.units(context)
    assert [(each.name, each.sources) for each in units] == [(name, (name,)) for name in atlas.SPACES]
    assert [each.name for each in atlas.units(context_of("atlas", tmp_path, quick=True))] == list(atlas.SPACES_QUICK)
    assert answer(atlas.STUDY, context) == ["atlas.csv"]
    assert pd.read_csv(tmp_path / "atlas.csv").space.unique().tolist() == list(atlas.SPACES)
    found, again = ({each.name: atlas.measure(context, each) for each in order} for order in (units, units[::-1]))
    for name in atlas.SPACES:
        pd.testing.assert_frame_equal(found[name]["atlas.csv"], again[name]["atlas.csv"])


def test_tokens_within_a_word_have_a_dash():
    assert [said(each, tokens=True) for each in (f"{MARK}dog", "dog")] == ["dog", "-dog"]
    assert said("dog", tokens=False) == "dog"
