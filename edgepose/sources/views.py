"""A pipeline's buffers as pictures, not copied.

Numpy views of the mapped buffer; padding at the end of rows is skipped by stride. The buffer goes back to its pool when
the last view of it is gone, even after the source was closed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.picture import YUV, Picture, samples, yuv_to_bgr
from edgepose.sources.base import SourceLost


@dataclass(frozen=True)
class _Plane:
    """Some of a buffer's samples: those of one plane."""

    index: int  # of the plane, in its format
    shape: tuple[int, ...]  # rows, columns, and samples per pixel where they are of several sorts or all there is


@dataclass(frozen=True)
class _Layout:
    """What caps say of the pictures."""

    planes: list[_Plane]
    strides: list[int]  # bytes from row to row, by plane; where the buffer itself does not say
    offsets: list[int]  # bytes before the plane, likewise
    to_bgr: NDArray[np.float64] | None = None  # None: no YUV
    steps: tuple[int, int] = (1, 1)  # as of YUV
    greys: NDArray[np.uint8] | None = None  # [256] what grey samples stand for, if not for themselves


class Views:
    """The pictures in the samples of one pipeline."""

    def __init__(self, module: Any) -> None:
        """``module``: ``gi.repository.Gst``."""
        self._gst = module
        self._caps: Any = None
        self._layout: _Layout | None = None

    def __call__(self, sample: Any) -> Picture:
        """The picture in ``sample``, in the layout that its caps say; read-only."""
        from gi.repository import GstVideo

        caps = sample.get_caps()
        if self._layout is None or not caps.is_equal(self._caps):
            self._caps, self._layout = caps, _layout(GstVideo, caps)
        layout, buffer = self._layout, sample.get_buffer()
        meta = GstVideo.buffer_get_video_meta(buffer)
        strides, offsets = (meta.stride, meta.offset) if meta else (layout.strides, layout.offsets)
        places = [(plane, strides[plane.index], offsets[plane.index]) for plane in layout.planes]
        memory = np.asarray(_Mapped(self._gst, buffer, max(_end(*place) for place in places)))
        first, *others = (samples(memory[offset:], plane.shape, stride) for plane, stride, offset in places)
        if layout.to_bgr is not None:
            return YUV(first, tuple(others), layout.to_bgr, layout.steps)
        return first if layout.greys is None else layout.greys[first]


def _layout(video: Any, caps: Any) -> _Layout:
    """The layout of pictures with these ``caps``, one of ``pipelines.LAYOUTS``; ``video`` is GstVideo."""
    info = video.VideoInfo.new_from_caps(caps)
    form, strides, offsets = info.finfo, list(info.stride), list(info.offset)
    rows, columns = info.height, info.width
    full = info.colorimetry.range == getattr(video.VideoColorRange, "0_255")
    if not form.flags & video.VideoFormatFlags.YUV:  # BGR or grey
        narrow = form.n_components == 1 and info.colorimetry.range == getattr(video.VideoColorRange, "16_235")
        greys = ((np.arange(256) - 16) * 255 / 219).round().clip(0, 255).astype(np.uint8) if narrow else None
        return _Layout([_Plane(0, (rows, columns, form.pixel_stride[0]))], strides, offsets, greys=greys)
    _, red, blue = video.video_color_matrix_get_Kr_Kb(info.colorimetry.matrix)
    across, down = form.w_sub[1], form.h_sub[1]  # binary logarithms
    shape = (-(-rows >> down), -(-columns >> across), *((2,) if form.n_planes == 2 else ()))
    chroma = [_Plane(index, shape) for index in range(1, form.n_planes)]
    to_bgr = yuv_to_bgr(red, blue, full_range=full)
    return _Layout([_Plane(0, (rows, columns)), *chroma], strides, offsets, to_bgr, (1 << across, 1 << down))


def _end(plane: _Plane, stride: int, offset: int) -> int:
    """The byte after the plane's last one."""
    return offset + stride * (plane.shape[0] - 1) + math.prod(plane.shape[1:])


class _Mapped:
    """A mapped buffer's first ``size`` bytes, which numpy sees as an array; unmapped when the last array is gone."""

    def __init__(self, module: Any, buffer: Any, size: int) -> None:
        self._buffer = buffer
        mapped = buffer.map(module.MapFlags.READ)
        self._info = mapped[1] if isinstance(mapped, tuple) else mapped  # a tuple where the overrides are absent
        data = self._data = self._info.data
        if data is None or len(data) < size:
            raise SourceLost("the pipeline handed out a frame that is shorter than its caps say; update GStreamer")
        self.__array_interface__ = {
            "data": (np.frombuffer(data, np.uint8).ctypes.data, True),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self, exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # PyGObject is taken down before the last frames are; calling it then crashes, and memory is free anyway.
        if getattr(self, "_info", None) and not exiting():
            self._buffer.unmap(self._info)
