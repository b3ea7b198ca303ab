"""The study `claims`: what it reads from the tables of other studies, on tables that are made here."""

from dataclasses import replace

import pandas as pd
import pytest

from bench import runner
from bench.claims import audited
from bench.claims.record import Claim, Finding
from bench.studies import STUDIES, claims


@pytest.fixture
def context(tmp_path):
    return runner.Context(study="claims", out=tmp_path, quick=False, everything=False, seed=0, files=[])


def audits(path, spaces):
    """Write a table of audits: family, d, and the z of three statistics a space."""
    rows = []
    for name, (family, d, hubs, cosine, spread, local) in spaces.items():
        for statistic, z in (
            ("hubness_skewness", hubs), ("cosine_mean", cosine), ("participation_ratio", spread), ("twonn", local),
        ):  # fmt: skip
            value = {"value": 0.5 + z, "low": z - 1, "high": z + 1, "null_mean": 0.5, "null_sd": 1.0, "z": z}
            rows.append(dict(source=name, family=family, d=d, statistic=statistic, **value))
    rows.append({"source": "mpnet-768", "family": "llm", "d": 768, "statistic": "not measured"})
    pd.DataFrame(rows).to_csv(path / audited.AUDITS, index=False)


SPHERES = {name: ("random", int(name[7:]), 0.1, 0.2, -0.1, 0.3) for name in audited._RANDOM}


def test_hubs_are_counted_among_real_spaces_alone(context):
    spaces = {"lsa-300": ("tfidf", 300, 9, 0, 0, 0), "glove-50": ("word2vec", 50, 3.9, 0, 0, 0)}
    audits(context.out, SPHERES | spaces | {"use-512": ("llm", 512, 10, 0, 0, 0)})
    found = audited.neighbours(context)
    assert "more hubs than random for 2 of 3 real spaces" in found.verdict
    assert "0.60 in 50 dimensions and 0.60 in 4,096" in found.verdict
    assert "rank correlation with the dimension is 1.00" in found.verdict
    assert len(found.figure) == len(found.null) == len(found.interval) == 1 + 7
    assert found.figure[-2] == "glove-50 4.40"


@pytest.mark.parametrize(("z", "verdict"), [(9.0, "holds: of 2 real spaces 2"), (3.0, "fails: of 2 real spaces 0")])
def test_a_subset_is_fewer_directions_than_random_ones(context, z, verdict):
    audits(context.out, SPHERES | dict.fromkeys(("lsa-300", "glove-50"), ("tfidf", 300, 0, z, -9, -9)))
    found = audited.subset(context)
    assert found.verdict.startswith(verdict)
    assert "2 a lower participation ratio and 2 a lower TwoNN" in found.verdict
    assert len(found.figure) == 1 + 2


def test_a_higher_dimension_than_random_is_no_subset(context):
    audits(context.out, SPHERES | {"lsa-300": ("tfidf", 300, 0, -9, 9, 9)})
    assert "1 have a common direction" in audited.subset(context).verdict
    assert "0 a lower participation ratio and 0 a lower TwoNN" in audited.subset(context).verdict


def test_the_page_has_a_row_a_claim_and_names_the_command(context, monkeypatch):
    found = Finding(["score | by cosine", "a 1"], ["chance", "0"], ["95 %", "0–1"], "holds")
    asked = (
        Claim("C5", "it helps", "tasks", lambda _: found),
        Claim("C4", "it changes", "hubness", lambda _: found, "audits.csv", "audits"),
        Claim("C9", "nobody knows", "a lens"),
    )
    monkeypatch.setattr(claims, "CLAIMS", asked)
    claims.run(replace(context, quick=True))
    page = (context.out / "claims.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| C")]
    assert len(rows) == 3
    assert "score \\| by cosine<br>a 1" in rows[0]
    assert rows[0].endswith("| python -m bench claims --quick |")
    assert rows[1].endswith("| python -m bench audits --quick |")
    assert "not yet measured; instrument: a lens" in rows[2]
    assert next(iter(pd.read_csv(context.out / "claims.csv").figure)) == "score | by cosine; a 1"


def test_the_study_reads_what_its_claims_read():
    assert set(claims.STUDY.reads) == {claim.reads for claim in claims.CLAIMS if claim.reads}
    names = list(STUDIES)
    for claim in claims.CLAIMS:
        assert names.index(claim.study) <= names.index("claims"), claim.number
