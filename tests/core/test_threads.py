"""Work in threads gives what work one after the other gives, and as many threads as were asked for."""

import threading

import pytest

from geomkit.core.threads import map_in_threads


@pytest.mark.parametrize("threads", [1, 2, 3, 50])
def test_results_stand_in_the_order_of_the_arguments(threads):
    assert map_in_threads(lambda a, b: a - b, range(20), range(0, 40, 2), threads=threads) == [-x for x in range(20)]


def test_as_many_threads_work_at_once():
    meeting = threading.Barrier(3, timeout=20)
    names = map_in_threads(lambda _: (meeting.wait(), threading.current_thread().name)[1], range(3), threads=3)
    assert len(set(names)) == 3


@pytest.mark.parametrize(("items", "threads"), [(1, 8), (5, 1), (0, 4)])
def test_one_thread_is_this_one(items, threads):
    ran_in = map_in_threads(lambda _: threading.current_thread(), range(items), threads=threads)
    assert ran_in == [threading.current_thread()] * items


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        map_in_threads(lambda x: 1 / x, [1, 0, 2], threads=2)
