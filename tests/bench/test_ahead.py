"""What the compiler makes of the Triton kernels for two chips: read from the compiled code, which takes no GPU."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.gpu.ahead import CHIPS, COMPILED

ROOT = Path(__file__).parents[2]


def compiled_for(capability):
    # The interpreter, which the other tests use, is chosen before triton is imported.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.gpu.ahead", str(capability)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [json.loads(line) for line in said.splitlines()]


@pytest.fixture(scope="module")
def compiled():
    with ThreadPoolExecutor(len(CHIPS)) as pool:
        return [each for found in pool.map(compiled_for, CHIPS) for each in found]


def test_every_kernel_was_compiled_for_every_chip_and_product(compiled, capsys):
    with capsys.disabled():
        print(f"\n{'kernel':<13} {'chip':<5} {'rows':<10} {'configuration':<40} registers  shared  programs  occupancy")
        for each in compiled:
            print(
                f"{each['kernel']:<13} sm_{each['capability']} {each['dtype']:>4} {each['precision']:<5}"
                f" {each['configuration']:<40} {each['registers']:>9} {each['shared_bytes']:>7}"
                f" {each['programs_per_sm']:>9} {each['occupancy']:>10.2f}"
            )
    found = {(each["kernel"], each["capability"], each["dtype"], each["precision"]) for each in compiled}
    kernels = {"count", "tally", "screen", "row_extremes", "above"}
    assert found == {(kernel, chip, *product) for kernel in kernels for chip in CHIPS for product in COMPILED}


def test_nothing_spills(compiled):
    assert {each["stack_bytes"] for each in compiled} == {0}


def test_every_program_fits(compiled):
    for each in compiled:
        assert each["shared_bytes"] <= CHIPS[each["capability"]].shared_bytes
        assert each["registers"] <= 255
        assert each["programs_per_sm"] >= 1


def test_hopper_uses_its_own_instructions_for_16_bits_and_tf32(compiled):
    for each in compiled:
        if each["capability"] == 90 and (each["dtype"], each["precision"]) != ("fp32", "ieee"):
            assert each["wgmma"] > 0, each
            assert each["tensor_copies"] > 0, each
        else:
            assert each["wgmma"] == each["tensor_copies"] == 0


def test_ampere_uses_its_tensor_cores(compiled):
    for each in compiled:
        if each["capability"] == 80:
            assert (each["mma_sync"] > 0) == ((each["dtype"], each["precision"]) != ("fp32", "ieee"))


def test_float32_is_never_rounded_to_tf32_unasked(compiled):
    for each in compiled:
        assert each["tf32"] == (each["precision"] == "tf32")


def test_values_are_counted_in_shared_memory(compiled):
    for each in compiled:
        assert (each["shared_atomics"] > 0) == (each["kernel"] in {"count", "tally"})
