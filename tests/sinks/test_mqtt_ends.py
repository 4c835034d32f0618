"""How a link to a broker ends, and what is too large for it: a real mosquitto, but for what that never says."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes

from edgepose.backoff import Backoff
from edgepose.messages import decode
from edgepose.mqtt import Broker, Packet, Session, _size, parse_broker
from edgepose.sinks.mqtt import MQTTSink
from tests.broker import PATIENCE_S, Mosquitto, wait_for, watch
from tests.sinks.conftest import QUICK
from tests.sinks.test_mqtt import info, states
from tests.test_messages import example


def test_a_closed_sink_says_stopped_and_sends_what_was_queued(
    mosquitto: Mosquitto, make: Callable[..., MQTTSink]
) -> None:
    with watch(mosquitto.port) as seen:
        sink = make()
        sink.connect(PATIENCE_S)
        for seq in range(50):
            sink.publish(example(1, seq=seq))
        sink.close()
        wait_for(lambda: states(seen.on("status"))[-1:] == ["stopped"])
        time.sleep(0.2)  # for a will that must not come
        assert states(seen.on("status")) == ["online", "stopped"]
        assert seen.messages[-1].topic.endswith("/status")
        assert len(seen.on("poses")) == 50
        assert (sink.state, sink.dropped) == ("stopped", 0)
        sink.publish(example(1))
        sink.close()
        assert sink.dropped == 1


def test_a_closed_sink_that_is_not_connected_tries_while_it_may(
    mosquitto: Mosquitto, make: Callable[..., MQTTSink]
) -> None:
    mosquitto.kill()
    slow = make(backoff=Backoff(first_s=5, most_s=5))
    wait_for(lambda: slow.reason)
    for seq in range(5):
        slow.publish(example(1, seq=seq))
    mosquitto.start()
    with watch(mosquitto.port) as seen:
        slow.close(PATIENCE_S)
        wait_for(lambda: states(seen.on("status"))[-1:] == ["stopped"])
        assert len(seen.on("poses")) == 5
    assert slow.dropped == 0
    mosquitto.kill()
    idle = make()
    wait_for(lambda: idle.reason)
    start = time.monotonic()
    idle.close(PATIENCE_S)
    assert time.monotonic() - start < PATIENCE_S / 2  # it has nothing to send, and nobody knows of it


def test_a_broker_that_takes_small_packets_alone(tmp_path: Path) -> None:
    """What is too large is told and left out; the connection holds, and the others arrive."""
    with Mosquitto(tmp_path, more="max_packet_size 900") as broker, watch(broker.port) as seen:
        sink = MQTTSink(parse_broker(broker.url), "bench", "front", backoff=QUICK, qos=1)
        assert sink.connect(PATIENCE_S)
        sink.set_info(info())
        wait_for(lambda: sink.state == "refused")
        assert "takes packets of 900 bytes at most, and one on edgepose/bench/front/info has " in sink.reason
        for seq, people in enumerate((0, 8, 0)):
            sink.publish(example(people, seq=seq))
        wait_for(lambda: len(seen.on("poses")) == 2)
        assert [decode(m.payload).seq for m in seen.on("poses")] == [0, 2]  # type: ignore[union-attr]
        assert (sink.dropped, sink.reconnects) == (1, 0)
        sink.close()
        wait_for(lambda: states(seen.on("status"))[-1:] == ["stopped"])
        assert not seen.on("info")


class _Taking(socketserver.BaseRequestHandler):
    """A broker that lets everybody in and keeps what comes after CONNECT."""

    taken = b""

    def handle(self) -> None:
        self.request.recv(1000)
        self.request.sendall(b"\x20\x03\x00\x00\x00")
        while came := self.request.recv(100_000):
            type(self).taken += came


@pytest.mark.parametrize("qos", [0, 1])
def test_a_packet_has_the_size_that_is_reckoned(qos: Any) -> None:
    """By what goes over the wire, about the lengths that take another byte (MQTT 5.0, 1.5.5)."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Taking) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        session = Session(Broker("127.0.0.1", server.server_address[1]), "bench")
        session.open()
        while not session.connected:
            session.step(0.1)
        sizes = []
        for rest in (126, 127, 128, 16_382, 16_383, 16_384):  # bytes after the length
            packet = Packet("a/b", b"", qos=qos, expiry_s=10, content_type="text/plain")
            properties = len(packet.properties(PacketTypes.PUBLISH).pack())
            packet = replace(packet, payload=b"x" * (rest - 2 - len("a/b") - 2 * qos - properties))
            sizes.append(_size(packet, properties))
            _Taking.taken = b""
            session.publish(packet)
            while session.congested:
                session.step(0.1)
            wait_for(lambda: len(_Taking.taken) >= sizes[-1])
            assert len(_Taking.taken) == sizes[-1], rest
        session.disconnect()
        session.close()
        server.shutdown()
    assert sizes == [128, 129, 131, 16_385, 16_386, 16_388]


@pytest.mark.parametrize("qos", [0, 1])
def test_a_pose_message_that_is_too_large_is_one_that_is_lost(tmp_path: Path, qos: Any) -> None:
    with Mosquitto(tmp_path, more="max_packet_size 900") as broker, watch(broker.port) as seen:
        sink = MQTTSink(parse_broker(broker.url), "bench", "front", backoff=QUICK, qos=qos)
        assert sink.connect(PATIENCE_S)
        for seq, people in enumerate((0, 8, 8, 0)):
            sink.publish(example(people, seq=seq))
        wait_for(lambda: len(seen.on("poses")) == 2)
        assert (sink.state, sink.dropped) == ("online", 2)
        sink.set_status("camera-lost", "x" * 960)  # too large as well
        wait_for(lambda: sink.state == "refused")
        sink.close(reason="x" * 960)
        wait_for(lambda: states(seen.on("status"))[-1:] == ["offline"])  # no goodbye, where 'stopped' cannot be said


def test_several_sinks_close_together(mosquitto: Mosquitto) -> None:
    mosquitto.kill()
    sinks = [MQTTSink(parse_broker(mosquitto.url), "bench", f"c{n}", backoff=QUICK) for n in range(4)]
    wait_for(lambda: all(sink.reason for sink in sinks))
    for sink in sinks:
        sink.publish(example(1))
    start = time.monotonic()
    for sink in sinks:
        sink.begin_close(1.0)
    for sink in sinks:
        sink.close(30.0)  # the first word holds
    assert 0.9 < time.monotonic() - start < 3
    assert [sink.dropped for sink in sinks] == [1] * 4


class Sated(threading.Thread):
    """A broker of MQTT 5 whose quota is used up as soon as somebody says farewell."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.refused = self.goodbye = False
        self.start()

    def run(self) -> None:
        with self._server, self._server.accept()[0] as client, client.makefile("rb") as stream:
            while head := stream.read(1):
                length = shift = 0
                while (byte := stream.read(1)[0]) & 0x80:
                    length, shift = length | (byte & 0x7F) << shift, shift + 7
                body = stream.read(length | byte << shift)
                if head[0] >> 4 == 1:  # CONNECT
                    client.sendall(b"\x20\x03\x00\x00\x00")
                elif head[0] >> 4 == 3 and head[0] & 0x06:  # PUBLISH that wants to be acknowledged
                    topic_end = 2 + int.from_bytes(body[:2], "big")
                    farewell = b'"stopped"' in body
                    self.refused |= farewell
                    reason = b"\x97" if farewell else b"\x00"  # Quota exceeded
                    client.sendall(b"\x40\x03" + body[topic_end : topic_end + 2] + reason)
                elif head[0] >> 4 == 14:  # DISCONNECT
                    self.goodbye = True


def test_a_farewell_that_is_refused_for_the_moment_is_no_goodbye() -> None:
    """The broker keeps the last will for whoever goes without one: readers learn that we are gone."""
    broker = Sated()
    sink = MQTTSink(parse_broker(f"mqtt://127.0.0.1:{broker.port}"), "bench", "front", backoff=QUICK)
    assert sink.connect(PATIENCE_S)
    sink.close()
    broker.join(PATIENCE_S)
    assert broker.refused
    assert not broker.goodbye


def lonely(**options: Any) -> MQTTSink:
    """A sink whose broker is not there."""
    return MQTTSink(parse_broker("mqtt://127.0.0.1:9/"), "bench", "front", backoff=Backoff(60, 60), **options)


def test_what_has_waited_expires_the_sooner() -> None:
    sink = lonely(expiry_s=10)
    sink.publish(example(1))
    sink._due.clear()
    sink._queue[0] = (time.monotonic() - 3.5, sink._queue[0][1])
    waiting = sink._next()
    assert waiting is not None
    assert waiting[1].expiry_s == 7
    sink.close(0)


def test_of_what_was_under_way_as_much_is_taken_back_as_the_queue_holds() -> None:
    sink = lonely(qos=1, queue_size=3)
    packet = replace(sink._packet(sink.topics.poses, example(0)), qos=1)
    sink._inflight = {number: (time.monotonic(), packet) for number in range(10)}
    sink._take_back()
    assert (len(sink._queue), sink.dropped) == (3, 7)
    sink.close(0)


def test_after_a_link_that_held_the_waits_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    held, asked = iter([False, False, True, False]), []

    class Noted(Backoff):
        def delay(self, failures: int) -> float:
            asked.append(failures)
            return 0.0

    def connection(sink: MQTTSink) -> bool:
        last = next(held, None)
        if last is None:
            sink._stop.set()
        return bool(last)

    monkeypatch.setattr(MQTTSink, "_one_connection", connection)
    sink = MQTTSink(parse_broker("mqtt://127.0.0.1:9/"), "bench", "front", backoff=Noted())
    sink._thread.join(PATIENCE_S)
    assert asked[:4] == [1, 2, 1, 2]
