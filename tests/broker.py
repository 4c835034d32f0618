"""A real mosquitto on a free port in a temporary folder, and a client that watches what it passes on."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

PATIENCE_S = 20.0  # for what takes milliseconds on an idle machine


def program(name: str) -> str:
    """Where a program is; Debian puts mosquitto where only root's PATH looks. Skips the test where it is absent."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return when ``what()`` is true; fail after ``patience_s``."""
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass(frozen=True)
class Certificates:
    """A CA, and a certificate for ``localhost`` and one for a client, signed by it."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, host: str = "localhost") -> Certificates:
        """With the openssl command, into ``folder``."""
        folder.mkdir(parents=True)
        made = cls(folder)
        _openssl(
            folder, "req", "-x509", *_KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=a CA"
        )
        for name, subject in (("server", host), ("client", "a client")):
            (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{host}\n")
            _openssl(folder, "req", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={subject}")
            _openssl(
                folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
            )  # fmt: skip
        return made

    def __getattr__(self, name: str) -> Path:
        """``ca_pem``, ``server_pem``, ``server_key``, ``client_pem``, ``client_key``."""
        return self.folder / name.replace("_", ".")


_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run([program("openssl"), *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


class Mosquitto:
    """A mosquitto of one's own; ``with Mosquitto(tmp_path) as broker: ...``."""

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        acl: str = "",
        tls: Certificates | None = None,
        client_certificates: bool = False,
        more: str = "",
    ) -> None:
        """``more``: lines of its configuration."""
        self.port = free_port()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {self.port} 127.0.0.1", "set_tcp_nodelay true", "user root", "log_type all"]
        lines.append(f"allow_anonymous {'false' if users else 'true'}")
        if users:
            (folder / "passwords").touch()
            for user, password in users.items():
                self.set_password(user, password)
            lines.append(f"password_file {folder / 'passwords'}")
        if acl:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder / 'acl'}")
        if tls:
            lines += [f"cafile {tls.ca_pem}", f"certfile {tls.server_pem}", f"keyfile {tls.server_key}"]
            lines.append(f"require_certificate {'true' if client_certificates else 'false'}")
        lines.append(more)
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        """Without TLS."""
        return f"mqtt://127.0.0.1:{self.port}/"

    @property
    def log(self) -> str:
        """What the broker has said so far."""
        return (self.folder / "mosquitto.log").read_text()

    def set_password(self, user: str, password: str) -> None:
        """From the next start on."""
        command = [program("mosquitto_passwd"), "-b", self.folder / "passwords", user, password]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    def start(self) -> None:
        """Start, and return when the port is open."""
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([program("mosquitto"), "-c", self._config], stdout=log, stderr=log)
        wait_for(self._open)

    def kill(self) -> None:
        """End it at once; what was retained is lost, as nothing is kept on disk."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def allow(self, acl: str) -> None:
        """Another access list, from now on."""
        assert self._process
        (self.folder / "acl").write_text(acl)
        self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """It keeps its connections but does nothing any more."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _open(self) -> bool:
        assert self._process
        assert self._process.poll() is None, f"mosquitto ended: {self.log}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


class Watcher:
    """What arrived on ``topic``, oldest first."""

    def __init__(self, client: paho.Client) -> None:
        self.messages: list[paho.MQTTMessage] = []
        client.on_message = lambda _client, _userdata, message: self.messages.append(message)

    def on(self, leaf: str) -> list[paho.MQTTMessage]:
        """Those whose topic ends with ``leaf``."""
        return [m for m in list(self.messages) if m.topic.endswith(f"/{leaf}")]


@contextlib.contextmanager
def watch(port: int, topic: str = "#", user: tuple[str, str] | None = None) -> Iterator[Watcher]:
    """An MQTT 5 client without edgepose, subscribed to ``topic``, with the name and password of ``user``."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    if user is not None:
        client.username_pw_set(*user)
    watcher = Watcher(client)
    subscribed: list[bool] = []
    client.on_connect = lambda client, *_: client.subscribe(topic, 1)
    client.on_subscribe = lambda *_: subscribed.append(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_for(lambda: subscribed)
        yield watcher
    finally:
        client.disconnect()
        client.loop_stop()
