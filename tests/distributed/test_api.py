"""Measurements by workers, and ones that can be resumed, are those of one process: counts to the bit."""

import dataclasses
import pickle

import numpy as np
import pytest

import geomkit
from geomkit.core.matrix import as_matrix
from geomkit.covariance.accumulate import RowSums
from geomkit.covariance.batches import ScatterPair
from geomkit.distributed.api import DistributedMatrix, _SharedSweep, distribute
from geomkit.distributed.executors import LocalExecutor
from geomkit.distributed.schedule import LEAF_ROWS, PAIRS_EACH, branches, leaves, spans_of, stripes
from geomkit.distributed.tasks import RowSumsJob, SumsTree
from geomkit.errors import InvalidInputError, StorageError
from geomkit.io.shards.shards import Shards, open_shards
from geomkit.kernels import Backend
from geomkit.pairwise.candidates import Nearest
from geomkit.pairwise.panels import row_bytes
from geomkit.pairwise.sweep import PairSweep
from geomkit.pairwise.tiles import Tiles
from tests.core.test_row_source import MEASURES, same


def rows(n=3100, d=24, seed=0):
    return (np.random.default_rng(seed).standard_normal((n, d)) + 0.4).astype("float32")


def job_of(source):
    matrix = as_matrix(source)
    return RowSumsJob(RowSums(matrix, Backend.CPU, 1, ScatterPair.empty(0, Backend.CPU, None), drop=False))


@pytest.fixture(params=["here", "cluster"])
def workers(request):
    return {} if request.param == "here" else {"client": request.getfixturevalue("client")}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measurement_is_that_of_the_array(workers, name):
    x = rows()
    measure = getattr(geomkit, name)
    found, expected = (
        measure(distribute(x, max_memory=2**20, **workers), **MEASURES[name]),
        measure(x, **MEASURES[name]),
    )
    if name in {"moments", "spectrum", "concentration"}:
        # Sums of floating-point numbers are merged in another order.
        for field in dataclasses.fields(expected):
            a, b = getattr(found, field.name), getattr(expected, field.name)
            if isinstance(b, float | np.ndarray):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13, err_msg=field.name)
    else:
        same(found, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
def test_neighbours_merge_to_the_same(workers, metric, precision):
    x = rows(2500, seed=3)
    x[17] = x[1700]
    expected = geomkit.neighbors(x, 6, metric=metric, precision=precision)
    found = geomkit.neighbors(distribute(x, **workers), 6, metric=metric, precision=precision)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.distances, expected.distances)


def test_an_audit_is_shared_out_too(workers):
    x = rows(1500)
    frames = [geomkit.audit(each, k=5, try_transforms=False).to_frame() for each in (distribute(x, **workers), x)]
    np.testing.assert_allclose(frames[0].value, frames[1].value, rtol=1e-9, atol=1e-12)


def test_invalid_rows_are_named_and_dropped_as_in_memory(workers, tmp_path):
    x = rows(1000)
    x[700], x[30] = 0, np.inf
    np.save(tmp_path / "a-1.npy", x[:600])
    np.save(tmp_path / "a-2.npy", x[600:])
    for name in ("moments", "cosine_stats"):
        with pytest.raises(InvalidInputError, match=r"row 30 of a-1\.npy"):
            getattr(geomkit, name)(distribute(tmp_path, **workers))
    left = np.delete(x, [30, 700], axis=0)
    found = geomkit.cosine_stats(distribute(tmp_path, **workers), on_invalid="drop")
    assert found.n_dropped == 2
    assert np.array_equal(found.distribution.counts, geomkit.cosine_stats(left).distribution.counts)
    moments = geomkit.moments(distribute(tmp_path, **workers), on_invalid="drop")
    assert (moments.n, moments.n_dropped) == (998, 2)
    assert moments.cosine_mean == pytest.approx(geomkit.moments(left).cosine_mean, rel=1e-12)


def test_rows_are_numbered_in_the_whole_and_not_in_their_leaf(workers):
    x = rows(20_000, 3)
    x[15_000] = np.nan
    with pytest.raises(InvalidInputError, match=r"1 row \(15000; the first is row 15000 of "):
        geomkit.moments(distribute(x, **workers))


def test_duplicates_in_different_panels_are_found(workers):
    x = rows(3000)
    x[[2900, 1700]] = x[[5, 1600]]
    found = geomkit.survey(distribute(x, max_memory=2**18, **workers), k=3)
    assert found.duplicates.tolist() == [[5, 2900], [1600, 1700]]


def test_states_of_candidates_merge_to_the_best_and_say_what_was_beaten():
    draw = np.random.default_rng(0)
    nearest = Nearest(Backend.CPU, 6, 3, "float32")
    seen = [[] for _ in range(6)]
    for start, stop in ((0, 3), (3, 6), (0, 6)):
        values = draw.standard_normal((stop - start, 5))
        ids = np.tile(np.arange(stop - start), (stop - start, 2))[:, :5]
        beaten = values.min(axis=1) - 1
        nearest.merge_state({"values": values, "ids": ids, "beaten": beaten}, [(start, stop)])
        for row in range(start, stop):
            of_row = zip(values[row - start], ids[row - start] + start, strict=True)
            seen[row] += [(float(value), int(other)) for value, other in of_row]
    values, ids, beaten = nearest.candidates()
    for row, every in enumerate(sorted(each, reverse=True) for each in seen):
        assert sorted(zip(values[row].tolist(), ids[row].tolist(), strict=True), reverse=True) == every[:3]
        assert beaten[row] == every[3][0]


def test_tasks_are_told_what_was_found_before_them(workers, monkeypatch):
    asked = []
    hints = Nearest.hints

    def listened(self, spans):
        asked.append(hints(self, spans)["floor"])
        return hints(self, spans)

    followed = []
    use_hints = Nearest.use_hints
    monkeypatch.setattr(Nearest, "hints", listened)
    monkeypatch.setattr(
        Nearest, "use_hints", lambda self, told: followed.append(told["floor"]) or use_hints(self, told)
    )
    x = rows()
    found = geomkit.neighbors(distribute(x, max_memory=2**18, **workers), k=3)
    assert np.all(asked[0] == -np.inf)
    assert np.all(np.isfinite(asked[-1]))
    same(found, geomkit.neighbors(x, k=3))
    if not workers:
        assert all(np.array_equal(*each) for each in zip(followed, asked, strict=True))


def test_sums_do_not_depend_on_who_pours(client):
    x = rows(40_000, 8)
    one, two = geomkit.moments(distribute(x)), geomkit.moments(distribute(x, client=client))
    assert [str(value) for value in one.to_dict().values()] == [str(value) for value in two.to_dict().values()]


def test_progress_counts_tasks():
    said = []
    geomkit.cosine_stats(distribute(rows(), max_memory=2**20, progress=lambda *each: said.append(each)))
    geomkit.moments(distribute(rows(20_000, 4), progress=lambda *each: said.append(each)))
    for what in ("pairs", "rows"):
        steps = [(done, of) for kind, done, of in said if kind == what]
        assert steps == [(k, steps[0][1]) for k in range(steps[0][1] + 1)]
        assert len(steps) > 2


def test_a_tree_is_the_same_in_any_order():
    x = rows(70_000, 3)
    job = job_of(open_shards(x))
    tasks = leaves(*x.shape)
    assert len(tasks) == 8
    assert (tasks[0][0], tasks[-1][1]) == (0, 70_000)
    for some in (tasks, tasks[:7], tasks[:5], tasks[:1]):
        sums = [job([task], 1).sums for task in some]
        roots = []
        for seed in range(4):
            tree = SumsTree(len(some), Backend.CPU)
            for number in np.random.default_rng(seed).permutation(len(some)):
                other = SumsTree(len(some), Backend.CPU)
                # Written down and read again between any two.
                other.load_state_dict(tree.state_dict())
                tree = other
                tree.add(0, int(number), sums[number])
            roots.append(tree.root.state_dict())
        for each in roots[1:]:
            for name, value in roots[0].items():
                np.testing.assert_array_equal(each[name], value)
        assert roots[0]["plain_n"] == some[-1][1]


@pytest.mark.parametrize("many", [8, 7, 5, 3, 1])
@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_branches_that_workers_merge_are_those_of_the_tree(many, level):
    x = rows(70_000, 3)
    job = job_of(open_shards(x))
    some = leaves(*x.shape)[:many]
    leaf, branch = SumsTree(many, Backend.CPU), SumsTree(many, Backend.CPU)
    for number, task in enumerate(some):
        leaf.add(0, number, job([task], 1).sums)
    for at in reversed(range(-(-many // 2**level))):
        branch.add(level, at, job(some[at << level : (at + 1) << level], 1).sums)
    for name, value in leaf.root.state_dict().items():
        np.testing.assert_array_equal(branch.root.state_dict()[name], value)


@pytest.mark.parametrize("workers", [1, 2, 3, 100])
@pytest.mark.parametrize(("many", "n"), [(1, 10), (13, 13 * 2**13), (64, 10**6), (64, 10**7), (954, 10**9)])
@pytest.mark.parametrize("share", [0, 0.1, 0.9, 1])
def test_branches_are_what_is_left_once(many, n, workers, share):
    done = np.random.default_rng(many).random(many) < share
    found = branches(done.tolist(), n, workers)
    covered = np.concatenate([np.arange(many)[at << level : (at + 1) << level] for level, at in found] or [[]])
    assert covered.tolist() == np.flatnonzero(~done).tolist()
    assert max((n / many * 2**level for level, _ in found if level), default=0) <= LEAF_ROWS[1]
    if not share:
        # Enough for all workers, where there are as many leaves; and no more than that needs.
        assert len(found) >= min(many, 4 * workers)
        assert len(found) <= max(16 * workers, n // 2**19, 1) or many == len(found)


def test_sums_survive_being_written_down():
    job = job_of(open_shards(rows(300)))
    state = job([(0, 300)], 1).sums
    again = ScatterPair.from_state_dict(state, Backend.CPU).state_dict()
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize(("n", "panel", "most"), [(10, 3, 2), (10, 3, 9), (9, 9, 1), (20, 2, 3)])
def test_stripes_are_all_pairs_of_panels_once(n, panel, most):
    found = [(task.left, right) for task in stripes(n, panel, most) for right in task.rights]
    starts = range(0, n, panel)
    assert sorted((i[0], j[0]) for i, j in found) == [(i, j) for i in starts for j in starts if j >= i]
    for task in stripes(n, panel, most):
        assert 1 <= len(task.rights) <= most
        assert spans_of(task)[0] == task.left


def test_a_panel_fits_into_the_room_and_gives_every_worker_enough_to_do():
    class Workers(LocalExecutor):
        workers = 2

    source = open_shards(rows(50_000, 8), max_memory=2**20)
    data = DistributedMatrix(source, Workers(), None, None)
    scores = geomkit.pairwise.scores.cosine_scores(as_matrix(distribute(source)), Backend.CPU, "float32", "raise")
    panel, most = _SharedSweep(PairSweep(Tiles(scores, "gram"), [], None, 768), data).cut
    assert panel % 768 == 0
    assert 3 * panel * row_bytes(scores) <= 2**20
    assert len(stripes(50_000, panel, most)) >= 2 * PAIRS_EACH


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(InvalidInputError, match=r"x is distributed, and a matrix of all pairs is one array"):
        geomkit.cosine_similarity(distribute(rows(10)))
    with pytest.raises(InvalidInputError, match=r"rows are measured by the cpu backend; got backend 'torch'"):
        geomkit.moments(distribute(rows(100)), backend="torch")
    with pytest.raises(InvalidInputError, match="max_memory is given to open_shards"):
        distribute(open_shards(rows(10)), max_memory=5)
    with pytest.raises(InvalidInputError, match=r"client must be a distributed\.Client"):
        distribute(rows(10), client="tcp://here")


def test_the_old_name_works_and_names_the_new_one(tmp_path):
    with pytest.warns(DeprecationWarning, match=r"use distribute\(checkpoint_dir=, checkpoint_every=\)") as warned:
        rows_of = geomkit.at_scale(rows(40), run=tmp_path, every=3.0, threads=1)
    assert len(warned) == 1
    with rows_of:
        assert isinstance(rows_of, DistributedMatrix)
        assert geomkit.moments(rows_of).n == 40
    assert list(tmp_path.glob("rows-*.npz"))


def test_it_travels_as_rows_alone(tmp_path):
    x = rows(20)
    with distribute(x, checkpoint_dir=tmp_path / "run") as spread:
        there = pickle.loads(pickle.dumps(spread))  # noqa: S301 (our own)
        assert type(there) is Shards
        np.testing.assert_array_equal(there[3:5], x[3:5])
        assert spread.where(4) == there.where(4)


def test_one_run_at_a_time_has_a_folder(tmp_path):
    with distribute(rows(20), checkpoint_dir=tmp_path), pytest.raises(StorageError, match="is in use by another run"):
        distribute(rows(20), checkpoint_dir=tmp_path)
    distribute(rows(20), checkpoint_dir=tmp_path).close()
    # Whatever fails after the folder was taken lets go of it.
    with pytest.raises(InvalidInputError) as refused:
        distribute(rows(20), checkpoint_dir=tmp_path, client="nobody")
    # What the refusal still holds on to is not the folder.
    assert refused.tb is not None
    distribute(rows(20), checkpoint_dir=tmp_path).close()
