"""The transforms by name: the only place that lists them."""

from types import MappingProxyType

from geomkit.transforms.all_but_the_top import AllButTheTop
from geomkit.transforms.base import Transform
from geomkit.transforms.centering import Centering
from geomkit.transforms.standardizing import Standardizing
from geomkit.transforms.whitening import Whitening

__all__ = ["TRANSFORMS"]

TRANSFORMS: MappingProxyType[str, type[Transform]] = MappingProxyType(
    {each.__name__: each for each in (Centering, AllButTheTop, Whitening, Standardizing)}
)
"""Class by name. What is listed can be saved and loaded, and is tested."""
