"""The cache of decoded pieces: what it keeps, in bytes and in calls."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geomkit.io.shards.locations import natural
from geomkit.io.shards.piece_cache import PieceCache


def piece(value):
    return np.full((2, 2), value)


def test_the_last_used_are_kept_within_the_limit():
    cache = PieceCache(30)
    for key in "abc":
        cache.get(key, 10, lambda: piece(0))
    cache.get("a", 10, lambda: pytest.fail("a is kept"))
    cache.get("d", 10, lambda: piece(0))
    assert cache.peek("b") is None
    assert all(cache.peek(key) is not None for key in "acd")
    assert (cache.made, cache.weight, cache.most) == (4, 30, 30)
    cache.get("e", 100, lambda: piece(1))
    assert cache.peek("e") is not None
    assert cache.weight == 100
    cache.get("f", 30, lambda: piece(1))
    assert cache.weight == 30
    cache.clear()
    assert cache.weight == 0
    assert cache.peek("f") is None


def test_room_is_made_before_a_piece_is():
    cache = PieceCache(30)
    for key in "abc":
        cache.get(key, 10, lambda: piece(0))
    cache.get("d", 20, lambda: (piece(cache.weight), pytest.fail("room") if cache.peek("b") is not None else 0)[0])
    assert cache.most == 30


def test_what_was_made_on_the_way_is_kept_and_counted_once():
    cache = PieceCache(30)

    def make():
        cache.offer("a", 10, piece(1))  # another thread came past it
        return piece(1)

    cache.get("a", 10, make)
    assert cache.weight == 10
    cache.offer("b", 10, piece(2))
    assert cache.get("b", 10, lambda: pytest.fail("b is kept"))[0, 0] == 2
    for key in "cd":
        cache.offer(key, 10, piece(3))
    assert cache.weight == 30


def test_a_failure_is_not_kept():
    cache = PieceCache(30)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.get("a", 10, lambda: piece(1 / 0))
    assert cache.weight == 0
    assert not cache._gates
    assert cache.get("a", 10, lambda: piece(1))[0, 0] == 1


def test_who_asks_for_what_another_makes_waits_and_others_do_not():
    cache, entered, go = PieceCache(30), threading.Event(), threading.Event()

    def slow():
        entered.set()
        assert go.wait(10)
        return piece(1)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(cache.get, "a", 10, slow)
        assert entered.wait(10)
        second = pool.submit(cache.get, "a", 10, lambda: piece(2))
        assert pool.submit(cache.get, "b", 10, lambda: piece(3)).result(10)[0, 0] == 3
        assert not second.done()
        go.set()
        assert first.result(10) is second.result(10)
    assert cache.made == 2


def test_names_sort_as_people_count():
    names = ["part-10", "part-2", "part-02", "b", "10", "9", "part-2a", "part"]
    assert sorted(names, key=natural) == ["9", "10", "b", "part", "part-02", "part-2", "part-2a", "part-10"]
    assert sorted(["²", "x²3", "x²"], key=natural) == ["x²", "x²3", "²"]
