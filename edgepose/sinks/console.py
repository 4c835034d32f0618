"""Messages as lines of text, or as JSON lines for programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from edgepose.console import printable
from edgepose.errors import EdgeposeError
from edgepose.messages import Info, Message, PoseMessage, Stats, Status, encode


class ConsoleSink:
    """One line per message, on standard output unless ``out`` is given; names joints once it has seen the info."""

    def __init__(
        self, *, as_json: bool = False, out: TextIO | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        if out is None and sys.stdout is None:  # it was closed before we began
            raise EdgeposeError("standard output is closed; nothing can be printed")
        self._out = out or sys.stdout
        self._as_json = as_json
        self._clock = clock
        self._joints: Sequence[str] = ()

    def publish(self, message: Message) -> None:
        """Write the line and flush; EdgeposeError when nobody reads any more."""
        if isinstance(message, Info):
            self._joints = message.joints
        line = encode(message).decode() if self._as_json else describe(message, self._joints, self._clock())
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except BrokenPipeError:
            raise EdgeposeError("the program that read our output has ended; nothing more can be printed") from None
        except OSError as error:
            raise EdgeposeError(f"cannot write to the output: {error.strerror or error}; make room there") from error

    def close(self) -> None:
        """Nothing to let go: the stream is not ours."""


def describe(message: Message, joints: Sequence[str], now_ns: int) -> str:
    """``message`` as one printable line; ``joints`` are the names in order, if known."""
    where = f"{message.device}/{message.camera}"
    if isinstance(message, PoseMessage):
        count = len(message.people)
        age = (now_ns - message.acquired_ns) / 1e6
        people = "".join(f" | {person.id}: {_best(person.joints, joints)}" for person in message.people)
        # A file that is read faster than it plays lies in the future: no age then.
        shown = f" {age:.0f} ms," if age >= 0 else ""
        text = f"{where} #{message.seq}{shown} {count} {'person' if count == 1 else 'people'}{people}"
    elif isinstance(message, Status):
        text = f"{where} is {message.state}" + (f": {message.reason}" if message.reason else "")
    elif isinstance(message, Stats):
        p50, p95 = ("-" if ms is None else f"{ms:.0f}" for ms in (message.latency_p50_ms, message.latency_p95_ms))
        text = (
            f"{where} {message.fps:.1f} fps, latency {p50}/{p95} ms (p50/p95), {message.dropped_frames} frames and "
            f"{message.dropped_messages} messages dropped, {message.broker_reconnects} reconnects"
        )
    else:
        model = message.model
        text = f"{where} shows {message.source} through {model.name} ({model.precision}, {model.engine})"
    return printable(text)


def _best(rows: Sequence[tuple[float, ...]], names: Sequence[str], count: int = 3) -> str:
    """The ``count`` joints with the highest score: name x,y (score)."""
    order = sorted(range(len(rows)), key=lambda i: -rows[i][2])[:count]
    known = len(names) == len(rows)
    return ", ".join(
        f"{names[i] if known else f'joint {i}'} {rows[i][0]:.0f},{rows[i][1]:.0f} ({rows[i][2]:.2f})" for i in order
    )
