"""All-but-the-top: the mean and the few directions that dominate, taken out."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from geomkit.core.matrix import Matrix
from geomkit.errors import InvalidInputError
from geomkit.transforms.base import Learned, Transform
from geomkit.transforms.checks import check_components, check_orthonormal
from geomkit.transforms.sums import centre, principal

__all__ = ["AllButTheTop"]

Vector = NDArray[np.float64]


class AllButTheTop(Transform):
    """Take out the mean of the corpus and its principal directions of largest variance (Mu & Viswanath 2018).

    Parameters
    ----------
    n_components : int, optional
        How many directions to take out, from 0 to d - 1. d/100 rounded, at least 1, unless given.

    Attributes
    ----------
    mean_ : (d,) float64
        Mean of the corpus.
    components_ : (n_components, d) float64
        The directions that are taken out: unit rows, largest variance first, the entry largest in size above 0.
    n_features_in_, feature_names_in_
        As for `Transform`.

    Raises
    ------
    InvalidInputError
        By `fit`: the corpus varies along fewer directions than are to be taken out, so some of them are arbitrary.

    Notes
    -----
    O(n d²) and O(d³) time, two passes, a few d x d matrices; d at most 8192. Rows, dtypes and memory as for
    `Transform`. What is taken out is lost: there is no `inverse_transform`. Where two variances are equal, which of
    their directions comes first is left to rounding.

    References
    ----------
    J. Mu, P. Viswanath: All-but-the-top: simple and effective postprocessing for word representations. ICLR 2018.

    Examples
    --------
    >>> from geomkit.transforms import AllButTheTop
    >>> AllButTheTop().fit([[9.0, 1.0], [5.0, 1.0], [1.0, 1.0]]).transform([[7.0, 3.0]])
    array([[0., 2.]])
    """

    learned: ClassVar[dict[str, Learned]] = {
        "mean_": Learned("float64", ("d",)),
        "components_": Learned("float64", ("k", "d")),
    }
    least: ClassVar[tuple[int, int]] = (2, 2)

    mean_: Vector
    components_: Vector

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def _check_parameters(self, d: int) -> None:
        check_components(self.n_components, 0, d - 1)

    def _asked(self, d: int) -> int:
        return max(1, round(d / 100)) if self.n_components is None else int(self.n_components)

    def _learn(self, rows: Matrix) -> dict[str, NDArray[Any]]:
        mean, reach = centre(rows)
        k = self._asked(rows.d)
        if k == 0:
            return {"mean_": mean, "components_": np.empty((0, rows.d))}
        top = principal(rows, mean, reach, k)
        if top.rank < k:
            msg = f"X varies along {top.rank} of the {k} directions that are to be taken out; lower n_components"
            raise InvalidInputError(msg)
        return {"mean_": mean, "components_": top.directions}

    def _check_learned(self) -> None:
        k, d = self.components_.shape
        if k != self._asked(d):
            msg = f"components_ has {k} rows; n_components={self.n_components} makes {self._asked(d)}"
            raise InvalidInputError(msg)
        check_orthonormal(self.components_)

    def _forward(self, x: NDArray[Any]) -> Vector:
        y: Vector = np.subtract(x, self.mean_)
        y -= (y @ self.components_.T) @ self.components_
        return y
