"""Centring: the mean taken out."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.transforms.base import Invertible, Learned
from geomkit.transforms.sums import centre

__all__ = ["Centering"]

Vector = NDArray[np.float64]


class Centering(Invertible):
    """Take the mean of the corpus out of every row.

    Attributes
    ----------
    mean_ : (d,) float64
        Mean of the corpus.
    n_features_in_, feature_names_in_
        As for `Transform`.

    Notes
    -----
    O(n d), one pass. Rows, dtypes and memory as for `Transform`.

    Examples
    --------
    >>> from geomkit.transforms import Centering
    >>> Centering().fit([[1.0, 5.0], [3.0, 5.0]]).transform([[2.0, 6.0]])
    array([[0., 1.]])
    """

    learned: ClassVar[dict[str, Learned]] = {"mean_": Learned("float64", ("d",))}

    mean_: Vector

    def _learn(self, rows: Matrix) -> dict[str, NDArray[Any]]:
        return {"mean_": centre(rows)[0]}

    def _forward(self, x: NDArray[Any]) -> Vector:
        y: Vector = np.subtract(x, self.mean_)
        return y

    def _backward(self, y: NDArray[Any]) -> Vector:
        x: Vector = np.add(y, self.mean_)
        return x
