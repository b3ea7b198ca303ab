"""Maps of spaces: neighbours exact, places where they belong, and a file that viewers can read."""

import json

import numpy as np
import pytest
from pyarrow import parquet

import geomkit
from geomkit.atlas import atlas
from geomkit.errors import InvalidInputError
from tests.auditing import spaces
from tests.cli.test_cli import call, run  # noqa: F401


@pytest.fixture(scope="module")
def found():
    return atlas(spaces.clusters(200, 16), k=5, labels=[f"row {row}" for row in range(200)], seed=3)


def test_neighbours_are_exact_and_the_map_keeps_many(found):
    want = geomkit.neighbors(spaces.clusters(200, 16), 5)
    np.testing.assert_array_equal(found.neighbors.indices, want.indices)
    assert found.places.shape == (200, 2)
    assert np.isfinite(found.places).all()
    # By chance 5 of 199.
    assert 0.2 < found.kept < 1


def test_kept_is_the_share_of_neighbours_that_are_near_on_the_map(found):
    inside = found.neighbors.indices
    apart = np.linalg.norm(found.places[:, None].astype(float) - found.places[None].astype(float), axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :5]
    want = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(inside.tolist(), near.tolist(), strict=True)])
    assert found.kept == pytest.approx(want, abs=0.005)


def test_the_file_has_what_embedding_atlas_reads(found, tmp_path):
    found.write(tmp_path / "map.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["map.parquet"]
    read = parquet.read_table(tmp_path / "map.parquet")
    assert read.column_names == ["row", "vector", "projection_x", "projection_y", "neighbors", "label"]
    first = read.slice(7, 1).to_pylist()[0]
    assert first["label"] == "row 7"
    assert first["neighbors"]["ids"] == found.neighbors.indices[7].tolist()
    assert first["neighbors"]["distances"] == pytest.approx(found.neighbors.distances[7])
    np.testing.assert_array_equal(np.array(first["vector"], np.float32), found.vectors[7])
    about = json.loads(read.schema.metadata[b"geomkit"])
    assert (about["k"], about["seed"], about["projection"]) == (5, 3, "umap")


def test_neighbours_are_places_in_the_file_where_rows_were_dropped(tmp_path):
    x = spaces.clusters(120, 8)
    x[[3, 50]] = np.nan
    found = atlas(x, k=4, projection="pca", on_invalid="drop", labels=range(120))
    found.write(tmp_path / "map.parquet")
    read = parquet.read_table(tmp_path / "map.parquet").to_pylist()
    assert len(read) == 118
    clean = np.delete(x, [3, 50], axis=0)
    want = geomkit.neighbors(clean, 4)
    assert [each["neighbors"]["ids"] for each in read] == want.indices.tolist()
    assert [each["row"] for each in read] == [int(each["label"]) for each in read] == found.neighbors.rows.tolist()
    assert atlas(clean, k=4, projection="pca").kept == found.kept


def test_the_same_seed_gives_the_same_map():
    x = spaces.clusters(80, 8)
    one, two, other = (atlas(x, k=4, seed=seed).places for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_pca_is_along_the_directions_of_most_variance():
    x = np.random.default_rng(0).standard_normal((300, 5)) * [1, 9, 1, 5, 1]
    places = atlas(x, k=3, metric="euclidean", projection="pca").places
    assert abs(np.corrcoef(places[:, 0], x[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(places[:, 1], x[:, 3])[0, 1]) > 0.99


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"projection": "tsne"}, "projection must be one of"),
        ({"metric": "dot"}, "metric must be one of"),
        ({"k": 1}, r"k must be a whole number from 2 to n - 2 = 28; got 1"),
        ({"labels": ["a"]}, "labels has 1 entries"),
        ({"seed": -1}, "seed must be a whole number"),
    ],
)
def test_bad_arguments_are_named(how, said):
    with pytest.raises(InvalidInputError, match=said):
        atlas(spaces.clusters(30, 4), **how)


def test_the_command_writes_and_says_how_to_look(call, tmp_path):  # noqa: F811
    np.save(tmp_path / "x.npy", spaces.clusters(60, 6))
    out = tmp_path / "my map.parquet"
    code, said, err = call("atlas", tmp_path / "x.npy", "-o", out, "-k", "4", "--projection", "pca", "--json")
    assert (code, err) == (0, "")
    told = json.loads(said)
    assert (told["rows"], told["k"], told["projection"]) == (60, 4, "pca")
    assert told["view"].startswith(f"embedding-atlas '{out}' --x projection_x --y projection_y --neighbors neighbors")
    assert parquet.read_table(out).num_rows == 60
    code, _, err = call("atlas", tmp_path / "x.npy", "-o", tmp_path / "map.csv")
    assert code == 2
    assert "out must be a .parquet file" in err
