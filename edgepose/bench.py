"""``edgepose bench``: the whole loop on a file, timed stage by stage."""

from __future__ import annotations

import platform
from typing import Any

from edgepose.app import assembled, stopping_on_signals
from edgepose.config import Settings
from edgepose.errors import EdgeposeError
from edgepose.messages import Message, encode
from edgepose.timing import Timings

WARM_UP = 30  # frames: the first ones compile, allocate and search


class EncodingSink:
    """Does what every sink does at least: turn the message into bytes."""

    def publish(self, message: Message) -> None:
        """Encode and drop."""
        encode(message)

    def close(self) -> None:
        """Nothing is held."""


def bench(settings: Settings) -> dict[str, Any]:
    """Run the loop and return fps and per-stage times in ms; the first WARM_UP frames are left out.

    Without a broker, publishing means building and encoding the message.
    """
    timings = Timings()
    extra = () if settings.mqtt.url else (EncodingSink(),)
    with assembled(settings, extra_sinks=extra) as parts, stopping_on_signals(parts.loop.stop):
        if parts.source.live:
            raise EdgeposeError(f"bench needs a file, which gives every frame as fast as it can; "
                                f"{settings.source.uri} is live")  # fmt: skip
        end = parts.loop.run(settings.max_frames, timings, timings.end_frame)
        engine = parts.engine
        model = parts.bundle.manual
        stages = timings.table(WARM_UP)
    if not stages:
        raise EdgeposeError(f"{settings.source.uri} has {end.frames} frames; bench needs more than {WARM_UP}")
    total = sum(row["mean"] for row in stages.values())
    rest = total - stages["infer"]["mean"]
    return {
        "model": model.name,
        "engine": engine.name,
        "precision": engine.precision,
        "threads": settings.engine.threads,
        "frames": end.frames - WARM_UP,
        "frames_with_people": end.frames_with_people,
        "fps": round(1e3 / total, 1),
        "engine_only_fps": round(1e3 / max(stages["infer"]["mean"], 1e-6), 1),
        "rest_over_inference": round(rest / max(stages["infer"]["mean"], 1e-6), 3),
        "stages_ms": stages,
        "machine": f"{_processor()}, {platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a device file, not a document
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown processor"
    return platform.processor() or "unknown processor"
