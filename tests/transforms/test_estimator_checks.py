"""scikit-learn's own checks of an estimator, all of them, and the manners that its users expect beyond."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from geomkit.errors import InvalidInputError
from geomkit.transforms import TRANSFORMS, AllButTheTop, Centering, Standardizing, Whitening
from tests.transforms.cases import VARIANTS, named, rows

ALL_VARIANTS = pytest.mark.parametrize("variant", VARIANTS, ids=named)

# The checks' rows have two columns at the least, and all but the top leaves one.
CHECKED = [*(each for each in VARIANTS if repr(each) != "AllButTheTop(n_components=2)"), AllButTheTop(n_components=1)]


ASKED = parametrize_with_checks(CHECKED).mark
# That of array API input needs SCIPY_ARRAY_API in the environment: a process of its own runs all of them, below.
HERE = [pair for pair in ASKED.args[1] if pair[1].func.__name__ != "check_array_api_input"]


@pytest.mark.parametrize(("estimator", "check"), HERE, ids=ASKED.kwargs["ids"])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_no_check_is_skipped():
    code = (
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from geomkit.transforms import TRANSFORMS\n"
        "for each in TRANSFORMS.values():\n"
        "    done = check_estimator(each(), on_skip=None)\n"
        "    print(len(done) > 40 and {one['status'] for one in done} == {'passed'})\n"
    )
    how = {"capture_output": True, "text": True, "timeout": 120, "env": os.environ | {"SCIPY_ARRAY_API": "1"}}
    done = subprocess.run([sys.executable, "-c", code], check=False, **how)
    assert done.stdout.split() == ["True"] * len(TRANSFORMS), done.stderr


@ALL_VARIANTS
def test_scikit_learn_is_told_that_dtypes_are_kept(variant):
    assert get_tags(variant).transformer_tags.preserves_dtype == ["float64", "float32"]


def test_every_transform_is_checked():
    assert len(CHECKED) == len(VARIANTS)
    assert {type(each) for each in CHECKED} == set(TRANSFORMS.values())
    assert {name: each.__name__ for name, each in TRANSFORMS.items()} == {name: name for name in TRANSFORMS}
    with pytest.raises(TypeError):
        TRANSFORMS["Other"] = Centering


@ALL_VARIANTS
def test_names_of_features(variant):
    frame = pd.DataFrame(rows(), columns=list("abcdef"))
    fitted = clone(variant).fit(frame)
    assert list(fitted.feature_names_in_) == list("abcdef")
    pca = isinstance(variant, Whitening) and variant.kind == "pca"
    width = fitted.transform(frame).shape[1]
    want = [f"whitening{i}" for i in range(width)] if pca else list("abcdef")
    assert list(fitted.get_feature_names_out()) == want
    assert list(fitted.get_feature_names_out(list("abcdef"))) == want
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        fitted.get_feature_names_out(list("abcdeg"))
    out = clone(variant).set_output(transform="pandas").fit_transform(frame)
    assert list(out.columns) == want
    assert np.array_equal(out.to_numpy(), fitted.transform(frame))
    with pytest.raises(InvalidInputError, match="feature names should match"):
        fitted.transform(frame.rename(columns={"a": "z"}))
    again = fitted.fit(rows())
    assert not hasattr(again, "feature_names_in_")
    assert list(again.get_feature_names_out())[:2] == (want[:2] if pca else ["x0", "x1"])


@ALL_VARIANTS
def test_before_fit(variant):
    fresh = clone(variant)
    with pytest.raises(NotFittedError):
        fresh.transform(rows())
    with pytest.raises(NotFittedError):
        fresh.get_feature_names_out()
    if hasattr(fresh, "inverse_transform"):
        with pytest.raises(NotFittedError):
            fresh.inverse_transform(rows())
    with pytest.raises(InvalidInputError):
        fresh.fit(np.full((5, 4), np.nan))
    with pytest.raises(NotFittedError):
        fresh.transform(rows())


@ALL_VARIANTS
def test_parameters_are_cloned_and_pickled(variant):
    twin = clone(variant.__class__(**variant.get_params()))
    assert twin.get_params() == variant.get_params()
    fitted = twin.fit(rows())
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    assert np.array_equal(again.transform(rows(9, seed=1)), fitted.transform(rows(9, seed=1)))


def test_in_a_pipeline():
    x = rows()
    line = make_pipeline(Centering(), AllButTheTop(1), Whitening(n_components=3, kind="pca"), Standardizing())
    line = line.set_params(whitening__ridge=0.01)
    assert line.fit_transform(x).shape == (300, 3)
    assert make_pipeline(line, LogisticRegression()).fit(x, x[:, 0] > np.median(x[:, 0])).score(x, x[:, 0] > 0) > 0
