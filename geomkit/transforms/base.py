"""What the transforms share: how rows are read and refused, and how a fit is kept whole."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from geomkit.core.blocks import block_rows
from geomkit.core.matrix import Matrix, as_matrix
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.transforms.sums import check_finite

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ImportError as why:
    _missing = f"geomkit.transforms needs scikit-learn 1.6 or newer ({why}); pip install 'scikit-learn>=1.6'"
    raise BackendUnavailableError(_missing) from why

__all__ = ["Invertible", "Learned", "Transform"]

Vector = NDArray[np.float64]


class Learned(NamedTuple):
    """What an attribute learned from rows is: the dtype, and the name of each axis' length."""

    dtype: str
    shape: tuple[str, ...]
    """``"d"`` for the columns of the rows, any other letter for a length of the transform's own."""


class Transform(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer of rows: fitted on a corpus, applied to it and to queries.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the rows it was fitted on.
    feature_names_in_ : (d,) ndarray of str
        Their names; there only where the rows had names that are all strings.

    Notes
    -----
    Rows are read in blocks, memory maps too, and all arithmetic is float64. The output has the dtype of the rows where
    that is float32 or float64. float16, bfloat16 and integers of at most 16 bits give float32, which holds each of
    their values; wider integers are rounded to float64 and give float64.
    """

    learned: ClassVar[dict[str, Learned]] = {}
    """The attributes that make up a fit, and what is saved of it."""
    least: ClassVar[tuple[int, int]] = (1, 1)
    """Fewest rows and columns that can be fitted."""

    def fit(self, X: Any, y: object = None) -> Self:  # noqa: ARG002, N803
        """Learn from the rows of a corpus.

        Parameters
        ----------
        X : array_like (n, d)
            float16, bfloat16, float32, float64 or integers; dense, finite. Never copied whole.
        y : ignored
            Pipelines pass it.

        Returns
        -------
        self

        Raises
        ------
        InvalidInputError
            `X` or a parameter cannot be used; a fit that was there before stays as it was.
        TypeError
            `X` is an object array with entries that are no numbers, as scikit-learn has it.
        """
        rows = self._rows(X, *self.least)
        self._check_parameters(rows.d)
        found = self._learn(rows)
        _refusing(validate_data, self, X, skip_check_array=True)
        self.__dict__.update(found)
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Apply what was learned to the rows of a corpus or of queries.

        Parameters
        ----------
        X : array_like (n, d)
            As for `fit`, with as many columns.

        Returns
        -------
        ndarray (n, d_out)
            float32 or float64, see the class; a data frame after ``set_output``.

        Raises
        ------
        InvalidInputError
            `X` cannot be used, or a result does not fit its dtype.
        NotFittedError
            Nothing was learned yet.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        _refusing(validate_data, self, X, skip_check_array=True, reset=False)
        return _mapped(rows, self._forward, self._n_features_out)

    def check_fit(self) -> None:
        """Refuse learned attributes, of the right shapes and finite, that no fit with these parameters leaves behind.

        Raises
        ------
        InvalidInputError
            Parameters were changed since `fit`, or a file that was loaded does not hold a fit.
        """
        self._check_parameters(self.n_features_in_)
        self._check_learned()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.n_features_in_)

    def _rows(self, x: Any, min_rows: int = 1, min_columns: int = 1) -> Matrix:
        """Check shape and dtype in scikit-learn's words, and keep the rows where they are."""
        if isinstance(x, np.ma.MaskedArray):
            as_matrix(x, name="X", min_rows=0)  # refuses entries that have no value, which check_array would uncover
        if issparse(x):
            msg = f"X is a sparse {type(x).__name__}, which {type(self).__name__} would fill; pass X.toarray()"
            raise InvalidInputError(msg)
        data = _refusing(
            check_array, x, dtype=None, ensure_all_finite=False, ensure_min_samples=min_rows,
            ensure_min_features=min_columns, input_name="X", estimator=self,
        )  # fmt: skip
        if data.dtype == object:
            try:
                data = data.astype(np.float64)
            except ValueError as why:
                msg = f"X has entries that are not numbers: {why}"
                raise InvalidInputError(msg) from why
        return as_matrix(data, name="X", min_rows=1)

    def _check_parameters(self, d: int) -> None:
        """Refuse parameters that rows of `d` columns cannot be fitted with."""

    def _learn(self, rows: Matrix) -> dict[str, NDArray[Any]]:
        """Return what `learned` lists; arrays in C order, so that a saved copy gives the same bits."""
        raise NotImplementedError

    def _check_learned(self) -> None:
        """Refuse learned attributes that do not go together, or with the parameters."""

    def _forward(self, x: NDArray[Any]) -> Vector:
        raise NotImplementedError


class Invertible(Transform):
    """A transform with a way back."""

    def inverse_transform(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Go back from transformed rows to rows as they were given, up to rounding.

        Parameters
        ----------
        X : array_like (n, d_out)
            As `transform` returns them.

        Returns
        -------
        ndarray (n, d)
            float32 or float64, as for `transform`.

        Raises
        ------
        InvalidInputError
            `X` cannot be used, or a result does not fit its dtype.
        NotFittedError
            Nothing was learned yet.
        """
        check_is_fitted(self)
        rows = self._rows(X)
        if rows.d != self._n_features_out:
            msg = f"X has {rows.d} features, but {type(self).__name__} puts out {self._n_features_out}"
            raise InvalidInputError(msg)
        return _mapped(rows, self._backward, self.n_features_in_)

    def _backward(self, y: NDArray[Any]) -> Vector:
        raise NotImplementedError


def _refusing(check: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call one of scikit-learn's checks; its refusals become ours, in its words."""
    try:
        return check(*args, **kwargs)
    except (ValueError, TypeError, RuntimeError) as why:
        raise InvalidInputError(str(why)) from why


def _mapped(rows: Matrix, function: Callable[[NDArray[Any]], Vector], width: int) -> NDArray[Any]:
    """Apply a function to blocks of rows, and round its float64 once."""
    out = np.empty((rows.n, width), np.asarray(rows.block(0, 1)).dtype)
    for start, stop in rows.blocks(block_rows(rows)):
        x = rows.block(start, stop)
        check_finite(x, start)
        with np.errstate(over="ignore", invalid="ignore"):
            out[start:stop] = function(x)
        check_finite(out[start:stop], start, f"whose result is larger than {out.dtype} holds; rescale them")
    return out
