"""Whitening: every direction to the same variance, but for a ridge."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin

from geomkit.core.matrix import Matrix
from geomkit.core.validation import check_choice, check_number
from geomkit.errors import InvalidInputError
from geomkit.transforms.base import Invertible, Learned
from geomkit.transforms.checks import check_components, check_orthonormal
from geomkit.transforms.sums import centre, principal

__all__ = ["Whitening"]

Vector = NDArray[np.float64]


class Whitening(Invertible):
    """Take out the mean and divide each principal direction by its standard deviation, damped by a ridge.

    With C = V Λ Vᵀ the covariance of the corpus (divided by n - 1) and ρ = `ridge` · tr(C)/d, a row x becomes
    ``V (Λ + ρ)^(-1/2) Vᵀ (x - mean)``. The covariance of the corpus becomes V Λ/(Λ + ρ) Vᵀ: the identity but for the
    ridge, which keeps directions of next to no variance from being blown up.

    Parameters
    ----------
    ridge : float
        In units of the mean eigenvalue of the covariance over all d directions, so that it does not depend on the
        scale of the data; from 0 to 1e12. No direction is stretched beyond 1/√(ridge · mean eigenvalue).
    n_components : int, optional
        Keep this many principal directions, from 1 to d, and take the others out; all d unless given.
    kind : str
        ``"zca"`` turns back to the coordinates that rows came in, which stay as near to them as whitening allows
        (Kessy et al. 2018). ``"pca"`` leaves out that last turn, so that `n_components` makes rows shorter: coordinates
        are along the principal directions, largest variance first. Cosines and distances are the same for both.

    Attributes
    ----------
    mean_ : (d,) float64
        Mean of the corpus.
    components_ : (k, d) float64
        Principal directions kept: unit rows, largest variance first, the entry largest in size above 0.
    eigenvalues_ : (k,) float64
        Variance of the corpus along each of them (divided by n - 1), in squared units of the data; 0 where it is below
        max(n, d) 2⁻⁵² of the largest, which is rounding.
    ridge_ : () float64
        ρ, in squared units of the data.
    n_features_in_, feature_names_in_
        As for `Transform`.

    Raises
    ------
    InvalidInputError
        By `fit`: the corpus does not vary along all directions kept (as with fewer rows than columns) and the ridge is
        0 or below rounding; or it does not vary at all.

    Notes
    -----
    O(n d²) and O(d³) time, two passes, a few d x d matrices; d at most 8192. Rows, dtypes and memory as for
    `Transform`. With `n_components` below d, `inverse_transform` returns the mean along directions that were taken out.

    References
    ----------
    A. Kessy, A. Lewin, K. Strimmer: Optimal whitening and decorrelation. The American Statistician 72(4), 2018.
    J. Su, J. Cao, W. Liu, Y. Ou: Whitening sentence representations for better semantics and faster retrieval. 2021,
    arXiv:2103.15316.

    Examples
    --------
    >>> from geomkit.transforms import Whitening
    >>> corpus = [[4.0, 0.0], [-4.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> Whitening(ridge=0).fit_transform(corpus).round(3)[[0, 2]] + 0.0
    array([[1.225, 0.   ],
           [0.   , 1.225]])
    """

    learned: ClassVar[dict[str, Learned]] = {
        "mean_": Learned("float64", ("d",)),
        "components_": Learned("float64", ("k", "d")),
        "eigenvalues_": Learned("float64", ("k",)),
        "ridge_": Learned("float64", ()),
    }
    least: ClassVar[tuple[int, int]] = (2, 1)

    mean_: Vector
    components_: Vector
    eigenvalues_: Vector
    ridge_: Vector

    def __init__(self, ridge: float = 1e-3, n_components: int | None = None, kind: str = "zca") -> None:
        self.ridge = ridge
        self.n_components = n_components
        self.kind = kind

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """Return the names of the columns that `transform` puts out.

        Parameters
        ----------
        input_features : array_like of str, optional
            Names of the columns that come in; where `fit` saw names they must be those.

        Returns
        -------
        ndarray (d_out,) of str
            Those that came in, or ``whitening0``, ``whitening1``, ... with ``kind="pca"``.
        """
        if self.kind == "pca":
            names = ClassNamePrefixFeaturesOutMixin.get_feature_names_out(self, input_features)
        else:
            names = super().get_feature_names_out(input_features)
        return np.asarray(names, object)

    @property
    def _n_features_out(self) -> int:
        return int(self.components_.shape[0] if self.kind == "pca" else self.n_features_in_)

    def _check_parameters(self, d: int) -> None:
        # A larger ridge would only shrink all rows.
        check_number(self.ridge, "ridge", 0, 1e12)
        check_components(self.n_components, 1, d)
        check_choice(self.kind, "kind", ("zca", "pca"))

    def _asked(self, d: int) -> int:
        return d if self.n_components is None else int(self.n_components)

    def _learn(self, rows: Matrix) -> dict[str, NDArray[Any]]:
        mean, reach = centre(rows)
        k = self._asked(rows.d)
        found = principal(rows, mean, reach, k)
        ridge = float(self.ridge) * found.total / rows.d
        if found.total == 0:
            msg = f"X has {rows.n} equal rows; whitening needs variance"
            raise InvalidInputError(msg)
        if found.values[-1] + ridge <= found.floor:
            msg = (
                f"X varies along {found.rank} of the {k} directions to be whitened, and ridge={self.ridge!r} is within "
                f"rounding of 0; raise it (to 1e-3, say), or set n_components to at most {found.rank}"
            )
            raise InvalidInputError(msg)
        return {
            "mean_": mean,
            "components_": found.directions,
            "eigenvalues_": found.values,
            "ridge_": np.array(ridge),
        }

    def _check_learned(self) -> None:
        k, d = self.components_.shape
        if k != self._asked(d):
            msg = f"components_ has {k} rows; n_components={self.n_components} makes {self._asked(d)}"
            raise InvalidInputError(msg)
        falls = (np.diff(self.eigenvalues_) <= 0).all()
        if (
            not falls
            or self.ridge_ < 0
            or not self.eigenvalues_[-1] >= 0
            or not self.eigenvalues_[-1] + self.ridge_ > 0
        ):
            msg = "eigenvalues_ must fall and be at least 0, and so must ridge_, and above 0 in sum"
            raise InvalidInputError(msg)
        check_orthonormal(self.components_)

    def _forward(self, x: NDArray[Any]) -> Vector:
        y: Vector = np.subtract(x, self.mean_) @ self.components_.T
        y /= np.sqrt(self.eigenvalues_ + self.ridge_)
        if self.kind == "zca":
            y = y @ self.components_
        return y

    def _backward(self, y: NDArray[Any]) -> Vector:
        along = y @ self.components_.T if self.kind == "zca" else y
        x: Vector = (along * np.sqrt(self.eigenvalues_ + self.ridge_)) @ self.components_
        x += self.mean_
        return x
