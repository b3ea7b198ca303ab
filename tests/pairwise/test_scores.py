import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import torch

from geomkit.core.matrix import as_matrix
from geomkit.errors import InvalidInputError
from geomkit.kernels import Backend, cpu_product, module, torch_
from geomkit.pairwise.scores import UNIT_ROUNDOFF, Form, cosine_scores, dividable, euclidean_scores, product_scores
from tests.bounds import assert_within
from tests.kernels.case import read
from tests.stats.nearest import entries_of
from tests.stats.oracle import BFLOAT16, DATA, SCREENED, data, force

SHAPE = (40, 12)
METRICS = {"cosine": cosine_scores, "euclidean": euclidean_scores, "dot": product_scores}


NAMES = (*DATA, "mirrored")


def rows_of(name):
    """Data of the oracle, or rows beside their negatives, whose mean is nothing."""
    if name != "mirrored":
        return data(name, *SHAPE)
    half = data("gaussian", SHAPE[0] // 2, SHAPE[1])
    return np.vstack([half, -half])


def true_scores(x, scores, metric):
    """Scores of all pairs in extended precision, in units of the prepared rows, from the rows as given."""
    x = np.asarray(x, np.longdouble)
    if metric == "cosine":
        x = x / np.abs(x).max(axis=1, keepdims=True)
        x = x / np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    else:
        x = x / np.longdouble(scores.divisors[0])
    if metric == "euclidean":
        return -np.square(x[:, None] - x[None]).sum(axis=2) / 2
    return (x[:, None] * x[None]).sum(axis=2)


def made(x, metric, backend, precision, **how):
    matrix = as_matrix(x)
    dtype = module(Backend(backend)).storage(precision, 1.0)
    return METRICS[metric](matrix, Backend(backend), precision, "raise", dtype=dtype, **how)


def assert_holds(scores, x, metric):
    """Every entry lies within the bound of its row, and of its column, of the true score."""
    apart = ~np.eye(scores.n, dtype=bool)
    true = true_scores(x, scores, metric) - scores.origin
    off = np.abs(entries_of(scores) - true)[apart]
    errors = np.minimum(scores.errors[:, None], scores.errors)
    if scores.rounded:
        errors = errors + 2.0**-8 * (np.abs(true) + errors)
    errors = errors[apart]
    assert np.isfinite(off).all()
    assert np.all(off <= errors), f"{np.sum(off > errors)} entries are off, by up to {np.max(off / errors)} bounds"
    assert scores.bound == scores.errors.max()
    assert np.all(scores.errors >= scores.slack)


def plain(x):
    return np.asarray(x.toarray() if scipy.sparse.issparse(x) else x)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENED)
def test_entries_lie_within_their_bounds(monkeypatch, backend, precision, product, metric, resident):
    force(monkeypatch, product)
    if not resident:
        monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 0)
    for name in NAMES:
        x = rows_of(name)
        scores = made(x, metric, backend, precision)
        assert (scores.resident is not None) == resident
        assert scores.rounded == (precision == "bfloat16" and (backend in {"torch", "triton"} or product in BFLOAT16))
        assert_holds(scores, x, metric)


def test_every_form_is_tried():
    forms = {(metric, made(rows_of(name), metric, "cpu", "float32").form) for metric in METRICS for name in NAMES}
    assert forms == {
        ("cosine", Form.PLAIN),
        ("cosine", Form.RESIDUAL),
        ("euclidean", Form.EUCLIDEAN),
        ("dot", Form.RESIDUAL),
    }


def mixed(rng):
    """Rows whose norms have nothing in common, and among them one that no division in one step can bring to 1."""
    return rng.standard_normal(SHAPE) * 10.0 ** rng.integers(-200, 200, (SHAPE[0], 1))


FAR = {
    "translated": lambda rng: rng.standard_normal(SHAPE) + 1e6,
    "translated in float32": lambda rng: (rng.standard_normal(SHAPE) + 1e6).astype(np.float32),
    "1e-30": lambda rng: (rng.standard_normal(SHAPE) * 1e-30).astype(np.float32),
    "1e30": lambda rng: (rng.standard_normal(SHAPE) * 1e30).astype(np.float32),
    "1e-300": lambda rng: rng.standard_normal(SHAPE) * 1e-300,
    "1e300": lambda rng: rng.standard_normal(SHAPE) * 1e300,
    "1e-320": lambda rng: rng.standard_normal(SHAPE) * 1e-320,
    "1.5e308": lambda rng: rng.uniform(0.9, 1, SHAPE) * 1.5e308,
    "identical": lambda rng: np.tile(rng.standard_normal(SHAPE[1]), (SHAPE[0], 1)),
    "opposed": lambda rng: np.array([[1.0], [-1.0]] * 20) * rng.standard_normal(SHAPE[1]),
    "two": lambda rng: rng.standard_normal((2, 5)),
    "three in one": lambda _: np.array([[1.0], [2.0], [-3.0]]),
    "an outlier": lambda rng: np.vstack([1e4 * np.ones(SHAPE[1]), rng.standard_normal(SHAPE)]),
    "zeros": lambda _: np.vstack([np.eye(SHAPE[1]), -np.eye(SHAPE[1])]),
}


@pytest.mark.parametrize("name", FAR)
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENED)
def test_entries_of_far_fetched_data_lie_within_their_bounds(monkeypatch, backend, precision, product, name):
    force(monkeypatch, product)
    x = FAR[name](np.random.default_rng(4))
    for metric in METRICS:
        if precision == "float16" and metric == "dot" and name.startswith("translated"):
            with pytest.raises(InvalidInputError, match=r"^x lies too far from the origin .* got 'float16'$"):
                made(x, metric, backend, precision)
        else:
            assert_holds(made(x, metric, backend, precision), x, metric)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENED)
def test_cosines_do_not_depend_on_norms(monkeypatch, backend, precision, product, resident):
    force(monkeypatch, product)
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 2**28 * resident)
    x = mixed(np.random.default_rng(4))
    scores = made(x, "cosine", backend, precision)
    assert not dividable(scores.divisors)
    assert_holds(scores, x, "cosine")


def storages(tmp_path):
    x = data("clustered", *SHAPE) + np.float32(1)
    wide = np.zeros((2 * SHAPE[0], 3 * SHAPE[1]), np.float32)
    wide[::2, ::3] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "x.npy", x)
    return {
        "float16": x.astype(np.float16),
        "bfloat16": x.astype(ml_dtypes.bfloat16),
        "int8": np.round(x * 4).astype(np.int8),
        "torch bfloat16": torch.from_numpy(x).to(torch.bfloat16),
        "torch float64": torch.from_numpy(x).to(torch.float64),
        "torch strided": torch.from_numpy(wide)[::2, ::3],
        "Fortran": np.asfortranarray(x),
        "strided": wide[::2, ::3],
        "backwards": x[::-1, ::-1],
        "read-only": fixed,
        "swapped": x.astype(">f8"),
        "mapped": np.load(tmp_path / "x.npy", mmap_mode="r"),
    }


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("backend", list(Backend))
def test_storage_of_every_kind(backend, metric, tmp_path, monkeypatch):
    for resident in (True, False):
        monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 2**28 * resident)
        for precision in ("float64",) if backend is Backend.REFERENCE else ("float32", "bfloat16"):
            for x in storages(tmp_path).values():
                as_float = x.to(torch.float64).numpy() if isinstance(x, torch.Tensor) else x.astype(np.float64)
                assert_holds(made(x, metric, backend, precision), as_float, metric)


@pytest.mark.parametrize("product", ["", "torch"])
def test_lifts_in_bfloat16_are_as_exact_as_two_pieces(monkeypatch, product):
    """Rows that bfloat16 holds exactly, of equal length: nothing but their lifts is rounded."""
    force(monkeypatch, product)
    for step in range(128):
        x = np.array([[1.0], [-1.0], [1.0], [-1.0]]) * (1 + step / 128)
        assert_holds(made(x, "euclidean", "cpu", "bfloat16"), x, "euclidean")


@pytest.mark.parametrize("name", [*DATA, "1e-300", "1e300", "1e-320", "mixed"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision"), [each[:2] for each in SCREENED if each[1] != "bfloat16"])
def test_entries_of_sparse_rows_lie_within_their_bounds(backend, precision, metric, name):
    rng = np.random.default_rng(3)
    x = mixed(rng) if name == "mixed" else FAR[name](rng) if name in FAR else data(name, *SHAPE).astype(np.float64)
    x = x * (rng.random(SHAPE) < 0.3)
    x[:, 0] += np.abs(x).max(axis=1)
    x[:, 0] += x.max(axis=1) == 0
    if metric != "cosine" and name == "mixed":
        x = x / np.abs(x).max(axis=1, keepdims=True)
    scores = made(scipy.sparse.csr_array(x), metric, backend, precision)
    assert scores.sparse == (backend == "cpu")
    assert_holds(scores, x, metric)


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("backend", "precision", "product"), SCREENED)
def test_blocks_and_chosen_rows_are_those_of_the_whole(monkeypatch, backend, precision, product, metric, resident):
    force(monkeypatch, product)
    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 7 * SHAPE[1])
    x = data("clustered", *SHAPE)
    whole = made(x, metric, backend, precision)
    monkeypatch.setattr("geomkit.core.memory.RESIDENT_BYTES", 2**28 * resident)
    some = np.array([9, 0, 39, 9])
    # The CPU kernels take each row for itself; the others may add up differently in blocks of different height.
    bound = 0 if backend == "cpu" else 1e-14 if precision == "float64" else 2.0**-16
    for threads in (1, 3):
        scores = made(x, metric, backend, precision, threads=threads)
        assert np.array_equal(scores.facts, whole.facts)
        for start, stop in ((0, 40), (3, 20), (39, 40)):
            for side in ("left", "right"):
                block = read(scores.backend, getattr(scores, side)(start, stop))
                assert_within(block, read(scores.backend, getattr(whole, side)(start, stop)), bound)
        assert_within(read(scores.backend, scores.take(some)), read(scores.backend, whole.left(0, 40))[some], bound)


@pytest.mark.parametrize("metric", METRICS)
def test_factors_for_which_a_device_has_no_room_are_made_again(monkeypatch, metric):
    x = data("clustered", *SHAPE)
    kept, zeros = made(x, metric, "torch", "float32"), torch_.zeros

    def scarce(shape, dtype, device=None):
        if shape[0] == SHAPE[0]:
            raise torch.OutOfMemoryError("full")  # noqa: EM101
        return zeros(shape, dtype, device)

    monkeypatch.setattr("geomkit.core.blocks.BLOCK_ENTRIES", 7 * SHAPE[1])
    monkeypatch.setattr(torch_, "zeros", scarce)
    with pytest.warns(RuntimeWarning, match="^the host has no memory to keep prepared rows, which will be made again"):
        again = made(x, metric, "torch", "float32")
    assert again.resident is None
    assert np.allclose(again.facts, kept.facts, rtol=1e-14)
    assert np.allclose(again.left(3, 9), kept.left(3, 9), atol=1e-6)


@pytest.mark.parametrize(("name", "centred"), [("gaussian", False), ("clustered", True), ("anisotropic", True)])
def test_entries_of_cosines_lie_around_zero(name, centred):
    x = data(name, 200, 40)
    scores = made(x, "cosine", "cpu", "float64")
    assert (scores.form is Form.RESIDUAL) == centred
    mean = np.triu(entries_of(scores), 1).sum() / (200 * 199 / 2)
    assert_within(mean + scores.origin, np.triu(true_scores(x, scores, "cosine"), 1).sum() / (200 * 199 / 2), 1e-14)
    assert abs(mean) < (1e-14 if centred else 0.01)


@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_units_are_those_of_the_data(metric):
    x = data("clustered", *SHAPE).astype(np.float64) * 100 + 50
    scores = made(x, metric, "cpu", "float64")
    found = (entries_of(scores) + scores.origin) * scores.unit
    want = -np.square(x[:, None] - x[None]).sum(axis=2) / 2 if metric == "euclidean" else x @ x.T
    apart = ~np.eye(SHAPE[0], dtype=bool)
    assert_within(found[apart], want[apart], scores.bound * scores.unit + 1e-13 * np.abs(want[apart]))


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_bounds_are_worth_their_name(monkeypatch, metric, precision):
    """Not above ten times the largest error that there was."""
    # A bfloat16 tile would be rounded once more, which the bound is not about.
    force(monkeypatch, "numpy in float32")
    x = data("clustered", 300, 30)
    scores = made(x, metric, "cpu", precision)
    apart = ~np.eye(300, dtype=bool)
    worst = np.abs(entries_of(scores) + scores.origin - true_scores(x, scores, metric))[apart].max()
    assert worst <= scores.bound <= (10 if precision == "bfloat16" else 40) * worst
    assert scores.bound < 4 * UNIT_ROUNDOFF[precision] * (2 if precision == "bfloat16" else 34)


def test_rows_of_different_length_have_bounds_of_their_own():
    x = np.vstack([1e4 * np.ones((1, 12)), data("gaussian", *SHAPE)]).astype(np.float32)
    errors = made(x, "dot", "cpu", "bfloat16").errors
    assert errors[0] < 3 * errors[1:].max()
    several = made(np.vstack([x[:1], x]), "dot", "cpu", "bfloat16").errors
    assert several[0] > 10 * several[2:].max()


def test_the_product_that_was_forced_runs(monkeypatch):
    ran = []
    force(monkeypatch, "torch")
    multiply = cpu_product.bfloat16_product
    monkeypatch.setattr(cpu_product, "bfloat16_product", lambda *blocks: ran.append(1) or multiply(*blocks))
    entries_of(made(data("gaussian", *SHAPE), "cosine", "cpu", "bfloat16"))
    assert ran == [1]
