"""Transforms that change what cosine means: scikit-learn transformers, fitted on a corpus and applied to queries.

Saved as safetensors and loaded without pickle. Needs scikit-learn, which `geomkit` alone does not.
"""

from geomkit.transforms.all_but_the_top import AllButTheTop
from geomkit.transforms.base import Transform
from geomkit.transforms.centering import Centering
from geomkit.transforms.files import load, save
from geomkit.transforms.standardizing import Standardizing
from geomkit.transforms.table import TRANSFORMS
from geomkit.transforms.whitening import Whitening

__all__ = [
    "TRANSFORMS",
    "AllButTheTop",
    "Centering",
    "Standardizing",
    "Transform",
    "Whitening",
    "load",
    "save",
]
