"""The loop: which frames it begins before the last ones are done, and that none is lost on the way."""

import weakref
from dataclasses import replace

import numpy as np
import pytest

from edgepose import app, config
from edgepose.estimator import Poses
from edgepose.frame import Frame
from edgepose.loop import Loop
from edgepose.people import People
from edgepose.sources import SourceLost
from edgepose.sources.base import Base
from edgepose.sources.several import Several

NOBODY = People([], np.zeros((0, 4)), Poses(np.zeros((0, 16, 2)), np.zeros((0, 16)), np.zeros((0, 16, 3))))
PICTURE = np.zeros((2, 2, 3), np.uint8)


class Listed(Base):
    """Frames with these numbers; an exception is raised, and the list's end is the end."""

    camera, reopens, description, dropped = "cam", False, "listed", 0

    def __init__(self, *steps, live=False):
        self.live, self.steps = live, list(steps)

    def read(self, timeout=None):
        if not self.steps:
            return None
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return Frame(PICTURE, step, step, self.camera)

    def close(self):
        self.steps = []


class Heard:
    """Stands in for crowd and camera, and notes what happens to each frame."""

    def __init__(self, restless=(), other=()):
        self.restless = set(restless)  # frames whose people are not calm
        self.other = set(other)  # frames that may not be begun before the last ones are done
        self.events = []

    def calm(self, frames):
        return bool(frames) and not self.restless & {f.seq for f in frames}

    def soon(self, frames, following):
        return not self.other & {f.seq for f in following}

    def update(self, frames, timer=None):
        self.events += [f"update {f.seq}" for f in frames]
        return [NOBODY for _ in frames]

    def begin(self, frames, timer=None):
        self.events += [f"begin {f.seq}" for f in frames]
        return lambda: [NOBODY for _ in frames]

    def publish(self, frame, people):
        self.events.append(f"publish {frame.seq}")

    def show(self, frame, people):
        pass

    def snapshot(self):
        return len(self.published)

    @property
    def published(self):
        return [int(event.split()[1]) for event in self.events if event.startswith("publish")]


def loop(source, heard, *, overlap=True):
    return Loop(Several({"cam": source}), heard, {"cam": heard}, overlap=overlap)


def test_two_frames_are_begun_before_the_last_one_is_published():
    heard = Heard()
    loop(Listed(0, 1, 2, 3, 4), heard).run()
    assert heard.events == [
        "update 0", "publish 0", "begin 1", "begin 2", "begin 3", "publish 1", "begin 4", "publish 2", "publish 3",
        "publish 4",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "overlap"),
    [(Listed(0, 1, 2), False), (Listed(0, 1, 2, live=True), True)],
    ids=["not asked for", "a camera"],
)
def test_one_after_the_other(source, overlap):
    heard = Heard()
    loop(source, heard, overlap=overlap).run()
    assert heard.events == ["update 0", "publish 0", "update 1", "publish 1", "update 2", "publish 2"]


def test_nothing_is_begun_beside_frames_whose_people_are_not_calm():
    heard = Heard(restless=[2])
    loop(Listed(0, 1, 2, 3, 4), heard).run()
    assert heard.events == [
        "update 0", "publish 0", "begin 1", "begin 2", "publish 1", "publish 2", "update 3", "publish 3", "begin 4",
        "publish 4",
    ]  # fmt: skip


def test_a_frame_that_is_nothing_like_the_last_one_waits_for_it():
    heard = Heard(other=[2])
    loop(Listed(0, 1, 2, 3), heard).run()
    assert heard.events == [
        "update 0", "publish 0", "begin 1", "publish 1", "update 2", "publish 2", "begin 3", "publish 3",
    ]  # fmt: skip


def test_no_more_frames_are_kept_than_are_begun():
    """Or than the last one. Of a camera's pipeline each is a buffer that others need."""

    class Watching(Heard):
        def calm(self, frames):
            return super().calm(frames) and frames[0].seq < 3

    pictures = [np.zeros((2, 2, 3), np.uint8) for _ in range(8)]
    kept = [weakref.ref(picture) for picture in pictures]
    alive = []

    class Shown(Listed):
        def read(self, timeout=None):
            alive.append([n for n, picture in enumerate(kept) if picture() is not None and n < 8 - len(self.steps)])
            frame = super().read()
            return frame and replace(frame, picture=pictures.pop(0))

    loop(Shown(*range(8)), Watching()).run()
    assert [len(each) for each in alive] == [0, 1, 1, 2, 2, 1, 1, 1, 1]
    assert alive[-1] == [7]


def test_the_last_frames_of_a_source_that_fails_are_published():
    heard = Heard()
    with pytest.raises(SourceLost, match="torn"):
        loop(Listed(0, 1, 2, SourceLost("torn")), heard).run()
    assert heard.published == [0, 1, 2]


def test_what_a_sink_could_not_take_is_the_last_that_it_is_given():
    class Full(Heard):
        def publish(self, frame, people):
            if frame.seq == 2:
                raise OSError("no space left")
            super().publish(frame, people)

    heard = Full()
    with pytest.raises(OSError, match="no space left"):
        loop(Listed(*range(9)), heard).run()
    assert heard.published == [0, 1]


def test_every_frame_that_is_begun_is_looked_at_before_another_is():
    """Of several films one's may still be in the engine when another's was the last to come."""

    class Asked(Heard):
        def soon(self, frames, following):
            self.events.append(f"{[f.seq for f in frames]} before {following[0].seq}")
            return super().soon(frames, following)

    heard = Asked(restless=[4])
    loop(Listed(*range(6)), heard).run()
    assert heard.events == [
        "update 0", "publish 0", "[0] before 1", "begin 1", "[1] before 2", "begin 2", "[1, 2] before 3", "begin 3",
        "publish 1", "[2, 3] before 4", "begin 4", "publish 2", "publish 3", "publish 4", "update 5", "publish 5",
    ]  # fmt: skip


def test_max_frames_counts_what_was_begun():
    heard = Heard()
    assert loop(Listed(*range(9)), heard).run(4) == 4
    assert heard.published == [0, 1, 2, 3]


def test_what_was_begun_when_it_is_stopped_is_published():
    heard = Heard()
    running = loop(Listed(*range(9)), heard)
    running.run(on_frame=lambda: running.stop() if len(heard.published) == 3 else None)
    assert heard.published == [0, 1, 2, 3, 4]
    assert heard.events[-3:] == ["publish 2", "publish 3", "publish 4"]


def test_each_frame_is_done_once():
    heard, frames = Heard(), []
    loop(Listed(*range(5)), heard).run(on_frame=lambda: frames.append(len(heard.published)))
    assert frames == [1, 2, 3, 4, 5]


class Kept:
    """A sink that keeps pose messages."""

    def __init__(self):
        self.poses = []

    def publish(self, message):
        if message.schema_ == "edgepose.pose/1":
            self.poses.append(message)

    def close(self):
        pass


def test_a_film_gives_the_same_people_in_the_same_places(clip):
    """Real networks on a real film: overlapped it is the same from run to run, and nearly what it is without."""
    runs = []
    for overlap in (True, True, False):
        flags = {"source.uri": str(clip), "engine.overlap": overlap, "engine.threads": 1}
        kept = Kept()
        with app.assembled(config.load(flags, environ={}).settings, extra_sinks=(kept,)) as parts:
            parts.loop.run(160)
        runs.append([[(p.id.partition("-")[2], p.joints) for p in m.people] for m in kept.poses])
        assert [m.seq for m in kept.poses] == list(range(160))
    first, again, plain = runs
    assert first == again
    pairs = [(dict(a), dict(b)) for a, b in zip(first, plain, strict=True)]
    assert {name for people, _ in pairs for name in people} == {name for _, people in pairs for name in people}
    assert sum(a.keys() != b.keys() for a, b in pairs) <= 3  # who comes or goes
    apart = [
        np.hypot(*(np.array(a[name])[:, :2] - np.array(b[name])[:, :2]).T) for a, b in pairs for name in a.keys() & b
    ]
    assert len(apart) > 50
    assert np.max(apart) > 0  # so some were begun before the last ones were known
    assert np.median(apart) < 2  # pixels
