"""The study of GPUs: run whole on the CPU at a few rows; refused where there is no GPU; its block in the README."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bench import __main__ as command
from bench.gpu.facts import Facts
from bench.gpu.roofline import CHIPS, ideal_seconds
from bench.harness import execute
from bench.harness.study import Study
from bench.pages import readme
from bench.speed import baselines
from bench.speed.cases import OURS, ConcentrationCase, Contender, CosineCase
from bench.speed.comparison import Recorder
from bench.speed.timing import Pace
from bench.studies import STUDIES, gpu
from geomkit.errors import BackendUnavailableError
from tests import precision
from tests.bench import answering

PACE = Pace(seconds=0.0, least=3, most=3)


def context(out, **settings):
    return answering.context_of("gpu", out, **({"quick": True, "seed": 3} | settings))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def on_cpu(monkeypatch):
    """The study takes the CPU for a GPU, and has a contest of each kind."""
    full = gpu.plan(3, "cpu", quick=False)
    tiny = [replace(case, n=80, d=16, quick=True) for case in full[:5]]
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "plan", lambda *_, **__: tiny)
    monkeypatch.setattr(gpu, "PACE_QUICK", PACE)


def test_the_plan_has_the_sizes_that_it_promises():
    cases = gpu.plan(0, "cuda", quick=False)
    for kernel in ("cosine_stats", "squared_distance_stats", "neighbors", "moments"):
        mine = [case for case in cases if case.kernel == kernel]
        assert [case.d for case in mine] == [64, 128, 300, 384, 768, 1024, 1536, 2048, 4096]
        assert {case.n for case in mine} == {50_000}
    assert {case.kernel for case in gpu.plan(0, "cuda", quick=True)} == {case.kernel for case in cases}
    labels = {each.label for each in cases[0].contenders()}
    for each in ("bfloat16", "float16", "tf32", "float32"):
        assert {f"geomkit triton {each}", f"bare product {each}"} <= labels


def test_a_run_writes_every_contender_or_why_not(tmp_path, on_cpu, capsys):
    assert answering.answer(gpu.STUDY, context(tmp_path)) == ["gpu.csv"]

    table = pd.read_csv(tmp_path / "gpu.csv")
    fields = [*gpu.Row.__dataclass_fields__, *Facts.__dataclass_fields__, "seed"]
    assert list(table.columns) == [name for name in fields if name != "threads"]
    for case in gpu.plan(3, "cpu", quick=True):
        mine = table[table.kernel == case.kernel]
        named = {(each.name, each.precision) for each in case.contenders()}
        assert set(zip(mine.contender, mine.precision, strict=True)) == named
        ours = mine[mine.contender == OURS]
        assert {"seconds", "million_pairs_per_second"} <= set(ours.statistic)
        assert set(mine.seed) == {3}
    ours = table[(table.contender == OURS) & (table.kernel == "cosine_stats") & (table.precision == "float32")]
    values = ours.set_index(["statistic", "beside"]).value
    half, whole = (values[name, "bare product"] for name in ("over_half_product", "over_product"))
    assert half == pytest.approx(2 * whole, rel=1e-5)
    assert ("times_as_fast", "chunked torch") in values.index
    missing = table[table.statistic == "not measured"].set_index("contender").note
    assert set(missing.index) == {"KeOps", "faiss-gpu", "cuVS"}
    assert "not installed" in missing["cuVS"]
    assert "faiss" in missing["faiss-gpu"]
    said = capsys.readouterr().err
    assert "cuVS float32 is not measured" in said
    assert "nothing was predicted" in said
    assert table.torch.eq(torch.__version__).all()


def test_predictions_stand_beside_what_was_measured(tmp_path, on_cpu, monkeypatch):
    known = Facts("NVIDIA H200", 132, "2", "3")
    monkeypatch.setattr(gpu, "facts", lambda _: known)
    rows = [
        ("H200", "count", "bfloat16", 16, 1.5),
        ("H200", "count", "bfloat16", 16, 1.25),
        ("A100", "count", "bfloat16", 16, 1.0),
    ]
    pd.DataFrame(rows, columns=["chip", "kernel", "precision", "d", "expected"]).to_csv(tmp_path / "roofline.csv")
    case = CosineCase(80, 16, device="cpu", quick=True)
    roofline = pd.read_csv(tmp_path / "roofline.csv")
    assert gpu.predicted(roofline, case)["H200", "count", "bfloat16"] == 1.25
    assert gpu.predicted(roofline, replace(case, d=17)).empty
    table = pd.DataFrame(gpu.contest(case, known, roofline, PACE))
    ours = table[(table.contender == OURS) & (table.precision == "bfloat16")].set_index("statistic").value
    half = ideal_seconds(CHIPS[2], "bfloat16", 80, 16)
    assert ours["over_dense_half_product"] == pytest.approx(ours["seconds"] / half)
    # They are of Triton's kernels alone.
    assert "predicted" not in ours
    triton = Recorder(case, Contender(OURS, None, "bfloat16", backend="triton"))
    beside = {row.statistic: row for row in gpu._beside_predictions(triton, np.ones(3), CHIPS[2], roofline)}
    assert (beside["predicted"].value, beside["predicted"].low, beside["predicted"].note) == (1.25, 1.25, "count")


def test_every_contest_is_a_unit_whose_key_holds_what_was_predicted_of_it(tmp_path):
    units = gpu.units(context(tmp_path, quick=False))
    assert len({each.name for each in units}) == len(units) == 5 * 9
    assert units[0].name == "cosine_stats in 64 dimensions"
    assert {each.given for each in units} == {""}

    def given(expected, d=64):
        rows = [("H200", "count", "bfloat16", d, expected), ("H200", "count", "bfloat16", d, 9.0)]
        columns = ["chip", "kernel", "precision", "d", "expected"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "roofline.csv")
        return {each.name: each.given for each in gpu.units(context(tmp_path, quick=False))}

    before, after, elsewhere = given(1.25), given(1.5), given(1.25, d=300)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"cosine_stats in 64 dimensions", "squared_distance_stats in 64 dimensions"}
    assert before["moments in 64 dimensions"] == ""
    assert before["cosine_stats in 64 dimensions"] == elsewhere["cosine_stats in 300 dimensions"]


@pytest.mark.parametrize(
    ("statistics", "said"),
    [
        (["seconds"], "nothing was predicted for some GPU; predictions are for A100, H100, H200"),
        (["seconds", "over_dense_half_product"], "roofline.csv is not there"),
        (["over_dense_half_product", "predicted"], ""),
    ],
)
def test_it_is_said_where_no_prediction_stands_beside_a_measurement(tmp_path, capsys, statistics, said):
    pd.DataFrame({"statistic": statistics, "device": "some GPU"}).to_csv(tmp_path / "gpu.csv", index=False)
    gpu.conclude(context(tmp_path))
    found = capsys.readouterr().err
    assert said in found
    assert bool(said) == bool(found)


def test_no_memory_is_a_reason_and_a_mistake_is_none(tmp_path, monkeypatch):
    case, known = ConcentrationCase(60, 8, device="cpu"), gpu.facts("cpu")

    def full(x, p):
        msg = "CUDA error: out of memory"
        raise RuntimeError(msg)

    right = baselines.cdist_distances
    monkeypatch.setattr(baselines, "cdist_distances", full)
    rows = gpu.contest(case, known, None, PACE)
    assert [row.note for row in rows if row.contender == "torch"] == ["the device has no memory for it"]

    def wrong(x, p):
        found = right(x, p)
        return found._replace(mean=1.01 * found.mean)

    monkeypatch.setattr(baselines, "cdist_distances", wrong)
    with pytest.raises(AssertionError):
        gpu.contest(case, known, None, PACE)


@pytest.mark.parametrize(
    ("kernel", "name", "spoil"),
    [
        ("cosine_stats", "bare_product", lambda found: found + 0.01),
        ("cosine_stats", "chunked", lambda found: (found[0] + 0.05, *found[1:])),
        ("squared_distance_stats", "cdist_squared", lambda found: (found[0], 1.01 * found[1])),
        ("neighbors", "topk_neighbors", lambda found: found.roll(1, 0)),
        ("moments", "pairwise_moments", lambda found: found._replace(cosine_variance=2 * found.cosine_variance)),
    ],
)
def test_a_peer_that_is_wrong_is_not_timed(monkeypatch, kernel, name, spoil):
    right = getattr(baselines, name)
    monkeypatch.setattr(baselines, name, lambda *given: spoil(right(*given)))
    case = next(case for case in gpu.plan(0, "cpu", quick=True) if case.kernel == kernel)
    with pytest.raises(AssertionError):
        gpu.contest(replace(case, n=80, d=16), gpu.facts("cpu"), None, PACE)


@pytest.fixture
def settings():
    before = precision.permissions()
    yield torch.backends.cuda.matmul
    precision.permit(before)


@pytest.mark.parametrize("held", ["tf32", "ieee"])
def test_permission_for_tf32_comes_back(settings, held):
    settings.fp32_precision = held
    for wanted, allowed in (("tf32", "tf32"), ("float32", "ieee")):
        with baselines.allowing(wanted):
            assert settings.fp32_precision == allowed
        assert settings.fp32_precision == held


def test_alone_without_a_gpu_it_is_one_line_and_exit_2(tmp_path, no_gpu, capsys):
    assert command.main(["gpu", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("bench: study gpu cannot run here")
    assert "NVIDIA GPU" in said
    assert not list(tmp_path.iterdir())


def test_among_all_without_a_gpu_it_is_one_line_and_the_rest_goes_on(tmp_path, no_gpu, monkeypatch, capsys):
    ran = []

    def execute_them(studies, context_of, **_):
        ran.extend(each.name for each in studies)
        return ran, []

    (tmp_path / "gpu.csv").write_text("measured elsewhere")
    monkeypatch.setattr(execute, "execute", execute_them)
    monkeypatch.setitem(STUDIES, "after", Study("after", ""))

    assert command.main(["--out", str(tmp_path)]) == 0

    assert ran == [name for name in STUDIES if name != "gpu"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gpu:")]
    assert len(said) == 1
    assert "NVIDIA GPU" in said[0]
    assert (tmp_path / "gpu.csv").read_text() == "measured elsewhere"


def test_what_another_study_lacks_in_the_midst_is_an_error(tmp_path, monkeypatch):
    def lack(made):
        msg = "nothing here"
        raise BackendUnavailableError(msg)

    for name in list(STUDIES):
        monkeypatch.setitem(STUDIES, name, Study(name, "", STUDIES["atlas"].measure, lack))
    assert command.main(["--out", str(tmp_path), "--jobs", "0"]) == 2


def measured(statistic, value, d=768, *, beside="", rows="bfloat16", kernel="cosine_stats", backend="triton"):
    return {
        "kernel": kernel, "n": 50_000, "d": d, "contender": OURS, "backend": backend, "precision": rows,
        "statistic": statistic, "beside": beside, "value": value, "device": "NVIDIA H200", "driver": "575.1",
        "setting": "",
    }  # fmt: skip


def test_the_readme_has_a_table_where_one_was_measured_and_a_sentence_where_none_was(tmp_path):
    page, path = tmp_path / "README.md", tmp_path / "gpu.csv"
    page.write_text(f"before\n{readme.GPU_START}\nold\n{readme.GPU_END}\nafter\n")
    readme.refresh(tmp_path, tmp_path, "gpu")
    text = page.read_text()
    assert "GPU: not measured" in text
    assert "results/roofline.md" in text
    assert "old" not in text
    rows = [
        measured("million_pairs_per_second", 98_765.4),
        measured("over_half_product", 1.234, beside="bare product"),
        measured("over_dense_half_product", 2.34, beside="H200"),
        measured("predicted", 2.71, beside="H200"),
        measured("times_as_fast", 7.77, beside="chunked torch"),
        measured("times_as_fast", 3.21, beside="torch chunked + topk", kernel="neighbors"),
        measured("million_pairs_per_second", 5.0, 64, rows="float32"),
        # None of these belongs into the table.
        measured("million_pairs_per_second", 666.0, backend="torch"),
        measured("million_pairs_per_second", 666.0, d=63),
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    readme.refresh(tmp_path, tmp_path, "gpu")
    lines = page.read_text().splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "NVIDIA H200, driver 575.1, 50,000 rows" in lines[2]
    assert "| dimension | 64 | 768 |" in lines
    assert "| million pairs a second, bfloat16 | — | 98,765 |" in lines
    assert "| million pairs a second, float32 | 5 | — |" in lines
    assert "| time over the half product's, bfloat16 | — | 1.23 |" in lines
    assert "| over the same at the data sheet's rate, bfloat16, predicted | — | 2.71 |" in lines
    assert "| 10 neighbours: times torch chunked + topk, bfloat16 | — | 3.2× |" in lines
    assert "666" not in "".join(lines)
    assert "not measured" not in "".join(lines)
