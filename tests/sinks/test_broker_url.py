"""Broker URLs: what they mean, and the sentence for each that means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgepose.errors import EdgeposeError
from edgepose.mqtt import Broker, parse_broker


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://hub", Broker("hub", 1883)),
        ("mqtt://hub/", Broker("hub", 1883)),
        ("mqtts://hub/site/a/", Broker("hub", 8883, "site/a", tls=True)),
        ("mqtt://bob@10.0.0.1:1884/x", Broker("10.0.0.1", 1884, "x", user="bob")),
        ("mqtt://bob%40home@[::1]", Broker("::1", 1883, user="bob@home")),
        ("mqtt://hub?version=3.1.1", Broker("hub", 1883, version="3.1.1")),
        ("mqtts://hub/?cafile=c&insecure=true", Broker("hub", 8883, tls=True, cafile=Path("c"), insecure=True)),
    ],
)  # fmt: skip
def test_urls(url: str, broker: Broker) -> None:
    assert parse_broker(url, environ={}) == broker


def test_user_and_password_from_the_environment_and_from_a_file(tmp_path: Path) -> None:
    environ = {"EDGEPOSE_MQTT_USER": "bob", "EDGEPOSE_MQTT_PASSWORD": "s3cret"}
    broker = parse_broker("mqtt://hub", environ=environ)
    assert (broker.user, broker.password) == ("bob", "s3cret")
    assert "s3cret" not in repr(broker) + str(broker)
    file = tmp_path / "password"
    file.write_text("from file\n")
    broker = parse_broker("mqtt://eve@hub", password_file=file, environ=environ)
    assert (broker.user, broker.password) == ("eve", "from file")


def test_options_stand_in_the_url_or_among_the_settings() -> None:
    broker = parse_broker("mqtts://hub?cafile=a", cafile=Path("a"), version="3.1.1", environ={})
    assert (broker.cafile, broker.version) == (Path("a"), "3.1.1")
    for url, given in (
        ("mqtts://hub?cafile=a", {"cafile": Path("b")}),
        ("mqtts://hub?version=5", {"version": "3.1.1"}),
        ("mqtts://hub?insecure=false", {"insecure": True}),
        ("mqtts://hub?insecure=true", {"insecure": False}),
    ):
        with pytest.raises(EdgeposeError, match=r"among the settings is .*; leave one of them out"):
            parse_broker(url, **given, environ={})


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("hub", "broker 'hub' is no MQTT URL; write mqtt://host/"),
        ("hub:1883", "broker 'hub:1883' is no MQTT URL"),
        ("mqtt:hub", "is no MQTT URL"),
        ("http://hub", "is no MQTT URL"),
        ("bob:secret@hub", "broker 'hub' is no MQTT URL"),
        ("mqtt://", "has no host or no valid port"),
        ("mqtt://hub:99999", "has no host or no valid port"),
        ("mqtt://hub:x/", "has no host or no valid port"),
        ("mqtt://bob:secret@hub", "the broker URL for hub holds a password, .* EDGEPOSE_MQTT_PASSWORD"),
        ("mqtt://hub/a/+/b", r"topic prefix '\+' cannot be part"),
        ("mqtt://hub/a#b", "has a '#'"),
        ("mqtt://hub?versoin=5", "unknown option 'versoin' in broker .*; did you mean 'version'"),
        ("mqtt://hub?version=4", "unknown MQTT version '4'"),
        ("mqtts://hub?insecure=yes", r"option 'insecure' .* write insecure=<value> \(insecure=true\)"),
        ("mqtts://hub?cafile=", "option 'cafile'"),
        ("mqtt://hub?cafile=/ca.pem", "has TLS options but no TLS; write mqtts://"),
        ("mqtt://hub?insecure=true", "has TLS options but no TLS"),
        ("mqtts://hub?certfile=/c.pem", "certfile and keyfile belong together"),
        ("mqtt://bob:secret\uff201@hub/", r"broker 'mqtt://\*\*\*@hub/' is no URL; write mqtt://host/"),
        ("mqtt://bob:secret\uff20hub/x", r"broker 'mqtt://\*\*\*@hub/x' is no URL"),
        ("mqtts://hub?cafile=%00", r"option 'cafile' in broker .* is '\\x00'; write cafile=<value>"),
        (
            "mqtt://hub/" + "a/" * 100 + "b",
            "topic prefix 'a/a/a/a/a/a/a/a/a/a/...' is too long; use 1000 bytes and 100",
        ),
        ("mqtt://hub/" + "/".join(["x" * 250] * 5), "is too long; use 1000 bytes and 100 levels at most"),
        ("mqtts://bob:12/secret@hub:8883/x", "has an @ behind its port; the password belongs into EDGEPOSE_MQTT_PASS"),
    ],
)
def test_bad_urls_are_sentences(url: str, sentence: str) -> None:
    with pytest.raises(EdgeposeError, match=sentence) as caught:
        parse_broker(url, environ={})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["x" * 65536, "ä" * 32768, "a\0b"])
def test_what_mqtt_cannot_write_is_refused(text: str, tmp_path: Path) -> None:
    """As where the file of the password is another one."""
    (tmp_path / "log").write_text(text, encoding="utf-8")
    with pytest.raises(EdgeposeError, match="the password for mqtt://hub:1883 is longer than 65535 bytes, or holds a"):
        parse_broker("mqtt://bob@hub", password_file=tmp_path / "log", environ={})
    with pytest.raises(EdgeposeError, match="the user for mqtt://hub:1883 is longer"):
        parse_broker("mqtt://hub", environ={"EDGEPOSE_MQTT_USER": text})


def test_bad_passwords_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(EdgeposeError, match="a password is set for mqtt://hub:1883 but no user"):
        parse_broker("mqtt://hub", environ={"EDGEPOSE_MQTT_PASSWORD": "x"})
    with pytest.raises(EdgeposeError, match=r"password file .* cannot be read"):
        parse_broker("mqtt://bob@hub", password_file=tmp_path / "none", environ={})
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(EdgeposeError, match=r"password file .* is empty"):
        parse_broker("mqtt://bob@hub", password_file=tmp_path / "empty", environ={})
