"""What a source hands out: one image and when it was taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from edgepose.picture import YUV, Picture, to_bgr


@dataclass(frozen=True)
class Frame:
    """One camera image.

    ``picture`` is as the decoder left it, and may be a read-only view of the pipeline's memory: it stays valid as long
    as the Frame is referenced, and whoever draws must copy. So must who keeps many of them: a camera's driver has few
    buffers, and waits for one to come back. ``acquired_ns`` is the UTC time of acquisition in nanoseconds, from the
    pipeline's clock, not from when Python saw it.
    """

    picture: Picture
    acquired_ns: int
    seq: int  # counts what the source produced, dropped frames included, from 0
    camera: str
    monotonic_ns: int | None = None  # the same by ``time.monotonic_ns``, which nobody sets, if it is known

    @property
    def steady_ns(self) -> int:
        """What tells how long lies between a camera's frames, also where UTC was set meanwhile."""
        return self.acquired_ns if self.monotonic_ns is None else self.monotonic_ns

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The picture [H, W, 3] in BGR uint8, converted when it is first asked for; read-only where it came so."""
        plain = not isinstance(self.picture, YUV) and self.picture.shape[2] == 3
        image = self.picture if plain else to_bgr(self.picture)
        return np.asarray(image)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.picture.shape[1], self.picture.shape[0]
