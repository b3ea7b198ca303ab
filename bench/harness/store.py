"""What units have measured, in the cache folder: a folder a unit and key, complete or not there at all."""

import csv
import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.harness.study import ROOT, Tables, write_table
from geomkit.core.cache import cache_folder, cached_folder, is_complete

__all__ = ["Kept", "Machine", "Rows", "forget", "is_kept", "keep", "kept", "machine", "processor", "read_rows"]

_LIBRARIES = (
    "numpy", "scipy", "numba", "torch", "faiss-cpu", "scikit-learn", "gensim", "transformers", "pandas", "matplotlib",
)  # fmt: skip

Rows = list[list[str]]
"""A table as text, its header first."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what something was measured."""

    processor: dict[str, Any]
    cores: int
    versions: dict[str, str]
    """Of this project, Python and the libraries that are installed."""
    commit: str
    """Of the code, with ``+`` where files had been changed; empty where this is no checkout."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A unit that was measured."""

    tables: dict[str, Rows]
    seconds: float
    date: str
    machine: dict[str, Any]


def is_kept(study: str, unit: str, key: str) -> bool:
    """Say whether a unit was measured under this key on this machine."""
    return is_complete(_place(study, unit, key), {"key": key})


def keep(study: str, unit: str, key: str, measure: Callable[[], Tables]) -> float:
    """Measure a unit and keep its tables, unless it is kept already; another run that measures it is waited for.

    Returns
    -------
    float
        Seconds that it took, when it was measured.
    """

    def build(folder: Path) -> None:
        start = time.perf_counter()
        tables = measure()
        seconds = time.perf_counter() - start
        for name, frame in tables.items():
            write_table(folder / name, frame)
        about = {"seconds": round(seconds, 3), "date": today(), "machine": asdict(machine()), "tables": list(tables)}
        (folder / "unit.json").write_text(json.dumps(about), encoding="utf-8")

    folder = cached_folder(_place(study, unit, key), {"key": key}, build)
    return float(json.loads((folder / "unit.json").read_text(encoding="utf-8"))["seconds"])


def forget(study: str, unit: str, key: str) -> None:
    """Remove what was kept of a unit, so that it is measured again."""
    shutil.rmtree(cache_folder() / _place(study, unit, key), ignore_errors=True)


def kept(study: str, unit: str, key: str) -> Kept:
    """Read what was kept of a unit."""
    folder = cache_folder() / _place(study, unit, key)
    about = json.loads((folder / "unit.json").read_text(encoding="utf-8"))
    tables = {name: read_rows(folder / name) for name in about["tables"]}
    return Kept(tables, about["seconds"], about["date"], about["machine"])


def read_rows(path: Path) -> Rows:
    """Read a CSV file as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def today() -> str:
    """Return the date of Greenwich."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def machine(libraries: Sequence[str] = _LIBRARIES) -> Machine:
    """Describe this machine and what is installed on it, these libraries among all."""
    from geomkit import __version__
    from geomkit.core.threads import processors

    versions = {"geomkit": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return Machine(processor(), processors(), versions, commit())


def commit() -> str:
    """Return the commit of the code that runs."""
    git = shutil.which("git")
    if git is None:
        return ""
    asked = [git, "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> dict[str, Any]:
    """Model and vector extensions of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {"model": fields.get("model name", platform.processor()), "extensions": [f for f in known if f in flags]}


def _place(study: str, unit: str, key: str) -> str:
    return f"studies/{study}/{re.sub(r'[^A-Za-z0-9.]+', '-', unit)}-{key}"
