"""The study `claims`: what it reads from the tables of other studies, on tables that are made here."""

from dataclasses import replace

import pandas as pd
import pytest

from bench.inputs import spaces as inputs
from bench.studies import STUDIES, claims
from bench.studies.verdicts import audited, spaces, uses
from bench.studies.verdicts.record import Claim, Finding
from tests.bench.answering import answer, context_of


@pytest.fixture
def context(tmp_path):
    return context_of("claims", tmp_path)


def audits(path, made):
    """Write a table of audits: family, d, and the z of three statistics a space."""
    rows = []
    for name, (family, d, hubs, cosine, spread, local) in made.items():
        for statistic, z in (
            ("hubness_skewness", hubs), ("cosine_mean", cosine), ("participation_ratio", spread), ("twonn", local),
        ):  # fmt: skip
            value = {"value": 0.5 + z, "ci_low": z - 1, "ci_high": z + 1, "null_mean": 0.5, "null_std": 1.0, "z": z}
            rows.append(dict(source=name, family=family, d=d, statistic=statistic, **value))
    rows.append({"source": "mpnet-768", "family": "llm", "d": 768, "statistic": "not measured"})
    pd.DataFrame(rows).to_csv(path / audited.AUDITS, index=False)


SPHERES = {name: ("random", int(name[7:]), 0.1, 0.2, -0.1, 0.3) for name in audited._RANDOM}


def test_hubs_are_counted_among_real_spaces_alone(context):
    made = {"lsa-300": ("tfidf", 300, 9, 0, 0, 0), "glove-50": ("word2vec", 50, 3.9, 0, 0, 0)}
    audits(context.out, SPHERES | made | {"use-512": ("llm", 512, 10, 0, 0, 0)})
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


def geometry(path, metric, rows):
    """Write a table of geometry: of each source statistic, value, se and what random vectors give, at n rows."""
    table = pd.DataFrame(rows, columns=["source", "n", "statistic", "value", "null_mean"])
    table.assign(metric=metric, se=0.01).to_csv(path / spaces.GEOMETRY, index=False)


def test_orthogonal_is_read_at_the_rows_that_all_sources_have(context):
    rows = [
        ("use-512", inputs.N, "within_fraction", 0.995, 0.97), ("lsa-512", inputs.N, "within_fraction", 0.4, 0.96),
        ("lsa-512", 9000, "within_fraction", 0.9, 0.96), ("lsa-512", inputs.N, "mean", 0.9, 0.0),
        ("glove-50", inputs.N, "within_fraction", 0.9, 0.5),
    ]  # fmt: skip
    geometry(context.out, "cosine", rows)
    found = spaces.orthogonal(context)
    assert found.figure[1:] == ["lsa-512 0.4000", "use-512 0.9950"]
    assert found.null[1:] == ["0.9600", "0.9700"]
    assert found.interval[1:] == ["0.3804–0.4196", "0.9754–1.0000"]
    assert found.verdict == "holds for use-512; fails for lsa-512"


def test_far_is_the_nearest_neighbour_above_four_fifths_of_the_mean_distance(context):
    rows = [
        (name, inputs.N, statistic, value, null)
        for name, nearest, contrast in (("gaussian-768", 0.9, 0.2), ("lsa-300", 0.3, 5.0))
        for statistic, value, null in (("nearest_to_mean", nearest, 0.91), ("relative_contrast", contrast, 0.25))
    ]
    geometry(context.out, "minkowski-2", rows)
    found = spaces.far(context)
    assert found.figure[1:] == ["gaussian-768 0.900 (0.20)", "lsa-300 0.300 (5.00)"]
    assert found.null[1:] == ["0.910 (0.25)", "0.910 (0.25)"]
    assert found.interval[1] == "0.880–0.920"
    assert found.verdict.endswith("holds for gaussian-768; fails for lsa-300")


@pytest.mark.parametrize(
    ("low", "dot", "verdict"),
    [
        (0.6, 0.7, "holds: above chance everywhere; no other metric is ahead by more than 0.01"),
        (0.6, 0.72, "holds: above chance everywhere; ahead of cosine by more than 0.01: glove-50 words (dot 0.720)"),
        (0.4, 0.7, "fails: not above chance everywhere; no other metric is ahead by more than 0.01"),
    ],
)
def test_cosine_is_useful_where_it_is_above_chance(context, low, dot, verdict):
    one = {"source": "glove-50", "task": "words", "chance": 0.5, "high": 0.8}
    rows = [one | {"metric": "cosine", "value": 0.7, "low": low}, one | {"metric": "dot", "value": dot, "low": low}]
    pd.DataFrame(rows).to_csv(context.out / uses.USEFULNESS, index=False)
    found = uses.useful(context)
    assert (found.figure[1], found.null[1], found.interval[1]) == ("glove-50 words 0.700", "0.5", f"{low:.3f}–0.800")
    assert found.verdict == verdict


def test_the_page_has_a_row_a_claim_and_names_the_command(context, monkeypatch):
    found = Finding(["score | by cosine", "a 1"], ["chance", "0"], ["95 %", "0–1"], "holds")
    asked = (
        Claim("C5", "it helps", "tasks", lambda _: found, "usefulness.csv", "usefulness"),
        Claim("C4", "it changes", "hubness", lambda _: found, "audits.csv", "audits"),
        Claim("C9", "nobody knows", "a lens", lambda _: found, "decode_tokens.csv", "decode"),
    )
    monkeypatch.setattr(claims, "CLAIMS", asked)
    for name in ("usefulness.csv", "audits.csv"):
        (context.out / name).touch()
    assert answer(claims.STUDY, replace(context, quick=True)) == ["claims.csv", "claims.md"]
    page = (context.out / "claims.md").read_text().splitlines()
    rows = [line for line in page if line.startswith("| C")]
    assert len(rows) == 3
    assert "score \\| by cosine<br>a 1" in rows[0]
    assert rows[0].endswith("| python -m bench usefulness --quick |")
    assert rows[1].endswith("| python -m bench audits --quick |")
    assert "not measured here: there is no decode_tokens.csv" in rows[2]
    assert rows[2].endswith("| python -m bench decode --quick |")
    assert next(iter(pd.read_csv(context.out / "claims.csv").figure)) == "score | by cosine; a 1"


def test_the_study_reads_what_its_claims_read():
    assert set(claims.STUDY.reads) == {claim.study for claim in claims.CLAIMS}
    assert claims.STUDY.measure is None
    names = list(STUDIES)
    for claim in claims.CLAIMS:
        assert names.index(claim.study) <= names.index("claims"), claim.number
