"""Names of up to 0.9: importing a module by its old name, or using a public name that is going, warns and works."""

import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")

__all__ = [
    "FIELDS",
    "MOVED",
    "PUBLIC",
    "OldFields",
    "field_today",
    "install",
    "name_today",
    "renamed_keywords",
    "warn_renamed",
    "withdrawn",
]

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

PUBLIC = {
    "QueryNeighbors": ("geomkit.stats.neighbors", "Neighbors", "geomkit.Neighbors"),
    "nearest_to": ("geomkit.stats.neighbors", "_nearest_to", "geomkit.neighbors with queries="),
    "spectrum_and_moments": ("geomkit.stats.spectrum", "spectrum_and_moments", "geomkit.spectrum and geomkit.moments"),
}
"""Names that are no longer public in `geomkit`: the module and the name of what each stands for, and what to use."""

FIELDS = {
    "antihub_share": "antihub_fraction",
    "dead_share": "dead_fraction",
    "dense_share": "dense_fraction",
    "dimension_": "dimension",
    "duplicate_share": "duplicate_fraction",
    "fewest_high": "fewest_ci_high",
    "fewest_low": "fewest_ci_low",
    "fraction_within": "within_fraction",
    "fraction_within_sd": "within_fraction_std",
    "high": "ci_high",
    "hub_share": "hub_fraction",
    "island_share": "island_fraction",
    "largest_component_share": "largest_component_fraction",
    "low": "ci_low",
    "majority_share": "majority_fraction",
    "mean_abs_sd": "mean_abs_std",
    "mean_sd": "mean_std",
    "mean_square_sd": "mean_square_std",
    "mutual_share": "mutual_fraction",
    "mutual_share_se": "mutual_fraction_se",
    "near_duplicate_share": "near_duplicate_fraction",
    "never_null_sd": "never_null_std",
    "never_share": "never_fraction",
    "null_sd": "null_std",
    "out_of_distribution_share": "out_of_distribution_fraction",
    "outlier_share": "outlier_fraction",
    "outside_null_sd": "outside_null_std",
    "outside_share": "outside_fraction",
    "outside_share_se": "outside_fraction_se",
    "points": "n_sample",
    "product": "matmul",
    "random_high": "random_ci_high",
    "random_low": "random_ci_low",
    "real": "significant",
    "residual_share": "residual_fraction",
    "sd": "std",
    "shuffled_sd": "shuffled_std",
    "tolerance": "duplicate_tolerance",
    "unreached_share": "unreached_fraction",
}
"""Fields of results, and statistics by name: the old name, and the one of today."""

_SAMPLED = {"fraction_within_": "within_fraction_", "fraction_above_": "above_fraction_"}
"""How names of sampled statistics began, before their numbers."""


def withdrawn(name: str) -> Any:
    """Return what a name of `PUBLIC` stands for, and warn where it is used."""
    module, today, instead = PUBLIC[name]
    warn_renamed(f"geomkit.{name}", instead, stacklevel=4)
    return getattr(importlib.import_module(module), today)


def field_today(name: str) -> str:
    """Return the name of a field or a statistic of today, and warn where it is another one."""
    sampled = (new + name.removeprefix(old) for old, new in _SAMPLED.items() if name.startswith(old))
    today = FIELDS.get(name) or next(sampled, None)
    if today is None:
        return name
    warn_renamed(name, today, stacklevel=4)
    return today


def renamed_keywords(**today: str) -> Callable[[Callable[_Given, _Answer]], Callable[_Given, _Answer]]:
    """Let a function take keywords by the names that they had up to 0.9, and warn.

    Parameters
    ----------
    **today
        Each old name, and the one of today.
    """

    def decorate(function: Callable[_Given, _Answer]) -> Callable[_Given, _Answer]:
        @functools.wraps(function)
        def call(*given: _Given.args, **keywords: _Given.kwargs) -> _Answer:
            for old in today.keys() & keywords.keys():
                name = function.__name__
                if today[old] in keywords:
                    msg = f"{name}() got both {old} and {today[old]}, its name of today"
                    raise TypeError(msg)
                warn_renamed(f"the keyword {old} of {name}", today[old])
                keywords[today[old]] = keywords.pop(old)
            return function(*given, **keywords)

        return call

    return decorate


class OldFields:
    """A base that answers for fields and methods by the names that they had up to 0.9, and warns."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        """Answer for what the class does not have under this name."""
        # Fields without a default are in no namespace of a class; `dir(self)` would come back here for `__dict__`.
        if FIELDS.get(name) not in {*dir(type(self)), *getattr(type(self), "__dataclass_fields__", ())}:
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(self, field_today(name))


def name_today(name: str) -> str | None:
    """Return where a module of an old name is now; None where it is no old name."""
    parts = name.split(".")
    for many in range(len(parts), 1, -1):
        moved = MOVED.get(".".join(parts[:many]))
        if moved is not None:
            return ".".join([moved, *parts[many:]])
    return None


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn whoever calls the caller that a name is deprecated."""
    warnings.warn(f"{old} is deprecated and goes with 0.11; use {new}", DeprecationWarning, stacklevel=stacklevel)


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
