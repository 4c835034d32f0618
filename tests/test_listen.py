"""Listening to a real broker: for people, for programs, and when it cannot be."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import publish

from edgepose import listen as listen_module
from edgepose.backoff import Backoff
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from edgepose.listen import Ending, listen
from edgepose.messages import Encoding, encode, info_message
from edgepose.mqtt import Broker, parse_broker
from edgepose.sinks.mqtt import MQTTSink
from tests.broker import PATIENCE_S, Certificates, Mosquitto, free_port, wait_for
from tests.conftest import tiny_manual
from tests.sinks.test_mqtt import scripted
from tests.test_messages import check_schema, example

QUICK = Backoff(0.05, 0.2)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


class Listening:
    """``listen`` in a thread, and what it printed so far."""

    def __init__(self, broker: Broker, **options: object) -> None:
        self.out = io.StringIO()
        self.ending: Ending | None = None
        self._thread = threading.Thread(target=self._run, args=(broker, options), daemon=True)
        self._thread.start()

    def _run(self, broker: Broker, options: dict[str, object]) -> None:
        self.ending = listen(broker, out=self.out, backoff=QUICK, **options)  # type: ignore[arg-type]

    def wait(self) -> str:
        """What it printed until it ended."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.out.getvalue()


def sink(mosquitto: Mosquitto, encoding: Encoding = "json", camera: str = "front") -> MQTTSink:
    """Online, with its info retained."""
    made = MQTTSink(parse_broker(mosquitto.url), "bench", camera, encoding=encoding, backoff=QUICK)
    bundle = Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64)
    made.set_info(info_message(device="bench", camera=camera, source="clip.mp4", bundle=bundle, engine="ort"))
    assert made.connect(PATIENCE_S)
    return made


def test_for_people(mosquitto: Mosquitto) -> None:
    made = sink(mosquitto)
    listening = Listening(parse_broker(mosquitto.url), count=2)
    wait_for(lambda: "is online" in listening.out.getvalue() and "shows clip.mp4" in listening.out.getvalue())
    made.set_status("camera-lost", "unplugged")
    made.publish(example(2, seq=1))
    bad = json.dumps({"schema": "\x1b[2J"})
    publish.single("edgepose/bench/front/poses", bad, hostname="127.0.0.1", port=mosquitto.port)
    wait_for(lambda: "unknown message schema" in listening.out.getvalue())
    for seq in (2, 3, 4):
        made.publish(example(0, seq=seq))
    printed = listening.wait()
    assert listening.ending == "count"
    assert "bench/front is camera-lost: unplugged" in printed
    first, second = (line for line in printed.splitlines() if " #" in line)
    assert first.startswith("bench/front #1 ")
    assert " 2 people | p0: " in first
    assert any(f": {joint} " in first for joint in tiny_joints())
    assert second.startswith("bench/front #2 ")
    assert "\x1b" not in printed
    made.close()


def tiny_joints() -> tuple[str, ...]:
    return Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64).skeleton.joints


@pytest.mark.parametrize("encoding", ["json", "cbor"])
def test_for_programs(mosquitto: Mosquitto, encoding: Encoding) -> None:
    made, other = sink(mosquitto, encoding), sink(mosquitto, encoding, "back")
    listening = Listening(parse_broker(mosquitto.url), as_json=True, count=1, camera="front")
    wait_for(lambda: '"online"' in listening.out.getvalue())
    other.publish(example(1, camera="back"))
    made.publish(example(2, seq=1))
    lines = [json.loads(line) for line in listening.wait().splitlines()]
    for line in lines:
        check_schema(line["payload"])
    found = {line["topic"]: line for line in lines}
    assert set(found) == {f"edgepose/bench/front/{leaf}" for leaf in ("info", "status", "poses")}
    assert found["edgepose/bench/front/info"]["retained"] is True
    poses = found["edgepose/bench/front/poses"]
    assert poses["retained"] is False
    assert poses["payload"] == example(2, seq=1).model_dump(mode="json", by_alias=True)
    made.close()
    other.close()


def test_a_camera_is_found_by_the_name_that_it_was_given(mosquitto: Mosquitto) -> None:
    """In topics ``Porch`` is ``porch``."""
    made = sink(mosquitto, camera="porch")
    listening = Listening(parse_broker(mosquitto.url), camera="Porch", count=1)
    wait_for(lambda: "is online" in listening.out.getvalue())
    made.publish(example(1))
    assert "#7" in listening.wait()
    made.close()


def test_of_each_camera_every_second_message_is_shown(mosquitto: Mosquitto) -> None:
    front, back = sink(mosquitto), sink(mosquitto, camera="back")
    listening = Listening(parse_broker(mosquitto.url), every=2, count=8)
    wait_for(lambda: listening.out.getvalue().count("is online") == 2)
    turns = [example(1, seq=seq, camera=camera) for seq in range(4) for camera in ("front", "back")]
    messages = [(f"edgepose/bench/{turn.camera}/poses", encode(turn), 1, False) for turn in turns]
    publish.multiple(messages, hostname="127.0.0.1", port=mosquitto.port)
    shown = [line.split()[:2] for line in listening.wait().splitlines() if " #" in line]
    assert sorted(shown) == [[f"bench/{camera}", f"#{seq}"] for camera in ("back", "front") for seq in (0, 2)]
    front.close()
    back.close()


def test_until_stopped_waits_for_a_camera_that_was_online(mosquitto: Mosquitto) -> None:
    """What an earlier run left at the broker, that it stopped, ends nothing; and another device's does not count."""
    before = sink(mosquitto)
    before.close()
    listening = Listening(parse_broker(mosquitto.url), until_stopped=True, device="bench")
    wait_for(lambda: "is stopped" in listening.out.getvalue())
    other = MQTTSink(parse_broker(mosquitto.url), "shed", "front", backoff=QUICK)
    assert other.connect(PATIENCE_S)
    other.close()
    again = sink(mosquitto)
    wait_for(lambda: "is online" in listening.out.getvalue())
    assert listening.ending is None
    again.close()
    assert "shed" not in listening.wait()
    assert listening.ending == "stopped"


def test_silence_ends_it(mosquitto: Mosquitto) -> None:
    start = time.monotonic()
    assert listen(parse_broker(mosquitto.url), timeout_s=0.5, out=io.StringIO()) == "silence"
    assert 0.5 <= time.monotonic() - start < PATIENCE_S


def test_a_broker_that_dies_and_comes_back(mosquitto: Mosquitto) -> None:
    made = sink(mosquitto)
    listening = Listening(parse_broker(mosquitto.url), count=1)
    wait_for(lambda: "is online" in listening.out.getvalue())
    mosquitto.kill()
    wait_for(lambda: "trying again in" in listening.out.getvalue())
    before = len(listening.out.getvalue())
    mosquitto.start()
    wait_for(lambda: made.state == "online")
    wait_for(lambda: "is online" in listening.out.getvalue()[before:])
    made.publish(example(1))
    assert "#7" in listening.wait()
    made.close()


def test_ctrl_c_and_a_closed_pipe_end_it_cleanly(mosquitto: Mosquitto) -> None:
    script = (
        "import signal, sys; from edgepose.listen import listen; from edgepose.mqtt import parse_broker\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's & has it ignored
        "print('ready', flush=True)\n"
        "sys.stderr.write(listen(parse_broker(sys.argv[1]), as_json=True))"
    )
    command = [sys.executable, "-c", script, mosquitto.url]
    made = sink(mosquitto)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline() == b"ready\n"
        assert b"edgepose/bench/front" in child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert child.stderr.read() == b"interrupted"
        assert child.wait(PATIENCE_S) == 0
    read, write = os.pipe()
    os.close(read)
    assert listen(parse_broker(mosquitto.url), out=os.fdopen(write, "w", closefd=False)) == "closed"
    made.close()


def test_where_nothing_comes_the_prefix_may_be_another(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen_module, "QUIET_S", 0.3)
    made = sink(mosquitto)
    wait_for(lambda: made.state == "online")
    told = {}
    for prefix in ("edgepose", "home/pose"):
        out = io.StringIO()
        assert listen(parse_broker(f"{mosquitto.url}{prefix}"), timeout_s=1, out=out) == "silence"
        told[prefix] = out.getvalue()
    made.close()
    note = "nothing came below home/pose/+/+ yet; is that where it is published to? The path of the broker's URL must"
    assert told["home/pose"].count(note) == 1
    assert "yet" not in told["edgepose"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_topic_that_is_no_utf8_is_the_brokers_fault(as_json: bool) -> None:
    let_in, subscribed = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x00"
    message = b"\x30\x07\x00\x02\xff\xfe\x00{}"
    with scripted(let_in + subscribed + message, stays=True) as broker:
        out = io.StringIO()
        assert listen(broker, timeout_s=1, out=out, as_json=as_json, backoff=Backoff(60, 60)) == "silence"
    note = "sends what is not MQTT (a topic that is no UTF-8); check the port; trying again in"
    assert (note in out.getvalue()) != as_json  # that is for people


@pytest.mark.parametrize("form", ["", "--json"])
def test_a_full_disk_is_told(mosquitto: Mosquitto, form: str) -> None:
    made = sink(mosquitto)
    command = [sys.executable, "-m", "edgepose", "listen", "--mqtt", mosquitto.url, *form.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=100)
    assert "error: cannot write to the output: No space left on device; make room there" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    made.close()


def test_a_character_that_the_output_lacks_is_not_the_brokers_fault(mosquitto: Mosquitto) -> None:
    made = sink(mosquitto)
    made.set_status("camera-lost", "no frame …")
    command = [sys.executable, "-m", "edgepose", "listen", "--mqtt", mosquitto.url, "--timeout", "2"]
    plain = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=plain)
    assert r"is camera-lost: no frame \u2026" in done.stdout, done.stderr
    assert "sends what is not MQTT" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    made.close()


def test_what_cannot_be_is_a_sentence(mosquitto: Mosquitto, tmp_path: Path) -> None:
    with pytest.raises(EdgeposeError, match="cannot be reached"):
        listen(Broker("127.0.0.1", free_port()))
    with pytest.raises(EdgeposeError, match=r"host 'no-such-host.invalid' is not known"):
        listen(Broker("no-such-host.invalid", 1883))
    with pytest.raises(EdgeposeError, match=r"camera '\+' cannot be part"):
        listen(Broker("127.0.0.1", mosquitto.port), camera="+")
    (tmp_path / "locked").mkdir()
    with Mosquitto(tmp_path / "locked", users={"bob": "x"}) as locked:
        with pytest.raises(EdgeposeError, match="refused a client without user name: Not authorized"):
            listen(parse_broker(locked.url, environ={}))
        broker = parse_broker(locked.url.replace("//", "//bob@"), environ={"EDGEPOSE_MQTT_PASSWORD": "x"})
        assert listen(broker, timeout_s=0.2, out=io.StringIO()) == "silence"
    certificates = Certificates.make(tmp_path / "tls")
    with (
        Mosquitto(certificates.folder, tls=certificates) as private,
        pytest.raises(EdgeposeError, match="give the certificate of the CA"),
    ):
        listen(parse_broker(f"mqtts://localhost:{private.port}/"))
