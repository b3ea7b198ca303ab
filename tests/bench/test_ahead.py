"""What the compiler makes of the Triton kernels for two chips: read from the compiled code, which takes no GPU."""

import pytest

from bench.gpu import ahead
from bench.gpu.ahead import CHIPS
from bench.gpu.roofline import KERNELS, PRECISIONS


@pytest.fixture(scope="module")
def compiled():
    return ahead.compiled()


def test_every_kernel_was_compiled_for_every_chip_and_product(compiled, capsys):
    with capsys.disabled():
        print(f"\n{'kernel':<13} {'chip':<5} {'precision':<9} {'tile':<11} registers  shared  programs")
        for one in compiled:
            tile = f"{one.shape.rows}x{one.shape.columns}x{one.shape.step}"
            print(
                f"{one.kernel:<13} sm_{one.capability} {one.precision:<9} {tile:<11} {one.registers:>9}"
                f" {one.shared_bytes:>7} {one.shape.resident:>9}"
            )
    assert {(one.kernel, one.capability, one.precision) for one in compiled} == {
        (kernel, chip, precision) for kernel in KERNELS for chip in CHIPS for precision in PRECISIONS
    }


def test_nothing_spills(compiled):
    assert {one.stack_bytes for one in compiled} == {0}


def test_every_program_fits(compiled):
    for one in compiled:
        assert one.shared_bytes <= CHIPS[one.capability].shared_bytes
        assert one.registers <= 255
        assert 1 <= one.shape.resident <= one.launched


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_chip_uses_its_own_instructions(compiled, precision):
    for one in compiled:
        if one.precision == precision:
            tensor_cores = precision != "float32"
            assert (one.instructions["wgmma"] > 0) == (tensor_cores and one.capability == 90), one
            assert (one.instructions["tensor_copies"] > 0) == (tensor_cores and one.capability == 90), one
            if one.capability == 80:
                assert (one.instructions["mma_sync"] > 0) == tensor_cores, one
            # Float32 is never rounded to TF32 unasked.
            assert (one.instructions["tf32"] > 0) == (precision == "tf32"), one
            # Values are counted in shared memory.
            assert (one.instructions["shared_atomics"] > 0) == (one.kernel in {"count", "tally"}), one
