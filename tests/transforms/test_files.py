"""Saved transforms come back to the bit, and a file that no fit made is refused in one line."""

import json
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from geomkit import __version__
from geomkit.errors import BackendUnavailableError, InvalidInputError
from geomkit.transforms import TRANSFORMS, AllButTheTop, Centering, Standardizing, Whitening, load, save
from tests.transforms.cases import VARIANTS, named, rows

ALL_VARIANTS = pytest.mark.parametrize("variant", VARIANTS, ids=named)


def parts(path):
    """Metadata and tensors of a file."""
    with safetensors.safe_open(path, framework="np") as stored:
        return stored.metadata(), {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def saved(path, transform, frame=False):
    x = rows()
    save(clone(transform).fit(pd.DataFrame(x, columns=list("abcdef")) if frame else x), path)
    return path


def assert_refused(path, message=""):
    with pytest.raises(InvalidInputError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@ALL_VARIANTS
@pytest.mark.parametrize("frame", [False, True])
def test_comes_back_to_the_bit(variant, frame, tmp_path):
    x = rows()
    x[:, 3] = np.round(x[:, 3])
    given = pd.DataFrame(x, columns=list("äbcdef")) if frame else x
    fitted = clone(variant).fit(given)
    path = tmp_path / "fitted.safetensors"
    save(fitted, str(path))
    back = load(str(path))
    assert type(back) is type(fitted)
    assert back.get_params() == fitted.get_params()
    assert vars(back).keys() == vars(fitted).keys()
    assert back.n_features_in_ == 6
    assert list(back.get_feature_names_out()) == list(fitted.get_feature_names_out())
    for n in (1, 7, 300):
        for dtype in (np.float32, np.float64):
            new = rows(n, seed=n, dtype=dtype)
            new = pd.DataFrame(new, columns=list("äbcdef")) if frame else new
            assert np.array_equal(back.transform(new), fitted.transform(new))
            if hasattr(fitted, "inverse_transform"):
                there = fitted.transform(new)
                assert np.array_equal(back.inverse_transform(there), fitted.inverse_transform(there))
    for name in fitted.learned:
        assert np.array_equal(getattr(back, name), getattr(fitted, name))
    back.fit(x + 1)
    assert list(tmp_path.iterdir()) == [path]


def test_wide_rows_come_back_to_the_bit(tmp_path):
    x, new = rows(200, 257), rows(33, 257, seed=5, dtype=np.float32)
    for each in (Whitening(), Whitening(kind="pca", n_components=100), AllButTheTop(9)):
        save(each.fit(x), tmp_path / "a")
        assert np.array_equal(load(tmp_path / "a").transform(new), each.transform(new))


def test_what_a_file_holds(tmp_path):
    metadata, tensors = parts(saved(tmp_path / "a", Whitening(ridge=np.float32(0.1), n_components=2), frame=True))
    assert json.loads(metadata.pop("parameters")) == {"ridge": float(np.float32(0.1)), "n_components": 2, "kind": "zca"}
    assert json.loads(metadata.pop("feature_names_in")) == list("abcdef")
    assert metadata == {"kind": "geomkit.transforms", "format": "1", "geomkit": __version__, "class": "Whitening"}
    assert {name: each.shape for name, each in tensors.items()} == {
        "mean_": (6,), "components_": (2, 6), "eigenvalues_": (2,), "ridge_": (),
    }  # fmt: skip


def test_only_fitted_transforms_of_the_table_are_saved(tmp_path):
    class Own(Centering):
        pass

    class Whitening(Centering):
        pass

    for each in (Own().fit(rows()), Whitening().fit(rows()), object()):
        with pytest.raises(InvalidInputError, match="transform must be one of"):
            save(each, tmp_path / "a")
    with pytest.raises(NotFittedError):
        save(Centering(), tmp_path / "a")
    with pytest.raises(InvalidInputError, match="n_components"):
        save(AllButTheTop(2).fit(rows()).set_params(n_components=3), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = saved(tmp_path / "a", Centering())
    before = path.read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    for name in ("write_bytes", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, fails)
            with pytest.raises(OSError, match="No space"):
                save(Standardizing().fit(rows()), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


def test_files_of_another_kind(tmp_path):
    path = tmp_path / "a"
    assert_refused(path, "is not a file")
    assert_refused(tmp_path, "is not a file")
    header = b'{"mean_":{"dtype":"F64","shape":[1000000000],"data_offsets":[0,8000000000]}}'
    others = {
        "empty": b"",
        "pickle": pickle.dumps(Trap()),
        "zip": b"PK\x03\x04" + bytes(100),
        "text": b"0.1 0.2\n" * 9,
        "a header longer than the file": struct.pack("<Q", 10**9) + b"{}",
        "an endless header": struct.pack("<Q", 2**63) + b"{}",
        "10^9 claimed": struct.pack("<Q", len(header)) + header + bytes(64),
        "deep JSON": struct.pack("<Q", 10**5) + b"[" * 10**5,
    }
    tracemalloc.start()
    for content in others.values():
        path.write_bytes(content)
        assert_refused(path, "cannot be read as safetensors|holds no saved transform")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22
    safetensors.numpy.save_file({"x": rows()}, path)
    assert_refused(path, "holds no saved transform")


def test_a_refusal_is_one_line_whatever_the_file_is_called(tmp_path):
    with pytest.raises(InvalidInputError, match=r"a b is not a file$") as caught:
        load(tmp_path / "a\nb")
    assert "\n" not in str(caught.value)


@ALL_VARIANTS
def test_truncated_files(variant, tmp_path):
    path = saved(tmp_path / "a", variant)
    whole = path.read_bytes()
    for size in {*range(0, len(whole), 31), len(whole) - 1, len(whole) - 8}:
        path.write_bytes(whole[:size])
        assert_refused(path, "cannot be read as safetensors")
    path.write_bytes(whole + b"\0")
    assert_refused(path, "cannot be read as safetensors")


@ALL_VARIANTS
def test_flipped_bytes_are_refused_or_leave_a_fit(variant, tmp_path):
    path = saved(tmp_path / "a", variant, frame=True)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for at in rng.integers(0, len(whole), 120):
        spoilt = bytearray(whole)
        spoilt[at] ^= int(rng.integers(1, 256))
        path.write_bytes(spoilt)
        try:
            back = load(path)
        except InvalidInputError as why:
            refused += 1
            assert "\n" not in str(why)  # noqa: PT017
            continue
        assert back.check_fit() is None
        assert type(back) in TRANSFORMS.values()
    assert refused > 20


def spoil(path, metadata=None, tensors=None, drop=()):
    """Rewrite a file with other metadata and tensors; None leaves one out."""
    told, held = parts(path)
    told.update(metadata or {})
    held.update(tensors or {})
    safetensors.numpy.save_file(
        {k: v for k, v in held.items() if k not in drop}, path, {k: v for k, v in told.items() if k not in drop}
    )


WHITENING = {
    "no kind": ({"drop": ["kind"]}, "no saved transform"),
    "format": ({"metadata": {"format": "2"}}, "has format '2'; this version of geomkit reads '1'"),
    "no format": ({"drop": ["format"]}, "has format None"),
    "class": ({"metadata": {"class": "os.system"}}, "has class 'os.system'; it must be one of"),
    "no class": ({"drop": ["class"]}, "has class ''"),
    "other class": ({"metadata": {"class": "Centering"}}, "must have the parameters"),
    "not JSON": ({"metadata": {"parameters": "{"}}, "parameters that is not JSON"),
    "no parameters": ({"drop": ["parameters"]}, "parameters that is not JSON"),
    "deep JSON": ({"metadata": {"parameters": "[" * 10**6}}, "parameters that is not JSON"),
    "a list": ({"metadata": {"parameters": "[]"}}, "must have the parameters"),
    "unknown parameter": (
        {"metadata": {"parameters": '{"ridge": 0.1, "n_components": 2, "kind": "zca", "x": 1}'}},
        "must have the parameters",
    ),
    "missing parameter": (
        {"metadata": {"parameters": '{"ridge": 0.1, "n_components": 2}'}},
        "must have the parameters",
    ),
    "NaN parameter": (
        {"metadata": {"parameters": '{"ridge": NaN, "n_components": 2, "kind": "zca"}'}},
        "ridge must be",
    ),
    "long parameter": (
        {"metadata": {"parameters": '{"ridge": 1' + "0" * 400 + ', "n_components": 2, "kind": "zca"}'}},
        "ridge must be",
    ),
    "longer parameter": (
        {"metadata": {"parameters": '{"ridge": 1' + "0" * 5000 + ', "n_components": 2, "kind": "zca"}'}},
        "not JSON",
    ),
    "nested parameter": (
        {"metadata": {"parameters": '{"ridge": {}, "n_components": 2, "kind": ["zca"]}'}},
        "ridge must be",
    ),
    "other components": (
        {"metadata": {"parameters": '{"ridge": 0.1, "n_components": 3, "kind": "zca"}'}},
        "components_ has 2 rows; n_components=3 makes 3",
    ),
    "names": ({"metadata": {"feature_names_in": '["a"]'}}, "has 1 names of features for 6 columns"),
    "names of numbers": (
        {"metadata": {"feature_names_in": "[1, 2, 3, 4, 5, 6]"}},
        "names of features that are strings",
    ),
    "names in text": ({"metadata": {"feature_names_in": '"abcdef"'}}, "names of features that are strings"),
    "no mean": ({"drop": ["mean_"]}, "has the tensors"),
    "one more": ({"tensors": {"x": np.ones(2)}}, "has the tensors"),
    "float32": ({"tensors": {"mean_": np.ones(6, np.float32)}}, "has mean_ of dtype F32; it must be float64"),
    "integers": ({"tensors": {"mean_": np.ones(6, np.int64)}}, "has mean_ of dtype I64"),
    "width": ({"tensors": {"mean_": np.ones(5)}}, r"has components_ of shape \(2, 6\)"),
    "wide": ({"tensors": {"components_": np.eye(7)[:2]}}, r"has components_ of shape \(2, 7\)"),
    "flat": ({"tensors": {"components_": np.ones(6)}}, r"has components_ of shape \(6,\)"),
    "square": ({"tensors": {"mean_": np.ones((6, 6))}}, r"has mean_ of shape \(6, 6\)"),
    "no columns": (
        {"tensors": {"mean_": np.ones(0), "components_": np.ones((2, 0))}},
        r"has mean_ of shape \(0,\)",
    ),
    "vast and empty": (
        {"tensors": {"components_": np.ones((0, 10**9))}},
        r"has components_ of shape \(0, 1000000000\)",
    ),
    "eigenvalues": ({"tensors": {"eigenvalues_": np.ones(3)}}, r"has eigenvalues_ of shape \(3,\)"),
    "not a number": ({"tensors": {"mean_": np.full(6, np.nan)}}, "has NaN or infinity in mean_"),
    "infinite": ({"tensors": {"components_": np.full((2, 6), np.inf)}}, "has NaN or infinity in components_"),
    "rising": ({"tensors": {"eigenvalues_": np.array([1.0, 2.0])}}, "eigenvalues_ must fall"),
    "negative": ({"tensors": {"eigenvalues_": np.array([1.0, -1e-9])}}, "eigenvalues_ must fall"),
    "negative ridge": ({"tensors": {"ridge_": np.array(-1e-9)}}, "so must ridge_"),
    "nothing": ({"tensors": {"eigenvalues_": np.zeros(2), "ridge_": np.array(0.0)}}, "above 0 in sum"),
    "askew": ({"tensors": {"components_": np.eye(6)[[0, 0]]}}, "must have orthonormal rows"),
    "long": ({"tensors": {"components_": 1.000001 * np.eye(6)[:2]}}, "must have orthonormal rows"),
    "overflowing": ({"tensors": {"components_": np.full((2, 6), 1e300)}}, "must have orthonormal rows"),
}


@pytest.mark.parametrize("name", WHITENING)
def test_what_no_fit_leaves_behind(name, tmp_path):
    how, message = WHITENING[name]
    path = saved(tmp_path / "a", Whitening(ridge=0.1, n_components=2))
    spoil(path)
    load(path)
    spoil(path, **how)
    assert_refused(path, message)


OTHERS = {
    "scale": (Standardizing(), {"scale_": np.array([1.0, 1, 0, 1, 1, 1])}, "scale_ must be above 0"),
    "negative scale": (Standardizing(), {"scale_": -np.ones(6)}, "scale_ must be above 0"),
    "constant": (Standardizing(), {"constant_": np.ones(6, bool)}, "1 where constant_ is true"),
    "bytes for bools": (Standardizing(), {"constant_": np.ones(6, np.uint8)}, "has constant_ of dtype U8"),
    "components": (AllButTheTop(2), {"components_": np.eye(6)[:3]}, "components_ has 3 rows; n_components=2 makes 2"),
    "default components": (AllButTheTop(), {"components_": np.eye(6)[:2]}, "components_ has 2 rows"),
    "askew": (AllButTheTop(1), {"components_": np.ones((1, 6))}, "orthonormal"),
    "width": (AllButTheTop(2), {"mean_": np.ones(2), "components_": np.eye(2)}, "n_components must be a whole number"),
    "a tensor": (Centering(), {"components_": np.ones((0, 6))}, "has the tensors"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_fit_of_the_others_leaves_behind(name, tmp_path):
    transform, tensors, message = OTHERS[name]
    path = saved(tmp_path / "a", transform)
    spoil(path, tensors=tensors)
    assert_refused(path, message)


def test_without_safetensors(tmp_path, monkeypatch):
    path = saved(tmp_path / "a", Centering())
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'safetensors>=0\.5'"):
        save(Centering().fit(rows()), tmp_path / "b")
    with pytest.raises(BackendUnavailableError, match=r"pip install 'safetensors>=0\.5'"):
        load(path)
