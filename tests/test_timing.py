"""Stages are timed frame by frame."""

import pytest

from edgepose.timing import Timings


def test_a_stage_is_the_sum_of_its_parts_in_each_frame():
    timings = Timings()
    for parts in ((0.010,), (0.010, 0.010), (0.0,)):
        for seconds in parts:
            timings.add("crop", seconds)
        timings.end_frame()
    row = timings.table(0)["crop"]
    assert row["mean"] == pytest.approx(10.0)  # of 10, 20 and 0 ms
    assert row["p50"] == pytest.approx(10.0)
