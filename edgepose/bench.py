"""``edgepose bench``: the whole loop on a file, timed stage by stage."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from edgepose import sources
from edgepose.app import Parts, assembled, finder_name
from edgepose.config import Settings, require_source
from edgepose.errors import EdgeposeError
from edgepose.messages import Message, encode
from edgepose.timing import Timings

NETWORKS = ("infer", "infer, finder")  # stages that are inference, or waiting for it
WARM_UP = 30  # frames: the first ones compile, allocate and search


class EncodingSink:
    """Does what every sink does at least: turn the message into bytes."""

    def publish(self, message: Message) -> None:
        """Encode and drop."""
        encode(message)

    def close(self) -> None:
        """Nothing is held."""


def apart(settings: Settings, *, to_broker: bool) -> Settings:
    """``settings`` without what a camera that runs by the same file would be disturbed by: its name at the broker, the
    broker itself unless ``to_broker``, and its recordings.
    """
    mqtt = settings.mqtt if to_broker else type(settings.mqtt)()
    cameras = [camera.model_copy(update={"overlay": ""}) for camera in settings.camera]
    changes = {"device": f"bench-{settings.device}", "mqtt": mqtt, "output": type(settings.output)(), "camera": cameras}
    return settings.model_copy(update=changes)


def bench(settings: Settings) -> dict[str, Any]:
    """Run the loop and return fps and per-stage times in ms; the first WARM_UP frames are left out.

    Video is decoded ahead by other threads while a frame is computed, so in the loop it costs a wait ("wait for
    frame") and some of everything else's time. What it costs by itself ("decode") is measured in a pass of its own
    over the same frames. Without a broker, publishing means building and encoding the message. Stages are timed with
    one frame after the other (``fps_in_turn``: frames over wall-clock time of the whole loop); ``fps`` is of a pass
    more, as the loop runs; a broker that was asked for has the poses of both.
    """
    uri = require_source(settings)
    spec = sources.parse(uri)
    if spec.live:
        raise EdgeposeError(f"bench needs a file, which gives every frame as fast as it can; {spec.redacted()} is live")
    if 0 < settings.max_frames <= WARM_UP:
        raise EdgeposeError(
            f"--max-frames {settings.max_frames} is too few: the first {WARM_UP} frames are not counted"
        )
    if spec.loops and not settings.max_frames:
        raise EdgeposeError(f"{spec.redacted()} begins again at its end; say by --max-frames how many to time")
    alone = _decode_alone(settings)
    engine_settings = settings.engine.model_copy(update={"overlap": False})
    timings, parts = _timed(settings.model_copy(update={"engine": engine_settings}))
    engine, model = parts.engine, parts.bundle.manual
    stages = {**alone.table(WARM_UP), **timings.table(WARM_UP)}
    if not any(network in stages for network in NETWORKS):
        raise EdgeposeError(f"{spec.redacted()} has too few frames; bench needs more than {WARM_UP}")
    infer = max(sum(stages[stage]["mean"] for stage in NETWORKS if stage in stages), 1e-6)
    rest = sum(row["mean"] for stage, row in stages.items() if stage not in (*NETWORKS, "wait for frame"))
    frames, seconds = timings.span(WARM_UP)
    overlaps = settings.engine.overlap and settings.people.finder != "none"
    _, seconds_as_it_runs = _timed(settings)[0].span(WARM_UP) if overlaps else (frames, seconds)
    return {
        "model": model.name,
        "engine": engine.name,
        "precision": engine.precision,
        "threads": settings.engine.threads,
        "finder": finder_name(settings, engine),
        "frames": frames,
        "fps": round(frames / seconds_as_it_runs, 1),
        "fps_in_turn": round(frames / seconds, 1),
        "engine_only_fps": round(1e3 / infer, 1),
        "rest_over_inference": round(rest / infer, 3),
        "stages_ms": stages,
        "machine": f"{_processor()}, {platform.system()} {platform.machine()}",
    }


def _timed(settings: Settings) -> tuple[Timings, Parts]:
    """Run the loop with its stages timed."""
    timings = Timings()
    extra = () if settings.mqtt.url else (EncodingSink(),)
    with assembled(settings, extra_sinks=extra) as parts:
        parts.loop.run(settings.max_frames, timings, timings.end_frame)
    return timings, parts


def _decode_alone(settings: Settings) -> Timings:
    """Time the source by itself, frame by frame."""
    timings = Timings()
    (camera,) = settings.cameras
    with sources.open_source(camera.uri, backend=camera.backend, stall_timeout=camera.stall or None) as source:
        count = 0
        while not (settings.max_frames and count >= settings.max_frames):
            start = time.perf_counter()
            if source.read() is None:
                break
            timings.add("decode", time.perf_counter() - start)
            timings.end_frame()
            count += 1
    return timings


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")
