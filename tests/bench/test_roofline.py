"""The roofline against numbers worked out by hand, and the page that says them."""

import itertools
import json
import math
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from bench.gpu import ahead, roofline_page
from bench.gpu.ahead import Compiled
from bench.gpu.roofline import (
    CHIPS,
    GROUP,
    HALF,
    KERNELS,
    PRECISIONS,
    Shape,
    conflicts,
    ideal_seconds,
    memory_traffic,
    occupied,
    predict,
    tiles_of,
    warps_of,
)
from bench.studies import roofline
from geomkit.errors import BackendUnavailableError
from tests.bench.answering import answer, context_of

A100, H100, H200 = CHIPS
SQUARE = Shape(128, 128, 64, 8, 4, 1, 1)
SMALL = Shape(64, 128, 64, 8, 3, 1, 2)
DIMS = (64, 300, 768, 1024, 4096)


def test_the_chips_have_the_rates_of_their_data_sheets():
    sheets = {"A100": (312, 156, 19.5), "H100": (989.4, 494.7, 61.8), "H200": (989.4, 494.7, 61.8)}
    for chip in CHIPS:
        found = [chip.rate(each) / 1e12 for each in ("bfloat16", "tf32", "float32")]
        assert found == pytest.approx(sheets[chip.name], rel=2e-3)
        assert chip.rate("float16") == chip.rate("bfloat16")


def test_conflicts_are_those_of_drawing_banks():
    draws = np.random.default_rng(0).integers(0, 32, (20_000, 32))
    longest = np.array([np.bincount(row, minlength=32).max() for row in draws])
    assert conflicts() == pytest.approx(longest.mean(), abs=5 * longest.std() / math.sqrt(len(longest)))


def test_counters_that_are_reached_are_those_of_drawing_cosines():
    rng, d = np.random.default_rng(0), 768
    found = []
    for _ in range(20):
        values = np.abs(rng.standard_normal(16_384) / math.sqrt(d)).astype(np.float32)
        patterns = values.view(np.uint32) >> 16
        signs = rng.integers(0, 2, len(values))
        found.append(len(np.unique(patterns * 2 + signs)))
    assert occupied(16_384, d) == pytest.approx(np.mean(found), rel=0.01)
    assert occupied(1, d) == pytest.approx(1.0, rel=1e-2)


def test_a_tile_of_a_hundred_and_twenty_eight_by_hand():
    found = predict(H100, "count", "bfloat16", SQUARE, 50_000, 768)
    # 2 · 128² · 768 operations at 4,096 a clock.
    assert found.math == 6144
    # 256 rows copied in; two groups of warps read 64 rows and 128 columns each: 384. 2 bytes, 128 a clock.
    assert found.operands == (256 + 384) * 768 * 2 / 128 == 7680
    assert found.cache == pytest.approx(256 * 768 * 2 / (5120 / 132))
    assert found.atomics == pytest.approx(128**2 / 32 * 2 * conflicts())
    # 4,096 counters of 4 bytes, to zero and back.
    assert found.window == 2 * 4 * 2 * HALF / 128 == 256
    assert found.arithmetic == 128**2 * 14 / 64 == 3584
    assert found.adds == pytest.approx(2 * 8 * occupied(128**2, 768) / (5120 / 132))
    assert found.product == found.cache
    assert found.serial == pytest.approx(
        found.cache + found.atomics + found.window + found.arithmetic + found.adds + found.shuffles
    )
    assert found.overlapped == pytest.approx(found.operands + found.atomics + found.window)
    assert found.limit == "shared memory"
    assert found.expected == found.ratio(found.serial)
    # A clock more or less for a tile is as much of the half product everywhere.
    half = 50_000 * 49_999 * 768 / 4096 / 132
    assert found.ratio(1.0) == pytest.approx(tiles_of(50_000, SQUARE) / 132 / half)
    two = predict(H100, "count", "bfloat16", SMALL, 50_000, 768)
    assert two.expected == two.ratio(two.overlapped)


def test_other_kernels_and_precisions_by_hand():
    # Half as many operations a clock, twice the bytes.
    tf32 = predict(H100, "tally", "tf32", SQUARE, 50_000, 768)
    assert tf32.math == 2 * 6144
    assert tf32.operands == 2 * 7680
    # 20 integer operations on 64 lanes, 8 of floats on 128; 32 issued to 128.
    assert tf32.arithmetic == 128**2 * 20 / 64
    # Six values, two shuffles each, over 32 columns of a lane.
    assert tf32.shuffles == 128**2 * 6 * 2 / 32 / 32
    ieee = predict(A100, "tally", "float32", Shape(64, 64, 16, 8, 3, 1, 2), 50_000, 768)
    assert ieee.math == 2 * 64**2 * 768 / 128
    assert ieee.floats == 64**2 * 8 / 64
    assert ieee.overlapped == ieee.math + ieee.floats
    assert ieee.operands == (128 + 64 + 8 * 64) * 768 * 4 / 128
    extremes = predict(A100, "row_extremes", "bfloat16", SMALL, 50_000, 768)
    assert (extremes.atomics, extremes.window) == (0, 0)
    assert extremes.adds == pytest.approx(2 * 4 * 2 * (64 + 128) / (5120 / 108))


def test_coordinates_are_padded_to_whole_steps_and_rows_to_sixteen():
    assert predict(H100, "count", "bfloat16", SQUARE, 50_000, 300).math == 2 * 128**2 * 320 / 4096
    assert predict(H100, "count", "bfloat16", SQUARE, 50_000, 300).cache == pytest.approx(256 * 304 * 2 / (5120 / 132))
    wider = predict(H100, "count", "bfloat16", SQUARE, 50_000, 768, width=784)
    assert wider.math == 2 * 128**2 * 832 / 4096
    assert predict(H100, "count", "bfloat16", SQUARE, 50_000, 768, clocks_a_pass=1.0).atomics == pytest.approx(
        128**2 / 32 * conflicts()
    )


def test_warps_are_laid_out_as_triton_lays_them():
    # Read from the compiler's intermediate code.
    assert warps_of(90, "bfloat16", SQUARE) == (8, 1)
    assert warps_of(90, "bfloat16", SMALL) == (4, 2)
    assert warps_of(90, "bfloat16", Shape(128, 256, 64, 8, 3, 2, 1)) == (8, 1)
    assert warps_of(80, "bfloat16", SMALL) == (2, 4)
    assert warps_of(80, "bfloat16", Shape(64, 64, 64, 4, 3, 1, 3)) == (2, 2)
    assert warps_of(80, "bfloat16", Shape(128, 128, 32, 8, 3, 2, 1)) == (2, 4)
    assert warps_of(90, "float32", SMALL) == (8, 1)


@pytest.mark.parametrize("n", [1, 128, 129, 1000, 5000])
@pytest.mark.parametrize("shape", [SQUARE, SMALL])
def test_tiles_are_those_that_reach_above_the_diagonal(n, shape):
    starts = itertools.product(range(0, n, shape.rows), range(0, n, shape.columns))
    assert tiles_of(n, shape) == sum(j0 + shape.columns - 1 > i0 for i0, j0 in starts)


def test_memory_is_read_once_or_for_every_group_of_columns():
    assert memory_traffic(H100, 1000, 64, 2, SQUARE) == 1000 * 64 * 2
    n = 4 * GROUP * 128
    # Four groups: the rows above the last column of each, and their own columns.
    assert memory_traffic(H100, n, 65_536, 4, SQUARE) == (n / 4 * (1 + 2 + 3 + 4) + n) * 65_536 * 4


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_more_coordinates_take_longer_and_a_smaller_share_of_the_time(chip, kernel, precision):
    dims = (64, 128, 512, 1024, 4096)
    found = [predict(chip, kernel, precision, SQUARE, 50_000, d) for d in dims]
    for both in ("overlapped", "serial"):
        clocks = [getattr(each, both) for each in found]
        assert clocks == sorted(clocks)
    seconds = [each.expected * ideal_seconds(chip, precision, 50_000, d) for d, each in zip(dims, found, strict=True)]
    assert seconds == sorted(seconds)
    # With rows that leave L2, HBM comes on top once; else the reduction is spread over more.
    if precision == "bfloat16" and kernel == "count":
        ratios = [each.expected for each in found]
        assert ratios == sorted(ratios, reverse=True)
    for each in found:
        assert each.overlapped <= each.serial
        assert each.ratio(each.overlapped) >= 1


def fake():
    shapes = {80: [SMALL, Shape(128, 128, 32, 8, 3, 2, 1)], 90: [SQUARE, SMALL]}
    return [
        Compiled(kernel, precision, capability, shape, 2, 128, 8 * (kernel == "tally"), 49_152)
        for capability, mine in shapes.items()
        for kernel in KERNELS
        for precision in PRECISIONS
        for shape in mine
    ]


def test_the_study_writes_a_table_and_a_page_of_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "compiled", fake)

    assert answer(roofline.STUDY, context_of("roofline", tmp_path)) == ["roofline.csv", "roofline.md"]

    table = pd.read_csv(tmp_path / "roofline.csv")
    assert len(table) == 3 * 5 * 4 * 2 * len(roofline.DIMS)
    chosen = table[table.chosen]
    assert len(chosen) == len(table) / 2
    best = table.groupby(["chip", "kernel", "precision", "d"]).expected.min()
    assert chosen.set_index(["chip", "kernel", "precision", "d"]).expected.sort_index().to_list() == best.to_list()
    page = (tmp_path / "roofline.md").read_text()
    for chip in CHIPS:
        row = chosen[
            (chosen.chip == chip.name) & (chosen.kernel == "count") & (chosen.precision == "bfloat16")
        ].set_index("d")
        cells = " | ".join(f"{row.expected[d]:.2f}" for d in DIMS)
        assert f"| {chip.name}, expected | {cells} |" in page
        met = [d for d in roofline.DIMS if d >= 768 and row.expected[d] <= 1.25]
        assert f"{chip.name}: {f'is met from d = {met[0]:,} on' if met else 'is not met'};" in page
    assert "conflicts" in page
    assert "`tally` sm_80 64x128x64" in page
    assert "nan" not in page.lower()
    twins = pd.concat([table[table.chip != "H200"], table[table.chip == "H100"].assign(chip="H200")], ignore_index=True)
    assert "H200: the same as for the H100." in roofline_page.page(twins, fake())
    twins.loc[twins.chip == "H200", "expected"] += 1
    assert "the same as" not in roofline_page.page(twins, fake())


def test_the_page_is_of_what_the_table_says_was_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(roofline, "compiled", fake)
    context = context_of("roofline", tmp_path)
    assert [each.name for each in roofline.STUDY.units(context)] == ["all"]
    answer(roofline.STUDY, context)
    assert roofline.read_back(pd.read_csv(tmp_path / "roofline.csv")) == fake()


def processes(monkeypatch, returncode, *outputs):
    """Compile in processes that say this; return how they were started."""
    started = []

    def opened(command, *, env, **_):
        started.append((command, env))
        return SimpleNamespace(communicate=lambda: outputs, returncode=returncode)

    monkeypatch.setattr(ahead.subprocess, "Popen", opened)
    return started


def test_each_chip_is_compiled_for_in_a_process_without_the_interpreter(monkeypatch):
    made = fake()[0]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    started = processes(monkeypatch, 0, json.dumps(asdict(made)), "")
    assert ahead.compiled((80, 90), ("count", "tally")) == [made, made]
    assert [command[-4:] for command, _ in started] == [
        ["bench.gpu.ahead", capability, "count", "tally"] for capability in ("80", "90")
    ]
    assert all("TRITON_INTERPRET" not in environment for _, environment in started)


def test_a_compiler_that_fails_is_said(monkeypatch):
    processes(monkeypatch, 1, "", "Traceback\nno ptxas")
    with pytest.raises(BackendUnavailableError, match="sm_80 here: no ptxas"):
        ahead.compiled((80,))


def test_without_triton_the_study_does_not_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(BackendUnavailableError, match="Triton"):
        ahead.needs_triton()
