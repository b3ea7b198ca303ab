"""geomkit: the geometry of embeddings, measured fast and honestly.

Importing it loads neither numba nor torch; names below are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomkit import nulls as nulls
    from geomkit import sources as sources
    from geomkit.stats.concentration import Concentration as Concentration
    from geomkit.stats.concentration import concentration as concentration
    from geomkit.stats.cosine import CosineStats as CosineStats
    from geomkit.stats.cosine import cosine_similarity as cosine_similarity
    from geomkit.stats.cosine import cosine_stats as cosine_stats
    from geomkit.stats.orthogonality import Orthogonality as Orthogonality
    from geomkit.stats.orthogonality import orthogonality as orthogonality

__version__ = "0.1.0"

_WHERE = {
    "Concentration": "geomkit.stats.concentration",
    "CosineStats": "geomkit.stats.cosine",
    "Orthogonality": "geomkit.stats.orthogonality",
    "concentration": "geomkit.stats.concentration",
    "cosine_similarity": "geomkit.stats.cosine",
    "cosine_stats": "geomkit.stats.cosine",
    "errors": "geomkit.errors",
    "nulls": "geomkit.nulls",
    "orthogonality": "geomkit.stats.orthogonality",
    "sources": "geomkit.sources",
}
_MODULES = {"errors", "nulls", "sources"}

__all__ = [*_WHERE, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        msg = f"module 'geomkit' has no attribute {name!r}"
        raise AttributeError(msg)
    module = importlib.import_module(_WHERE[name])
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
