"""A folder of pictures as a source: every picture once, in name order, at a nominal frame rate."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.files import kind
from edgepose.frame import Frame
from edgepose.sources.base import Base
from edgepose.sources.uri import SourceSpec

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
DEFAULT_FPS = 30


def read_picture(path: Path) -> NDArray[np.uint8] | None:
    """BGR picture [H, W, 3], turned as its EXIF says; None where the file cannot be read or is none.

    ``cv2.imread`` ends the process at a name that is not UTF-8.
    """
    try:
        if not path.is_file():  # a device may never end
            return None
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except (OSError, ValueError):  # ValueError: a name with a null character
        return None
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header that claims more pixels than OpenCV reads
        return None
    return None if image is None else np.asarray(image, np.uint8)


class ImagesSource(Base):
    """Times are start of play + index / fps. Pictures may differ in size."""

    live = False
    reopens = False
    dropped = 0

    def __init__(self, spec: SourceSpec) -> None:
        folder = Path(spec.location)
        if kind(folder) != "folder":
            raise EdgeposeError(f"folder {folder} does not exist; check the path in {spec.redacted()}")
        try:
            self._paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        except OSError as error:
            raise EdgeposeError(
                f"folder {folder} may not be read ({error.strerror}); change its permissions"
            ) from error
        if not self._paths:
            raise EdgeposeError(f"folder {folder} holds no picture ({', '.join(s[1:] for s in SUFFIXES)})")
        self.camera = spec.camera
        self.description = f"{len(self._paths)} pictures in {folder}"
        self._loop = spec.loops
        self._step_ns = 1_000_000_000 // spec.number("fps", DEFAULT_FPS)
        self._start_ns = 0
        self._seq = 0
        self._closed = threading.Event()

    def read(self, timeout: float | None = None) -> Frame | None:
        """The next picture; ``timeout`` has no meaning here."""
        if self._closed.is_set() or (self._seq >= len(self._paths) and not self._loop):
            return None
        if self._seq == 0:
            self._start_ns = time.time_ns()
        path = self._paths[self._seq % len(self._paths)]
        image = read_picture(path)
        if image is None:
            raise EdgeposeError(f"picture {path} cannot be read; replace it or take it out of the folder")
        frame = Frame(image, self._start_ns + self._seq * self._step_ns, self._seq, self.camera)
        self._seq += 1
        return frame

    def close(self) -> None:
        """End it: the next read returns None."""
        self._closed.set()
