"""`geomkit doctor`: what this machine can do, and what is missing for the rest."""

import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Any

import typer

from geomkit import __version__
from geomkit.cli.options import AsJson
from geomkit.cli.tables import table

app = typer.Typer()

MATRIX_UNITS = {
    "AMX bfloat16": ("amx_bf16",),
    "AMX float16": ("amx_fp16",),
    "AVX-512 bfloat16": ("avx512_bf16",),
    "AVX-512": ("avx512f", "avx512bw", "avx512vl"),
    "AVX2 with FMA": ("avx2", "fma"),
    "SVE": ("sve",),
    "NEON bfloat16": ("bf16",),
    "NEON": ("asimd",),
}
"""Flags of a processor that matrix products use, the fastest first."""

EXTRAS = {
    "torch": "torch",
    "triton": "gpu",
    "pyarrow": "files",
    "h5py": "files",
    "safetensors": "files",
    "distributed": "scale",
    "zarr": "scale",
    "sklearn": "transforms",
    "umap": "atlas",
    "altair": "report",
    "vl_convert": "report",
    "jinja2": "report",
    "gensim": "sources",
    "transformers": "sources",
    "faiss": "bench",
}
"""Modules that are used where they are there, and the extra that installs each."""

_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "faiss": "faiss-cpu",
    "umap": "umap-learn",
}


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can do: cores, matrix units, BLAS, GPU, optional parts, data that is here."""
    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(table(("", ""), [(name, _shown(value)) for name, value in found["machine"].items()], "machine"))
    typer.echo(table(("library", "state"), list(found["libraries"].items()), "libraries"))
    typer.echo(table(("", ""), [(name, _shown(value)) for name, value in found["data"].items()], "data"))
    for line in found["advice"]:
        typer.echo(f"- {line}")


def examine() -> dict[str, Any]:
    """Look at processor, libraries, devices and cache; measures nothing, fetches nothing."""
    from geomkit.core.memory import free_memory
    from geomkit.core.threads import processors
    from geomkit.kernels.cpu_timings import processor

    described = processor()
    flags = set((described.get("flags") or described.get("Features") or "").split())
    units = [name for name, needed in MATRIX_UNITS.items() if flags.issuperset(needed)]
    gpus, lacking = _gpus()
    machine = {
        "geomkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": described.get("model name") or described.get("name") or described.get("CPU part") or "unknown",
        "processors": processors(),
        "matrix units": units,
        "blas": _blas(),
        "gpus": gpus or f"none: {lacking}",
        "free memory": f"{free_memory() / 2**30:.1f} GiB",
    }
    libraries = {name: _state(name, extra) for name, extra in EXTRAS.items()}
    return {"machine": machine, "libraries": libraries, "data": _data(), "advice": _advice(libraries)}


def _blas() -> list[str]:
    """BLAS libraries that NumPy and SciPy have loaded, as they describe themselves."""
    import numpy as np  # noqa: F401 - loads its BLAS
    from scipy import linalg  # noqa: F401 - loads its own
    from threadpoolctl import threadpool_info

    seen = dict.fromkeys(
        f"{each['internal_api']} {each['version']}" + (f", {each['architecture']}" if each.get("architecture") else "")
        for each in threadpool_info()
        if each["user_api"] == "blas"
    )
    set_by_hand = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "MKL_CBWR") if name in os.environ]
    return [*seen, *(f"{name}={os.environ[name]}" for name in set_by_hand)]


def _gpus() -> tuple[list[str], str]:
    try:
        import torch
    except ImportError:
        return [], "torch is not installed"
    if torch.version.cuda is None:
        return [], f"torch {torch.__version__} is built for processors alone"
    count = torch.cuda.device_count()
    return [torch.cuda.get_device_name(at) for at in range(count)], "torch finds no NVIDIA GPU"


def _state(name: str, extra: str) -> str:
    if importlib.util.find_spec(name) is None:
        return f"missing: pip install 'geomkit[{extra}]'"
    try:
        return importlib.metadata.version(_DISTRIBUTIONS.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return "here, version unknown"


def _data() -> dict[str, Any]:
    from geomkit.core.cache import cache_folder
    from geomkit.datasets.catalogue import PACKAGES
    from geomkit.datasets.fetch import cached_size, is_cached

    here = [each for each in PACKAGES.values() if is_cached(each)]
    missing = [each.name for each in PACKAGES.values() if not is_cached(each)]
    return {
        "cache": str(cache_folder()),
        "fetched": [each.name for each in here],
        "not fetched": missing,
        "size": f"{sum(cached_size(each) for each in here) / 1e6:.0f} MB",
    }


def _advice(libraries: dict[str, str]) -> list[str]:
    said = []
    if libraries["torch"].startswith("missing"):
        said.append("without torch, products come from NumPy, and precision bfloat16 is not there")
    if {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} & set(os.environ):
        said.append("OPENBLAS_* is set by hand: NumPy's products may be slower than this processor can do")
    said.append("the first call of a function compiles its kernels: `geomkit warm` does it ahead")
    return said


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or "none"
    return str(value)
