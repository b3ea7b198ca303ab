"""No mutated file crashes, hangs, or takes memory that only its header claims."""

import faulthandler  # noqa: F401 - the child process says where it crashed
import subprocess
import sys
from pathlib import Path

import pytest

from geomkit.io import files
from tests.io.files.fuzz import fuzz

COMPILED = ["parquet", "arrow", "hdf5", "csv", "tsv", "pt"]
"""Read by libraries that could end the process: tried in one of their own."""
EXAMPLES = pytest.mark.parametrize("examples", [10, pytest.param(80, marks=pytest.mark.slow)])


@EXAMPLES
@pytest.mark.parametrize("name", sorted(set(files.FORMATS) - set(COMPILED)))
def test_mutated_files_are_opened_or_refused(name, examples):
    fuzz(name, examples)


@EXAMPLES
def test_mutated_files_of_compiled_libraries(examples):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.io.files.fuzz", str(examples), *COMPILED]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == COMPILED
