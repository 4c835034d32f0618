"""The live status line of ``edgepose run``: on a terminal one line that is rewritten, elsewhere one every 5 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from types import TracebackType
from typing import IO, Any, cast

from rich.console import Console
from rich.live import Live
from rich.text import Text

from edgepose.app import Parts
from edgepose.camera import Snapshot
from edgepose.console import say

EVERY = 5.0  # seconds between lines where there is no terminal


class _Unheard:
    """A text stream for which it is no fault that nobody reads it any more, as a terminal that was closed."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class StatusLine:
    """A context manager; ``attach`` says whose state to show."""

    def __init__(self) -> None:
        self._console = Console(file=cast("IO[str]", _Unheard(sys.stderr or StringIO())))  # None: it was closed before
        self._parts: Parts | None = None
        self._live: Live | None = None
        self._next = time.monotonic() + EVERY

    def __enter__(self) -> StatusLine:
        # What FORCE_COLOR calls a terminal may be a file, and in a dumb one no line can be rewritten.
        if self._console.is_terminal and self._console.file.isatty() and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._text,
                refresh_per_second=4,
                transient=True,
                # Else rich would send JSON lines to the terminal.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def attach(self, parts: Parts) -> Callable[[], None]:
        """Show the state of ``parts``; returns what is to be called after every frame."""
        self._parts = parts
        return self._frame_done

    def _text(self) -> Text:
        return Text("starting" if self._parts is None else line(self._parts.loop.snapshot()), no_wrap=True)

    def _frame_done(self) -> None:
        if self._live is None and self._parts is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            say(line(self._parts.loop.snapshot()))


def line(now: Snapshot) -> str:
    """fps, latency, drops, people, broker: as one line."""
    latency = (
        "latency -"
        if now.latency_p50_ms is None or now.latency_p95_ms is None
        else f"latency {now.latency_p50_ms:.0f}/{now.latency_p95_ms:.0f} ms (p50/p95)"
    )
    return (
        f"{now.fps:5.1f} fps | {latency} | dropped {now.dropped_frames} frames, {now.dropped_messages} messages | "
        f"people {now.people} | broker {now.broker} | frame {now.frames}"
    )
