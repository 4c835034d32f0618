"""Both backends, and clips whose every pixel is known."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError

Writer = Callable[..., Path]


def absent(backend: str) -> str:
    """Why ``backend`` cannot run here; empty when it can."""
    try:
        if backend == "gstreamer":
            from edgepose.gst import gst

            gst()
        else:
            from edgepose.sources.pyav import av

            av()
    except EdgeposeError as error:
        return str(error)
    return ""


@pytest.fixture(params=["gstreamer", "pyav"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn."""
    if why := absent(request.param):
        pytest.skip(why)
    return str(request.param)


def picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Frame ``index`` of the clips: columns in B, rows in G, the index in R."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = (np.arange(width) * 3 + index) % 256
    image[..., 1] = (np.arange(height)[:, None] * 5 + index) % 256
    image[..., 2] = (index * 7) % 256
    return image


@pytest.fixture(scope="session")
def write_clip(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Write a lossless clip (FFV1 in Matroska) of ``frames`` known pictures, with a sound track if wanted."""
    av = pytest.importorskip("av")

    def write(
        *, frames: int = 20, width: int = 64, height: int = 48, fps: int = 25, sound: bool = False, layout: str = "bgr0"
    ) -> Path:
        path = tmp_path_factory.mktemp("clip") / "known clip.mkv"
        with av.open(str(path), "w") as container:
            video = container.add_stream("ffv1", rate=fps)
            video.width, video.height, video.pix_fmt = width, height, layout
            audio = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound else None
            for index in range(frames):
                if audio is not None:
                    samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000 // fps), np.int16), "s16", "mono")
                    samples.sample_rate, samples.pts = 8000, index * (8000 // fps)
                    container.mux(audio.encode(samples))
                frame = av.VideoFrame.from_ndarray(picture(index, width, height), "bgr24").reformat(format=layout)
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
            if audio is not None:
                container.mux(audio.encode(None))
        return path

    return write
