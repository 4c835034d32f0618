"""The loop: frames -> people -> messages -> sinks. The only place that knows them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from edgepose.camera import Camera, Snapshot
from edgepose.estimator import StageTimer, untimed
from edgepose.people.crowd import Crowd
from edgepose.sources.several import Several


class Loop:
    """Runs until every source ends, ``max_frames`` are done, or ``stop`` is called from anywhere."""

    def __init__(self, sources: Several, crowd: Crowd, cameras: Mapping[str, Camera]) -> None:
        """``cameras``: by the name that the frames carry."""
        self._sources, self._crowd, self._cameras = sources, crowd, dict(cameras)
        self._stopping = threading.Event()

    def run(
        self, max_frames: int = 0, timer: StageTimer = untimed, on_frame: Callable[[], None] = lambda: None
    ) -> Snapshot:
        """Go through the sources; 0 frames means all. Errors of sources and sinks are the caller's to show."""
        done = 0
        while not self._stopping.is_set() and not (max_frames and done >= max_frames):
            with timer("wait for frame"):
                frames = self._sources.read()
            if frames is None:
                break
            if max_frames:
                frames = frames[: max_frames - done]
            found = self._crowd.update(frames, timer)
            for frame, people in zip(frames, found, strict=True):
                camera = self._cameras[frame.camera]
                with timer("publish"):
                    camera.publish(frame, people)
                camera.show(frame, people)
            done += len(frames)
            on_frame()
        return self.snapshot()

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
