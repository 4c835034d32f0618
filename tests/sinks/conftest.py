"""A broker of one's own, and sinks that are closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepose.backoff import Backoff
from edgepose.mqtt import parse_broker
from edgepose.sinks.mqtt import MQTTSink
from tests.broker import Mosquitto

QUICK = Backoff(0.05, 0.2)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def make(mosquitto: Mosquitto) -> Iterator[Callable[..., MQTTSink]]:
    """Makes sinks for device bench, camera front, and closes them at the end."""
    sinks: list[MQTTSink] = []

    def one(url: str = "", **options: Any) -> MQTTSink:
        sinks.append(MQTTSink(parse_broker(url or mosquitto.url), "bench", "front", **{"backoff": QUICK} | options))
        return sinks[-1]

    yield one
    for sink in sinks:
        sink.close(0.1)
