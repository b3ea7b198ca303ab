import json

import numpy as np
import pytest
import scipy.sparse
from scipy import stats

from geomkit.auditing import null as drawing
from geomkit.auditing.measurements import measure
from geomkit.auditing.null import Null, draws_for, null_of
from geomkit.auditing.passes import Options
from geomkit.errors import InvalidInputError
from tests.auditing import spaces

OPTIONS = Options(k=5)


def drawn(monkeypatch):
    """Count how often a random set is measured."""
    seen = []
    monkeypatch.setattr(drawing, "measure", lambda x, options: seen.append(x) or measure(x, options))
    return seen


def test_closed_forms_agree_with_draws():
    n, d = 120, 8
    found = null_of(np.zeros((n, d)), "gaussian", OPTIONS, n_draws=200)
    for name in ("cosine_mean", "cosine_std"):
        values = np.array(found.values[name])
        expected = found.expected(name, 0.0)
        # Means of 200 draws, and their spread, which is known to 1/√400 of itself.
        assert abs(values.mean() - expected.mean) < 4 * expected.std / np.sqrt(200) + 1e-3 * expected.std
        assert values.std() == pytest.approx(expected.std, rel=0.2)
        z = found.expected(name, 0.05).z
        assert z == pytest.approx((0.05 - expected.mean) / expected.std)


def test_z_is_as_rare_as_it_sounds_however_few_draws():
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(4000):
        draws = rng.standard_normal(4)
        scores.append(Null("gaussian", 100, 5, 4, {"gini": tuple(draws)}).expected("gini", rng.standard_normal()).z)
    assert stats.kstest(scores, "norm").pvalue > 0.01
    assert np.abs(scores).max() < 4.5


def test_z_goes_on_where_the_tail_of_t_ends():
    scores = [drawing._normal_score(t, 31) for t in (1.0, 1e3, 1e9, 1e12, 1e15)]
    assert scores == sorted(scores)
    assert np.isfinite(scores).all()
    assert drawing._normal_score(-1e12, 31) == -scores[3]
    # Near where the tail leaves the numbers both ways agree.
    far = 1e8
    tail = stats.t.logsf(far, 31)
    assert drawing._normal_score(far, 31) == pytest.approx(-stats.norm.ppf(np.exp(tail)), rel=1e-6)


def test_a_null_that_never_moved_has_the_spread_of_one_row():
    found = Null("gaussian", 200, 5, 8, {"duplicate_fraction": (0.0,) * 8, "gini": (0.1,) * 8})
    assert found.expected("duplicate_fraction", 0.05).z == pytest.approx(10)
    assert found.expected("duplicate_fraction", 0.0).z == 0
    assert np.isnan(found.expected("gini", 0.2).z)
    assert found.expected("gini", 0.1).z == 0
    assert np.isnan(found.expected("norm_cv", 0.2).mean)


def test_draws_are_kept_extended_and_drawn_again_where_they_are_not_sound(cache, monkeypatch):
    x = spaces.gaussian(60, 7)
    seen = drawn(monkeypatch)
    first = null_of(x, "gaussian", OPTIONS, n_draws=3)
    assert len(seen) == 3
    assert null_of(x + 5, "gaussian", OPTIONS, n_draws=3) == first
    assert len(seen) == 3
    more = null_of(x, "gaussian", OPTIONS, n_draws=5)
    assert len(seen) == 5
    assert more.values["gini"][:3] == first.values["gini"]
    for other in (Options(k=4), Options(k=5, metric="euclidean")):
        null_of(x, "gaussian", other, n_draws=2)
    assert len(seen) == 9
    null_of(x, "gaussian", OPTIONS, n_draws=3, seed=1)
    assert len(seen) == 12
    for file in (cache / "nulls").glob("*.json"):
        kept = json.loads(file.read_text())
        kept["draws"][0]["gini"] = 0.5
        file.write_text(json.dumps(kept))
    assert null_of(x, "gaussian", OPTIONS, n_draws=3) == first
    assert len(seen) == 15
    for file in (cache / "nulls").glob("*.json"):
        file.write_text("{")
    assert null_of(x, "gaussian", OPTIONS, n_draws=3) == first
    assert not list((cache / "nulls").glob("*.part"))


@pytest.mark.parametrize(
    ("options", "devices"),
    [
        (Options(k=5), None),
        (Options(k=5, device="cpu"), ["cpu"]),
        (Options(k=5, device="cuda"), ["cuda:0"]),
        (Options(k=5, device=["cuda:0", "cuda:1"], backend="torch"), ["cuda:0", "cuda:1"]),
    ],
)
def test_draws_are_measured_on_the_devices_of_the_data(options, devices, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    x = spaces.gaussian(30, 4)
    values = measure(x, OPTIONS)
    monkeypatch.setattr("geomkit.core.devices._gpus", lambda: (2, ""))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    seen = []
    monkeypatch.setattr(drawing, "measure", lambda _, given: seen.append(given) or values)
    null_of(x, "gaussian", options, n_draws=2)
    assert [given.device for given in seen] == [devices, devices]
    assert {given.backend for given in seen} == {"auto"}


def test_draws_without_a_statistic_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    x = spaces.gaussian(30, 4)
    fewer = {names: read for names, read in drawing.READINGS.items() if "norm_cv" not in names}
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "READINGS", fewer)
        patch.setattr("geomkit.auditing.measurements.READINGS", fewer)
        null_of(x, "gaussian", OPTIONS, n_draws=2)
    assert "norm_cv" in null_of(x, "gaussian", OPTIONS, n_draws=2).values


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("GEOMKIT_CACHE", str(blocked))
    with pytest.warns(RuntimeWarning, match="could not be kept"):
        found = null_of(spaces.gaussian(30, 4), "gaussian", OPTIONS, n_draws=2)
    assert found.n_draws == 2


def test_nulls_of_data_are_of_that_data(monkeypatch):
    x = spaces.clusters(80, 6)
    seen = drawn(monkeypatch)
    null_of(x, "permuted", OPTIONS, n_draws=2)
    null_of(x, "permuted", OPTIONS, n_draws=2)
    assert len(seen) == 2
    for column, original in zip(seen[0].T, x.T, strict=True):
        np.testing.assert_array_equal(np.sort(column), np.sort(original))
    assert not np.array_equal(seen[0], seen[1])
    null_of(x + 1, "permuted", OPTIONS, n_draws=2)
    assert len(seen) == 4
    null_of(x, "permuted", OPTIONS, n_draws=2, rows=np.arange(40))
    assert len(seen) == 6
    assert seen[-1].shape == (40, 6)


@pytest.mark.parametrize("shape", [(4000, 6), (20, 60)])
def test_the_null_of_the_spectrum_has_the_covariance_and_no_mean(shape):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(shape) @ rng.standard_normal((shape[1], shape[1])) + 3).astype(np.float32)
    root = drawing._root(x)
    np.testing.assert_allclose(root.T @ root, np.cov(x, rowvar=False), rtol=1e-3, atol=1e-3 * np.var(x))
    make = drawing._maker(x, "spectrum", *shape, None)
    made = np.concatenate([make(np.random.default_rng(seed)) for seed in range(100)])
    assert np.abs(made.mean(axis=0)).max() < 6 * np.sqrt(np.var(x, axis=0).max() / len(made))
    np.testing.assert_allclose(np.cov(made, rowvar=False), np.cov(x, rowvar=False), atol=0.15 * np.var(x, axis=0).max())


def test_columns_of_sparse_rows_are_shuffled_without_filling_them():
    x = scipy.sparse.random_array((50, 30), density=0.1, rng=np.random.default_rng(0), format="csr")
    made = drawing._permuted(x, np.random.default_rng(1))
    assert made.nnz == x.nnz
    for column in range(30):
        np.testing.assert_array_equal(np.sort(made.toarray()[:, column]), np.sort(x.toarray()[:, column]))
    assert not np.array_equal(made.toarray(), x.toarray())


def test_small_sets_get_more_draws():
    assert draws_for(1000, 100) == 32
    assert 4 < draws_for(10_000, 768) < 32
    assert draws_for(10**6, 768) == 4


@pytest.mark.parametrize("draws", [1, 0, True, 2.5])
def test_draws_must_be_two_at_least(draws):
    with pytest.raises(InvalidInputError, match="null_draws must be a whole number of at least 2"):
        null_of(spaces.gaussian(20, 3), "gaussian", OPTIONS, n_draws=draws)


def test_what_a_draw_may_take():
    big = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (2**17, 2**14), (0, 0))
    with pytest.raises(InvalidInputError, match=r"takes 8\.0 GiB, more than the 4 GiB"):
        null_of(big, "gaussian", OPTIONS)
    with pytest.raises(InvalidInputError, match="null must be one of"):
        null_of(np.zeros((5, 2)), "uniform", OPTIONS)
