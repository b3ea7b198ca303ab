"""Names of up to 0.9: importing a module by its old name, or using a public name that is going, warns and works."""

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "WITHDRAWN", "install", "name_today", "warn_renamed", "withdrawn"]

MOVED = {
    "geomkit.files": "geomkit.io.files",
    "geomkit.meaning": "geomkit.interpret",
    "geomkit.meaning.interpret": "geomkit.interpret.coherence",
    "geomkit.meaning.lens": "geomkit.interpret.lens.logit_lens",
    "geomkit.meaning.lens_statistics": "geomkit.interpret.lens.statistics",
    "geomkit.meaning.sae": "geomkit.interpret.sae.autoencoder",
    "geomkit.meaning.sae_features": "geomkit.interpret.sae.features",
    "geomkit.meaning.sae_quality": "geomkit.interpret.sae.quality",
    "geomkit.meaning.sae_splicing": "geomkit.interpret.sae.splicing",
    "geomkit.meaning.sae_training": "geomkit.interpret.sae.training",
    "geomkit.meaning.tuned_lens": "geomkit.interpret.lens.tuned_lens",
    "geomkit.meaning.tuned_lens_training": "geomkit.interpret.lens.tuned_training",
    "geomkit.progress": "geomkit.core.progress",
    "geomkit.report": "geomkit.reporting",
    "geomkit.report.html": "geomkit.reporting",
    "geomkit.scale": "geomkit.distributed",
    "geomkit.scale.sampled": "geomkit.sampling.estimator",
    "geomkit.scale.shards": "geomkit.io.shards.shards",
    "geomkit.scale.spread": "geomkit.distributed.api",
    "geomkit.sources": "geomkit.datasets",
    "geomkit.sources.cache": "geomkit.core.cache",
    "geomkit.stats.queries": "geomkit.stats.neighbors",
}
"""Packages and modules: the old name, and the one of today. What lies inside a package moved with it."""

WITHDRAWN = {"spectrum_and_moments": ("geomkit.stats.spectrum", "geomkit.spectrum and geomkit.moments")}
"""Names that are no longer public in `geomkit`: where each is defined, and what to use in its place."""


def withdrawn(name: str) -> Any:
    """Return what a name of `WITHDRAWN` stands for, and warn where it is used."""
    module, instead = WITHDRAWN[name]
    warnings.warn(f"geomkit.{name} is deprecated and goes with 0.11; use {instead}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(module), name)


def name_today(name: str) -> str | None:
    """Return where a module of an old name is now; None where it is no old name."""
    parts = name.split(".")
    for many in range(len(parts), 1, -1):
        moved = MOVED.get(".".join(parts[:many]))
        if moved is not None:
            return ".".join([moved, *parts[many:]])
    return None


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever calls the caller that a name is deprecated."""
    warnings.warn(f"{old} is deprecated and goes with 0.11; use {new}", DeprecationWarning, stacklevel=3)


class _Finder:
    """Finds modules by their old names; the base classes of importlib would be slow to import."""

    def find_spec(self, fullname: str, *_: object) -> ModuleSpec | None:
        """Answer for old names alone."""
        moved = name_today(fullname) is not None
        return ModuleSpec(fullname, self, is_package=True) if moved else None  # type: ignore[arg-type]

    def create_module(self, _: ModuleSpec) -> None:
        """Leave it to Python to make an empty module, in whose place the one of today is put."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of today in the place of the old one, and warn."""
        old = module.__name__
        today = name_today(old) or old
        warnings.warn(f"{old} is deprecated and goes with 0.11; use {today}", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(today)


def install() -> None:
    """Let old names be imported; first in line, for what lies in a package that moved has a finder already."""
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
