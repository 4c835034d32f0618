"""The loop: frames -> people -> what each camera publishes, see :mod:`edgepose.camera`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgepose.camera import Camera, Snapshot
from edgepose.frame import Frame
from edgepose.people import People
from edgepose.people.crowd import Crowd
from edgepose.sources.several import AHEAD, Several
from edgepose.timing import StageTimer, untimed


@dataclass(frozen=True)
class _Begun:
    """Frames in which people are looked for."""

    frames: list[Frame]
    people: Callable[[], list[People]]  # waits for them


class Loop:
    """Runs until every source ends, ``max_frames`` are done, or ``stop`` is called from anywhere."""

    def __init__(self, sources: Several, crowd: Crowd, cameras: Mapping[str, Camera], *, overlap: bool = False) -> None:
        """``cameras``: by the name that the frames carry.

        ``overlap``: a film's next frames are begun before the people in the last one are known, so that the engine has
        work while these are followed and published: two of them, for neither should wait where the other is late now
        and then. Only while everybody is calm: crops are placed by the frame up to three before. Never of live
        cameras: there a frame would only wait for the engine, and grow old.
        """
        self._sources, self._crowd, self._cameras = sources, crowd, dict(cameras)
        self._overlap = overlap
        self._begun = deque[_Begun]()
        self._stopping = threading.Event()

    def run(
        self, max_frames: int = 0, timer: StageTimer = untimed, on_frame: Callable[[], None] = lambda: None
    ) -> Snapshot:
        """Go through the sources; 0 frames means all. Errors of sources and sinks are the caller's to show."""
        try:
            self._go_through(max_frames, timer, on_frame)
        finally:
            self._finish(timer, on_frame)  # also where a source fails: its last frames were good
        return self.snapshot()

    def _go_through(self, max_frames: int, timer: StageTimer, on_frame: Callable[[], None]) -> None:
        count, last = 0, list[Frame]()
        while not self._stopping.is_set() and not (max_frames and count >= max_frames):
            before = [frame for begun in self._begun for frame in begun.frames] or last
            ahead = self._overlap and self._crowd.calm(before) and self._sources.ready()
            if not ahead:
                self._finish(timer, on_frame)
                before = last  # what is published is not kept while the next one is waited for
            with timer("wait for frame"):
                frames = self._sources.read()
            if frames is None:
                return
            frames = frames[: max_frames - count] if max_frames else frames
            count += len(frames)
            if ahead and self._crowd.soon(before, frames):
                self._begin(frames, timer, on_frame)
            else:
                self._finish(timer, on_frame)
                self._publish(frames, self._crowd.update(frames, timer), timer, on_frame)
            last = frames

    def _begin(self, frames: list[Frame], timer: StageTimer, on_frame: Callable[[], None]) -> None:
        """Begin ``frames``, and publish the people in those that were begun ``AHEAD`` before them."""
        self._begun.append(_Begun(frames, self._crowd.begin(frames, timer)))
        self._finish(timer, on_frame, but=AHEAD)

    def _finish(self, timer: StageTimer, on_frame: Callable[[], None], but: int = 0) -> None:
        """Take and publish the people in the frames that were begun, ``but`` for so many of the newest.

        Where that fails the others are lost: after what a sink could not take it is given nothing more.
        """
        while len(self._begun) > but:
            begun = self._begun.popleft()
            try:
                self._publish(begun.frames, begun.people(), timer, on_frame)
            except BaseException:
                self._begun.clear()
                raise

    def _publish(
        self, frames: Sequence[Frame], found: Sequence[People], timer: StageTimer, on_frame: Callable[[], None]
    ) -> None:
        for frame, people in zip(frames, found, strict=True):
            camera = self._cameras[frame.camera]
            with timer("publish"):
                camera.publish(frame, people)
            camera.show(frame, people)
        on_frame()

    def stop(self) -> None:
        """End the loop soon, also where it waits for a frame; from any thread or a signal handler."""
        self._stopping.set()
        self._sources.close()

    def snapshot(self) -> Snapshot:
        """All cameras together: sums, and the worst latency and broker."""
        each = [camera.snapshot() for camera in self._cameras.values()]
        if len(each) == 1:
            return each[0]
        latencies = [(s.latency_p50_ms, s.latency_p95_ms) for s in each]
        states = {s.broker for s in each}
        return replace(
            each[0],
            frames=sum(s.frames for s in each),
            frames_with_people=sum(s.frames_with_people for s in each),
            people=sum(s.people for s in each),
            fps=sum(s.fps for s in each),
            latency_p50_ms=max((a for a, _ in latencies if a is not None), default=None),
            latency_p95_ms=max((b for _, b in latencies if b is not None), default=None),
            dropped_frames=sum(s.dropped_frames for s in each),
            dropped_messages=sum(s.dropped_messages for s in each),
            broker=states.pop() if len(states) == 1 else ", ".join(sorted(states)),
        )
