import json
import math
from functools import cache

import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.auditing.audit import audit
from geomkit.auditing.statistics import STATISTICS
from geomkit.errors import InvalidInputError
from tests.auditing import spaces

N = 1000


@cache
def of(kind, d=64):
    return audit(getattr(spaces, kind)(N, d), source=kind, null_draws=10)


@pytest.mark.parametrize(("kind", "d"), [("noise", 512), ("sphere", 1024), ("gaussian", 10)])
def test_random_vectors_come_out_like_random_vectors(kind, d):
    found = of(kind, d=d)
    with_null = [each for each in found.findings if STATISTICS[each.statistic].null]
    assert len(with_null) > 20
    for each in with_null:
        assert abs(each.z) < 4, each
    assert found.like_random
    assert found.verdict == "ok"
    assert found.flagged == ()
    assert found.suggestions == ()
    assert "nothing here is unlike random vectors" in str(found)


FLAGS = {
    "anisotropic": {"cosine_mean"},
    "collapsed": {"effective_rank"},
    "hubs": {"hubness_skewness"},
    "repeated": {"duplicate_fraction"},
}


@pytest.mark.parametrize("kind", FLAGS)
def test_what_is_wrong_is_flagged_for_the_right_reason(kind):
    found = of(kind)
    flagged = {each.statistic for each in found.flagged}
    assert flagged >= FLAGS[kind]
    assert found.verdict in {"warn", "fail"}
    assert not found.like_random
    others = set().union(*(reasons for other, reasons in FLAGS.items() if other not in {kind, "hubs"}))
    # A set made with one thing wrong does not have what others were made with.
    assert not flagged & (others - FLAGS[kind]) - ({"cosine_mean"} if kind == "hubs" else set())
    levels = [each.verdict for each in found.flagged]
    assert levels == sorted(levels)  # "fail" before "warn"
    # Whatever is said is about what was flagged.
    assert {name for each in (*found.suggestions, *found.rejected) for name in each.findings} <= flagged


def test_a_healthy_space_is_not_mended():
    found = of("healthy")
    assert not found.like_random
    assert found.verdict == "ok"
    assert found.suggestions == ()


def shifted(n=N, d=32, seed=0):
    """Tight clusters on a sphere, and a part that all rows share: centring keeps who is near."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(spaces.sphere(n // 10, d, seed), 10, axis=0)
    x = centres + 0.05 * rng.standard_normal((n, d)) / np.sqrt(d)
    return (x / np.linalg.norm(x, axis=1, keepdims=True) + 2 / np.sqrt(d)).astype(np.float32)


def test_centring_is_tried_on_held_out_rows_and_suggested_where_it_helps():
    x = shifted()
    found = audit(x, k=4, null_draws=4, seed=3)
    assert "cosine_mean" in {each.statistic for each in found.flagged}
    tried = found.suggestions[0]
    assert (tried.transform, tried.harm, tried.reason) == ("Centering", (), "")
    assert "cosine_mean" in tried.findings
    shuffled = np.random.default_rng([3, 2]).permutation(N)
    fitted, held = x[shuffled[: N // 2]].astype(np.float64), x[np.sort(shuffled[N // 2 :])].astype(np.float64)
    for data, said in ((held, tried.before), (held - fitted.mean(axis=0), tried.after)):
        unit = data / np.linalg.norm(data, axis=1, keepdims=True)
        mean = ((unit.sum(axis=0) ** 2).sum() - len(held)) / (len(held) * (len(held) - 1))
        assert said["cosine_mean"] == pytest.approx(mean, abs=1e-5)
    assert tried.after["neighbours kept"] >= 0.9
    assert not audit(x, k=4, null_draws=2, try_transforms=False).suggestions


def test_what_loses_neighbours_is_not_suggested_without_labels():
    found = of("anisotropic")
    assert not any(each.transform for each in found.suggestions)
    [tried] = [each for each in found.rejected if each.transform == "Centering"]
    assert "neighbours kept" in tried.harm
    assert tried.after["cosine_mean"] < 0.1 < tried.before["cosine_mean"]
    assert {each.transform for each in found.rejected} == {"Centering"}  # AllButTheTop only where labels check it
    assert "not suggested: Centering" in str(found)
    assert "makes worse" not in str(found)


def test_what_takes_labels_away_is_not_suggested():
    """The strongest directions tell the classes apart: without them hubness falls, and so does what labels tell."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=N)
    x = spaces.hubs(N, 64)
    x[:, :4] += 6 * np.eye(4, dtype=np.float32)[labels]
    found = audit(x, labels=labels.tolist(), null_draws=4)
    [tried] = [each for each in found.rejected if each.transform == "AllButTheTop"]
    assert "same_label_rate" in tried.harm
    assert tried.after["same_label_rate"] < tried.before["same_label_rate"] - 0.1
    assert not any(each.transform == "AllButTheTop" for each in found.suggestions)
    assert json.loads(found.to_json())["rejected"][0]["transform"] == found.rejected[0].transform


def test_few_rows_try_nothing_and_say_why():
    [tried] = audit(spaces.anisotropic(59, 8), null_draws=2).rejected
    assert tried.reason == "59 rows are too few to try it on half of them; at k = 10 it takes 60"


def test_rows_to_look_at_are_those_of_the_input():
    found = of("repeated")
    m = int(N * 0.3 / 2)
    assert set(found.rows["duplicates"]) <= {*range(m), *range(N - m, N)}
    assert len(found.rows["duplicates"]) == 100
    x = spaces.hubs(300, 16)
    whole = audit(x, null_draws=2)
    assert set(whole.rows["hubs"][:3]) <= set(range(5))
    worse = np.vstack([[[np.nan] * 16], x])
    shifted = audit(worse, null_draws=2, on_invalid="drop")
    np.testing.assert_array_equal(shifted.rows["hubs"], whole.rows["hubs"] + 1)
    assert shifted.n_dropped == 1


def test_thresholds_are_the_callers():
    x = spaces.anisotropic(200, 16)
    assert audit(x, null_draws=4)["cosine_mean"].verdict == "fail"
    softer = audit(x, null_draws=4, thresholds={"cosine_mean": (0.3, 0.9)})
    assert softer["cosine_mean"].verdict == "warn"
    assert audit(x, null_draws=4, thresholds={"cosine_mean": (0.9, 0.9)})["cosine_mean"].verdict == "ok"
    assert audit(x, null_draws=4, z=1e9)["cosine_mean"].verdict == "ok"


def test_the_seed_draws_the_random_sets():
    x = spaces.gaussian(50, 5)
    drawn = {seed: audit(x, null_draws=2, seed=seed)["gini"].null_mean for seed in (0, 1)}
    assert drawn[0] != drawn[1]
    assert drawn[1] == audit(x, null_draws=2, seed=1)["gini"].null_mean


def test_a_sample_says_so():
    x = spaces.clusters(500, 8)
    found = audit(x, n_sample=100, seed=3, null_draws=2)
    assert (found.n, found.sampled_from) == (100, 500)
    assert set(found.to_frame().sampled_from) == {500}
    assert "sampled from 500 (seed 3)" in str(found)
    drawn = np.sort(np.random.default_rng([3, 1]).choice(500, 100, replace=False))
    assert found["gini"].value == audit(x[drawn], null_draws=2)["gini"].value
    assert set(found.rows["hubs"]) <= set(drawn)
    assert audit(x, n_sample=500, null_draws=2).sampled_from is None


def test_everything_can_be_had_as_a_frame_and_as_json():
    found = of("repeated")
    frame = found.to_frame()
    assert list(frame.statistic) == [name for name in STATISTICS if name in set(frame.statistic)]
    assert {"source", "family", "n", "d", "metric", "value", "se", "null_mean", "null_std", "z", "seed"} <= set(frame)
    plain = json.loads(found.to_json())
    assert plain["verdict"] == found.verdict
    values = {each["statistic"]: each["value"] for each in plain["findings"]}
    assert values["gini"] == found["gini"].value
    assert plain["findings"][0].keys() >= {"ci_low", "ci_high", "effect", "verdict"}
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(KeyError):
        found["nothing"]


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot"])
def test_every_metric(metric):
    found = audit(spaces.clusters(200, 8), metric=metric, null_draws=4)
    missing = {each.statistic for each in found.findings if math.isnan(each.value)}
    expected = {
        "cosine": set(),
        "euclidean": {"cosine_q01", "cosine_q50", "cosine_q99", "metric_overlap"},
        "dot": {
            "cosine_q01", "cosine_q50", "cosine_q99", "metric_overlap", "relative_contrast", "outlier_fraction",
            "duplicate_fraction", "near_duplicate_fraction", "twonn", "mle", "lid",
        },
    }  # fmt: skip
    assert missing == expected[metric]
    assert all(found[name].note for name in missing)


@pytest.mark.parametrize("kind", ["list", "torch", "bfloat16", "sparse", "map"])
@pytest.mark.parametrize("null", ["gaussian", "spectrum", "permuted"])
def test_every_kind_of_matrix(kind, null, tmp_path):
    x = spaces.anisotropic(90, 6)
    x[np.abs(x) < 0.3] = 0
    if kind == "bfloat16":
        x = torch.from_numpy(x).bfloat16().float().numpy()
    np.save(tmp_path / "x.npy", x)
    made = {
        "list": x.tolist,
        "torch": lambda: torch.from_numpy(x),
        "bfloat16": lambda: torch.from_numpy(x).bfloat16(),
        "sparse": lambda: scipy.sparse.csr_array(x),
        "map": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
    }[kind]()
    want, found = (audit(each, null=null, null_draws=3) for each in (x, made))
    for name in ("cosine_mean", "gini", "twonn", "effective_rank", "norm_cv", "metric_overlap"):
        assert found[name].value == pytest.approx(want[name].value, rel=1e-5), name
        if null != "permuted" or kind != "sparse":
            assert found[name].null_mean == pytest.approx(want[name].null_mean, rel=1e-5, nan_ok=True), name
    if null == "permuted":
        # Shuffled columns keep the direction that all rows share.
        assert found["cosine_mean"].verdict == "ok"
        return
    [tried] = [each for each in (*found.suggestions, *found.rejected) if each.transform == "Centering"]
    # What would fill a sparse matrix is not done behind anyone's back.
    assert ("sparse" in tried.reason) == (kind == "sparse")


def odd_spaces():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 5))
    constant = x.copy()
    constant[:, 2] = 7
    half = x.copy()
    half[30:] = half[0]
    return {
        "all identical": np.ones((40, 5)),
        "half identical": half,
        "constant column": constant,
        "one column": x[:, :1],
        "two directions": np.repeat([[1.0, 0], [0, 1]], 20, axis=0),
        "tiny": x * 1e-30,
        "huge": x * 1e30,
        "three rows": x[:3],
    }


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("name", odd_spaces())
@pytest.mark.filterwarnings("error")
def test_odd_spaces_are_measured_as_far_as_they_can_be(name, metric):
    x = odd_spaces()[name]
    found = audit(x, k=2, metric=metric, null_draws=3)
    for each in found.findings:
        assert math.isfinite(each.value) or each.note, each
    json.dumps(found.to_dict(), allow_nan=False)
    assert str(found)
    if name == "all identical":
        assert found["duplicate_fraction"].value == 1
        assert found["duplicate_fraction"].verdict == "fail"
    if name == "half identical":
        assert found["duplicate_fraction"].value == pytest.approx(31 / 60)


REFUSED = {
    "k must be a whole number from 2 to n - 1 = 49; got 50": {"k": 50},
    "k must be a whole number from 2": {"k": 1},
    "metric must be one of": {"metric": "manhattan"},
    "null must be one of": {"null": "uniform"},
    "null_draws must be": {"null_draws": 1},
    "n_sample must be a whole number from k": {"n_sample": 5},
    "n_sample must be": {"n_sample": 51},
    "z must be a number above 0; got 0": {"z": 0},
    "seed must be a whole number": {"seed": -1},
    "thresholds names 'twonn', which is never judged": {"thresholds": {"twonn": (1, 2)}},
    "must be two numbers, warn <= fail": {"thresholds": {"hubness_skewness": (5, 2)}},
    "must be two numbers, warn >= fail": {"thresholds": {"effective_rank": (0.1, 0.5)}},
    "on_invalid must be": {"on_invalid": "skip"},
    "labels has 3 entries": {"labels": ["a", "b", "c"]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message):
    with pytest.raises(InvalidInputError, match=message.replace("(", r"\(")):
        audit(spaces.gaussian(50, 4), **REFUSED[message])


def test_rows_that_cannot_be_measured_are_refused():
    x = spaces.gaussian(50, 4)
    x[7, 1] = np.nan
    with pytest.raises(InvalidInputError, match=r"1 row \(7\) that are not finite"):
        audit(x)
    with pytest.raises(InvalidInputError, match="at least 3"):
        audit(x[:2])


def test_progress_is_told():
    lines = []
    audit(spaces.anisotropic(80, 6), null_draws=8, seed=99, progress=lines.append)
    assert lines[0].startswith("measuring 80 rows of 6")
    assert [line for line in lines if "random sets" in line] == [
        "null gaussian: 1 of 8 random sets of 80 x 6",
        "null gaussian: 3 of 8 random sets of 80 x 6",
        "null gaussian: 5 of 8 random sets of 80 x 6",
        "null gaussian: 7 of 8 random sets of 80 x 6",
    ]
    assert lines[-1] == "trying Centering on held-out rows"
