"""The package's surface: lazy imports, the choice of backend, --explain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.errors import EdgeposeError
from edgepose.sources import explain, open_source, parse

WITHOUT = """
import sys
for name in {absent!r}:
    sys.modules[name] = None  # as if it were not installed
import edgepose.sources as s
assert not [m for m in ("gi", "av") if sys.modules.get(m)], "imported too early"
from edgepose.errors import EdgeposeError
try:
    {what}
except EdgeposeError as error:
    print("refused:", error)
"""


def without(absent: list[str], what: str) -> str:
    code = WITHOUT.format(absent=absent, what=what)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[:2000]
    assert "CRITICAL" not in done.stderr
    return done.stdout.strip()


def test_nothing_heavy_is_imported() -> None:
    assert without([], "print('ok')") == "ok"


def test_without_gstreamer_it_is_pyav() -> None:
    pytest.importorskip("av")
    name = "type(s.open_source('videotest://')).__name__"
    show = f"print(s.explain('rtsp://h/x')); print({name}); print(s.cameras() is not None)"
    lines = without(["gi"], show).splitlines()
    assert lines[0].startswith("av.open('rtsp://h/x'")
    assert lines[1:] == ["PyAVSource", "True"]
    assert "run: sudo apt install python3-gi" in without(["gi"], "s.open_source('csi://0')")
    assert "run: sudo apt install python3-gi" in without(["gi"], "s.open_source('videotest://', backend='gstreamer')")


def test_without_both(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    show = f"print(len(list(s.open_source('images:{tmp_path}')))); s.open_source('videotest://')"
    assert without(["gi", "av"], show).splitlines() == [
        "1",
        "refused: PyAV is needed to read video without GStreamer but is not installed; run: pip install av",
    ]


def test_frames_that_live_to_the_end_of_the_interpreter() -> None:
    pytest.importorskip("gi")
    cycle = "s = s.open_source('videotest://', backend='gstreamer'); x = [s, [s.read() for _ in range(5)]]; x.append(x)"
    assert without([], cycle) == ""


def test_explain_is_the_description_and_hides_secrets(backend: str) -> None:
    with open_source("videotest://?frames=1&live=no", backend=backend) as source:
        assert source.description == explain("videotest://?frames=1&live=no", backend=backend)
    text = explain("rtsp://me:hush%20now@h/x?token=hush", backend=backend)
    assert "hush" not in text
    assert "***" in text
    assert "me" in text


def test_pyav_logging_stays_off() -> None:
    """On, it deadlocks the process when a clip is closed in its middle, once in some hundred times."""
    av = pytest.importorskip("av")
    with open_source("videotest://?frames=1&live=no", backend="pyav") as source:
        assert source.read() is not None
        assert av.logging.get_level() is None


def test_explain_needs_no_camera() -> None:
    assert explain("images:/somewhere") == "the pictures in /somewhere, in name order"
    assert explain("v4l2:///dev/video97", backend="pyav").startswith("av.open('/dev/video97', format='v4l2'")


def test_names() -> None:
    with open_source("videotest://?frames=1&live=no", camera="Front Door") as source:
        assert source.camera == "front-door"
        assert next(iter(source)).camera == "front-door"
    assert parse("csi://1").camera == "csi1"
    with pytest.raises(EdgeposeError, match="unknown source scheme"):
        open_source("vidoetest://")


def test_a_test_picture_that_pyav_lacks_is_refused() -> None:
    assert "smptebars" in explain("videotest://?pattern=smpte", backend="pyav")
    with pytest.raises(
        EdgeposeError, match="PyAV has no test picture 'snow', which needs GStreamer; it has ball, smpte"
    ):
        explain("videotest://?pattern=snow", backend="pyav")


def test_a_playlist_is_no_film(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("#EXTM3U\nhttp://10.0.0.1/secret.ts\n")
    for backend in ("gstreamer", "pyav"):
        with pytest.raises(EdgeposeError, match="film.mp4 is a playlist, which fetches what it names"):
            open_source(str(tmp_path / "film.mp4"), backend=backend)
