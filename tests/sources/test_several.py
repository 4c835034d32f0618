"""Several sources at once: in memory, where every step is known, and real files."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.sources import SourceLost, open_source
from edgepose.sources.base import Base
from edgepose.sources.several import AHEAD, Several
from tests.broker import wait_for
from tests.sources.conftest import Writer

PICTURE = np.zeros((2, 2, 3), np.uint8)


class Fed(Base):
    """Gives the frames that it is fed, in order: a number is one, None the end, an exception is raised."""

    reopens = False
    description = "fed"

    def __init__(self, camera: str, *steps: int | Exception | None, live: bool = False) -> None:
        self.camera, self.live = camera, live
        self.dropped = 0
        self.closes = 0
        self._steps: queue.Queue[int | Exception | None] = queue.Queue()
        self.feed(*steps)

    def feed(self, *steps: int | Exception | None) -> None:
        for step in steps:
            self._steps.put(step)

    def read(self, timeout: float | None = None) -> Frame | None:
        step = self._steps.get()
        if isinstance(step, Exception):
            raise step
        return None if step is None else Frame(PICTURE, step, step, self.camera)

    @property
    def eaten(self) -> bool:
        return self._steps.empty()

    def close(self) -> None:
        self.closes += 1
        self._steps.put(None)


class Ends:
    """Hears who ended."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def __call__(self, camera: str, fault: EdgeposeError | None) -> None:
        self.heard.append((camera, str(fault or "")))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    wait_for(lambda: set(threading.enumerate()) <= before, 5)


@pytest.fixture
def several() -> Iterator[Callable[..., Several]]:
    """A Several of the given sources, closed at the end."""
    made: list[Several] = []

    def make(*sources: Base, on_end: Ends | None = None) -> Several:
        named = {source.camera: source for source in sources}  # type: ignore[attr-defined]
        made.append(Several(named, on_end) if on_end else Several(named))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.close()


Make = Callable[..., Several]


def everything(source: Several) -> dict[str, list[int]]:
    """The numbers of all frames, by camera; at most one of each camera at a time."""
    seen: dict[str, list[int]] = {}
    while (frames := source.read()) is not None:
        assert frames
        assert len({f.camera for f in frames}) == len(frames)
        for frame in frames:
            seen.setdefault(frame.camera, []).append(frame.seq)
    return seen


def test_one_source_is_read_directly(several: Make) -> None:
    before, ends = threading.active_count(), Ends()
    only = Fed("a", 0, 1, None)
    only.dropped = 3
    source = several(only, on_end=ends)
    assert threading.active_count() == before
    assert everything(source) == {"a": [0, 1]}
    assert source.dropped("a") == 3
    assert ends.heard == []  # who reads sees it


def test_an_error_of_the_only_source_is_the_readers(several: Make) -> None:
    source = several(Fed("a", 0, SourceLost("unplugged")))
    assert source.read()
    with pytest.raises(SourceLost, match="unplugged"):
        source.read()


def test_of_files_no_frame_is_lost(several: Make) -> None:
    ends = Ends()
    source = several(Fed("a", *range(50), None), Fed("b", *range(7), None), Fed("c", None), on_end=ends)
    assert everything(source) == {"a": list(range(50)), "b": list(range(7))}
    assert sorted(ends.heard) == [("a", ""), ("b", ""), ("c", "")]
    assert [source.dropped(name) for name in "abc"] == [0, 0, 0]
    assert source.read() is None  # and again


def test_the_newest_frame_of_a_live_source_wins(several: Make) -> None:
    live = Fed("live", 0, 1, 2, 3, 4, live=True)
    live.dropped = 10  # by itself
    source = several(live, Fed("still"))
    wait_for(lambda: source.dropped("live") == 14)
    frames = source.read()
    assert frames is not None
    assert [(f.camera, f.seq) for f in frames] == [("live", 4)]
    live.feed(5)
    assert [f.seq for f in source.read() or []] == [5]
    assert source.dropped("live") == 14
    assert source.dropped("still") == 0


def test_a_file_waits_until_its_frame_is_taken(several: Make) -> None:
    file = Fed("file", 0, 1, 2)
    source = several(file, Fed("still"))
    for number in range(3):
        assert [f.seq for f in source.read() or []] == [number]
    assert source.dropped("file") == 0


def test_what_is_there_is_handed_out_at_once(several: Make) -> None:
    """A source that stalls holds up nobody; its frame comes when it comes."""
    stalled, quick = Fed("stalled", live=True), Fed("quick", live=True)
    source = several(stalled, quick)
    for number in range(20):
        quick.feed(number)
        assert [(f.camera, f.seq) for f in source.read() or []] == [("quick", number)]
    stalled.feed(7)
    assert [(f.camera, f.seq) for f in source.read() or []] == [("stalled", 7)]


def test_who_fails_is_told_and_the_others_go_on(several: Make) -> None:
    ends = Ends()
    bad, good = Fed("bad", 0, SourceLost("torn")), Fed("good", *range(9), None)
    source = several(bad, good, on_end=ends)
    assert everything(source) == {"bad": [0], "good": list(range(9))}
    assert sorted(ends.heard) == [("bad", "torn"), ("good", "")]


def test_an_unexpected_fault_ends_one_source_only(several: Make) -> None:
    """Neither must the reader wait for ever for a thread that died."""
    ends = Ends()
    source = several(Fed("bad", ZeroDivisionError("of course")), Fed("good", 0, None), on_end=ends)
    assert everything(source) == {"good": [0]}
    told = dict(ends.heard)
    assert "unexpected fault: ZeroDivisionError('of course')" in told["bad"]
    assert told["good"] == ""


def test_when_all_failed_it_is_an_error(several: Make) -> None:
    ends = Ends()
    source = several(Fed("a", 0, SourceLost("one")), Fed("b", RuntimeError("two")), on_end=ends)
    assert [f.seq for f in source.read() or []] == [0]
    with pytest.raises(EdgeposeError, match="one|two"):
        everything(source)
    assert {name for name, _ in ends.heard} == {"a", "b"}


def test_an_end_is_told_after_the_last_frame_was_dealt_with(several: Make) -> None:
    """What is said of the end must not overtake what is said of the last frame."""
    ends, goes_on = Ends(), Fed("goes on")
    source = several(Fed("ends", 0, None), goes_on, on_end=ends)
    frames = source.read()
    assert [f.camera for f in frames or []] == ["ends"]
    goes_on.feed(0)
    wait_for(lambda: goes_on.eaten)
    assert ends.heard == []  # the frame is still in our hands
    assert source.ready()
    assert [f.camera for f in source.read() or []] == ["goes on"]
    goes_on.feed(1)
    wait_for(lambda: goes_on.eaten)
    assert ends.heard == []  # and may be while the next ones were begun
    for number in range(1, AHEAD):
        assert [f.seq for f in source.read() or []] == [number]
        goes_on.feed(number + 1)
        wait_for(lambda: goes_on.eaten)
        assert ends.heard == []
    assert [f.seq for f in source.read() or []] == [AHEAD]
    wait_for(lambda: ends.heard == [("ends", "")])


def test_an_end_is_told_where_no_other_camera_has_a_frame(several: Make) -> None:
    """Who waits for a frame has dealt with all the others."""
    ends, goes_on = Ends(), Fed("goes on")
    source = several(Fed("ends", 0, None), goes_on, on_end=ends)
    assert [f.camera for f in source.read() or []] == ["ends"]
    reader = threading.Thread(target=source.read)
    reader.start()
    wait_for(lambda: ends.heard == [("ends", "")])
    goes_on.feed(0)
    reader.join(5)
    assert not reader.is_alive()


def test_only_files_may_be_read_ahead(several: Make) -> None:
    """What a camera gives is not to wait for the engine."""
    assert several(Fed("file")).ready()  # always: how fast it is decoded must not tell where crops lie
    live = several(Fed("live", 0, live=True))
    assert not live.ready()
    files = several(Fed("a", 0), Fed("b"))
    wait_for(files.ready)
    assert files.read()
    assert not files.ready()
    mixed = several(Fed("a", 0), Fed("live", 0, live=True))
    wait_for(lambda: len(mixed._waiting) == 2)
    assert not mixed.ready()


def test_an_end_is_told_before_the_reader_hears_of_it(several: Make) -> None:
    for _ in range(20):
        ends = Ends()
        everything(several(Fed("a", 0, None), Fed("b", 0, SourceLost("torn")), on_end=ends))
        assert sorted(ends.heard) == [("a", ""), ("b", "torn")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_someone_who_listens_badly_does_no_harm(several: Make) -> None:
    class Careless(Ends):
        def __call__(self, camera: str, fault: EdgeposeError | None) -> None:
            super().__call__(camera, fault)
            raise RuntimeError("on purpose")

    ends = Careless()
    assert everything(several(Fed("a", 0, None), Fed("b", 1, None), on_end=ends)) == {"a": [0], "b": [1]}
    assert len(ends.heard) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_close_ends_a_read_that_waits(several: Make, count: int) -> None:
    ends = Ends()
    sources = [Fed(f"c{n}", live=bool(n % 2)) for n in range(count)]
    source = several(*sources, on_end=ends)
    got: list[object] = []
    reader = threading.Thread(target=lambda: got.append(source.read()))
    reader.start()
    source.close()
    reader.join(5)
    assert got == [None]
    assert all(s.closes for s in sources)
    assert ends.heard == []  # nobody ended: we did


def test_after_close_there_are_no_frames(several: Make) -> None:
    source = several(Fed("a", *range(5)), Fed("b", *range(5)))
    assert source.read()
    source.close()
    assert source.read() is None
    source.close()  # a second time does no harm


def test_a_source_that_listens_may_close_all(several: Make) -> None:
    """From the thread of a source, too."""

    class Closing(Ends):
        def __call__(self, camera: str, fault: EdgeposeError | None) -> None:
            super().__call__(camera, fault)
            source.close()

    ends = Closing()
    ending = Fed("a")
    source = several(ending, Fed("b"), on_end=ends)
    ending.feed(None)
    assert source.read() is None
    assert ends.heard == [("a", "")]


def test_real_files_arrive_whole(several: Make, write_clip: Writer, backend: str) -> None:
    counts = {"long": 60, "short": 5}
    opened = {
        name: open_source(str(write_clip(frames=count)), backend=backend, camera=name)  # type: ignore[arg-type]
        for name, count in counts.items()
    }
    ends = Ends()
    source = Several(opened, ends)
    try:
        seen: dict[str, list[tuple[int, int]]] = {}
        while (frames := source.read()) is not None:
            for frame in frames:
                seen.setdefault(frame.camera, []).append((frame.seq, int(frame.image[0, 0, 2])))
    finally:
        source.close()
    for name, count in counts.items():
        assert seen[name] == [(n, n * 7 % 256) for n in range(count)]
    assert sorted(ends.heard) == [("long", ""), ("short", "")]


def test_a_file_cut_short_by_close_lets_go(several: Make, write_clip: Writer, backend: str) -> None:
    clip = write_clip(frames=200)
    opened = {n: open_source(str(clip), backend=backend, camera=n) for n in "ab"}  # type: ignore[arg-type]
    source = Several(opened)
    assert source.read()
    source.close()
    assert source.read() is None


def test_a_file_played_in_real_time_and_one_that_is_not(several: Make, write_clip: Writer, backend: str) -> None:
    """The one is live: newest wins, and every frame is either given or counted; of the other none is lost."""
    live = open_source(f"file://{write_clip(frames=20, fps=50)}?realtime=true&name=live".replace(" ", "%20"),
                       backend=backend)  # type: ignore[arg-type]  # fmt: skip
    file = open_source(str(write_clip(frames=40)), backend=backend, camera="file")  # type: ignore[arg-type]
    source = Several({"live": live, "file": file})
    try:
        seen = everything(source)
        assert seen["file"] == list(range(40))
        assert seen["live"] == sorted(set(seen["live"]))
        assert len(seen["live"]) + source.dropped("live") == seen["live"][-1] + 1
    finally:
        source.close()
