"""What every source is, and how one fails.

Sources are read by one thread; ``close()`` may come from any other and ends a blocked ``read``.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

from edgepose.errors import EdgeposeError
from edgepose.files import kind
from edgepose.frame import Frame
from edgepose.sources.uri import SourceSpec

B = TypeVar("B", bound="Base")

FIRST_FRAME_TIMEOUT = 10.0  # s; a camera that starts, or a network that connects, is slower than a running one
LIVE_TIMEOUT = 5.0  # s
FILE_TIMEOUT = 10.0  # s
PACED_TIMEOUT = 86400.0  # s; a film that is played in real time may stand still for as long as its maker liked


def stall_timeout_of(spec: SourceSpec) -> float:
    """Seconds without a frame after which a source has stalled."""
    if spec.kind == "file" and spec.live:
        return PACED_TIMEOUT
    return LIVE_TIMEOUT if spec.live else FILE_TIMEOUT


class SourceLost(EdgeposeError):  # noqa: N818 - a state of the camera, as the status topic names it
    """The pipeline failed: unplugged, refused, ended by the other side, or not decodable."""


class SourceStalled(EdgeposeError):  # noqa: N818
    """No frame came in time, and nobody said why."""


class Source(Protocol):
    """Frames with acquisition times."""

    @property
    def live(self) -> bool:
        """Whether the newest frame wins; otherwise every frame arrives."""

    @property
    def reopens(self) -> bool:
        """Whether opening it again makes sense after a loss: a camera or a stream, not a file."""

    @property
    def camera(self) -> str:
        """The name that its frames carry: ``[a-z0-9_-]``, fit for an MQTT topic level."""

    @property
    def dropped(self) -> int:
        """Frames that the source produced before the last one read, and that nobody read."""

    @property
    def description(self) -> str:
        """How it is read: the exact GStreamer pipeline, or the like. Secrets are masked."""

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next frame (file) or the newest (live); None at the end or after ``close``.

        ``timeout`` in seconds overrides the source's own. SourceStalled when it passes; SourceLost when
        the pipeline fails.
        """

    def close(self) -> None:
        """Free the camera; idempotent, from any thread, and ends a blocked ``read``."""

    def __iter__(self) -> Iterator[Frame]:
        """Read until the end."""

    def __enter__(self) -> Source:
        """The source itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class Base(ABC):
    """Iteration and ``with`` for the sources here."""

    @abstractmethod
    def read(self, timeout: float | None = None) -> Frame | None:
        """See :class:`Source`."""

    @abstractmethod
    def close(self) -> None:
        """See :class:`Source`."""

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self: B) -> B:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def not_again(where: str) -> EdgeposeError:
    """That the film ``where`` was to be played again and has no way back to its start."""
    return EdgeposeError(f"{where} cannot be played again from its start; leave 'loop' out, or put it into a file of "
                         "another kind, such as .mkv")  # fmt: skip


def sentence(text: str, limit: int = 200) -> str:
    """A library's message as the middle of a sentence: one line, no full stop at its end."""
    line = " ".join(text.split())
    return (line if len(line) <= limit else line[: limit - 1] + "…").rstrip(". ")


def check_file(spec: SourceSpec) -> None:
    """EdgeposeError when the file of ``spec`` is not there or may not be read."""
    path = Path(spec.location)
    there = kind(path)
    if there == "folder":
        raise EdgeposeError(f"{path} is a folder; for a folder of pictures write images:{path}")
    if there == "other":
        raise EdgeposeError(f"{path} is a device, no file; a camera is written v4l2://{path}")
    if there != "file":
        hint = "parameters need the form file:///path?key=value" if "?" in spec.location else "check the path"
        raise EdgeposeError(f"file {path} does not exist; {hint}")
    if not os.access(path, os.R_OK):
        raise EdgeposeError(f"file {path} may not be read; change its permissions")
    with path.open("rb") as file:
        if file.read(7) == b"#EXTM3U":
            raise EdgeposeError(f"{path} is a playlist, which fetches what it names; give the URL or the file in it")
