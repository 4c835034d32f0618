"""``?fps=``: of so many images a second so many are kept, whatever fraction that is."""

import pytest

from edgepose.sources.pace import RateLimit


@pytest.mark.parametrize(("fps", "asked"), [(30, 20), (25, 10), (30, 15), (30, 10)])
def test_so_many_frames_are_kept(fps, asked):
    pace = RateLimit(asked)
    times = [round(number * 1000 / fps) * 1_000_000 for number in range(20 * fps)]  # whole ms, as Matroska has
    kept = [number for number, time in enumerate(times) if not pace.skips(time)]
    assert abs(len(kept) - 20 * asked) <= 1
    if fps % asked == 0:
        assert kept == list(range(0, 20 * fps, fps // asked))
