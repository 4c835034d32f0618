"""Pictures of both backends: the same planes and colours, and memory that stays while somebody looks at it."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from edgepose.picture import YUV, to_bgr
from edgepose.sources import uri as uris
from tests.sources.conftest import Writer, absent, picture
from tests.sources.test_files import planes_of, read_all


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
def test_colours_are_as_libav_has_them(write_clip: Writer, layout: str, backend: str) -> None:
    av = pytest.importorskip("av")

    # Padded rows; of an odd width libav gets the last column wrong.
    path = str(write_clip(frames=3, width=62, layout=layout))
    with av.open(path) as container:
        theirs = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    for ours, image in zip(read_all(path, backend), theirs, strict=True):
        assert isinstance(ours.picture, YUV)
        assert np.abs(ours.image.astype(int) - image).mean() < 2  # libav rounds off, and smooths chroma


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
@pytest.mark.parametrize(("width", "height"), [(62, 47), (64, 720)])
def test_both_backends_give_the_same_planes(write_clip: Writer, layout: str, width: int, height: int) -> None:
    """And take them for the same colours, also of a film that does not say which.

    Of an odd width GStreamer does not write 4:2:2's last column of chroma.
    """
    for why in filter(None, map(absent, ("gstreamer", "pyav"))):
        pytest.skip(why)
    path = str(write_clip(frames=3, width=width, height=height, layout=layout))
    for one, other in zip(read_all(path, "gstreamer"), read_all(path, "pyav"), strict=True):
        assert isinstance(one.picture, YUV)
        assert isinstance(other.picture, YUV)
        assert one.picture.steps == other.picture.steps
        np.testing.assert_allclose(one.picture.to_bgr, other.picture.to_bgr, atol=1e-9)
        for a, b in zip(planes_of(one), planes_of(other), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", ["yuv420p", "yuv420p10le", "bgr0"])
@pytest.mark.parametrize(("options", "height"), [("", 720), ("?rotate=180", 720), ("?rotate=180", 48)])
def test_both_backends_have_the_same_colours(write_clip: Writer, layout: str, options: str, height: int) -> None:
    """Also where libav converts: a picture that is turned, or of more than 8 bits."""
    for why in filter(None, map(absent, ("gstreamer", "pyav"))):
        pytest.skip(why)
    uri = f"file://{write_clip(frames=3, height=height, layout=layout)}{options}".replace(" ", "%20")
    for one, other in zip(read_all(uri, "gstreamer"), read_all(uri, "pyav"), strict=True):
        assert np.abs(one.image.astype(int) - other.image).mean() < 3  # of the other standard they would be 7 apart


def test_what_is_a_drivers_memory_is_copied() -> None:
    """libav unmaps a V4L2 camera's buffers when it is closed, whoever looks at them."""
    av = pytest.importorskip("av")
    from edgepose.sources.pyav import PyAVSource

    frame = av.VideoFrame.from_ndarray(picture(3, 62, 48), "bgr24").reformat(format="yuv420p")
    for uri, copied in (("v4l2:///dev/video9", True), ("v4l2:///dev/video9?format=mjpeg", False)):
        with contextlib.closing(PyAVSource(uris.parse(uri))) as source:
            assert isinstance(source._picture(frame), YUV) is not copied


@pytest.mark.parametrize("layout", ["yuv420p", "nv12", "yuvj422p"])
def test_libavs_frames_are_not_copied_and_stay_as_they_are(layout: str) -> None:
    av = pytest.importorskip("av")
    from edgepose.sources.planes import yuv_of

    def made(index: int) -> Any:
        return av.VideoFrame.from_ndarray(picture(index, 61, 47), "bgr24").reformat(format=layout)

    frame = made(3)
    theirs = frame.to_ndarray(format="bgr24")
    found = yuv_of(frame)
    assert found is not None
    assert found.shape == (47, 61, 3)
    assert found.chroma[0].shape[:2] == (-(-47 // found.steps[1]), 31)
    assert np.shares_memory(found.luma, np.frombuffer(frame.planes[0], np.uint8))
    assert not found.luma.flags.writeable
    del frame
    others = [made(index) for index in range(4, 40)]  # would take its memory, if that were free
    assert np.abs(to_bgr(found).astype(int) - theirs)[:, :60].mean() < 2  # whose last column libav gets wrong
    del others
    assert yuv_of(av.VideoFrame(62, 48, "yuyv422")) is None
