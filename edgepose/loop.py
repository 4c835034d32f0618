"""The loop: frame -> people -> message -> sinks. The only place that knows them all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import Bundle
from edgepose.engines import Engine
from edgepose.estimator import StageTimer, untimed
from edgepose.frame import Frame
from edgepose.messages import ModelName, Stats, info_message, pose_message
from edgepose.people import People
from edgepose.sinks import Sink
from edgepose.sinks.mqtt import MQTTSink
from edgepose.sinks.overlay import Overlay
from edgepose.sources import Source

WINDOW = 600  # frames, at most, over which rate and latency are shown
RECENT = 5.0  # seconds, likewise


class Tracker(Protocol):
    """Whatever turns an image into people."""

    def update(self, image: NDArray[np.uint8], timer: StageTimer = untimed) -> People:
        """The people in the next image."""
        ...


@dataclass(frozen=True)
class Snapshot:
    """How the loop does right now; latencies in ms are from acquisition to publication, None for files."""

    frames: int
    frames_with_people: int
    people: int
    fps: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    dropped_frames: int
    dropped_messages: int
    broker: str
    seconds: float


class Loop:
    """Runs until the source ends, ``max_frames`` are done, or ``stop`` is called from anywhere."""

    def __init__(
        self,
        source: Source,
        tracker: Tracker,
        bundle: Bundle,
        engine: Engine,
        *,
        device: str,
        sinks: Sequence[Sink] = (),
        mqtt: MQTTSink | None = None,
        overlay: Overlay | None = None,
        stats_every: float = 5.0,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """``sinks`` take every message; ``mqtt``, if given, is one more, asked also how the broker does."""
        self._source, self._tracker, self._bundle, self._engine = source, tracker, bundle, engine
        self._device = device
        self._sinks: list[Sink] = [*sinks, *([mqtt] if mqtt is not None else [])]
        self._mqtt, self._overlay = mqtt, overlay
        self._stats_every, self._clock = stats_every, clock
        self._model = ModelName(name=bundle.manual.name, sha256=bundle.sha256)
        self._stopping = threading.Event()
        self._frames = self._with_people = self._people = 0
        self._started = time.monotonic()
        self._done: deque[float] = deque(maxlen=WINDOW)  # when frames were finished, monotonic s
        self._latencies: deque[float] = deque(maxlen=WINDOW)  # ms
        self._lock = threading.Lock()  # the status line reads what the loop writes

    def run(
        self, max_frames: int = 0, timer: StageTimer = untimed, on_frame: Callable[[], None] = lambda: None
    ) -> Snapshot:
        """Go through the source; 0 frames means all. Errors of source and sinks are the caller's to show."""
        next_stats = time.monotonic() + self._stats_every
        size: tuple[int, int] | None = None
        while not self._stopping.is_set() and not (max_frames and self._frames >= max_frames):
            with timer("wait for frame"):
                frame = self._source.read()
            if frame is None:
                break
            if size != frame.image.shape[:2]:
                size = (frame.image.shape[0], frame.image.shape[1])
                self._say_info(frame)
            people = self._tracker.update(frame.image, timer)
            with timer("publish"):
                self._publish(frame, people)
            if self._overlay is not None:
                self._overlay.show(frame, people)
            if time.monotonic() >= next_stats:
                next_stats = time.monotonic() + self._stats_every
                self._say_stats(frame.camera)
            on_frame()
        return self.snapshot()

    def stop(self) -> None:
        """End the loop soon, also where it waits for a frame; from any thread or a signal handler."""
        self._stopping.set()
        self._source.close()

    def snapshot(self) -> Snapshot:
        """See :class:`Snapshot`."""
        now = time.monotonic()
        with self._lock:
            done = [d for d in self._done if now - d < RECENT]
            latencies = list(self._latencies)[-len(done) :] if done else []
        span = now - done[0] if len(done) > 1 else 0.0
        p50, p95 = np.percentile(latencies, [50, 95]) if latencies else (None, None)
        return Snapshot(
            frames=self._frames,
            frames_with_people=self._with_people,
            people=self._people if done else 0,
            fps=(len(done) - 1) / span if span > 0 else 0.0,
            latency_p50_ms=None if p50 is None else float(p50),
            latency_p95_ms=None if p95 is None else float(p95),
            dropped_frames=self._source.dropped,
            dropped_messages=self._mqtt.dropped if self._mqtt is not None else 0,
            broker=self._mqtt.state if self._mqtt is not None else "none",
            seconds=now - self._started,
        )

    def _publish(self, frame: Frame, people: People) -> None:
        now = self._clock()
        message = pose_message(
            frame,
            device=self._device,
            model=self._model,
            skeleton=self._bundle.manual.skeleton,
            ids=people.ids,
            boxes=people.boxes,
            scores=people.poses.person_scores,
            joints=people.poses.joints,
            joint_scores=people.poses.scores,
            covariance=people.poses.covariance,
            published_ns=now,
        )
        for sink in self._sinks:
            sink.publish(message)
        with self._lock:
            self._frames += 1
            self._people = len(people)
            self._with_people += bool(len(people))
            self._done.append(time.monotonic())
            if self._source.live:
                self._latencies.append((now - frame.acquired_ns) / 1e6)

    def _say_info(self, frame: Frame) -> None:
        height, width = frame.image.shape[:2]
        info = info_message(
            device=self._device,
            camera=frame.camera,
            source=self._source.description,
            bundle=self._bundle,
            engine=self._engine.name,
            precision=self._engine.precision,
            image=(width, height),
        )
        for sink in self._sinks:
            sink.publish(info)

    def _say_stats(self, camera: str) -> None:
        now = self.snapshot()
        stats = Stats(
            device=self._device,
            camera=camera,
            measured_ns=self._clock(),
            fps=now.fps,
            latency_p50_ms=now.latency_p50_ms,
            latency_p95_ms=now.latency_p95_ms,
            people=now.people,
            dropped_frames=now.dropped_frames,
            dropped_messages=now.dropped_messages,
            broker_reconnects=self._mqtt.reconnects if self._mqtt is not None else 0,
            uptime_s=now.seconds,
        )
        for sink in self._sinks:
            sink.publish(stats)
