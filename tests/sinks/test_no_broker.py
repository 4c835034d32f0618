"""What answers is no MQTT broker: one sentence each, for a sink and for who listens."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import replace

import pytest
from paho.mqtt import client as paho

from edgepose.backoff import Backoff
from edgepose.errors import EdgeposeError
from edgepose.listen import listen
from edgepose.sinks import mqtt as module
from edgepose.sinks.mqtt import MQTTSink
from tests.broker import wait_for
from tests.sinks.test_mqtt import scripted

CONNACK = b"\x20\x03\x00\x00\x00"


@pytest.mark.parametrize(
    ("answer", "stays", "sentence"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "closed the connection without an answer; if it speaks TLS there"),
        (b"\xff" * 9, True, r"sends what is not MQTT \(a malformed packet\); check the port"),
        (CONNACK + b"\x30\x02\x00\x09", True, "sends what is not MQTT .*; check the port$"),
        (CONNACK + b"\xd0\x10", False, "broke; if this goes on, look for another client named edgepose-bench-front"),
    ],
)
def test_what_is_no_broker_is_survived(answer: bytes, stays: bool, sentence: str) -> None:
    with scripted(answer, stays=stays) as broker:
        sink = MQTTSink(broker, "bench", "front", backoff=Backoff(60, 60))
        wait_for(lambda: sink.reason)
        assert not sink.connect(0)
        assert re.search(sentence, sink.reason), sink.reason
        sink.close()
        if not answer.startswith(CONNACK):
            with pytest.raises(EdgeposeError, match=sentence):
                listen(broker, timeout_s=5, out=io.StringIO(), backoff=Backoff(60, 60))


@pytest.mark.parametrize("answer", [b"\xff" * 9, b"\x20\x02\x00\x01"])
def test_what_may_be_a_refusal_of_version_3_1_1_is_told_as_both(answer: bytes) -> None:
    with scripted(answer, stays=True) as broker:
        old = replace(broker, version="3.1.1")
        with pytest.raises(
            EdgeposeError, match=r"sends what is not MQTT \(or knows no version 3\.1\.1\); check the port"
        ):
            listen(old, timeout_s=5, out=io.StringIO(), backoff=Backoff(60, 60))


@pytest.mark.parametrize("error", [struct.error("bad char"), IndexError("x"), AssertionError()])
def test_what_older_pahos_make_of_it_is_survived_too(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.2 paho-mqtt left malformed packets to whoever calls."""

    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(paho.Client, "loop_read", fails)
    with scripted(CONNACK, stays=True) as broker:
        with pytest.raises(
            EdgeposeError, match=rf"sends what is not MQTT \({str(error) or 'AssertionError'}\); check the port"
        ):
            listen(broker, timeout_s=5, out=io.StringIO(), backoff=Backoff(60, 60))
        sink = MQTTSink(broker, "bench", "front", backoff=Backoff(60, 60))
        wait_for(lambda: "sends what is not MQTT" in sink.reason)
        sink.close()


def test_a_broker_that_acknowledges_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it owes would fill all places of what may be under way, and nothing would be sent any more."""
    monkeypatch.setattr(module, "UNACKNOWLEDGED_S", 0.3)
    with scripted(CONNACK, stays=True) as broker:
        sink = MQTTSink(broker, "bench", "front", backoff=Backoff(60, 60))
        wait_for(lambda: "has not acknowledged a message for 0.3 s" in sink.reason)
        sink.close(0)
