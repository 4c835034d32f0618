"""A recording: JSON lines, one message each, appended."""

from __future__ import annotations

from pathlib import Path

from edgepose.errors import EdgeposeError
from edgepose.files import kind
from edgepose.messages import Message, encode


class RecordingSink:
    """Appends every message to ``path`` and hands it to the system at once: a crash costs the last line at most."""

    def __init__(self, path: Path) -> None:
        if kind(path.parent) != "folder":
            raise EdgeposeError(f"folder {path.parent} for the recording {path.name} does not exist; create it first")
        self._path = path
        try:
            self._file = path.open("ab+")
            if self._file.seek(0, 2) > 0:
                self._file.seek(-1, 2)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")  # a crash cut the last line: keep it apart from ours
        except OSError as error:
            raise self._fault(error) from error

    def publish(self, message: Message) -> None:
        """Write one line; EdgeposeError when the disk is full or gone."""
        try:
            self._file.write(encode(message) + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._fault(error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._fault(error) from error

    def _fault(self, error: OSError) -> EdgeposeError:
        return EdgeposeError(
            f"cannot write recording {self._path}: {error.strerror or error}; make room or choose another file"
        )
