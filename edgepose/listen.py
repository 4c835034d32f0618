"""Print what edgepose publishes: lines for people, or JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from typing import Literal, TextIO
from uuid import uuid4

from paho.mqtt.client import MQTTMessage
from rich.console import Console
from rich.text import Text

from edgepose.backoff import Backoff
from edgepose.console import printable
from edgepose.errors import EdgeposeError
from edgepose.messages import Info, Message, PoseMessage, Status, check_level, decode
from edgepose.mqtt import Broker, LostError, Session
from edgepose.sinks.console import describe
from edgepose.sources.uri import sanitise

Ending = Literal["count", "silence", "stopped", "interrupted", "closed"]
QUIET_S = 5.0  # without a message, retained ones among them, after which one may wonder
_COLOURS = {"online": "bold green", "stopped": "bold yellow", "camera-lost": "bold red", "offline": "bold red"}


def listen(
    broker: Broker,
    *,
    device: str | None = None,
    camera: str | None = None,
    as_json: bool = False,
    count: int | None = None,
    timeout_s: float | None = None,
    every: int = 1,
    until_stopped: bool = False,
    out: TextIO | None = None,
    backoff: Backoff | None = None,
) -> Ending:
    """Print the messages of all cameras below the broker's prefix, or of one device or camera; says why it ended.

    Of each camera's pose messages every ``every``-th is shown. ``count``: after that many pose messages; ``silence``:
    no pose message for ``timeout_s``; ``stopped``: with ``until_stopped``, a camera that was online has stopped;
    ``interrupted``: by Ctrl-C; ``closed``: nobody reads ``out`` any more. A lost connection is taken up again;
    EdgeposeError when the broker refuses us, or cannot be reached at the start.
    """
    if out is None and sys.stdout is None:  # it was closed before we began
        raise EdgeposeError("standard output is closed; nothing can be printed")
    levels = (
        check_level("device", device) if device else "+",
        check_level("camera", sanitise(camera) or camera) if camera else "+",
    )
    base = f"{broker.prefix}/{levels[0]}/{levels[1]}"
    listener = _Listener(out or sys.stdout, as_json, count, timeout_s, every=every, until_stopped=until_stopped)
    backoff = backoff or Backoff()
    failures = 0
    try:
        while True:
            session = Session(broker, f"edgepose-listen-{uuid4().hex[:8]}", on_message=listener.show)
            try:
                return _follow(session, base, listener)
            except LostError as error:
                failures = 1 if session.connected else failures + 1
                if failures == 1 and not session.connected:
                    raise
                delay = backoff.delay(failures)
                listener.note(f"{error}; trying again in {delay:.1f} s")
            finally:
                session.disconnect()
                session.close()
            if listener.ends_within(delay):
                return listener.ending or "silence"
    except KeyboardInterrupt:
        return "interrupted"
    except BrokenPipeError:
        return "closed"
    except OSError as error:
        raise EdgeposeError(f"cannot write to the output: {error.strerror or error}; make room there") from error


def _follow(session: Session, base: str, listener: _Listener) -> Ending:
    """Show what comes in one connection, until the listener has had enough."""
    session.open()
    subscribed, wondered = 0.0, False  # when, monotonic s; whether we told that nothing comes
    while not listener.ending:
        session.step(0.1)
        if subscribed and not (wondered or listener.heard) and time.monotonic() > subscribed + QUIET_S:
            wondered = True
            listener.note(f"nothing came below {base} yet; is that where it is published to? The path of the "
                          "broker's URL must be the same")  # fmt: skip
        if session.connected and not subscribed:
            subscribed = time.monotonic()
            for leaf, qos in (("info", 1), ("status", 1), ("stats", 0), ("poses", 0)):
                session.subscribe(f"{base}/{leaf}", qos)
    return listener.ending


class _Console(Console):
    """rich's console, but a closed pipe is the caller's to deal with and not the end of the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Listener:
    """Prints messages as they come, of each camera's pose messages every ``every``-th, until one of the endings."""

    def __init__(
        self,
        out: TextIO,
        as_json: bool,
        count: int | None,
        timeout_s: float | None,
        *,
        every: int,
        until_stopped: bool,
    ) -> None:
        self._every = every
        self._until_stopped = until_stopped
        self._online: set[tuple[str, str]] = set()  # (device, camera) that were seen online
        self._stopped = False
        self._out = out
        self._as_json = as_json
        self._count = count
        self._timeout_s = timeout_s
        self._poses = Counter[tuple[str, str]]()  # (device, camera) -> pose messages
        self._last_pose = time.monotonic()
        self._console = _Console(file=out, highlight=False, soft_wrap=True)
        self._joints: dict[tuple[str, str], list[str]] = {}  # (device, camera) -> names
        self.heard = False  # whether anything came

    @property
    def ending(self) -> Literal["count", "silence", "stopped"] | None:
        """Why it is over, if it is."""
        if self._stopped:
            return "stopped"
        if self._count is not None and self._poses.total() >= self._count:
            return "count"
        if self._timeout_s is not None and time.monotonic() - self._last_pose > self._timeout_s:
            return "silence"
        return None

    def ends_within(self, seconds: float) -> bool:
        """Sleep for so long, or until it is over without any message; whether it is."""
        left = seconds if self._timeout_s is None else self._last_pose + self._timeout_s - time.monotonic()
        time.sleep(max(0.0, min(seconds, left)))
        return self.ending is not None or left < seconds

    def show(self, arrived: MQTTMessage) -> None:
        """Print one message, or why it is none."""
        self.heard = True
        if self.ending == "count":
            return  # came in one read with the last one asked for
        message: Message | None = None
        fault = ""
        try:
            message = decode(bytes(arrived.payload))
        except EdgeposeError as error:
            fault = str(error)
        of = (message.device, message.camera) if isinstance(message, PoseMessage) else None
        if of and self._poses[of] % self._every:
            pass
        elif self._as_json:
            self._write_json(arrived, message, fault)
        elif message is None:
            self._print(f"{printable(arrived.topic)}: {printable(fault)}", "yellow")
        else:
            self._write_text(message)
        if of:
            self._poses[of] += 1
            self._last_pose = time.monotonic()
        elif isinstance(message, Status):
            self._note_state(message)

    def _note_state(self, status: Status) -> None:
        camera = (status.device, status.camera)
        if status.state == "online":
            self._online.add(camera)
        elif status.state == "stopped" and camera in self._online:
            self._stopped = self._until_stopped

    def note(self, text: str) -> None:
        """Tell people, not programs, about the connection."""
        if not self._as_json:
            self._print(text, "yellow")

    def _write_json(self, arrived: MQTTMessage, message: Message | None, fault: str) -> None:
        line: dict[str, object] = {"topic": arrived.topic, "retained": bool(arrived.retain)}
        if message is None:
            line["error"] = fault
        else:
            line["payload"] = message.model_dump(mode="json", by_alias=True)
        self._out.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._out.flush()

    def _write_text(self, message: Message) -> None:
        camera = (message.device, message.camera)
        if isinstance(message, Info):
            self._joints[camera] = message.joints
        text = describe(message, self._joints.get(camera, ()), time.time_ns())
        self._print(text, _COLOURS[message.state] if isinstance(message, Status) else "")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style))
