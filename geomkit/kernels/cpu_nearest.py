"""The CPU kernels of nearest neighbours: screening tiles, and settling what passed in float64."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geomkit.kernels.cpu import SUMS, widened

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def _halve(own: Array) -> int:
    """Keep the better half of a full list; return the key of the least kept, which nothing that went exceeds."""
    entries, shift, one = own[1:], np.int64(32), np.int64(1)
    keep = entries.size // 2
    least, most = entries[0], entries[0]
    for t in range(entries.size):
        least, most = min(least, entries[t]), max(most, entries[t])
    # The keep-th largest by halving the range of the keys: a count takes a few vectors, which is cheaper than a sort.
    low, high = least >> shift, most >> shift
    while low < high:
        middle = (low + high + one) >> one
        bound, above = middle << shift, 0
        for t in range(entries.size):
            above += entries[t] >= bound
        if above >= keep:
            low = middle
        else:
            high = middle - one
    bound, beyond, equal = low << shift, (low + one) << shift, keep
    for t in range(entries.size):
        equal -= entries[t] >= beyond
    size = 0
    for t in range(entries.size):
        entry = entries[t]
        if entry >= beyond or (entry >= bound and equal > 0):
            equal -= entry < beyond
            entries[size] = entry
            size += 1
    own[0] = size
    return low


@njit(nogil=True, cache=True)
def _push(lists: Array, dropped: Array, floor: Array, row: int, key: int, other: int) -> None:
    """Append a candidate; when the list is full, halve it and raise the floor."""
    own = lists[row]
    at = own[0] + 1
    own[at] = (np.int64(key) << np.int64(32)) | np.int64(other)
    own[0] = at
    if at + 1 == own.size:
        least = floor.dtype.type(_halve(own))
        dropped[row] = max(dropped[row], least)
        # Other threads raise floors too. What one of them overwrites is lower than it could be; `dropped` remembers.
        floor[row] = max(floor[row], least)


def _screener(kind: Any) -> Any:
    """Compile the screening for one width of keys, whose constants LLVM must see to use vectors of that width."""
    sign, magnitude = kind(8 * np.dtype(kind).itemsize - 1), kind(np.iinfo(kind).max)

    @njit(nogil=True, cache=True)
    def screen_tile(tile: Array, diagonal: bool, i0: int, j0: int, lists: Array, dropped: Array, floor: Array) -> None:
        rows, cols = tile.shape
        passed = np.zeros((cols + 7) // 8 * 8, np.uint8)
        words = passed.view(np.uint64)
        for i in range(rows):
            first = i + 1 if diagonal else 0
            row, others = tile[i, first:], floor[j0 + first : j0 + cols]
            left, right = i0 + i, j0 + first
            own = floor[left]
            for j in range(row.size):
                # Sign and magnitude to two's complement: then bit patterns compare like the values.
                key = kind(row[j] ^ ((row[j] >> sign) & magnitude))
                passed[j] = key > min(own, others[j])
            used = (row.size + 7) // 8
            passed[row.size : 8 * used] = 0
            # Eight flags are one word, nearly always 0.
            for w in range(used):
                if words[w]:
                    for j in range(8 * w, 8 * w + 8):
                        if passed[j]:
                            key = kind(row[j] ^ ((row[j] >> sign) & magnitude))
                            if key > floor[left]:
                                _push(lists, dropped, floor, left, key, right + j)
                            if key > floor[right + j]:
                                _push(lists, dropped, floor, right + j, key, left)

    return screen_tile


_SCREENS = {kind.__name__: _screener(kind) for kind in (np.int16, np.int32)}


def screen(tile: Array, diagonal: bool, i0: int, j0: int, lists: Array, dropped: Array, floor: Array) -> None:
    """Keep the best candidates of each row from one tile, for both triangles.

    A list is how many candidates it has, and then the candidates: the key of an entry above the number of a row, 32
    bits each. Keys are the bit patterns of bfloat16 or float32 entries as signed integers that compare like them. An
    entry that is not above the floor of its row is left out; `dropped` is the highest floor that this list set.
    """
    if tile.dtype == np.float64:
        tile = tile.astype(np.float32)
    _SCREENS[floor.dtype.name](tile.view(floor.dtype), diagonal, i0, j0, lists, dropped, floor)


def _narrow(tile: Array) -> Array:
    """Bit patterns of a tile as signed integers."""
    return tile.view(f"int{8 * tile.itemsize}")


def _finder(kind: Any) -> Any:
    """Compile the search for large entries for one width of keys."""
    sign, magnitude = kind(8 * np.dtype(kind).itemsize - 1), kind(np.iinfo(kind).max)

    @njit(nogil=True, cache=True)
    def find(tile: Array, diagonal: bool, least: int) -> Array:
        rows, cols = tile.shape
        passed = np.zeros((cols + 7) // 8 * 8, np.uint8)
        words = passed.view(np.uint64)
        found, size, bound = np.empty((2, 16), np.int64), 0, kind(least)
        for i in range(rows):
            first = i + 1 if diagonal else 0
            row = tile[i, first:]
            for j in range(row.size):
                passed[j] = kind(row[j] ^ ((row[j] >> sign) & magnitude)) >= bound
            used = (row.size + 7) // 8
            passed[row.size : 8 * used] = 0
            for w in range(used):
                if words[w]:
                    for j in range(8 * w, 8 * w + 8):
                        if passed[j]:
                            if size == found.shape[1]:
                                longer = np.empty((2, 2 * size), np.int64)
                                longer[:, :size] = found
                                found = longer
                            found[0, size], found[1, size] = i, first + j
                            size += 1
        return found[:, :size]

    return find


_FINDERS = {kind.__name__: _finder(kind) for kind in (np.int16, np.int32, np.int64)}


def above(tile: Array, diagonal: bool, threshold: float) -> Array:
    """Rows and columns of the entries of at least `threshold`, (2, m)."""
    # The key of -0 is below that of 0.
    bits, threshold = _narrow(tile), threshold or -0.0
    if tile.dtype == np.uint16:
        # What lies between two bfloat16 is reached by the upper one alone.
        key = np.float32(threshold)
        if float(key) < threshold:
            key = np.nextafter(key, np.float32(np.inf))
        pattern = int(key.view(np.int32))
        least = pattern ^ ((pattern >> 31) & 0x7FFFFFFF)
        # The lower half of a key is 0 above zero and all ones below.
        least = -(-least >> 16) if least >= 0 else least >> 16
    else:
        key = tile.dtype.type(threshold)
        if float(key) < threshold:
            key = np.nextafter(key, tile.dtype.type(np.inf))
        pattern, width = int(key.view(bits.dtype)), 8 * tile.itemsize
        least = pattern ^ ((pattern >> (width - 1)) & (2 ** (width - 1) - 1))
    return np.asarray(_FINDERS[bits.dtype.name](bits, diagonal, least))


def _ranger(kind: Any) -> Any:
    """Compile least and largest for one width of keys, whose integers LLVM vectorises and whose floats it does not."""
    sign, magnitude = kind(8 * np.dtype(kind).itemsize - 1), kind(np.iinfo(kind).max)
    lowest, highest = kind(np.iinfo(kind).min), kind(np.iinfo(kind).max)

    @njit(nogil=True, cache=True)
    def widen(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
        for i in range(tile.shape[0]):
            first = i + 1 if diagonal else 0
            row, low, high = tile[i, first:], cols[0, first:], cols[1, first:]
            least, largest = highest, lowest
            for j in range(row.size):
                key = kind(row[j] ^ ((row[j] >> sign) & magnitude))
                least, largest = min(least, key), max(largest, key)
                low[j] = min(low[j], key)
                high[j] = max(high[j], key)
            rows[0, i], rows[1, i] = least, largest

    return widen


_RANGERS = {kind.__name__: _ranger(kind) for kind in (np.int16, np.int32, np.int64)}


def row_extremes(tile: Array, diagonal: bool, rows: Array, cols: Array) -> None:
    """Update (least, largest) of each row of the full matrix of pairs from one tile, for both triangles."""
    bits = _narrow(tile)
    limits = np.iinfo(bits.dtype)
    keys = [np.empty((2, size), bits.dtype) for size in tile.shape]
    for each in keys:
        each[0], each[1] = limits.max, limits.min
    _RANGERS[bits.dtype.name](bits, diagonal, *keys)
    for state, each in zip((rows, cols), keys, strict=True):
        seen = each[0] <= each[1]
        patterns = each ^ ((each >> (8 * each.itemsize - 1)) & limits.max)
        values = widened(patterns.view(np.uint16)) if tile.dtype == np.uint16 else patterns.view(tile.dtype)
        np.minimum(state[0], np.where(seen, values[0], np.inf), out=state[0])
        np.maximum(state[1], np.where(seen, values[1], -np.inf), out=state[1])


@njit(nogil=True, cache=True)
def shortlist(values: Array, ids: Array, errors: Array, share: float, k: int) -> Array:
    """Candidates that may be among the k best, given how far each value may be off; the others become -1.

    A value v of row i may be off by ``errors[i] + share |v|``.
    """
    n, width = values.shape
    out = np.full((n, width), -1, np.int64)
    least = np.empty(k)
    for i in range(n):
        least[:] = -np.inf
        for c in range(width):
            if ids[i, c] < 0:
                continue
            low = values[i, c] - share * abs(values[i, c]) - errors[i]
            if low > least[k - 1]:
                at = k - 1
                while at > 0 and least[at - 1] < low:
                    least[at] = least[at - 1]
                    at -= 1
                least[at] = low
        for c in range(width):
            if ids[i, c] >= 0 and values[i, c] + share * abs(values[i, c]) + errors[i] >= least[k - 1]:
                out[i, c] = ids[i, c]
    return out


@njit(nogil=True, cache=True, fastmath=SUMS)
def exact_scores(
    left: Array, right: Array, ids: Array, euclidean: bool, left_factors: Array, right_factors: Array, out: Array
) -> None:
    """Scores in float64 of each left row with the right rows numbered in `ids`; -inf where a number is negative.

    Inner products of the rows times their factors, or minus the squared distance of the rows times the first factor.
    """
    d = left.shape[1]
    own = np.empty(d)
    for i in range(left.shape[0]):
        factor = left_factors[i]
        for t in range(d):
            own[t] = np.float64(left[i, t]) * factor
        for c in range(ids.shape[1]):
            j = ids[i, c]
            if j < 0:
                out[i, c] = -np.inf
                continue
            other, total = right[j], 0.0
            if euclidean:
                for t in range(d):
                    difference = own[t] - np.float64(other[t]) * factor
                    total -= difference * difference
                out[i, c] = total
            else:
                for t in range(d):
                    total += own[t] * np.float64(other[t])
                out[i, c] = total * right_factors[j]


@njit(nogil=True, cache=True)
def best(scores: Array, ids: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest scores of each row and their numbers, in descending order, equal ones by number."""
    n, width = scores.shape
    top, numbers = np.full((n, k), -np.inf), np.full((n, k), -1, np.int64)
    for i in range(n):
        for c in range(width):
            score, j = scores[i, c], ids[i, c]
            if j < 0:
                continue
            at = k
            while at > 0 and (
                numbers[i, at - 1] < 0 or top[i, at - 1] < score or (top[i, at - 1] == score and numbers[i, at - 1] > j)
            ):
                at -= 1
            if at == k:
                continue
            for t in range(k - 1, at, -1):
                top[i, t], numbers[i, t] = top[i, t - 1], numbers[i, t - 1]
            top[i, at], numbers[i, at] = score, j
    return top, numbers
