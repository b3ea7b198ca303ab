"""Timings of this machine, kept on disk beside compiled code, so that a process need not take them again.

A file holds one set of timings and what they depend on: the processor, the libraries and their settings. What cannot
be read, or was taken elsewhere, is as good as not there; what cannot be written is taken again by the next process.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
"""Of a file; another is not read."""

_PROCESSOR = (
    "vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags", "CPU implementer",
    "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
)  # fmt: skip
"""Lines of Linux's description of a processor that say which one it is, and not what it is doing."""

_SETTINGS = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX",
)  # fmt: skip
"""Variables of the environment that change which instructions a product uses. Timings are single-threaded."""

_log = logging.getLogger("geomkit")


def recall(what: str, names: Collection[str]) -> dict[str, float] | None:
    """Return the seconds that an earlier process on this machine took for each of `names`, or None."""
    file = _file(what)
    if file is None:
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        seconds = found["seconds"]
        fits = (found["format"], found["what"], found["machine"]) == (FORMAT, what, machine())
        if fits and set(seconds) == set(names) and all(_is_time(each) for each in seconds.values()):
            return {name: float(seconds[name]) for name in names}
        why = "it is of another machine or format"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        why = repr(error)
    _log.debug("timings in %s are not used: %s", file, why)
    return None


def remember(what: str, seconds: Mapping[str, float]) -> None:
    """Keep timings for later processes: under a temporary name first, renamed when complete."""
    file = _file(what)
    if file is None:
        return
    part = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    contents = {"format": FORMAT, "what": what, "machine": machine(), "seconds": dict(seconds)}
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(contents, indent=1), encoding="utf-8")
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    except OSError as why:
        _log.debug("timings are not kept: %s", why)


def machine() -> dict[str, object]:
    """Return what timings of matrix products depend on, as JSON can hold it."""
    return {**_libraries(), "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ}}


@functools.cache
def _libraries() -> dict[str, object]:
    built: Any = np.show_config(mode="dicts")
    blas = built.get("Build Dependencies", {}).get("blas", {})
    return {
        "system": [platform.system(), platform.machine()],
        "processor": processor(),
        "numpy": np.__version__,
        "blas": {name: str(blas.get(name)) for name in ("name", "version", "openblas configuration")},
        # Importing torch to ask it would take longer than timing it.
        **{name: importlib.metadata.version(name) for name in ("torch", "numba", "llvmlite")},
    }


def processor(description: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Say which processor this is: the first that Linux describes, or what the platform calls it."""
    found = {}
    try:
        lines = description.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in _PROCESSOR:
            found[name.strip()] = value.strip()
    return found or {"name": platform.processor()}


def _file(what: str) -> Path | None:
    """Say where timings are kept; None where there is no such place, or no way to tell one torch from another."""
    from geomkit.kernels.cpu_cache import folder

    where = folder()
    if where is None:
        return None
    try:
        parts = json.dumps([FORMAT, what, machine()], sort_keys=True)
    except importlib.metadata.PackageNotFoundError as why:
        _log.debug("timings are not kept: %s", why)
        return None
    return where / f"timings-{hashlib.sha256(parts.encode()).hexdigest()[:16]}.json"


def _is_time(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0
