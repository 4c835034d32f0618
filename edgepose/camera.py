"""One camera's way out: its messages, when they are due, its sinks, and how it does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgepose.bundle import Bundle
from edgepose.engines import Engine
from edgepose.frame import Frame
from edgepose.gates import Gate, Gatekeeper
from edgepose.messages import Info, ModelName, Stats, info_message, pose_message
from edgepose.people import People
from edgepose.people.smooth import predict
from edgepose.sinks import Sink
from edgepose.sinks.mqtt import MQTTSink
from edgepose.sinks.overlay import Overlay
from edgepose.sources import Source

WINDOW = 600  # frames, at most, over which rate and latency are shown
RECENT = 5.0  # seconds, likewise


@dataclass(frozen=True)
class Snapshot:
    """How a camera, or all of them, do right now; latencies in ms from acquisition to publication, None for files."""

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


@dataclass(frozen=True)
class Speaking:
    """What is the same for every camera of a run."""

    device: str
    bundle: Bundle
    engine: Engine
    stats_every: float = 5.0  # seconds
    velocity: bool = False  # publish how fast joints move
    predict_to: Literal["acquired", "publish"] = "acquired"  # the time that published joints are of
    smoothing: str = "off"  # as the info message tells
    clock: Callable[[], int] = time.time_ns

    def info(self, camera: str, source: str, *, live: bool, image: tuple[int, int] | None = None) -> Info:
        """What readers of ``camera`` must know; ``image`` is its size (width, height), None before its first frame."""
        return info_message(
            device=self.device,
            camera=camera,
            source=source,
            bundle=self.bundle,
            engine=self.engine.name,
            precision=self.engine.precision,
            image=image,
            smoothing=self.smoothing,
            predict_to=self.predict_to if live else "acquired",
        )


class Camera:
    """Publishes one camera's people."""

    def __init__(
        self,
        source: Source,
        speaking: Speaking,
        *,
        sinks: Sequence[Sink] = (),
        mqtt: MQTTSink | None = None,
        overlay: Overlay | None = None,
        gate: Gate | None = None,
        dropped: Callable[[], int] | None = None,
    ) -> None:
        """``sinks`` take every message; ``mqtt``, if given, is one more, asked also how the broker does.

        ``dropped`` counts frames that nobody took, where the source alone does not know.
        """
        self.source, self.mqtt = source, mqtt
        self._speaking = speaking
        self._sinks: list[Sink] = [*sinks, *([mqtt] if mqtt is not None else [])]
        self._overlay = overlay
        self._gatekeeper = Gatekeeper(gate) if gate is not None else None
        self._dropped = dropped or (lambda: source.dropped)
        self._model = ModelName(name=speaking.bundle.manual.name, sha256=speaking.bundle.sha256)
        self._size: tuple[int, int] | None = None
        self.frames = self._with_people = self._people = 0
        self._started = time.monotonic()
        self._next_stats = self._started + speaking.stats_every
        self._done: deque[float] = deque(maxlen=WINDOW)  # when frames were finished, monotonic s
        self._latencies: deque[float] = deque(maxlen=WINDOW)  # ms
        self._lock = threading.Lock()  # the status line reads what the loop writes

    def publish(self, frame: Frame, people: People) -> None:
        """Send what is due: the pose message, and before it what readers must know, after it how we do."""
        if frame.size != self._size:
            self._size = frame.size
            info = self._speaking.info(frame.camera, self.source.description, live=self.source.live, image=frame.size)
            for sink in self._sinks:
                sink.publish(info)
        now = self._speaking.clock()
        if self._gatekeeper is None or self._gatekeeper.passes(people, frame.steady_ns):
            self._say_poses(frame, people, now)
        with self._lock:
            self.frames += 1
            self._people = len(people)
            self._with_people += bool(len(people))
            self._done.append(time.monotonic())
            if self.source.live:
                self._latencies.append((now - frame.acquired_ns) / 1e6)
        if time.monotonic() >= self._next_stats:
            self._next_stats = time.monotonic() + self._speaking.stats_every
            self._say_stats(frame.camera)

    def show(self, frame: Frame, people: People) -> None:
        """Draw the frame, where an overlay was asked for."""
        if self._overlay is not None:
            self._overlay.show(frame, people)

    def snapshot(self) -> Snapshot:
        """See :class:`Snapshot`."""
        now = time.monotonic()
        with self._lock:
            done = [d for d in self._done if now - d < RECENT]
            latencies = list(self._latencies)[-len(done) :] if done else []
        span = now - done[0] if len(done) > 1 else 0.0
        p50, p95 = np.percentile(latencies, [50, 95]) if latencies else (None, None)
        return Snapshot(
            frames=self.frames,
            frames_with_people=self._with_people,
            people=self._people if done else 0,
            fps=(len(done) - 1) / span if span > 0 else 0.0,
            latency_p50_ms=None if p50 is None else float(p50),
            latency_p95_ms=None if p95 is None else float(p95),
            dropped_frames=self._dropped(),
            dropped_messages=self.mqtt.dropped if self.mqtt is not None else 0,
            broker=self.mqtt.state if self.mqtt is not None else "none",
            seconds=now - self._started,
        )

    def _say_poses(self, frame: Frame, people: People, now: int) -> None:
        poses, velocity = people.poses, None
        if people.motion is not None:
            motion = people.motion
            if self._speaking.predict_to == "publish" and self.source.live:  # a file's frames are not of now
                motion = predict(motion, self._age_ns(frame, now) / 1e9)
                poses = replace(poses, joints=motion.joints, covariance=motion.covariance)
            velocity = motion.velocity if self._speaking.velocity else None
        message = pose_message(
            frame,
            device=self._speaking.device,
            model=self._model,
            skeleton=self._speaking.bundle.manual.skeleton,
            ids=people.ids,
            boxes=people.boxes,
            scores=poses.person_scores,
            joints=poses.joints,
            joint_scores=poses.scores,
            covariance=poses.covariance,
            velocity=velocity,
            published_ns=now,
        )
        for sink in self._sinks:
            sink.publish(message)

    @staticmethod
    def _age_ns(frame: Frame, now: int) -> int:
        """How long ago ``frame`` was taken; ``now`` is UTC, by which it is told where no steadier clock does."""
        return now - frame.acquired_ns if frame.monotonic_ns is None else time.monotonic_ns() - frame.monotonic_ns

    def _say_stats(self, camera: str) -> None:
        now = self.snapshot()
        stats = Stats(
            device=self._speaking.device,
            camera=camera,
            measured_ns=self._speaking.clock(),
            fps=now.fps,
            latency_p50_ms=now.latency_p50_ms,
            latency_p95_ms=now.latency_p95_ms,
            people=now.people,
            dropped_frames=now.dropped_frames,
            dropped_messages=now.dropped_messages,
            broker_reconnects=self.mqtt.reconnects if self.mqtt is not None else 0,
            uptime_s=now.seconds,
        )
        for sink in self._sinks:
            sink.publish(stats)
