"""The MQTT sink against a real broker: what is on the wire, and every way in which the broker can be away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cbor2
import pytest

from edgepose.backoff import Backoff
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from edgepose.messages import Encoding, Info, Stats, decode, info_message
from edgepose.mqtt import Broker, LostError, parse_broker
from edgepose.sinks.mqtt import MQTTSink, client_id
from tests.broker import PATIENCE_S, Mosquitto, free_port, wait_for, watch
from tests.conftest import tiny_manual
from tests.sinks.conftest import QUICK
from tests.test_messages import check_schema, example

AT_ONCE_S = 0.25  # publish takes a tenth of a millisecond; the rest is for a machine with other things to do


def stats(people: int = 0) -> Stats:
    return Stats(
        device="bench", camera="front", measured_ns=1, fps=30, latency_p50_ms=5, latency_p95_ms=9, people=people,
        dropped_frames=0, dropped_messages=0, broker_reconnects=0, uptime_s=1,
    )  # fmt: skip


def info() -> Info:
    bundle = Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64)
    return info_message(device="bench", camera="front", source="v4l2:///dev/video0", bundle=bundle, engine="ort")


def states(messages: list[Any]) -> list[str]:
    return [decode(m.payload).state for m in messages]  # type: ignore[union-attr]


@pytest.mark.parametrize(("encoding", "read"), [("json", json.loads), ("cbor", cbor2.loads)])
def test_on_the_wire(mosquitto: Mosquitto, make: Callable[..., MQTTSink], encoding: Encoding, read: Any) -> None:
    with watch(mosquitto.port) as seen:
        sink = make(encoding=encoding, expiry_s=7)
        assert sink.connect(PATIENCE_S)
        for message in (info(), example(2, seq=1), example(0, seq=2), stats(2)):
            sink.publish(message)
        wait_for(lambda: len(seen.messages) == 5)
        for message in seen.messages:
            tree = read(message.payload)
            check_schema(tree)
            properties = message.properties.json()  # type: ignore[union-attr]
            assert properties["ContentType"] == f"application/{encoding}"
            assert properties["UserProperty"] == [("schema", tree["schema"])]
            assert properties.get("MessageExpiryInterval") == (7 if message.topic.endswith("/poses") else None)
        assert [m.topic for m in seen.on("poses")] == ["edgepose/bench/front/poses"] * 2
        assert decode(seen.on("poses")[0].payload) == example(2, seq=1)
        assert states(seen.on("status")) == ["online"]
    with watch(mosquitto.port) as late:
        wait_for(lambda: late.on("info") and late.on("status"))
        time.sleep(0.1)
        assert sorted(m.topic.split("/")[-1] for m in late.messages) == ["info", "status"]  # and nothing else
        assert all(m.retain for m in late.messages)


def test_with_qos_1_every_message_arrives(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    with watch(mosquitto.port, "#") as seen:
        sink = make(qos=1, queue_size=200)
        for seq in range(200):
            sink.publish(example(1, seq=seq))
        wait_for(lambda: len(seen.on("poses")) == 200)
        assert [decode(m.payload).seq for m in seen.on("poses")] == list(range(200))  # type: ignore[union-attr]
        assert {m.qos for m in seen.on("poses")} == {1}


def test_a_clock_that_is_set_to_before_we_began_is_survived(
    mosquitto: Mosquitto, make: Callable[..., MQTTSink]
) -> None:
    clock = {"at": 1_800_000_000 * 10**9}
    with watch(mosquitto.port) as seen:
        sink = make(clock=lambda: clock["at"])
        assert sink.connect(PATIENCE_S)
        wait_for(lambda: seen.on("status"))
        time.sleep(0.2)
        clock["at"] = 1000  # ns after 1970
        wait_for(lambda: len(seen.on("status")) == 2)
        assert decode(seen.on("status")[-1].payload).since_ns == 0  # type: ignore[union-attr]
        assert (sink.state, sink.reconnects) == ("online", 0)


def test_a_process_that_dies_is_offline(mosquitto: Mosquitto) -> None:
    script = (
        "import os, sys; from edgepose.mqtt import parse_broker; from edgepose.sinks.mqtt import MQTTSink\n"
        "sink = MQTTSink(parse_broker(sys.argv[1]), 'bench', 'front'); assert sink.connect(20); os._exit(3)"
    )
    with watch(mosquitto.port) as seen:
        assert subprocess.run([sys.executable, "-c", script, mosquitto.url], timeout=60, check=False).returncode == 3
        wait_for(lambda: states(seen.on("status")) == ["online", "offline"])
        will = seen.on("status")[-1]
        check_schema(json.loads(will.payload))
        assert will.properties.json()["UserProperty"] == [("schema", "edgepose.status/1")]  # type: ignore[union-attr]
    with watch(mosquitto.port) as late:
        wait_for(lambda: states(late.on("status")) == ["offline"])
        assert late.on("status")[0].retain


def test_a_new_reason_leaves_since_when_a_camera_is_lost(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    with watch(mosquitto.port) as seen:
        sink = make()
        assert sink.connect(PATIENCE_S)
        wait_for(lambda: seen.on("status"))
        for state, reason in (("camera-lost", "ended"), ("camera-lost", "Unauthorized"), ("online", "")):
            before = len(seen.on("status"))
            sink.set_status(state, reason)
            wait_for(lambda before=before: len(seen.on("status")) > before)
        first, lost, later, back = [decode(m.payload) for m in seen.on("status")]
        assert (lost.reason, later.reason) == ("ended", "Unauthorized")
        assert first.since_ns < lost.since_ns == later.since_ns < back.since_ns


def test_since_when_is_put_right_where_the_clock_is_set_late(
    mosquitto: Mosquitto, make: Callable[..., MQTTSink]
) -> None:
    """A board without a clock of its own begins in 1970."""
    clock = {"at": 0}
    begun = time.monotonic_ns()
    with watch(mosquitto.port) as seen:
        sink = make(clock=lambda: clock["at"] + time.monotonic_ns() - begun)
        assert sink.connect(PATIENCE_S)
        wait_for(lambda: seen.on("status"))
        clock["at"] = 1_800_000_000 * 10**9
        wait_for(lambda: len(seen.on("status")) == 2)
        early, late = [decode(m.payload) for m in seen.on("status")]
        assert (early.state, late.state) == ("online", "online")
        assert late.since_ns - early.since_ns == pytest.approx(clock["at"], abs=10**9)
        time.sleep(1.5)  # it looks once a second
        assert len(seen.on("status")) == 2


def test_a_broker_that_dies_and_comes_back(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    sink = make(queue_size=8)
    sink.set_info(info())
    sink.connect(PATIENCE_S)
    sink.set_status("camera-lost", "no picture for 3 s")
    mosquitto.kill()
    wait_for(lambda: sink.state == "lost")
    assert "mqtt://127.0.0.1" in sink.reason
    slowest = 0.0
    for seq in range(100):
        start = time.monotonic()
        sink.publish(example(1, seq=seq))
        sink.publish(stats(seq))
        slowest = max(slowest, time.monotonic() - start)
    assert slowest < AT_ONCE_S
    assert sink.dropped == 92
    mosquitto.start()
    with watch(mosquitto.port) as seen:
        wait_for(lambda: sink.state == "online")
        assert sink.reason == ""
        assert sink.reconnects == 1
        sink.publish(example(1, seq=100))
        wait_for(lambda: seen.on("poses") and decode(seen.on("poses")[-1].payload).seq == 100)  # type: ignore[union-attr]
        seqs = [decode(m.payload).seq for m in seen.on("poses")]  # type: ignore[union-attr]
        assert seqs == list(range(101))[-len(seqs) :]  # the newest, in order
    with watch(mosquitto.port) as late:  # the broker had forgotten what was retained
        wait_for(lambda: late.on("info") and states(late.on("status")) == ["camera-lost"])


def test_what_waited_too_long_is_not_sent(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    mosquitto.kill()
    sink = make(expiry_s=1)
    sink.publish(example(1, seq=1))
    time.sleep(1.1)
    mosquitto.start()
    with watch(mosquitto.port) as seen:
        wait_for(lambda: sink.state == "online")
        sink.publish(example(1, seq=2))
        wait_for(lambda: seen.on("poses"))
        assert decode(seen.on("poses")[0].payload).seq == 2  # type: ignore[union-attr]
        assert sink.dropped == 1


def test_a_broker_that_hangs_blocks_nothing(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    sink = make(queue_size=8)
    sink.connect(PATIENCE_S)
    mosquitto.freeze()
    try:
        message, slowest = example(8), 0.0
        for _ in range(3000):  # some 17 MB, a few hundred kB of which the system's buffers take
            start = time.monotonic()
            sink.publish(message)
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.0001)
        assert slowest < AT_ONCE_S
        assert sink.dropped > 2800
        start = time.monotonic()
        sink.close()
        assert time.monotonic() - start < 2.5  # 1.5 s, and patience
    finally:
        mosquitto.thaw()
    with watch(mosquitto.port) as seen:
        wait_for(lambda: states(seen.on("status"))[-1:] == ["offline"])  # no goodbye could be said


def test_the_keepalive_finds_out_that_a_broker_hangs(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    sink = make(keepalive_s=1)
    sink.connect(PATIENCE_S)
    mosquitto.freeze()
    try:
        wait_for(lambda: sink.state == "lost")
    finally:
        mosquitto.thaw()
    wait_for(lambda: sink.state == "online")


def test_unacknowledged_messages_are_sent_again(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    sink = make(qos=1, keepalive_s=1, expiry_s=60, backoff=Backoff(4, 4))  # time for the watcher to be there first
    sink.connect(PATIENCE_S)
    mosquitto.freeze()
    for seq in range(20):
        sink.publish(example(1, seq=seq))
    wait_for(lambda: sink.state == "lost")
    mosquitto.kill()
    mosquitto.start()
    with watch(mosquitto.port) as seen:
        sink.publish(example(1, seq=20))
        wait_for(lambda: len(seen.on("poses")) == 21)
        assert [decode(m.payload).seq for m in seen.on("poses")] == list(range(21))  # type: ignore[union-attr]
    assert sink.dropped == 0


def test_who_reads_topics_reads_no_user_name(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    with watch(mosquitto.port) as seen:
        sink = make()
        assert sink.connect(PATIENCE_S)
        sink.set_status("camera-lost", "rtsp://me:***@cam/x ended its stream; check the camera")
        wait_for(lambda: states(seen.on("status"))[-1:] == ["camera-lost"])
        last: Any = decode(seen.on("status")[-1].payload)
        assert last.reason == "rtsp://cam/x ended its stream; check the camera"


@pytest.mark.parametrize(("qos", "waits", "dropped"), [(0, 0, 1), (1, 1, 0)])
def test_a_pose_over_which_the_connection_breaks_is_kept_or_counted(qos: Any, waits: int, dropped: int) -> None:
    class Breaking:
        """A session whose socket breaks at the next write, which no real broker does on demand."""

        congested, receive_maximum = False, 10

        def publish(self, packet: Any) -> int:
            raise LostError("the connection broke")

    sink = MQTTSink(parse_broker("mqtt://127.0.0.1:9/"), "bench", "front", qos=qos, backoff=QUICK)
    sink.publish(example(1))
    sink._due.clear()
    with pytest.raises(LostError):
        sink._flush(cast(Any, Breaking()))
    assert (len(sink._queue), sink.dropped) == (waits, dropped)
    sink.close(0.0)


def test_no_broker_at_the_start_is_told_and_tried_again(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    mosquitto.kill()
    sink = make()
    assert not sink.connect(0.5)
    assert sink.state == "connecting"
    assert "cannot be reached (Connection refused); check that the broker runs" in sink.reason
    mosquitto.start()
    assert sink.connect(PATIENCE_S)
    unknown = make(f"mqtt://no-such-host.invalid:{mosquitto.port}/")
    wait_for(lambda: "host 'no-such-host.invalid' is not known" in unknown.reason)


def test_a_second_sink_of_the_same_name_is_told(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    first = make(backoff=Backoff(60, 60))
    first.connect(PATIENCE_S)
    assert make().connect(PATIENCE_S)
    wait_for(lambda: first.state == "lost")  # mosquitto does not say why
    assert "if this goes on, look for another client named edgepose-bench-front" in first.reason


def test_a_broker_that_says_why_it_ends_the_connection() -> None:
    with scripted(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00") as broker:
        sink = MQTTSink(broker, "bench", "front", backoff=Backoff(60, 60))
        wait_for(lambda: sink.state == "lost")
        assert "ended the connection: Session taken over by a client of the same name" in sink.reason
        sink.close()


def test_a_broker_that_is_busy_is_not_a_refusal() -> None:
    with scripted(b"\x20\x03\x00\x89\x00") as broker:
        sink = MQTTSink(broker, "bench", "front", backoff=Backoff(60, 60))
        wait_for(lambda: "Server busy" in sink.reason)
        assert sink.state == "connecting"
        sink.close()


class _Strict(socketserver.StreamRequestHandler):
    """A broker that takes two QoS 1 publications at a time (MQTT 5, 3.3.4) and acknowledges each after 20 ms."""

    waiting = most = taken = 0
    counting = threading.Lock()

    def handle(self) -> None:
        while header := self.rfile.read(1):
            length = shift = 0
            while (byte := self.rfile.read(1)[0]) & 128:
                length, shift = length | (byte & 127) << shift, shift + 7
            body = self.rfile.read(length | byte << shift)
            if header[0] >> 4 == 1:
                self.wfile.write(bytes([0x20, 6, 0, 0, 3, 0x21, 0, 2]))  # CONNACK with Receive Maximum 2
            elif header[0] >> 4 == 3 and header[0] & 6:
                at = 2 + int.from_bytes(body[:2], "big")
                with self.counting:
                    _Strict.waiting += 1
                    _Strict.most = max(self.most, self.waiting)
                threading.Timer(0.02, self.acknowledge, [body[at : at + 2]]).start()

    def acknowledge(self, mid: bytes) -> None:
        with self.counting:
            _Strict.waiting -= 1
            _Strict.taken += 1
        with contextlib.suppress(OSError, ValueError):
            self.wfile.write(bytes([0x40, 2]) + mid)


def test_no_more_at_a_time_than_the_broker_takes() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Strict) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        sink = MQTTSink(Broker("127.0.0.1", server.server_address[1]), "bench", "front", qos=1)
        assert sink.connect(PATIENCE_S)
        for seq in range(20):
            sink.publish(example(1, seq=seq))
        wait_for(lambda: _Strict.taken >= 21)  # and the status
        sink.close(0.1)
        server.shutdown()
    assert _Strict.most == 2
    assert sink.dropped == 0


@contextlib.contextmanager
def scripted(answer: bytes, *, stays: bool = False) -> Iterator[Broker]:
    """Something that answers whatever comes first with ``answer`` and closes, or ``stays`` without a word more."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1000)
            self.request.sendall(answer)
            with contextlib.suppress(ConnectionResetError):
                while stays and self.request.recv(1000):
                    pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Broker("127.0.0.1", server.server_address[1])
        server.shutdown()


def test_mqtt_3_1_1(mosquitto: Mosquitto, make: Callable[..., MQTTSink]) -> None:
    with watch(mosquitto.port) as seen:
        sink = make(mosquitto.url + "?version=3.1.1")
        assert sink.connect(PATIENCE_S)
        sink.publish(example(1))
        sink.close()
        wait_for(lambda: states(seen.on("status")) == ["online", "stopped"])
        assert decode(seen.on("poses")[0].payload) == example(1)
        assert not hasattr(seen.on("poses")[0].properties, "ContentType")
    assert "edgepose-bench-front (p2, c1" in mosquitto.log  # mosquitto's number for 3.1.1


def test_a_broker_that_knows_only_3_1_1() -> None:
    """amqtt, the demo broker: silent towards MQTT 5, which the sentence says."""
    amqtt = pytest.importorskip("amqtt.broker")
    port, ready, loop = free_port(), threading.Event(), asyncio.new_event_loop()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        settings = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        broker = amqtt.Broker(settings, loop=loop)
        loop.run_until_complete(broker.start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(broker.shutdown())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        sink = MQTTSink(parse_broker(f"mqtt://127.0.0.1:{port}/?version=3.1.1"), "bench", "front", backoff=QUICK)
        assert sink.connect(PATIENCE_S)
        sink.publish(example(1))
        sink.close()
        assert sink.dropped == 0
        sink = MQTTSink(parse_broker(f"mqtt://127.0.0.1:{port}/"), "bench", "front", backoff=QUICK)
        wait_for(lambda: "does not answer" in sink.reason)
        assert "add ?version=3.1.1 to the URL" in sink.reason
        sink.close()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)


def test_client_ids_are_short_and_distinct() -> None:
    assert client_id("bench", "front") == "edgepose-bench-front"
    assert client_id("hall", "cam-door") != client_id("hall-cam", "door")
    sites = {client_id("pi", "door", prefix) for prefix in ("edgepose", "site1/pose", "site2/pose")}
    assert len(sites) == 3
    assert all(name.startswith("edgepose-pi-door") for name in sites)
    long = [client_id("d" * 100, f"camera{i}") for i in range(2)]
    assert {len(name) for name in long} == {64}
    assert long[0] != long[1]


def test_the_backoff_doubles_up_to_its_limit_and_jitters() -> None:
    delays = [[Backoff(0.5, 30).delay(n) for _ in range(50)] for n in (1, 3, 100)]
    assert all(0.25 <= d <= 0.5 for d in delays[0])
    assert all(1 <= d <= 2 for d in delays[1])
    assert all(15 <= d <= 30 for d in delays[2])
    assert len(set(delays[0])) > 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"qos": 2}, "QoS 2 is not offered"),
        ({"encoding": "xml"}, "encoding 'xml' is not known; choose json or cbor"),
        ({"queue_size": 0}, "must be 1 or more"),
        ({"expiry_s": 0}, "must be 1 or more"),
    ],
)
def test_bad_options_are_sentences(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EdgeposeError, match=sentence):
        MQTTSink(Broker("localhost", 1), "bench", "front", **options)
    with pytest.raises(EdgeposeError, match="device 'a/b' cannot be part"):
        MQTTSink(Broker("localhost", 1), "a/b", "front")
