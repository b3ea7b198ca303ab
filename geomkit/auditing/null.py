"""What random vectors give for every statistic of an audit: in closed form, or drawn at the same n, d, k and metric.

Draws are kept in the cache folder, so that an audit of the same size does not pay for them twice.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from geomkit import nulls
from geomkit.auditing.measurements import measure
from geomkit.auditing.passes import Options
from geomkit.auditing.readings import READINGS
from geomkit.auditing.statistics import STATISTICS
from geomkit.core.atomic import replacing
from geomkit.core.cache import cache_folder, key_of
from geomkit.core.devices import place
from geomkit.core.matrix import as_matrix
from geomkit.core.validation import check_choice, check_whole
from geomkit.errors import InvalidInputError

__all__ = ["NULLS", "Expected", "Null", "draws_for", "null_of", "on_host"]

NULLS = ("gaussian", "spectrum", "permuted")

VERSION = 1
"""Of how sets are drawn and measured; draws of another version, or of other statistics, are made again."""

WORK = 1.5e12
"""Products of coordinates that all draws may take together ..."""

FEWEST, MOST = 4, 32
"""... within these numbers of draws."""

LARGEST = 2**32
"""Bytes that a draw may take."""


class Expected(NamedTuple):
    """What random vectors give for one statistic."""

    mean: float
    std: float
    """Of one more set of random vectors about `mean`: where that comes from a few draws, their scatter included."""
    z: float
    """How unusual the value is, in standard deviations of a normal variable."""


@dataclass(frozen=True)
class Null:
    """Random sets of the same n, d, k and metric, measured as the data were."""

    kind: str
    n: int
    d: int
    n_draws: int
    values: Mapping[str, tuple[float, ...]]
    """Each statistic of each draw."""

    def expected(self, name: str, value: float) -> Expected:
        """Compare one value with its null.

        Notes
        -----
        With R draws of mean m and standard deviation s, (value - m) / (s √(1 + 1/R)) follows Student's t with R - 1
        degrees of freedom where draws are normal; z is the normal deviate that is as rare. So |z| > 4 is as rare as it
        sounds however few draws there are. In closed form, and where the least step of the statistic stands in for a
        smaller spread, z is (value - mean) / sd.
        """
        statistic = STATISTICS[name]
        if not statistic.null or (name not in self.values and self._closed(name) is None):
            return Expected(math.nan, math.nan, math.nan)
        closed = self._closed(name)
        if closed is not None:
            return Expected(*closed, nulls.z(value, *closed))
        drawn = np.array([each for each in self.values[name] if math.isfinite(each)])
        if len(drawn) < 2:
            return Expected(math.nan, math.nan, math.nan)
        mean, spread = float(drawn.mean()), float(drawn.std(ddof=1))
        least = {"row": 1 / self.n, "one": 1.0, "": 0.0}[statistic.resolution]
        sd = spread * math.sqrt(1 + 1 / len(drawn))
        if sd == least == 0:
            return Expected(mean, 0.0, 0.0 if value == mean else math.nan)
        if sd < least:
            return Expected(mean, least, (value - mean) / least)
        return Expected(mean, sd, _normal_score((value - mean) / sd, len(drawn) - 1))

    def _closed(self, name: str) -> tuple[float, float] | None:
        if self.kind != "gaussian":
            return None
        sphere = nulls.sphere(self.d)
        if name == "cosine_mean":
            return 0.0, sphere.mean_std(self.n)
        if name == "cosine_std":
            return sphere.std, sphere.mean_square_std(self.n) / (2 * sphere.std)
        return None


def _normal_score(t: float, freedom: int) -> float:
    """Return the normal deviate that is as rare as t is for Student with so many degrees of freedom."""
    tail = float(special.stdtr(freedom, -abs(t)))
    if tail == 0.0:
        # Beyond the range of numbers the tail is a power: log P(T > t) = log c - freedom log t.
        power = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(freedom * math.pi)
        tail_log = power + (freedom + 1) / 2 * math.log(freedom) - math.log(freedom) - freedom * math.log(abs(t))
        return math.copysign(-float(special.ndtri_exp(tail_log)), t)
    return math.copysign(-float(special.ndtri(tail)), t) if tail < 0.5 else 0.0


def draws_for(n: int, d: int) -> int:
    """How many draws the time of an audit allows: 32 of small sets, fewer of large ones, at least 4."""
    return int(min(MOST, max(FEWEST, WORK // (float(n) * n * d))))


def null_of(
    x: Any,
    kind: str,
    options: Options,
    *,
    n_draws: int | None = None,
    seed: int = 0,
    rows: NDArray[np.int64] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Null:
    """Measure random sets, or read what was measured of them before.

    Parameters
    ----------
    x : array_like (n, d)
        The data; ``"gaussian"`` takes its shape alone.
    kind : {"gaussian", "spectrum", "permuted"}
        Independent Gaussian coordinates; the same with the covariance of the rows, about 0; or each column of the rows
        shuffled on its own, which keeps what every coordinate is and takes away what they have to do with each other.
    options : Options
        As the data were measured; random sets are measured on the same devices.
    n_draws : int, optional
        At least 2; `draws_for` unless given.
    rows : (n,), optional
        Row numbers of `x` that were measured.

    Raises
    ------
    InvalidInputError
        An argument is not one of its choices, or a draw would take more than 4 GiB.
    """
    check_choice(kind, "null", NULLS)
    matrix = as_matrix(x)
    n, d = (matrix.n if rows is None else len(rows)), matrix.d
    if n_draws is None:
        n_draws = draws_for(n, d)
    check_whole(n_draws, "null_draws", 2)
    if matrix.kind != "sparse" or kind != "permuted":
        size = n * d * 4
        if size > LARGEST:
            msg = f"a random set of {n} x {d} takes {size / 2**30:.1f} GiB, more than the 4 GiB that null={kind!r} may"
            raise InvalidInputError(msg)
    # At the precision that all draws have, for the cache holds them for every audit.
    places = place(matrix, options.backend, options.device, scores=True)[0].places
    device = list(places) or (matrix.device if matrix.on_accelerator else None)
    plain = Options(k=options.k, metric=options.metric, device=device, threads=options.threads, compared=0)
    parts = {
        "version": VERSION, "statistics": [name for names in READINGS for name in names], "kind": kind, "n": n, "d": d,
        "k": options.k, "metric": options.metric, "seed": seed,
        "data": "" if kind == "gaussian" else _digest(matrix.data, rows),
    }  # fmt: skip
    file = cache_folder() / "nulls" / f"{key_of(parts)}.json"
    drawn = _read(file, parts)
    make = _maker(matrix.data, kind, n, d, rows)
    first = len(drawn)
    for number in range(first, n_draws):
        # The first one and every quarter: a line for each draw would bury the rest.
        if progress is not None and (number == first or 4 * number // n_draws != 4 * (number - 1) // n_draws):
            progress(f"null {kind}: {number + 1} of {n_draws} random sets of {n} x {d}")
        found = measure(make(np.random.default_rng([seed, number])), plain)
        drawn.append({name: value.value for name, value in found.values.items()})
        _write(file, parts, drawn)
    values = {name: tuple(each[name] for each in drawn[:n_draws]) for name in drawn[0]}
    return Null(kind, n, d, n_draws, values)


def _maker(
    data: Any, kind: str, n: int, d: int, rows: NDArray[np.int64] | None
) -> Callable[[np.random.Generator], Any]:
    """Return what draws one random set."""
    if kind == "gaussian":
        return lambda rng: rng.standard_normal((n, d), dtype=np.float32)
    kept = data if rows is None else data[rows]
    if kind == "permuted":
        return lambda rng: _permuted(kept, rng)
    root = _root(on_host(kept))
    return lambda rng: rng.standard_normal((n, len(root)), dtype=np.float32) @ root


def on_host(data: Any) -> Any:
    """Return dense rows in the memory of the host, in float32 or float64."""
    if hasattr(data, "toarray"):
        data = data.toarray()
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        data = data.double().numpy() if data.dtype.itemsize > 4 else data.float().numpy()
    wide = data.dtype.itemsize > 4 or data.dtype.kind in "iu"
    return np.asarray(data, np.float64 if wide else np.float32)


def _permuted(data: Any, rng: np.random.Generator) -> Any:
    if hasattr(data, "tocsc"):
        columns = data.tocsc(copy=True)
        for start, stop in zip(columns.indptr[:-1], columns.indptr[1:], strict=True):
            columns.indices[start:stop] = rng.choice(data.shape[0], stop - start, replace=False)
        columns.has_sorted_indices = False
        return columns.tocsr()
    return rng.permuted(on_host(data), axis=0)


def _root(data: NDArray[Any]) -> NDArray[np.float32]:
    """Return a matrix R with RᵀR the covariance of the rows, (min(n, d), d)."""
    centred = data - data.mean(axis=0, dtype=np.float64)
    if data.shape[0] <= data.shape[1]:
        # The rows are a root themselves.
        return np.asarray(centred / math.sqrt(len(centred) - 1), np.float32)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(centred) - 1))
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, np.float32)


def _digest(data: Any, rows: NDArray[np.int64] | None) -> str:
    """Identify the data that a null was made from."""
    found = hashlib.sha256(repr((tuple(data.shape), str(data.dtype))).encode())
    parts = (data.data, data.indices, data.indptr) if hasattr(data, "indptr") else (data,)
    for part in parts:
        plain = part.detach().cpu() if hasattr(part, "detach") else part
        if str(plain.dtype) == "torch.bfloat16":
            plain = plain.float()
        plain = np.asarray(plain)
        for start in range(0, len(plain), 4096):
            found.update(np.ascontiguousarray(plain[start : start + 4096]).tobytes())
    if rows is not None:
        found.update(rows.tobytes())
    return found.hexdigest()


def _read(file: Path, parts: Mapping[str, object]) -> list[dict[str, float]]:
    """Draws that were kept, none where there are none or the file is not as it was written."""
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        drawn = kept["draws"]
        if kept["parts"] != parts or kept["digest"] != _seal(drawn):
            return []
        return [{name: math.nan if value is None else float(value) for name, value in each.items()} for each in drawn]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _write(file: Path, parts: Mapping[str, object], drawn: list[dict[str, float]]) -> None:
    """Keep the draws so far: a run that is stopped has paid for those it made."""
    plain = [{name: value if math.isfinite(value) else None for name, value in each.items()} for each in drawn]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_text(json.dumps({"parts": parts, "digest": _seal(plain), "draws": plain}), encoding="utf-8")
    except OSError as why:
        msg = f"random sets could not be kept, and the next audit will draw them again: {why}"
        warnings.warn(msg, RuntimeWarning, stacklevel=2)


def _seal(drawn: Any) -> str:
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()
