"""Being let in by a broker, or not: passwords, access lists, TLS."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgepose.backoff import Backoff
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError
from edgepose.messages import info_message
from edgepose.mqtt import Broker, parse_broker
from edgepose.sinks.mqtt import MQTTSink
from tests.broker import PATIENCE_S, Certificates, Mosquitto, wait_for, watch
from tests.conftest import tiny_manual
from tests.sinks.test_mqtt import stats

QUICK = Backoff(0.05, 0.2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls") / "theirs")


def let_in(broker: Broker) -> bool:
    sink = MQTTSink(broker, "bench", "front", backoff=QUICK)
    try:
        return sink.connect(PATIENCE_S)
    finally:
        sink.close(0.1)


def refusal(broker: Broker) -> str:
    """The sentence that connect raises, which the sink goes on showing."""
    sink = MQTTSink(broker, "bench", "front", backoff=QUICK)
    with pytest.raises(EdgeposeError) as caught:
        sink.connect(PATIENCE_S)
    assert sink.state == "refused"
    assert sink.reason == str(caught.value)
    sink.close(0.1)
    assert sink.state == "stopped"
    return str(caught.value)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_passwords(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path, users={"bob": "s3cret"}) as mosquitto:
        url = f"mqtt://bob@127.0.0.1:{mosquitto.port}/?version={version}"
        (tmp_path / "password").write_text("s3cret\n")
        assert let_in(parse_broker(url, environ={"EDGEPOSE_MQTT_PASSWORD": "s3cret"}))
        assert let_in(parse_broker(url, password_file=tmp_path / "password", environ={}))
        said = refusal(parse_broker(url, environ={"EDGEPOSE_MQTT_PASSWORD": "wrong"}))
        assert "refused user 'bob': Not authorized; check the user and the password (EDGEPOSE_MQTT_USER" in said
        assert "wrong" not in said
        said = refusal(parse_broker(url.replace("bob@", ""), environ={}))
        assert "refused a client without user name: Not authorized" in said


def test_a_refused_sink_is_let_in_once_the_broker_knows_it(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, users={"bob": "old"}) as mosquitto:
        broker = parse_broker(mosquitto.url.replace("//", "//bob@"), environ={"EDGEPOSE_MQTT_PASSWORD": "new"})
        sink = MQTTSink(broker, "bench", "front", backoff=QUICK)
        wait_for(lambda: sink.state == "refused")
        mosquitto.kill()
        mosquitto.set_password("bob", "new")
        mosquitto.start()
        wait_for(lambda: sink.state == "online")
        sink.close()


def test_no_right_to_publish(tmp_path: Path) -> None:
    acl = "user bob\ntopic write edgepose/bench/front/info\ntopic read #\nuser eve\ntopic write edgepose/bench/#\n"
    with Mosquitto(tmp_path, users={"bob": "x", "eve": "x"}, acl=acl) as mosquitto:
        environ = {"EDGEPOSE_MQTT_PASSWORD": "x"}
        said = refusal(parse_broker(mosquitto.url.replace("//", "//bob@"), environ=environ))
        assert "does not let us publish to edgepose/bench/front/status: Not authorized; grant write access" in said
        assert let_in(parse_broker(mosquitto.url.replace("//", "//eve@"), environ=environ))


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("max_qos 0", "QoS not supported; it must allow QoS 1, with which info and status are sent"),
        ("retain_available false", "Retain not supported; it must retain messages, as info and status are"),
    ],
)
def test_a_broker_that_lacks_what_we_need_is_told(limit: str, said: str, tmp_path: Path) -> None:
    with Mosquitto(tmp_path, more=limit) as mosquitto:
        assert said in refusal(parse_broker(mosquitto.url))


def test_a_denied_info_is_not_forgotten_over_an_accepted_status(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path, users={"bob": "x"}, acl="user bob\ntopic write edgepose/bench/front/status\n")
    broker = parse_broker(mosquitto.url.replace("//", "//bob@"), environ={"EDGEPOSE_MQTT_PASSWORD": "x"})
    sink = MQTTSink(broker, "bench", "front", backoff=QUICK)
    bundle = Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64)
    sink.set_info(info_message(device="bench", camera="front", source="x", bundle=bundle, engine="ort"))
    with mosquitto:
        wait_for(lambda: sink.state == "refused")
        time.sleep(0.3)  # the status, accepted, comes after the info
        assert sink.state == "refused"
        assert "does not let us publish to edgepose/bench/front/info" in sink.reason
        sink.close()


@pytest.mark.parametrize("granted", ["", "status stats"], ids=["nothing was", "all but the info was"])
def test_what_was_denied_is_said_again_once_the_broker_takes_it(tmp_path: Path, granted: str) -> None:
    """The access list grows while we are connected: the next status, or the next stats, bring the rest with them."""
    own = "".join(f"topic write edgepose/bench/front/{leaf}\n" for leaf in granted.split())
    mosquitto = Mosquitto(tmp_path, users={"bob": "x"}, acl=f"user bob\n{own}topic read #\n")
    broker = parse_broker(mosquitto.url.replace("//", "//bob@"), environ={"EDGEPOSE_MQTT_PASSWORD": "x"})
    sink = MQTTSink(broker, "bench", "front", backoff=QUICK)
    bundle = Bundle(Path("tiny.onnx"), tiny_manual(), "0" * 64)
    with mosquitto:
        sink.set_info(info_message(device="bench", camera="front", source="x", bundle=bundle, engine="ort"))
        wait_for(lambda: sink.state == "refused")
        mosquitto.allow("user bob\ntopic readwrite #\n")
        wait_for(lambda: "Reloading config" in mosquitto.log)
        with watch(mosquitto.port, user=("bob", "x")) as seen:
            if granted:
                sink.publish_stats(stats())
            else:
                sink.set_status("online")
            wait_for(lambda: seen.on("info") and seen.on("status"))
        wait_for(lambda: sink.state == "online")
        sink.close()


def test_tls(tmp_path: Path, certificates: Certificates, strangers: Certificates) -> None:
    with Mosquitto(tmp_path, tls=certificates) as mosquitto:
        url = f"mqtts://localhost:{mosquitto.port}/"
        assert let_in(parse_broker(f"{url}?cafile={certificates.ca_pem}"))
        assert let_in(parse_broker(f"{url}?insecure=true"))
        for stranger in (parse_broker(url), parse_broker(url, cafile=strangers.ca_pem)):
            said = refusal(stranger)
            assert f"certificate of mqtts://localhost:{mosquitto.port} cannot be trusted (self-signed" in said
            assert "give the certificate of the CA that signed it as cafile" in said
        said = refusal(parse_broker(url.replace("localhost", "127.0.0.1"), cafile=certificates.ca_pem))
        assert "mismatch" in said
        assert "connect by the name that is in its certificate" in said
        sink = MQTTSink(parse_broker(mosquitto.url), "bench", "front", backoff=QUICK)
        wait_for(lambda: "if it speaks TLS there, use mqtts://" in sink.reason)
        sink.close()


def test_client_certificates(tmp_path: Path, certificates: Certificates, strangers: Certificates) -> None:
    with Mosquitto(tmp_path, tls=certificates, client_certificates=True) as mosquitto:

        def broker(**files: Path) -> Broker:
            return parse_broker(f"mqtts://localhost:{mosquitto.port}/", cafile=certificates.ca_pem, **files)

        assert let_in(broker(certfile=certificates.client_pem, keyfile=certificates.client_key))
        # the broker's alert may be lost with the connection, so the sentence is one of two
        checks: list[tuple[Broker, Callable[[str], bool]]] = [
            (broker(), lambda said: "give certfile and keyfile" in said or "(certfile, keyfile)" in said),
            (
                broker(certfile=strangers.client_pem, keyfile=strangers.client_key),
                lambda said: "refused our certificate" in said or "its CA signed our certificate" in said,
            ),
        ]
        for wrong, told in checks:
            sink = MQTTSink(wrong, "bench", "front", backoff=QUICK)
            wait_for(lambda sink=sink, told=told: told(sink.reason))
            assert sink.state in ("refused", "connecting")
            sink.close()


def test_tls_with_a_broker_that_has_none(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as mosquitto:
        sink = MQTTSink(parse_broker(mosquitto.url.replace("mqtt:", "mqtts:")), "bench", "front", backoff=QUICK)
        wait_for(lambda: sink.reason)
        assert "TLS" in sink.reason
        sink.close()


def test_tls_files_that_are_none_are_told_before_anything_starts(tmp_path: Path, certificates: Certificates) -> None:
    for files, sentence in (
        ({"cafile": tmp_path / "none.pem"}, "cafile .* cannot be used .*; give a PEM file of CA certificates"),
        ({"cafile": certificates.ca_key}, "cafile .* cannot be used"),
        ({"certfile": certificates.client_pem, "keyfile": certificates.server_key}, "certfile .* cannot be used"),
    ):
        with pytest.raises(EdgeposeError, match=sentence):
            MQTTSink(parse_broker("mqtts://localhost/", **files), "bench", "front")  # type: ignore[arg-type]
