"""libav's frames as pictures, not copied: numpy views of their planes, which keep the frame's memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgepose.picture import YUV, samples, yuv_to_bgr

# libav's name -> pixels of luma to one of chroma, across and down; "j" says that all values are used, as in JPEG.
_STEPS = {"yuv420p": (2, 2), "yuv422p": (2, 1), "yuv444p": (1, 1), "nv12": (2, 2)}
_FULL = 2  # AVCOL_RANGE_JPEG
# Shares of red and blue in the luma, by libav's AVColorSpace (ITU-T H.273, table 4).
_BT601, _BT709 = (0.299, 0.114), (0.2126, 0.0722)
_SHARES = {1: _BT709, 4: (0.30, 0.11), 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
_UNSAID = 2  # AVCOL_SPC_UNSPECIFIED
_SD_ROWS = 576  # of a film that does not say: up to there BT.601, beyond it BT.709, as GStreamer has it


def yuv_of(frame: Any) -> YUV | None:
    """The picture in an ``av.VideoFrame``, read-only; None where it is not in one of these layouts."""
    name = frame.format.name.replace("yuvj", "yuv")
    if name not in _STEPS or any(plane.line_size < 0 for plane in frame.planes):  # of a film that stands on its head
        return None
    full = name != frame.format.name or frame.color_range == _FULL
    shares = _SHARES.get(int(frame.colorspace), _BT601 if frame.height <= _SD_ROWS else _BT709)
    (across, down), columns, rows = _STEPS[name], frame.width, frame.height
    chroma = (-(-rows // down), -(-columns // across), *((2,) if name == "nv12" else ()))
    luma, *others = (
        samples(np.frombuffer(plane, np.uint8), shape, plane.line_size)
        for plane, shape in zip(frame.planes, [(rows, columns), chroma, chroma], strict=False)
    )
    return YUV(luma, tuple(others), yuv_to_bgr(*shares, full_range=full), (across, down))


def colours_of(frame: Any) -> dict[str, str]:
    """What libav must be told to convert ``frame`` with the colours that :func:`yuv_of` gives it."""
    unsaid = int(frame.colorspace) == _UNSAID and not frame.format.is_rgb
    return {"src_colorspace": "ITU709"} if unsaid and frame.height > _SD_ROWS else {}
