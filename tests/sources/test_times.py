"""When a frame was taken: films without time stamps, clocks that are set or drift, a packet that is damaged."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgepose.sources import gstreamer, open_source, parse, pyav
from tests.sources.conftest import picture

S = 1_000_000_000
NONE = 2**64 - 1  # GST_CLOCK_TIME_NONE
GST = SimpleNamespace(CLOCK_TIME_NONE=NONE, Format=SimpleNamespace(TIME=3))


class Clocks:
    """UTC and the pipeline's, both in ns and both settable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.utc, self.ticks = 1_000 * S, 50 * S
        monkeypatch.setattr(gstreamer.time, "time_ns", lambda: self.utc)
        monkeypatch.setattr(gstreamer.time, "monotonic_ns", lambda: self.ticks + 7 * S)

    def pass_(self, ns: int) -> None:
        self.utc, self.ticks = self.utc + ns, self.ticks + ns


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def sample(pts: int, duration: int = S // 25) -> SimpleNamespace:
    buffer = SimpleNamespace(pts=pts, duration=duration)
    segment = SimpleNamespace(to_running_time=lambda _, pts: pts)
    return SimpleNamespace(get_buffer=lambda: buffer, get_segment=lambda: segment)


def by_gstreamer(stamps: list[int | None]) -> list[int]:
    """Times of a film's frames with these PTS in ns, 25 a second."""
    times = gstreamer._FileTimes(GST, deque())
    return [times.utc_ns(sample(NONE if pts is None else pts)) for pts in stamps]


def by_pyav(stamps: list[int | None]) -> list[int]:
    times = pyav._Times(parse("film.mp4"), SimpleNamespace(average_rate=25))
    return [times.taken_ns(SimpleNamespace(pts=pts, dts=pts, time_base=Fraction(1, S)), 0) for pts in stamps]


@pytest.mark.parametrize("times", [by_gstreamer, by_pyav])
@pytest.mark.parametrize("stamps", [[None] * 6, [None, None, 9 * S, 9 * S + S // 25], [5 * S, None, None, 5 * S + S]])
def test_a_film_without_time_stamps_has_the_pace_of_its_frames(times, stamps) -> None:
    """Not the pace at which it is read."""
    expected = [S // 25] * (len(stamps) - 1)
    if stamps[-1] == 6 * S:  # what a stamp says counts
        expected[-1] = S - 2 * (S // 25)
    assert np.diff(times(stamps)).tolist() == expected


def test_an_avi_with_b_frames_keeps_its_pace(tmp_path: Path, backend: str) -> None:
    """It has no times of its own, and what libav makes of those of the pictures' order runs to and fro."""
    av = pytest.importorskip("av")
    path = tmp_path / "film.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "3", "preset": "slow", "b-adapt": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            image = np.full((48, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        stamps = [frame.pts for frame in container.decode(video=0)]
    assert (np.diff(stamps) < 0).any(), "this libav has times for it: the test tests nothing"
    with open_source(str(path), backend=backend) as source:
        taken = [frame.acquired_ns / S for frame in source]
    steps = np.diff(taken)
    assert len(taken) == 40
    assert (steps >= 0).all()
    np.testing.assert_allclose(steps[4:], 1 / 25, atol=0.002)


def test_films_joined_in_one_file_go_on(tmp_path: Path, backend: str) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "film.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            image = np.full((48, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes() * 2)
    with open_source(str(path), backend=backend) as source:
        taken = [frame.acquired_ns / S for frame in source]
    assert len(taken) >= 55
    assert (np.diff(taken) > 0).all()
    assert np.diff(taken).max() < 0.1


@pytest.mark.parametrize("step", [5 * S, -3_600 * S])
def test_a_clock_that_is_set_moves_a_live_cameras_times_within_a_second(clocks: Clocks, step: int) -> None:
    """As NTP does once on a board without a clock of its own."""
    pipeline = SimpleNamespace(
        get_clock=lambda: SimpleNamespace(get_time=lambda: clocks.ticks), get_base_time=lambda: 50 * S
    )
    times, late = gstreamer._LiveTimes(GST, pipeline), S // 50
    for number in range(60):
        if number == 25:
            clocks.utc += step
        taken = times.utc_ns(sample(clocks.ticks - 50 * S - late))
        assert (
            times.monotonic_ns(sample(clocks.ticks - 50 * S - late)) == clocks.ticks + 7 * S - late
        )  # by which people move
        if not 25 <= number < 36:
            assert clocks.utc - taken == late, number
        assert taken <= clocks.utc
        clocks.pass_(S // 10)


def test_a_cameras_clock_that_runs_slow_leaves_its_times_at_the_arrival(clocks: Clocks) -> None:
    """By 100 ppm: 0.36 s an hour."""
    times = pyav._Times(parse("rtsp://h/x", environ={}), SimpleNamespace(average_rate=1))
    for number in range(3600):
        arrival, stamp = 50 * S + number * S, Fraction(number) * (1 - Fraction(1, 10_000))
        taken = times.taken_ns(SimpleNamespace(pts=stamp, time_base=1), arrival)
        assert 0 <= arrival - taken < S // 100, number


def test_a_damaged_packet_costs_its_frame_not_the_stream(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for index in range(6):
            frame = av.VideoFrame.from_ndarray(picture(index, 64, 48), "bgr24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in stream.encode(frame):
                if index == 2:
                    damaged = av.Packet(b"this is no picture")
                    damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
                    damaged.stream = stream
                    packet = damaged
                container.mux(packet)
    with open_source(str(path), backend="pyav") as source:
        taken = [frame.acquired_ns for frame in source]
    assert np.diff(taken).tolist() == [S // 25, 2 * S // 25, S // 25, S // 25]


def test_a_v4l2_camera_through_pyav_has_the_drivers_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are of the clock that UTC is told by; since boot, the arrival counts."""
    monkeypatch.setattr(pyav.time, "time_ns", lambda: 1_000 * S)
    monkeypatch.setattr(pyav.time, "monotonic_ns", lambda: 50 * S)
    times = pyav._Times(parse("v4l2:///dev/video0"), SimpleNamespace(average_rate=30))  # type: ignore[arg-type]

    def taken(milliseconds: int) -> int:
        frame = SimpleNamespace(pts=milliseconds, time_base=Fraction(1, 1000))
        return times.taken_ns(frame, 50 * S)

    assert taken(999_980) == 999_980_000_000
    assert taken(49_980) == 1_000 * S
