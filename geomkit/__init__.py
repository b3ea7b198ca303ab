"""geomkit: the geometry of embeddings, measured fast and honestly.

Importing it loads neither numba nor torch; names below are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from geomkit._version import __version__
from geomkit.core.deprecated import PUBLIC, install, name_today, withdrawn

if TYPE_CHECKING:
    from geomkit import atlas as atlas
    from geomkit import auditing as auditing
    from geomkit import datasets as datasets
    from geomkit import distributed as distributed
    from geomkit import errors as errors
    from geomkit import interpret as interpret
    from geomkit import io as io
    from geomkit import nulls as nulls
    from geomkit import sampling as sampling
    from geomkit import stats as stats
    from geomkit import transforms as transforms
    from geomkit.auditing.audit import audit as audit
    from geomkit.auditing.compare import Comparison as Comparison
    from geomkit.auditing.compare import compare as compare
    from geomkit.auditing.result import Audit as Audit
    from geomkit.distributed.api import at_scale as at_scale
    from geomkit.distributed.api import distribute as distribute
    from geomkit.io.shards.shards import Shards as Shards
    from geomkit.io.shards.shards import open_shards as open_shards
    from geomkit.sampling.estimator import Sampled as Sampled
    from geomkit.sampling.estimator import sampled as sampled
    from geomkit.stats.alignment import Alignment as Alignment
    from geomkit.stats.alignment import alignment as alignment
    from geomkit.stats.concentration import Concentration as Concentration
    from geomkit.stats.concentration import concentration as concentration
    from geomkit.stats.cosine import CosineStats as CosineStats
    from geomkit.stats.cosine import cosine_similarity as cosine_similarity
    from geomkit.stats.cosine import cosine_stats as cosine_stats
    from geomkit.stats.dimension import IntrinsicDimension as IntrinsicDimension
    from geomkit.stats.dimension import intrinsic_dimension as intrinsic_dimension
    from geomkit.stats.hubness import Hubness as Hubness
    from geomkit.stats.hubness import hubness as hubness
    from geomkit.stats.labels import SameLabelRate as SameLabelRate
    from geomkit.stats.labels import same_label_rate as same_label_rate
    from geomkit.stats.moments import Moments as Moments
    from geomkit.stats.moments import MomentsAccumulator as MomentsAccumulator
    from geomkit.stats.moments import moments as moments
    from geomkit.stats.neighbors import Neighbors as Neighbors
    from geomkit.stats.neighbors import neighbors as neighbors
    from geomkit.stats.orthogonality import Orthogonality as Orthogonality
    from geomkit.stats.orthogonality import orthogonality as orthogonality
    from geomkit.stats.probe import Probe as Probe
    from geomkit.stats.probe import probe as probe
    from geomkit.stats.query_fit import QueryFit as QueryFit
    from geomkit.stats.query_fit import query_fit as query_fit
    from geomkit.stats.spectrum import Spectrum as Spectrum
    from geomkit.stats.spectrum import spectrum as spectrum
    from geomkit.stats.squared_distance import SquaredDistanceStats as SquaredDistanceStats
    from geomkit.stats.squared_distance import squared_distance_stats as squared_distance_stats
    from geomkit.stats.survey import Survey as Survey
    from geomkit.stats.survey import survey as survey
    from geomkit.stats.warmup import Warmed as Warmed
    from geomkit.stats.warmup import warm as warm

install()

_WHERE = {
    "Alignment": "geomkit.stats.alignment",
    "Audit": "geomkit.auditing.result",
    "Comparison": "geomkit.auditing.compare",
    "Concentration": "geomkit.stats.concentration",
    "CosineStats": "geomkit.stats.cosine",
    "Hubness": "geomkit.stats.hubness",
    "IntrinsicDimension": "geomkit.stats.dimension",
    "Moments": "geomkit.stats.moments",
    "MomentsAccumulator": "geomkit.stats.moments",
    "Neighbors": "geomkit.stats.neighbors",
    "Orthogonality": "geomkit.stats.orthogonality",
    "Probe": "geomkit.stats.probe",
    "QueryFit": "geomkit.stats.query_fit",
    "SameLabelRate": "geomkit.stats.labels",
    "Sampled": "geomkit.sampling.estimator",
    "Shards": "geomkit.io.shards.shards",
    "Spectrum": "geomkit.stats.spectrum",
    "SquaredDistanceStats": "geomkit.stats.squared_distance",
    "Survey": "geomkit.stats.survey",
    "Warmed": "geomkit.stats.warmup",
    "alignment": "geomkit.stats.alignment",
    "at_scale": "geomkit.distributed.api",
    "audit": "geomkit.auditing.audit",
    "compare": "geomkit.auditing.compare",
    "concentration": "geomkit.stats.concentration",
    "cosine_similarity": "geomkit.stats.cosine",
    "cosine_stats": "geomkit.stats.cosine",
    "distribute": "geomkit.distributed.api",
    "hubness": "geomkit.stats.hubness",
    "intrinsic_dimension": "geomkit.stats.dimension",
    "moments": "geomkit.stats.moments",
    "neighbors": "geomkit.stats.neighbors",
    "open_shards": "geomkit.io.shards.shards",
    "orthogonality": "geomkit.stats.orthogonality",
    "probe": "geomkit.stats.probe",
    "query_fit": "geomkit.stats.query_fit",
    "same_label_rate": "geomkit.stats.labels",
    "sampled": "geomkit.sampling.estimator",
    "spectrum": "geomkit.stats.spectrum",
    "squared_distance_stats": "geomkit.stats.squared_distance",
    "survey": "geomkit.stats.survey",
    "warm": "geomkit.stats.warmup",
}
"""Where each public name is defined."""

_MODULES = {
    "atlas",
    "auditing",
    "datasets",
    "distributed",
    "errors",
    "interpret",
    "io",
    "nulls",
    "sampling",
    "stats",
    "transforms",
}
"""Packages and modules that are there after ``import geomkit``."""

__all__ = [*_WHERE, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in PUBLIC:
        return withdrawn(name)
    if name in _MODULES or name_today(f"geomkit.{name}") is not None:
        from geomkit.errors import BackendUnavailableError

        try:
            return importlib.import_module(f"geomkit.{name}")
        except BackendUnavailableError as why:
            # `hasattr` and tools that look around expect nothing else of an attribute that is not there.
            raise AttributeError(str(why)) from why
    msg = f"module 'geomkit' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
