import os
import re
import zlib
from pathlib import Path

import pytest
import torch

from tests import precision

if not torch.cuda.is_available():
    # Before anything imports triton: its interpreter runs the same kernels on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

SLOW = (
    # Compiles every Triton kernel for two chips.
    r"^tests/bench/test_ahead\.py::",
    # Commands of pages on the real model and vectors; the whole site; maps, which umap compiles.
    r"::test_a_command_runs\[((map|meaning|gallery|audit): |.*--workers 8)",
    r"^tests/test_atlas\.py::",
    r"::test_the_site_builds",
    r"^tests/test_gallery\.py::test_(every_figure|random_vectors)",
    # Whole studies on small models and data; studies of fewer seconds stay.
    r"^tests/bench/test_(interpret|lookup|factorise|decode)_study\.py::test_a_run_",
    # Simulations over hundreds of draws.
    r"^tests/sampling/test_coverage\.py::",
    r"^tests/stats/test_coverage\.py::test_hubness_skewness\[(?!gaussian-300-24)",
    r"^tests/auditing/test_null\.py::test_closed_forms_agree",
    r"^tests/auditing/test_compare\.py::test_paired_errors_are",
    r"^tests/auditing/test_audit\.py::test_random_vectors_come_out_like_random_vectors\[(noise|sphere)-",
    r"^tests/stats/test_orthogonality\.py::test_the_spread_of_every_statistic",
    # Clusters behind the command line; a command of the README starts one every day.
    r"^tests/cli/test_scale\.py::test_(workers_give_the_same|a_scheduler_is_found)",
    # The largest blocks of Triton's kernels, all but one of the small ones, and whatever else its interpreter runs.
    r"::test_every_configuration_that_is_tried",
    r"::test_every_block_edge\[(?!16x16x16\])",
    r"::test_every_pair_is_offered_once_to_either_row",
    r"::test_the_schedule_takes_every_tile_once\[(257|272|300-300)-",
    r"[\[-]triton[-\]]",
    r"::test_lists_that_run_over_remember_what_they_left_out\[the nearest",
    # Thousands of the smallest tiles, for which torch takes longest.
    r"::test_tally_ignores_tile_size\[[12]-\w+-torch\]",
    r"::test_power_sums_wait_and_are_added_up_exactly\[torch-(255|257|515)\]",
    r"::test_tallies_merge_to_the_bit_in_any_order\[torch-True\]",
    r"::test_windows_blocks_and_threads_change_no_bit\[torch-\w+-(sparse|float16|float64|Fortran)\]",
    # Memory that runs out at each of thousands of calls.
    r"::test_a_tile_for_which_memory_runs_out_was_not_taken_in\[.*-60\]",
    # Pages in both themes, every control of the largest, paper and phones: one theme of an audit's page stays.
    r"^tests/reporting/test_results_page\.py::test_(axe|every_control|a_printer|a_phone)",
    r"^tests/reporting/test_audit_page\.py::test_(axe_finds_nothing_serious\[(dark|light-comparison)|the_theme)",
    # Edits of a copy of the code, each of which all studies are followed in; one stays.
    r"^tests/bench/test_code_keys\.py::test_(a_probe|a_constant|a_source)",
    # 100,000 rows for the page that shows them.
    r"::test_many_rows_make_no_larger_page",
)
"""Tests that `make test` leaves to `make test-all`, by their names; it leaves those marked `real` as well."""

SERIAL = (
    # The memory of a whole machine's threads.
    r"::test_fifty_thousand_rows_take_little_memory",
    # Clusters that lose their workers, and a run that is killed ten times.
    r"::test_a_run_killed_at_ten_moments",
    r"^tests/distributed/test_cluster\.py::test_(a_worker_that_(is_killed|runs_out)|all_workers_may|a_scheduler_that_goes)",
)
"""Those that `make test-all` runs one after the other, with nothing beside them."""

DAILY = (
    r"::test_shares\[cosine-clustered-True\]",
    # Each of Triton's kernels in one dtype, and one answer of either public function.
    r"::test_matches_the_reference\[\w+-triton-float32-9\]",
    r"test_cosine\.py::test_matches_brute_force\[triton-float32--gaussian\]",
    r"test_neighbors\.py::test_matches_brute_force\[triton-bfloat16--cosine-gaussian\]",
)
"""Those among them that `make test` runs all the same."""


GRIDS = (r"^tests/(kernels|pairwise|covariance|stats|transforms)/.*\[",)
"""Tests over grids of shapes, dtypes, backends and settings, thousands in all, ..."""

EVERY = 4
"""... of which `make test` runs one in so many, and one of each function at least; `make test-all` runs the others."""


def digest(item):
    return zlib.crc32(item.nodeid.encode())


def of_the_day(items):
    """Choose among the tests of grids, by the digests of their names, so that every run takes the same."""
    functions = {}
    for item in sorted((item for item in items if named(item, GRIDS)), key=digest):
        functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    return {
        item
        for grid in functions.values()
        for place, item in enumerate(grid)
        if place == 0 or digest(item) % EVERY == 0
    }


def named(item, patterns):
    return any(re.search(pattern, item.nodeid) for pattern in patterns)


def pytest_configure(config):
    if config.getoption("numprocesses", None):
        # Workers share the processors, so that BLAS, OpenMP and torch get one thread in each: set before they start.
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    chosen = of_the_day(items)
    for item in items:
        rare = named(item, SLOW) or (named(item, GRIDS) and item not in chosen)
        if named(item, SERIAL):
            item.add_marker(pytest.mark.serial)
        elif item.get_closest_marker("real") or (rare and not named(item, DAILY)):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=precision.WAYS)
def permissive(request):
    """A process that lets torch's products be less exact, said in one of the ways there are."""
    before = precision.permissions()
    precision.WAYS[request.param]()
    yield request.param
    precision.the_old_way("highest")()
    precision.permit(before)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GEOMKIT_CACHE", str(folder))
    return folder
