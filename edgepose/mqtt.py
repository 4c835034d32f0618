"""MQTT: which broker, and one connection to it.

A :class:`Session` is one connection, driven by the one thread that made it and thrown away when it ends, so
that nothing of paho's (queues, retries, its own reconnecting) outlives a lost link. What goes wrong is one of
two things: :class:`RefusedError`, which somebody must put right, and :class:`LostError`, which may pass.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from paho.mqtt import MQTTException
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edgepose.errors import EdgeposeError, unknown
from edgepose.messages import check_prefix
from edgepose.redact import is_utf8, redact

CONNECT_TIMEOUT_S = 5.0
LONGEST_TEXT = 65535  # bytes; MQTT writes a text's length in two
SEND_BUFFER = 32 * 1024  # bytes; what a slow link holds back must wait in our queue, not in the kernel's
_OPTIONS = ("version", "cafile", "certfile", "keyfile", "insecure")
TRANSIENT = {"Server unavailable", "Server busy", "Quota exceeded", "Connection rate exceeded"}
# What paho raises for bytes that no broker should send.
_GARBLED = (MQTTException, ValueError, IndexError, KeyError, AssertionError, struct.error)
_ADVICE = {
    "Bad user name or password": "check the user and the password (EDGEPOSE_MQTT_USER, EDGEPOSE_MQTT_PASSWORD)",
    "Not authorized": "check the user and the password (EDGEPOSE_MQTT_USER, EDGEPOSE_MQTT_PASSWORD)",
    "Unsupported protocol version": "add ?version=3.1.1 to the broker's URL",
    "Client identifier not valid": "choose another device or camera name",
    "QoS not supported": "it must allow QoS 1, with which info and status are sent",
    "Retain not supported": "it must retain messages, as info and status are",
}


class RefusedError(EdgeposeError):
    """The broker, or our side of TLS, said no: trying again will not help until somebody acts."""


class TooLargeError(EdgeposeError):
    """A packet is larger than the broker takes; it was not sent."""


class LostError(EdgeposeError):
    """No connection, or none any more: it may come back by itself."""


class GarbledError(LostError):
    """It sends what is not MQTT."""


@dataclass(frozen=True)
class Broker:
    """Where the broker is and how to be let in. Make one with :func:`parse_broker`."""

    host: str
    port: int
    prefix: str = "edgepose"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    cafile: Path | None = None  # None: the system's
    certfile: Path | None = None
    keyfile: Path | None = None
    insecure: bool = False  # TLS without knowing with whom
    version: str = "5"  # or 3.1.1

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext:
        """The TLS settings; RefusedError where a file is absent or not what it should be."""
        try:
            context = ssl.create_default_context(cafile=self.cafile)
        except (OSError, ssl.SSLError) as error:
            raise RefusedError(
                f"cafile {self.cafile} cannot be used ({error}); give a PEM file of CA certificates"
            ) from error
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certfile:
            try:
                context.load_cert_chain(self.certfile, self.keyfile, password="")
            except (OSError, ssl.SSLError) as error:
                raise RefusedError(
                    f"certfile {self.certfile} and keyfile {self.keyfile} cannot be used ({error}); "
                    "give a PEM certificate and its PEM key without a pass phrase"
                ) from error
        return context


def parse_broker(
    url: str,
    *,
    version: str | None = None,
    cafile: Path | None = None,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    insecure: bool | None = None,
    password_file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Broker:
    """``mqtt://[user@]host[:port]/[prefix][?version=3.1.1]``, or ``mqtts://`` with cafile, certfile, keyfile, insecure.

    The options may stand in the URL or be given as arguments, but not in both ways unless alike. The password comes
    from ``password_file`` or EDGEPOSE_MQTT_PASSWORD, the user from the URL or EDGEPOSE_MQTT_USER.
    """
    shown = redact(url)
    try:
        parts = urlsplit(url)
    except ValueError:  # what it says would show the password
        raise EdgeposeError(f"broker '{shown}' is no URL; write mqtt://host/ or mqtts://host/") from None
    if parts.scheme not in ("mqtt", "mqtts") or not url.startswith(f"{parts.scheme}://"):
        shown = shown.rpartition("@")[2].removeprefix("//")
        raise EdgeposeError(f"broker '{shown}' is no MQTT URL; write mqtt://host/ or mqtts://host/")
    if parts.password is not None:
        raise EdgeposeError(
            f"the broker URL for {parts.hostname} holds a password, which others on this machine can read; "
            "put it into EDGEPOSE_MQTT_PASSWORD or a password file"
        )
    tls = parts.scheme == "mqtts"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0 or not parts.hostname:
        raise EdgeposeError(f"broker '{shown}' has no host or no valid port; write {parts.scheme}://host:1883/")
    if "@" not in parts.netloc and parts.port is not None and "@" in url:
        raise EdgeposeError(f"broker '{shown}' has an @ behind its port; the password belongs into "
                            "EDGEPOSE_MQTT_PASSWORD or a password file, an @ in topics is %40")  # fmt: skip
    options = _options(shown, parts.query)
    given = {"version": version, "cafile": cafile, "certfile": certfile, "keyfile": keyfile,
             "insecure": None if insecure is None else str(insecure).lower()}  # fmt: skip
    for name, value in options.items():
        ours = given[name]
        if ours is not None and ours != (Path(value) if isinstance(ours, Path) else value):
            raise EdgeposeError(f"broker '{shown}' says {name}={value}, and mqtt.{name} among the settings is "
                                f"{ours}; leave one of them out")  # fmt: skip
    broker = Broker(
        host=parts.hostname,
        port=port or (8883 if tls else 1883),
        prefix=check_prefix(unquote(parts.path.strip("/")) or "edgepose"),
        user=unquote(parts.username or "") or environ.get("EDGEPOSE_MQTT_USER") or None,
        password=_password(password_file, environ),
        tls=tls,
        cafile=cafile or _path(options, "cafile"),
        certfile=certfile or _path(options, "certfile"),
        keyfile=keyfile or _path(options, "keyfile"),
        insecure=bool(insecure) or options.get("insecure") == "true",
        version=version or options.get("version") or "5",
    )
    _check(broker, shown, parts.fragment)
    return broker


def _options(shown: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS:
            raise unknown("option", name, _OPTIONS, f"broker '{shown}'")
        if not value or "\0" in value or (name == "insecure" and value not in ("true", "false")):
            raise EdgeposeError(
                f"option '{name}' in broker '{shown}' is {value!r}; write {name}=<value> (insecure=true)"
            )
    return options


def _path(options: Mapping[str, str], name: str) -> Path | None:
    return Path(options[name]) if name in options else None


def _password(file: Path | None, environ: Mapping[str, str]) -> str | None:
    if file is None:
        return environ.get("EDGEPOSE_MQTT_PASSWORD") or None
    try:
        password = file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeposeError(f"password file {file} cannot be read ({error}); check the path and its rights") from error
    if not password:
        raise EdgeposeError(f"password file {file} is empty; write the broker's password into it")
    return password


def _check(broker: Broker, shown: str, fragment: str) -> None:
    if fragment:
        raise EdgeposeError(f"broker '{shown}' has a '#', which no topic prefix may hold; take it out")
    if broker.version not in ("5", "3.1.1"):
        raise unknown("MQTT version", broker.version, ("5", "3.1.1"), f"broker '{shown}'")
    if not broker.tls and (broker.cafile or broker.certfile or broker.keyfile or broker.insecure):
        raise EdgeposeError(f"broker '{shown}' has TLS options but no TLS; write mqtts:// or leave them out, in the "
                            "URL and among the settings (mqtt.cafile, certfile, keyfile, insecure)")  # fmt: skip
    if bool(broker.certfile) != bool(broker.keyfile):
        raise EdgeposeError(f"broker '{shown}': certfile and keyfile belong together; give both or neither")
    for name, text in (("user", broker.user), ("password", broker.password)):
        if text and not is_utf8(text):
            raise EdgeposeError(f"the {name} for {broker} is no UTF-8; set it in a terminal that writes UTF-8")
        if text and (len(text.encode()) > LONGEST_TEXT or "\0" in text):
            raise EdgeposeError(f"the {name} for {broker} is longer than {LONGEST_TEXT} bytes, or holds a null "
                                "character, which MQTT does not take; check where it comes from")  # fmt: skip
    if broker.password and not broker.user:
        raise EdgeposeError(
            f"a password is set for {broker} but no user; write user@ into the URL or set EDGEPOSE_MQTT_USER"
        )


@dataclass(frozen=True)
class Packet:
    """One publication. ``expiry_s``, ``content_type`` and ``schema`` are MQTT 5 properties, left out in 3.1.1."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    expiry_s: int | None = None
    content_type: str = ""
    schema: str = ""

    def properties(self, kind: int) -> Properties:
        """As MQTT 5 properties of a PUBLISH or of a will."""
        properties = Properties(kind)  # type: ignore[no-untyped-call]
        if self.expiry_s is not None:
            properties.MessageExpiryInterval = self.expiry_s
        if self.content_type:
            properties.ContentType = self.content_type
        if self.schema:
            properties.UserProperty = ("schema", self.schema)
        return properties


class Session:
    """One connection: ``step`` it until ``connected``, publish, subscribe, step on. For one thread only.

    ``on_acknowledged(mid, denial)`` hears of every QoS 1 publication; ``denial`` is empty when it was accepted.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: Packet | None = None,
        keepalive_s: int = 15,
        on_acknowledged: Callable[[int, str], None] | None = None,
        on_message: Callable[[paho.MQTTMessage], None] | None = None,
    ) -> None:
        self.connected = False
        self.receive_maximum = 65535  # QoS 1 publications that the broker takes before it acknowledges (MQTT 5)
        self._largest: int | None = None  # packet that the broker takes, bytes; None: any (MQTT 5)
        self._broker = broker
        self._keepalive_s = keepalive_s
        self._v5 = broker.version == "5"
        self._fault: EdgeposeError | None = None
        self._not_ours: Exception | None = None  # what on_message raised
        self._log = ""
        self._garbled = ""  # how what came is no MQTT
        self._deadline = 0.0
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv5 if self._v5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        if broker.user:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            client.tls_set_context(broker.tls_context())
        if will:
            properties = will.properties(PacketTypes.WILLMESSAGE) if self._v5 else None
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_subscribe
        client.on_log = self._on_log
        if on_acknowledged:
            client.on_publish = lambda _c, _u, mid, code, _p: on_acknowledged(mid, str(code) if code.is_failure else "")
        if on_message:
            client.on_message = lambda _c, _u, message: self._hand_on(message, on_message)

    def open(self) -> None:
        """Connect the socket, TLS included; may take CONNECT_TIMEOUT_S. Raises RefusedError or LostError."""
        broker = self._broker
        try:
            self._client.connect(broker.host, broker.port, keepalive=self._keepalive_s)
        except ssl.SSLCertVerificationError as error:
            # A device without a clock of its own begins in the past; the network sets it.
            kind = LostError if "not yet valid" in error.verify_message else RefusedError
            raise kind(_certificate_fault(broker, error)) from error
        except (ssl.SSLEOFError, ConnectionResetError) as error:
            hint = "; if it does not speak TLS there, use mqtt://" if broker.tls else "; see the broker's log"
            raise LostError(f"{broker} broke off while we connected{hint}") from error
        except ssl.SSLError as error:
            raise RefusedError(
                f"{broker} does not speak TLS as we do ({error.reason}); check the port and mqtts://"
            ) from error
        except (socket.gaierror, UnicodeError) as error:
            raise LostError(
                f"host '{broker.host}' is not known ({error}); check the broker's name and the network"
            ) from error
        except TimeoutError as error:
            raise LostError(f"{broker} does not answer; check the address, the network and the firewall") from error
        except OSError as error:
            raise LostError(
                f"{broker} cannot be reached ({error.strerror or error}); check that the broker runs"
            ) from error
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._deadline = time.monotonic() + CONNECT_TIMEOUT_S

    @property
    def congested(self) -> bool:
        """Whether the socket has not yet taken what was published."""
        return self._client.want_write()

    def step(self, timeout_s: float, wake: socket.socket | None = None) -> None:
        """Wait up to ``timeout_s`` for the broker or for a byte on ``wake``, and do what there is to do."""
        client = self._client
        sock: Any = client.socket()
        if sock is None:
            raise self._ended()
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        if wake:
            poll.register(wake, select.POLLIN)
        pending = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
        fileno = sock.fileno()
        ready = dict(poll.poll(0 if pending else timeout_s * 1000))
        if wake and wake.fileno() in ready:
            wake.recv(4096)
        events = ready.get(fileno, 0)
        try:
            read = client.loop_read() if pending or events & ~select.POLLOUT else None
            if read == MQTTErrorCode.MQTT_ERR_PROTOCOL:
                known = self._v5 or self.connected  # else paho may mean a CONNACK that refuses the version
                self._garbled = "a malformed packet" if known else "or knows no version 3.1.1"
            if events & select.POLLOUT:
                client.loop_write()
            client.loop_misc()
        except _GARBLED as error:
            self._garbled = str(error) or type(error).__name__  # by versions of paho that do not look themselves
            raise self._ended() from error
        if self._not_ours is not None:
            raise self._not_ours
        if client.socket() is None:
            raise self._ended()
        if not self.connected and time.monotonic() > self._deadline:
            hint = "; if it knows no MQTT 5, add ?version=3.1.1 to the URL" if self._v5 else ""
            raise LostError(
                f"{self._broker} took the connection but does not answer; check that it is an MQTT broker{hint}"
            )

    def publish(self, packet: Packet) -> int:
        """Send ``packet``; returns its message id. Raises RefusedError, LostError, or TooLargeError."""
        properties = packet.properties(PacketTypes.PUBLISH) if self._v5 else None
        if self._largest is not None and properties is not None:
            size = _size(packet, len(properties.pack()))  # type: ignore[no-untyped-call]
            if size > self._largest:
                raise TooLargeError(f"{self._broker} takes packets of {self._largest} bytes at most, and one on "
                                    f"{packet.topic} has {size}; let it take larger ones")  # fmt: skip
        info = self._client.publish(packet.topic, packet.payload, packet.qos, packet.retain, properties)
        if self._client.socket() is None:
            raise self._ended()
        return info.mid

    def subscribe(self, topic: str, qos: int) -> None:
        """Ask for ``topic``; a denial surfaces as RefusedError from a later step."""
        self._client.subscribe(topic, qos)

    def disconnect(self) -> None:
        """Say goodbye, so that no last will is sent; the broker then closes, and ``step`` raises LostError."""
        self._client.disconnect()

    def close(self) -> None:
        """Close the socket, goodbye or not."""
        sock: Any = self._client.socket()
        if sock is not None:
            self._client.on_disconnect = None
            with contextlib.suppress(OSError):
                sock.close()

    def _hand_on(self, message: paho.MQTTMessage, on_message: Callable[[paho.MQTTMessage], None]) -> None:
        """To whoever listens; what that raises is not the broker's doing, and is raised by ``step``."""
        try:
            message.topic  # noqa: B018 - decoded as it is asked for
        except UnicodeDecodeError:
            self._not_ours = self._not_ours or self._not_mqtt("a topic that is no UTF-8")
            return
        try:
            on_message(message)
        except Exception as error:  # noqa: BLE001 - raised again, outside of paho
            self._not_ours = self._not_ours or error

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, code: ReasonCode, properties: Any) -> None:
        if not code.is_failure:
            self.connected = True
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self._largest = getattr(properties, "MaximumPacketSize", None)
            return
        name = str(code)
        kind = LostError if name in TRANSIENT else RefusedError
        who = f"user '{self._broker.user}'" if self._broker.user else "a client without user name"
        advice = _ADVICE.get(name, "see the broker's log")
        self._fault = kind(f"{self._broker} refused {who}: {name}; {advice}")

    def _on_disconnect(self, _client: Any, _userdata: Any, flags: Any, code: ReasonCode, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server and not self._fault:
            advice = " by a client of the same name" if str(code) == "Session taken over" else ""
            self._fault = LostError(f"{self._broker} ended the connection: {code}{advice}")

    def _on_subscribe(self, _client: Any, _userdata: Any, _mid: int, codes: list[ReasonCode], _properties: Any) -> None:
        for code in codes:
            if code.is_failure:
                self._fault = RefusedError(
                    f"{self._broker} refused a subscription: {code}; ask for read access to the topics"
                )
                self._client.disconnect()

    def _on_log(self, _client: Any, _userdata: Any, level: int, text: str) -> None:
        if level == paho.MQTT_LOG_ERR:
            self._log = text.removeprefix("failed to receive on socket: ")

    def _not_mqtt(self, how: str) -> GarbledError:
        return GarbledError(f"{self._broker} sends what is not MQTT ({how}); check the port")

    def _ended(self) -> EdgeposeError:
        if self._fault:
            return self._fault
        if self._garbled:
            return self._not_mqtt(self._garbled)
        if "CERTIFICATE_REQUIRED" in self._log or "HANDSHAKE_FAILURE" in self._log:
            return RefusedError(f"{self._broker} wants a client certificate; give certfile and keyfile")
        if "ALERT" in self._log:
            return RefusedError(f"{self._broker} refused our certificate ({self._log}); give one that its CA signed")
        if self.connected:
            return LostError(f"the connection to {self._broker} broke" + (f" ({self._log})" if self._log else ""))
        tls = "check that its CA signed our certificate, if it wants one (certfile, keyfile)"
        advice = tls if self._broker.tls else "if it speaks TLS there, use mqtts://"
        return LostError(f"{self._broker} closed the connection without an answer; {advice}")


def _size(packet: Packet, properties: int) -> int:
    """Bytes of the whole PUBLISH, whose ``properties`` take so many (MQTT 5.0, 2.1 and 3.3)."""
    topic = 2 + len(packet.topic.encode())
    rest = topic + (2 if packet.qos else 0) + properties + len(packet.payload)
    length = next(count for count in (1, 2, 3, 4) if count == 4 or rest < 1 << 7 * count)
    return 1 + length + rest


def _certificate_fault(broker: Broker, error: ssl.SSLCertVerificationError) -> str:
    """The sentence for a broker whose certificate does not check out."""
    reason = error.verify_message.rstrip(".")
    if "mismatch" in reason:
        advice = "connect by the name that is in its certificate"
    elif "expired" in reason or "not yet valid" in reason:
        advice = "renew the certificate, or set this machine's clock"
    else:
        advice = "give the certificate of the CA that signed it as cafile"
    return f"the certificate of {broker} cannot be trusted ({reason}); {advice}"
