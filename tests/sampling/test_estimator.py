"""Sampled statistics of given draws against plain counting, their answers' form, stored rows, and bad input."""

import json
import math

import numpy as np
import pytest
import scipy.sparse

import geomkit
from geomkit.errors import InvalidInputError
from geomkit.sampling import draws, estimates
from geomkit.sampling.estimator import sampled

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def x_of(n=900, d=12, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    x[:, 0] += 0.7
    return x


def pairs(x, metric="cosine"):
    x = x.astype(np.float64)
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        full = x @ x.T
    else:
        full = np.square(x[:, None] - x[None]).sum(axis=2)
    return full[np.triu_indices(len(x), 1)]


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_without_controls_they_are_those_of_the_drawn_rows(metric, precision):
    x = x_of()
    above = (0.3, -0.2) if metric == "cosine" else (5.0, 31.0)
    found = sampled(x, 400, seed=1, metric=metric, above=above, moments=False, precision=precision, threads=1)
    values = pairs(x[found.rows], metric)
    assert len(np.unique(found.rows)) == found.n_sample == 400
    assert found.n_pairs == len(values)
    assert found["mean"].value == pytest.approx(values.mean(), rel=1e-5)
    assert found["std"].value == pytest.approx(values.std(), rel=1e-5)
    for t in above:
        assert found[f"above_fraction_{t:g}"].value == pytest.approx((values > t).mean(), abs=2e-5)
    if metric == "cosine":
        assert found["within_fraction_0.1"].value == pytest.approx((np.abs(values) <= 0.1).mean(), abs=2e-5)
    for q in QUANTILES:
        assert found[f"quantile_{q:g}"].value == pytest.approx(np.quantile(values, q), rel=0.01, abs=0.003)
    assert found.control == "none"
    assert {each.control for each in found.estimates} == {"none"}


def test_pairs_at_a_threshold_are_within_it_and_not_above():
    # Cosines 0, 1 and -1, of which products of whole numbers are exact.
    x = np.repeat(np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]]), 30, axis=0)
    found = sampled(x, 100, seed=0, within=(0.0, 1.0), above=(0.0, 1.0, -1.0), moments=False)
    values = np.round(pairs(x[found.rows]))
    assert found["within_fraction_0"].value == pytest.approx((values == 0).mean(), abs=1e-12)
    assert found["within_fraction_1"].value == 1
    assert found["above_fraction_0"].value == pytest.approx((values == 1).mean(), abs=1e-12)
    assert found["above_fraction_1"].value == 0
    assert found["above_fraction_-1"].value == pytest.approx((values > -1).mean(), abs=1e-12)
    # Rows less their mean are no whole numbers any more.
    ask = (1.0, 3.0, 5.0)
    squares = sampled(x, 100, seed=0, metric="sqeuclidean", within=ask, above=ask, moments=False)
    values = np.round(pairs(x[squares.rows], "sqeuclidean"))
    for t in ask:
        assert squares[f"within_fraction_{t:g}"].value == pytest.approx((values <= t).mean(), abs=1e-12)
        assert squares[f"above_fraction_{t:g}"].value == pytest.approx((values > t).mean(), abs=1e-12)
    assert squares["quantile_0.01"].value == pytest.approx(0, abs=1e-3)
    assert math.copysign(1, squares["quantile_0.01"].value) == 1


def test_a_share_of_0_has_the_bound_of_hoeffding_and_a_note():
    found = sampled(x_of(), 100, seed=0, above=(0.999,), threads=1)["above_fraction_0.999"]
    assert (found.value, found.ci_low) == (0, 0)
    assert found.ci_high == pytest.approx(1 - (0.05 / 2) ** (1 / 50))
    assert found.note == "no pair on one side: Hoeffding's bound"
    assert found.control == "none"
    most = sampled(x_of(), 100, seed=0, above=(-0.999,), threads=1)["above_fraction_-0.999"]
    assert (most.value, most.ci_high) == (1, 1)


def test_a_share_that_few_points_bear_has_the_bound_of_hoeffding_and_a_note():
    x = x_of(400)
    x[:4] = x[0]
    few = sampled(x, 390, seed=2, above=(0.99999,), quantiles=())["above_fraction_0.99999"]
    assert 0 < few.value < 0.01
    assert few.ci_high > 3 * few.value
    assert few.note == "4 points bear the variance: Hoeffding's bound"
    x[:30] = x[0]
    many = sampled(x, 390, seed=2, above=(0.99999,), quantiles=())["above_fraction_0.99999"]
    assert many.note == ""
    assert many.ci_high < 1.2 * many.value


def test_equal_rows_leave_no_doubt_that_is_not_there():
    for metric, value in (("cosine", 1.0), ("sqeuclidean", 0.0)):
        found = sampled(np.ones((200, 3)), 40, seed=0, metric=metric)
        assert found["mean"].value == pytest.approx(value, abs=1e-6)
        assert found["quantile_0.5"].value == pytest.approx(value, abs=1e-6)
        for each in found.estimates:
            assert each.ci_low <= each.value <= each.ci_high
        # Of the rows that were not drawn a few may be others: Hoeffding's interval is about 1 %, and not about all.
        assert found["quantile_0.01"].ci_low == (-1 if metric == "cosine" else 0)


def test_intervals_end_where_values_do():
    found = sampled(x_of(), 30, seed=0, metric="sqeuclidean", quantiles=(0.001, 0.5, 0.999))
    assert (found["quantile_0.001"].ci_low, found["quantile_0.999"].ci_high) == (0, math.inf)
    assert math.isnan(found["quantile_0.999"].se)
    found = sampled(x_of(), 30, seed=0, quantiles=(0.001, 0.999))
    assert (found["quantile_0.001"].ci_low, found["quantile_0.999"].ci_high) == (-1, 1)


def test_pairs_inside_blocks_weigh_what_they_are_of_all_pairs():
    n, blocks = 2000, 20
    x = np.repeat(x_of(100), blocks, axis=0) + x_of(n, seed=1) / 2
    found = sampled(x, 400, seed=0, blocks=blocks, moments=False)
    values, (i, j) = pairs(x[found.rows]), np.triu_indices(400, 1)
    inside = found.rows[i] // blocks == found.rows[j] // blocks
    share = (blocks - 1) / (n - 1)
    weights = np.where(inside, share / inside.sum(), (1 - share) / (~inside).sum())
    order = np.argsort(values)
    for q in QUANTILES:
        expected = values[order][np.searchsorted(np.cumsum(weights[order]), q)]
        assert found[f"quantile_{q:g}"].value == pytest.approx(expected, abs=0.004)
    assert found["mean"].value == pytest.approx(weights @ values, abs=1e-6)
    assert abs(np.quantile(values, 0.99) - found["quantile_0.99"].value) > 0.05


def test_moments_of_other_rows_are_not_used_as_controls():
    x = x_of()
    x[:, 0] += 0.5
    found = sampled(x, 200, seed=0, moments=geomkit.moments(x_of(seed=5)))
    plain = sampled(x, 200, seed=0, moments=False)
    assert found.control == "none"
    assert found.control_z > 5
    assert found["within_fraction_0.1"].value == plain["within_fraction_0.1"].value
    assert found["within_fraction_0.1"].note.startswith(f"controls are {found.control_z:.1f} standard errors off")
    assert found["mean"].note == ""


def test_the_same_seed_gives_the_same_and_another_does_not():
    x, first = x_of(), sampled(x_of(), 100, seed=7, threads=1)
    assert first == sampled(x, 100, seed=np.int64(7), threads=1)
    assert first.to_rows() == sampled(x, 100, seed=7, moments=geomkit.moments(x), threads=1).to_rows()
    assert not np.array_equal(first.rows, sampled(x, 100, seed=8, threads=1).rows)


@pytest.mark.parametrize("blocks", [None, 20])
def test_threads_do_not_matter(blocks):
    x = x_of(4000)
    one, two = (sampled(x, 1800, seed=0, blocks=blocks, threads=threads) for threads in (1, 2))
    for a, b in zip(one.estimates, two.estimates, strict=True):
        assert (a.value, a.se, a.ci_low, a.ci_high) == pytest.approx((b.value, b.se, b.ci_low, b.ci_high), rel=1e-7)


@pytest.mark.parametrize("metric", ["cosine", "sqeuclidean"])
@pytest.mark.parametrize("blocks", [None, 5])
def test_stored_rows_give_what_the_array_gives(tmp_path, metric, blocks):
    x = x_of()
    for k in range(3):
        np.save(tmp_path / f"part-{k}.npy", x[300 * k : 300 * (k + 1)])
    np.save(tmp_path / "whole.npy", x)
    expected = sampled(x, 120, seed=3, metric=metric, blocks=blocks).to_rows()
    shards = geomkit.open_shards(str(tmp_path / "part-*.npy"))
    assert sampled(shards, 120, seed=3, metric=metric, blocks=blocks).to_rows() == expected
    with geomkit.distribute(shards) as spread:
        assert sampled(spread, 120, seed=3, metric=metric, blocks=blocks).to_rows() == expected
    mapped = np.load(tmp_path / "whole.npy", mmap_mode="r")
    assert sampled(mapped, 120, seed=3, metric=metric, blocks=blocks).to_rows() == expected


@pytest.mark.parametrize("blocks", [None, 5])
def test_sparse_rows(blocks):
    x = x_of() * (np.random.default_rng(1).random((900, 12)) < 0.4)
    x[:, 3] += 1
    dense, sparse = (sampled(each, 120, seed=3, blocks=blocks, above=(0.5,)) for each in (x, scipy.sparse.csr_array(x)))
    for a, b in zip(dense.estimates, sparse.estimates, strict=True):
        assert (a.value, a.ci_low, a.ci_high) == pytest.approx((b.value, b.ci_low, b.ci_high), rel=1e-4, abs=1e-6)


def test_blocks_are_consecutive_rows_as_long_as_one_another():
    found = sampled(x_of(), 150, seed=0, blocks=7)
    assert found.n_blocks == 21
    assert found.block_rows == 7
    lengths = np.diff(np.flatnonzero(np.diff(found.rows, prepend=-9, append=9999) != 1))
    assert found.n_sample == len(found.rows) == lengths.sum() <= 150
    assert set(np.diff(np.unique([900 * k // 129 for k in range(130)]))) == {6, 7}
    assert lengths.min() >= 6
    for seed in range(5):
        assert len(np.unique(sampled(x_of(), 800, seed=seed, blocks=7, quantiles=()).rows)) > 770


def test_many_points_find_quantiles_from_a_quarter_of_them(monkeypatch):
    x, moments = x_of(3000), geomkit.moments(x_of(3000))
    for metric in ("cosine", "sqeuclidean"):
        for blocks in (None, 10):
            monkeypatch.setattr(estimates, "FEW_POINTS", 1000)
            whole = sampled(x, 900, seed=0, metric=metric, blocks=blocks, moments=moments)
            monkeypatch.setattr(estimates, "FEW_POINTS", 100)
            quarter = sampled(x, 900, seed=0, metric=metric, blocks=blocks, moments=moments)
            for q in QUANTILES[1:-1]:
                a, b = whole[f"quantile_{q:g}"], quarter[f"quantile_{q:g}"]
                assert abs(a.value - b.value) < 0.5 * a.se
                assert b.se == pytest.approx(a.se, rel=0.3)


def test_dropped_rows_are_no_points():
    x = x_of()
    x[5:500:50] = np.nan
    with pytest.raises(InvalidInputError, match="x"):
        sampled(x, 100, seed=0)
    found = sampled(x, 850, seed=0, on_invalid="drop")
    assert (found.n, found.n_dropped) == (890, 10)
    assert found.n_sample == len(found.rows) < 850
    assert np.isfinite(x[found.rows]).all()
    assert found["mean"].value == pytest.approx(pairs(x[np.isfinite(x[:, 0])]).mean(), abs=1e-6)


def test_zero_rows_have_distances():
    x = x_of()
    x[::9] = 0
    found = sampled(x, 500, seed=0, metric="sqeuclidean", above=(10.0,))
    assert found["mean"].value == pytest.approx(pairs(x, "sqeuclidean").mean(), rel=1e-5)


def test_beside_the_uniform_sphere():
    u, sphere = np.random.default_rng(0).standard_normal((2000, 8)), geomkit.nulls.sphere(8)
    found = sampled(u, 600, seed=0, above=(0.3,))
    expected = {
        "mean": 0.0,
        "std": sphere.std,
        "within_fraction_0.1": sphere.within_fraction(0.1),
        "above_fraction_0.3": 1 - float(sphere.cdf(0.3)),
    }
    for name, value in expected.items():
        assert found[name].null_mean == pytest.approx(value, rel=1e-9)
    for q in QUANTILES:
        assert float(sphere.cdf(found[f"quantile_{q:g}"].null_mean)) == pytest.approx(q, rel=1e-6)
    for each in found.estimates:
        assert abs(each.z) < 4
        assert each.null_std > 0
    assert found["above_fraction_0.3"].null_std == pytest.approx(math.sqrt(sphere.cdf(-0.3) * sphere.cdf(0.3) / 1999e3))
    for each in sampled(u, 100, seed=0, metric="sqeuclidean").estimates:
        assert math.isnan(each.null_mean)
        assert math.isnan(each.z)


def test_every_row_says_that_it_is_sampled():
    found = sampled(x_of(), 100, seed=4, source="made", family="normal", above=(0.5,), confidence=0.9)
    frame = found.to_frame()
    assert list(frame["statistic"][:4]) == ["mean", "std", "within_fraction_0.1", "above_fraction_0.5"]
    for name, value in {
        "sampled": 100, "sampled_from": 900, "n": 900, "d": 12, "seed": 4, "source": "made", "family": "normal",
        "confidence": 0.9, "metric": "cosine", "precision": "float32",
    }.items():  # fmt: skip
        assert (frame[name] == value).all()
    assert list(frame["control"][:3]) == ["exact", "exact", "mean, variance"]
    whole = found.to_dict()
    assert whole["n_sample"] == 100
    assert whole["mean"]["value"] == found["mean"].value
    assert json.dumps({name: value for name, value in whole.items() if not isinstance(value, dict)})
    text = str(found).splitlines()
    assert text[0] == "sampled 100 of 900 rows x 12, cosine; control: mean, variance"
    assert "low (0.9)" in text[1]
    assert len(text) == 2 + len(found.estimates)
    assert str(sampled(x_of(), 100, seed=4, blocks=5)).startswith("sampled 100 in 20 blocks of 900 rows")
    with pytest.raises(InvalidInputError, match="statistic must be one of"):
        found["median"]


def test_more_confidence_is_wider():
    low, high = (sampled(x_of(), 100, seed=0, confidence=each)["within_fraction_0.1"] for each in (0.5, 0.99))
    assert high.ci_low < low.ci_low < low.value < low.ci_high < high.ci_high
    assert high.se == low.se


def test_numbers_that_are_close_are_statistics_of_their_own():
    close = sampled(x_of(), 100, seed=0, within=(0.1, 0.1000001), above=(0.2, 0.20000001), quantiles=(0.5, 0.5000001))
    names = [estimate.statistic for estimate in close.estimates]
    assert names == [
        "mean", "std", "within_fraction_0.1", "within_fraction_0.1000001", "above_fraction_0.2",
        "above_fraction_0.20000001", "quantile_0.5", "quantile_0.5000001",
    ]  # fmt: skip
    assert set(names) <= set(close.to_dict())
    assert [row["statistic"] for row in close.to_rows()] == names
    nulls = [close[name].null_mean for name in names if name.startswith("within_fraction")]
    assert nulls[0] < nulls[1]


@pytest.mark.parametrize("q", [0.9999999, 1 - 2**-53, 1e-7, 1e-300])
def test_quantiles_far_out_have_an_answer(q):
    found = sampled(x_of(), 100, seed=0, quantiles=(q,))[f"quantile_{q!r}" if q != 1e-7 else "quantile_1e-07"]
    assert found.ci_low <= found.value <= found.ci_high
    assert -1 <= found.null_mean <= 1
    assert found.null_std > 0 or math.isnan(found.null_std)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_sample": 19}, "n_sample must be a whole number of at least 20; got 19"),
        ({"n_sample": 50.0}, "n_sample must be a whole number"),
        ({"n_sample": True}, "n_sample must be a whole number"),
        ({"n_sample": 900}, "n_sample must be fewer than the 900 rows there are; got 900: .* cosine_stats"),
        ({"n_sample": 900, "metric": "sqeuclidean"}, "measure all of them with squared_distance_stats"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"seed": None}, "seed must be"),
        ({"metric": "euclidean"}, "metric must be"),
        ({"blocks": 1}, "blocks must be a whole number from 2 to n_sample // 20 = 5; got 1"),
        ({"blocks": 6}, "blocks must be .* got 6"),
        ({"within": (1.5,)}, r"within must be numbers in \[0, 1\]; got 1.5"),
        ({"within": (0.1, 0.2, 0.1)}, r"within must be numbers in \[0, 1\], each once; got 0.1 2 times"),
        ({"quantiles": (0.5, 0.5)}, "quantiles must be .* each once; got 0.5 2 times"),
        ({"within": 0.1}, "within must be a sequence"),
        ({"within": "0.1"}, "within must be a sequence"),
        ({"within": (-0.1,), "metric": "sqeuclidean"}, "within must be numbers of at least 0"),
        ({"above": (-1.1,)}, r"above must be numbers in \[-1, 1\]; got -1.1"),
        ({"above": (math.nan,)}, "above must be"),
        ({"above": (True,)}, "above must be"),
        ({"quantiles": (0.0,)}, r"quantiles must be numbers inside \(0, 1\); got 0.0"),
        ({"quantiles": (1,)}, "quantiles must be"),
        ({"confidence": 1.0}, r"confidence must be numbers inside \(0, 1\)"),
        ({"confidence": "0.9"}, "confidence must be"),
        ({"moments": True}, "moments must be the Moments of x, False for none, or None"),
        ({"moments": geomkit.moments(x_of(100))}, "moments must be those of all 900 rows of x, 12 wide; .* 100 rows"),
        ({"moments": geomkit.moments(x_of(d=11))}, "moments must be those of .* 900 rows, 11 wide"),
        ({"precision": "bfloat16"}, "precision must be"),
        ({"on_invalid": "skip"}, "on_invalid must be"),
        ({"on_invalid": "drop", "moments": False}, 'on_invalid must be "raise" here, for moments=False'),
        ({"on_invalid": "drop", "blocks": 5}, 'on_invalid must be "raise" here, for blocks are drawn whole'),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_bad_input_is_named(given, message):
    with pytest.raises(InvalidInputError, match=message):
        sampled(x_of(), **({"n_sample": 100, "seed": 0} | given))


def test_too_few_points_left_after_dropping():
    x = x_of(60)
    x[:35] = np.nan
    with pytest.raises(InvalidInputError, match=r"n_sample: .* of the 24 rows drawn are left after dropping"):
        sampled(x, 24, seed=0, on_invalid="drop")


def test_too_many_blocks_for_their_pairs(monkeypatch):
    monkeypatch.setattr(draws, "BLOCK_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="blocks: 50 of them are too many"):
        sampled(x_of(), 100, seed=0, blocks=2)


def test_moments_that_overflow_are_refused():
    with pytest.raises(InvalidInputError, match="moments must be finite, or False for none"):
        sampled(x_of().astype(np.float64) * 1e100, 100, seed=0, metric="sqeuclidean")


def test_one_row_far_away_moves_no_quantile():
    x = np.random.default_rng(0).standard_normal((300, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x[137] *= 1e4
    found = geomkit.sampled(x, 280, seed=3, metric="sqeuclidean")
    assert 137 in found.rows
    values = np.square(x[:, None] - x).sum(axis=2)[np.triu_indices(300, 1)]
    assert found["quantile_0.5"].value == pytest.approx(np.median(values), rel=0.02)
