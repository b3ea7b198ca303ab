"""Contenders are timed in turn, each in every round, and none always after the same one."""

import numpy as np

from bench.speed.timing import Pace, interleaved, spread


def test_every_round_times_everyone_and_starts_with_another():
    seen = []
    took = interleaved([lambda at=at: seen.append(at) for at in range(3)], Pace(seconds=0.0, least=3, most=5))

    assert took.shape == (3, 3)
    assert np.all(took > 0)
    assert seen == [0, 1, 2, 1, 2, 0, 2, 0, 1]


def test_rounds_go_on_until_the_time_is_up_or_there_are_enough():
    assert len(interleaved([lambda: None], Pace(seconds=60.0, least=1, most=4))) == 4


def test_spread_is_median_least_and_largest():
    assert spread(np.array([3.0, 1.0, 10.0])) == (3.0, 1.0, 10.0)
