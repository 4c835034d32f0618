"""A camera that goes and comes back: with an injected clock, and with a real RTSP server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgepose.backoff import Backoff
from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.sources import Reconnecting, Source, SourceLost, SourceStalled, gstreamer, open_source, parse
from edgepose.sources.base import Base
from edgepose.sources.reconnect import STABLE
from tests.broker import free_port, wait_for
from tests.rtsp import RtspServer, why_not

PICTURE = np.zeros((2, 2, 3), np.uint8)


class Scripted(Base):
    """Plays a list: an int is a frame's seq, an exception is raised, the list's end is the stream's end."""

    live = True
    camera = "inner"
    description = "scripted"

    def __init__(self, script: list[int | Exception], *, reopens: bool = True) -> None:
        self.reopens = reopens
        self._script: Iterator[int | Exception] = iter(script)
        self._delivered, self._last = 0, -1
        self.closed = False

    @property
    def dropped(self) -> int:
        return self._last + 1 - self._delivered

    def read(self, timeout: float | None = None) -> Frame | None:
        step = next(self._script, None)
        if isinstance(step, Exception):
            raise step
        if step is None:
            return None
        self._delivered, self._last = self._delivered + 1, step
        return Frame(PICTURE, 0, step, self.camera)

    def close(self) -> None:
        self.closed = True


class World:
    """A camera with a life of its own, and time that passes only in pauses."""

    def __init__(self, *lives: list[int | Exception] | Exception, reopens: bool = True) -> None:
        self.lives = list(lives)
        self.reopens = reopens
        self.now = 100.0
        self.pauses: list[float] = []
        self.states: list[tuple[str, str]] = []  # and reasons: those that are new
        self.newest = ("", "")
        self.opened: list[Scripted] = []

    def open(self) -> Source:
        life = self.lives.pop(0)
        if isinstance(life, Exception):
            raise life
        self.opened.append(Scripted(life, reopens=self.reopens))
        return self.opened[-1]

    def wait(self, seconds: float) -> bool:
        self.pauses.append(round(seconds, 3))
        self.now += seconds
        return False

    def hear(self, state: str, text: str, new: bool) -> None:
        self.newest = state, text
        if new:
            self.states.append(self.newest)

    def source(self, jitter: float = 1.0) -> Reconnecting:
        return Reconnecting(
            self.open,
            camera="door",
            on_state=self.hear,
            wait=self.wait,
            backoff=Backoff(0.5, 10, lambda: jitter),
            clock=lambda: self.now,
        )


def test_seq_and_drops_go_on_and_states_are_told() -> None:
    world = World([0, 2, SourceLost("unplugged")], [0, 1, SourceStalled("silent")], [3])
    source = world.source()
    frames = list(source)
    assert [f.seq for f in frames] == [0, 2, 3, 4, 8]
    assert {f.camera for f in frames} == {"door"}
    assert source.dropped == 1 + 0 + 3
    assert [state for state, _ in world.states] == ["online", "camera-lost", "online", "camera-lost", "online"]
    assert [text for state, text in world.states if state == "camera-lost"] == ["unplugged", "silent"]
    assert world.pauses == [0.5, 1.0]  # it comes for a moment and goes again


def test_a_camera_that_stayed_is_taken_up_again_at_once() -> None:
    world = World([0, 1, SourceLost("unplugged")], [0, 1, SourceLost("unplugged")], [0])
    source = world.source()
    for _ in source:
        world.now += STABLE
    assert world.pauses == [0.5, 0.5]
    assert [inner.closed for inner in world.opened] == [True, True, False]


def test_pauses_double_up_to_ten_seconds_and_are_jittered() -> None:
    lost = SourceLost("refused")
    world = World(*[lost] * 8, [0])
    assert next(iter(world.source(jitter=1.0))).seq == 0
    assert world.pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]
    assert [state for state, _ in world.states] == ["camera-lost", "online"]  # once per loss
    world = World(*[lost] * 3, [0])
    next(iter(world.source(jitter=0.0)))
    assert world.pauses == [0.25, 0.5, 1]


def test_every_reason_is_told_once_while_a_camera_is_lost() -> None:
    """A password that was changed is not told as an ended stream for weeks; two that alternate are no flood."""
    ended, password = SourceLost("ended its stream"), SourceLost("Unauthorized")
    world = World([0, ended], password, ended, password, password, [1, ended], [2])
    before_each_pause: list[tuple[str, str]] = []
    source = world.source()
    source._wait = lambda seconds: bool(before_each_pause.append(world.newest)) or world.wait(seconds)
    assert len(list(source)) == 3
    lost = [("camera-lost", reason) for reason in ("ended its stream", "Unauthorized")]
    # who reads the retained status sees why it is lost now, not why it was at first
    assert before_each_pause == [lost[0], lost[1], lost[0], lost[1], lost[1], lost[0]]
    here = ("online", "camera door delivers")
    assert world.states == [here, ("camera-lost", "ended its stream"), ("camera-lost", "Unauthorized"),
                            here, ("camera-lost", "ended its stream"), here]  # fmt: skip


def test_opening_without_a_frame_does_not_set_the_pause_back() -> None:
    stalled: list[int | Exception] = [SourceStalled("silent")]
    world = World(stalled, stalled, stalled, [0])
    next(iter(world.source()))
    assert world.pauses == [0.5, 1, 2]


def test_a_timeout_ends_the_wait_for_a_lost_camera() -> None:
    world = World(*[SourceLost("refused")] * 4, [0])
    source = world.source()
    with pytest.raises(SourceStalled, match="camera door is still lost"):
        source.read(timeout=2)
    assert world.now == 102.0
    frame = source.read()
    assert frame is not None


def test_a_file_is_not_tried_again() -> None:
    world = World([0, SourceLost("damaged")], [0], reopens=False)
    source = world.source()
    assert source.read() is not None
    with pytest.raises(SourceLost, match="damaged"):
        source.read()
    assert len(world.opened) == 1
    assert world.pauses == []


def test_other_faults_are_not_swallowed() -> None:
    with pytest.raises(EdgeposeError, match="not installed"):
        World(EdgeposeError("x is not installed")).source()


def test_a_real_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeposeError, match="does not exist"):
        Reconnecting(lambda: open_source(str(tmp_path / "no.mp4")), camera="no")


def test_close_ends_the_pause() -> None:
    world = World(*[SourceLost("refused")] * 99)
    source = Reconnecting(world.open, camera="door", backoff=Backoff(0.5, 10, lambda: 1.0))
    threading.Timer(0.1, source.close).start()
    start = time.monotonic()
    assert source.read() is None
    assert time.monotonic() - start < 0.4 + 1
    assert source.read() is None


@pytest.mark.parametrize("uri", ["rtsp://127.0.0.1:{port}/cam", "v4l2:///dev/null"])
def test_one_that_stays_away_is_told_once(backend: str, uri: str) -> None:
    """GStreamer numbers its elements anew at every try."""
    told: list[str] = []
    tries: list[str] = []
    uri = uri.format(port=free_port())

    def opened() -> Source:
        tries.append(uri)
        return open_source(uri, backend=backend, stall_timeout=2)

    source = Reconnecting(
        opened,
        camera="yard",
        on_state=lambda _, sentence, new: told.append(sentence),
        wait=lambda seconds: len(tries) >= 6,
    )
    assert source.read() is None
    assert len(tries) == 6
    assert len(told) == 1, told


def test_a_driver_that_hangs_is_told_left_alone_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A streaming thread that never comes back keeps set_state(NULL) waiting for ever, and whoever called it."""
    pytest.importorskip("gi")
    monkeypatch.setattr(gstreamer, "STOPPING", 0.3)
    monkeypatch.setattr(gstreamer, "FIRST_FRAME_TIMEOUT", 2.0)
    back, opened, states = threading.Event(), list[gstreamer.GStreamerSource](), list[str]()

    def in_the_driver() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "driver"]

    def open_one() -> Source:
        source = gstreamer.GStreamerSource(parse("videotest://?fps=30"), stall_timeout=0.5)
        source.reopens = True
        if not opened:

            def hang(_pad: object, _info: object) -> object:
                back.wait()
                return source._gst.PadProbeReturn.OK

            pad = source._pipeline.get_by_name("newest").get_static_pad("sink")
            pad.add_probe(source._gst.PadProbeType.BUFFER, hang)
        opened.append(source)
        return source

    def hear(state: str, _sentence: str, _new: bool) -> None:
        if state == "camera-lost":
            assert not opened[-1]._closed.is_set()  # told before it is waited for
        states.append(state)

    try:
        with Reconnecting(open_one, camera="bench", on_state=hear, backoff=Backoff(0.01, 0.01)) as source:
            assert sum(1 for _ in zip(range(5), source, strict=False)) == 5
        assert states in (["camera-lost", "online"], ["online", "camera-lost", "online"])
        assert len(opened) == 2
        wait_for(lambda: len(in_the_driver()) == 1)
    finally:
        back.set()
    wait_for(lambda: not in_the_driver())


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "an RTSP server runs here")
def test_a_real_camera_comes_back(backend: str) -> None:
    states: list[str] = []
    with RtspServer() as server:
        source = Reconnecting(
            lambda: open_source(server.url, backend=backend, stall_timeout=2),
            camera="yard",
            on_state=lambda state, *_: states.append(state),
        )
        with source:
            before = [f for f, _ in zip(source, range(3), strict=False)]
            server.kill()
            restart = threading.Timer(1.0, server.start)
            restart.start()
            after = []
            for frame in source:
                after.append(frame)
                if states[-1] == "online" and len(states) > 1:
                    break
            restart.join()
            assert states[0] == "online"
            assert set(states[1:-1]) == {"camera-lost"}  # with each reason: it ended, then nobody answers
            seqs = [f.seq for f in before + after]
            assert seqs == sorted(set(seqs))
            assert {f.camera for f in after} == {"yard"}
            assert 0 <= (time.time_ns() - after[-1].acquired_ns) / 1e9 < 2
