"""Studies in their quick form, on the real model and texts: what `python -m bench NAME --quick` does."""

import pandas as pd
import pytest

from bench.harness.execute import execute
from bench.studies import STUDIES
from tests.bench.answering import context_of

TABLES = {
    "separability": ("separability.csv", "accuracy"),
    "factorise": ("factorise.csv", "value"),
    "lens": ("lens.csv", "kl"),
    "decode": ("decode_tokens.csv", "top1"),
    "sae": ("sae.csv", "value"),
    "lookup": ("lookup.csv", "ratio"),
    "interpret": ("interpret.csv", "value"),
    "scale": ("scale.csv", "rows_per_second"),
}
"""The table that each writes first, and a column of it."""


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("quick")


@pytest.mark.real
@pytest.mark.parametrize("name", TABLES)
def test_a_quick_study_runs_on_the_real_model(out, name):
    def run(*, force):
        return execute([STUDIES[name]], lambda study: context_of(study, out, quick=True), jobs=0, force=force)

    # Measured now, whatever an earlier run has left in the cache.
    assert run(force=True) == ([name], [])
    table, column = TABLES[name]
    assert pd.read_csv(out / table)[column].notna().any()
    drawn = list(out.glob(f"{name}*.svg"))
    assert drawn
    assert all(path.stat().st_size > 10_000 for path in drawn)
    # Nothing of it is up to date by chance: the same study again has nothing to do.
    assert run(force=False) == ([], [])
