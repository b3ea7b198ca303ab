"""Standardising: each coordinate to mean 0 and standard deviation 1."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.errors import InvalidInputError
from geomkit.transforms.base import Invertible, Learned
from geomkit.transforms.sums import centre, deviations

__all__ = ["Standardizing"]

Vector = NDArray[np.float64]


class Standardizing(Invertible):
    """Bring each coordinate of the corpus to mean 0 and standard deviation 1.

    Attributes
    ----------
    mean_ : (d,) float64
        Mean of the corpus.
    scale_ : (d,) float64
        Standard deviation over the n rows (divided by n) of each coordinate; 1 where it is constant.
    constant_ : (d,) bool
        Coordinates of which all values in the corpus are equal. They become 0, and a query's keep their unit.
    n_features_in_, feature_names_in_
        As for `Transform`.

    Notes
    -----
    O(n d), two passes. Rows, dtypes and memory as for `Transform`. A coordinate whose values differ in the last digit
    alone is not constant: it is brought to a standard deviation of 1 as well.

    Examples
    --------
    >>> from geomkit.transforms import Standardizing
    >>> Standardizing().fit([[1.0, 5.0], [5.0, 5.0]]).transform([[7.0, 6.0]])
    array([[2., 1.]])
    """

    learned: ClassVar[dict[str, Learned]] = {
        "mean_": Learned("float64", ("d",)),
        "scale_": Learned("float64", ("d",)),
        "constant_": Learned("bool", ("d",)),
    }

    mean_: Vector
    scale_: Vector
    constant_: NDArray[np.bool_]

    def _learn(self, rows: Matrix) -> dict[str, NDArray[Any]]:
        mean, reach = centre(rows)
        constant = reach == 0
        return {
            "mean_": mean,
            "scale_": np.where(constant, 1.0, deviations(rows, mean, reach)),
            "constant_": constant,
        }

    def _check_learned(self) -> None:
        if not (self.scale_ > 0).all() or not (self.scale_[self.constant_] == 1).all():
            msg = "scale_ must be above 0, and 1 where constant_ is true"
            raise InvalidInputError(msg)

    def _forward(self, x: NDArray[Any]) -> Vector:
        y: Vector = np.subtract(x, self.mean_)
        y /= self.scale_
        return y

    def _backward(self, y: NDArray[Any]) -> Vector:
        x: Vector = np.multiply(y, self.scale_)
        x += self.mean_
        return x
