"""Files, for real: every frame, the right pixels, the right times; and pictures in a folder."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.picture import YUV
from edgepose.redact import without_secrets
from edgepose.sources import SourceLost, base, open_source
from edgepose.sources.images import ImagesSource, read_picture
from edgepose.sources.uri import SourceSpec
from tests.sources.conftest import Writer, absent, picture

MS = 1_000_000


def read_all(uri: str, backend: str) -> list[Frame]:
    with open_source(uri, backend=backend) as source:
        return list(source)


@pytest.mark.parametrize(("width", "sound"), [(64, False), (61, True), (62, False), (63, False)])
def test_every_frame_and_pixel(write_clip: Writer, backend: str, width: int, sound: bool) -> None:
    path = write_clip(frames=37, width=width, sound=sound)
    before = time.time_ns()
    with open_source(str(path), backend=backend) as source:
        assert not source.live
        assert source.camera == "known-clip"
        frames = list(source)
        assert source.dropped == 0
        assert source.read() is None
    after = time.time_ns()
    assert [f.seq for f in frames] == list(range(37))
    for f in frames:
        assert f.image.dtype == np.uint8
        np.testing.assert_array_equal(f.image, picture(f.seq, width, 48))
    assert before <= frames[0].acquired_ns <= after
    steps = np.array([f.acquired_ns - frames[0].acquired_ns for f in frames]) / MS
    np.testing.assert_allclose(steps, np.arange(37) * 40, atol=1.001)  # Matroska keeps milliseconds


def test_a_slow_reader_loses_nothing(write_clip: Writer, backend: str) -> None:
    with open_source(str(write_clip(frames=12)), backend=backend) as source:
        seen = []
        while (frame := source.read()) is not None:
            seen.append(frame.seq)
            time.sleep(0.02)
    assert seen == list(range(12))


def test_pictures_are_views_that_outlive_the_source(write_clip: Writer, backend: str) -> None:
    source = open_source(str(write_clip(frames=30, width=61)), backend=backend)
    kept = []
    first_row = None
    while (frame := source.read()) is not None:
        assert isinstance(frame.picture, np.ndarray)
        assert not frame.picture.flags.owndata
        if frame.seq == 3:
            first_row = frame.picture[:1, :, :3]  # a view of the view keeps the memory, too
            address = frame.picture.ctypes.data
        if frame.seq % 5 == 0:
            kept.append(frame)
    source.close()
    del source, frame
    gc.collect()
    [bytearray(1 << 16) for _ in range(64)]  # what would write over freed memory
    for f in kept:
        np.testing.assert_array_equal(f.image, picture(f.seq, 61, 48))
    assert first_row is not None
    assert first_row.ctypes.data == address
    np.testing.assert_array_equal(first_row, picture(3, 61, 48)[:1])


def planes_of(frame: Frame) -> list[NDArray[np.uint8]]:
    """What a frame's picture consists of."""
    return [frame.picture.luma, *frame.picture.chroma] if isinstance(frame.picture, YUV) else [frame.picture]


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [
        ("bgr0", [(48, 61, 4)]),
        ("yuv420p", [(48, 61), (24, 31), (24, 31)]),
        ("yuv422p", [(48, 61), (48, 31), (48, 31)]),
        ("yuv444p", [(48, 61)] * 3),
    ],
)
def test_gstreamer_copies_nothing_and_gives_buffers_back(
    write_clip: Writer, layout: str, sizes: list[tuple[int, ...]]
) -> None:
    pytest.importorskip("gi")
    from edgepose.sources.views import _Mapped

    with open_source(str(write_clip(frames=60, width=61, layout=layout)), backend="gstreamer") as source:
        addresses = set()
        for frame in source:
            assert [plane.shape for plane in planes_of(frame)] == sizes
            assert frame.size == (61, 48)
            for plane in planes_of(frame):
                base = plane.base
                while not isinstance(base, _Mapped):
                    base = base.base
                raw = np.frombuffer(base._data, np.uint8)
                assert np.shares_memory(plane, raw)
                assert not plane.flags.writeable
                assert plane.strides[1:] == {3: (4, 1), 2: (1,)}[plane.ndim]
                assert plane.strides[0] % 4 == 0
                assert plane.ndim == 3 or plane.strides[0] > plane.shape[1]  # rows of 61 and 31 are padded
                addresses.add(plane.ctypes.data)
                del raw, base, plane
    assert len(addresses) < 30 * len(sizes)  # the pool's memory comes round again, so nothing is leaked


@pytest.mark.parametrize(("colours", "white"), [("", 235), (",colorimetry=bt709", 255), (",colorimetry=1:4:0:0", 235)])
def test_grey_of_a_camera_that_uses_less_than_all_values(colours: str, white: int) -> None:
    """``bt709`` says that black is 16 and white 235."""
    if why := absent("gstreamer"):
        pytest.skip(why)
    from edgepose.gst import gst
    from edgepose.sources.views import Views

    module = gst()
    data = np.full((48, 64), 235, np.uint8)
    caps = module.Caps.from_string(f"video/x-raw,format=GRAY8,width=64,height=48,framerate=25/1{colours}")
    view = Views(module)(module.Sample.new(module.Buffer.new_wrapped(data.tobytes()), caps, None, None))
    assert isinstance(view, np.ndarray)
    assert view.shape == (48, 64, 1)
    assert (view == white).all()


READING = """
import resource, sys
from edgepose.sources import open_source

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def read(frames):
    uri = f"videotest://?live=no&frames={frames}&width=640&height=480"
    with open_source(uri, backend=sys.argv[1]) as source:
        assert sum(1 for _ in source) == frames

read(30)
before = peak_mib()
read(300)
print(peak_mib() - before)
"""


def test_memory_does_not_grow(backend: str) -> None:
    """In a process of its own, whose peak is of nothing else."""
    done = subprocess.run([sys.executable, "-c", READING, backend], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MiB; 270 frames more that are kept would be 237, or 119 as YUV


def test_loop_goes_on_with_rising_times(write_clip: Writer, backend: str) -> None:
    path = write_clip(frames=5)
    with open_source(f"file://{path}?loop=true".replace(" ", "%20"), backend=backend) as source:
        frames = [source.read() for _ in range(13)]
    assert all(f is not None for f in frames)
    good = [f for f in frames if f is not None]
    assert [f.seq for f in good] == list(range(13))
    for f in good:
        np.testing.assert_array_equal(f.image, picture(f.seq % 5, 64, 48))
    steps = np.diff([f.acquired_ns for f in good]) / MS
    np.testing.assert_allclose(steps, 40, atol=2)


def raw_mjpeg(folder: Path, frames: int = 40) -> Path:
    """JPEG pictures one after the other, without any times; they get brighter by 5."""
    path = folder / "film.mjpeg"
    encoded = [cv2.imencode(".jpg", np.full((48, 64, 3), 5 * n, np.uint8))[1].tobytes() for n in range(frames)]
    path.write_bytes(b"".join(encoded))
    return path


def test_fps_of_a_film_without_times_leaves_its_pace(tmp_path: Path, backend: str) -> None:
    whole = read_all(str(raw_mjpeg(tmp_path)), backend)
    assert len(whole) == 40
    step = (whole[-1].acquired_ns - whole[0].acquired_ns) / 39
    some = read_all(f"file://{raw_mjpeg(tmp_path)}?fps=10".replace(" ", "%20"), backend)
    assert 10 <= len(some) <= 20
    for frame in some:
        number = round(frame.image.mean() / 5)
        assert (frame.acquired_ns - some[0].acquired_ns) / step == pytest.approx(number, abs=0.2)


def test_a_film_without_a_way_back_is_not_looped(tmp_path: Path, backend: str) -> None:
    path, seen = raw_mjpeg(tmp_path, 5), 0
    with open_source(f"file://{path}?loop=true".replace(" ", "%20"), backend=backend) as source:
        try:
            while seen < 12 and source.read() is not None:
                seen += 1
        except EdgeposeError as error:
            assert "film.mjpeg cannot be played again from its start; leave 'loop' out, or put it" in str(error)  # noqa: PT017
            assert seen == 5
        else:
            assert seen == 12  # it has one, then


def test_realtime_plays_at_its_pace_and_drops(write_clip: Writer, backend: str) -> None:
    path = write_clip(frames=30, fps=25)
    with open_source(f"file://{path}?realtime=true".replace(" ", "%20"), backend=backend) as source:
        assert source.live
        start = time.monotonic()
        frames = []
        while (frame := source.read()) is not None:
            assert abs(time.time_ns() - frame.acquired_ns) < 500 * MS
            frames.append(frame)
            time.sleep(0.15)
        assert time.monotonic() - start > 1.0  # 30 frames at 25 / s
        assert source.dropped > 5
        assert frames[-1].seq + 1 == len(frames) + source.dropped
    for f in frames:
        np.testing.assert_array_equal(f.image, picture(f.seq, 64, 48))


def test_fps_leaves_frames_out(write_clip: Writer, backend: str) -> None:
    path = write_clip(frames=40, fps=20)
    frames = read_all(f"file://{path}?fps=5".replace(" ", "%20"), backend)
    assert 9 <= len(frames) <= 11
    steps = np.diff([f.acquired_ns for f in frames]) / MS
    np.testing.assert_allclose(steps, 200, atol=2)


def test_size_and_rotation(write_clip: Writer, backend: str) -> None:
    path = str(write_clip(frames=2)).replace(" ", "%20")
    turned = read_all(f"file://{path}?rotate=90", backend)[1].image
    np.testing.assert_array_equal(turned, np.rot90(picture(1, 64, 48), -1))
    assert read_all(f"file://{path}?rotate=270&width=24&height=32", backend)[0].image.shape == (32, 24, 3)


@pytest.mark.parametrize("layout", ["yuv422p", "yuv410p", "gray", "yuv420p10le"])
def test_layouts_that_cannot_be_turned_as_they_are(write_clip: Writer, layout: str) -> None:
    for why in filter(None, map(absent, ("gstreamer", "pyav"))):
        pytest.skip(why)
    path = str(write_clip(frames=2, width=64, layout=layout)).replace(" ", "%20")
    for options in ("", "?rotate=90"):
        ours, theirs = (read_all(f"file://{path}{options}", backend)[1].image for backend in ("gstreamer", "pyav"))
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 4


def test_a_phone_clip_stands_upright(tmp_path: Path, backend: str) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[:, :32] = 255  # the left half is white
        for packet in video.encode(av.VideoFrame.from_ndarray(image, "bgr24")):
            container.mux(packet)
        container.mux(video.encode(None))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the track's matrix: turn clockwise by 90 degrees
    for i, value in enumerate([0, 0x10000, 0, -0x10000 & 0xFFFFFFFF, 0, 0, 48 << 16, 0, 0x40000000]):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, "big")
    path.write_bytes(data)
    [frame] = read_all(str(path), backend)
    assert frame.image.shape == (64, 48, 3)
    assert frame.image[:28].min() > 200  # left has become top
    assert frame.image[36:].max() < 50


def test_no_file_no_video_no_clip(tmp_path: Path, backend: str) -> None:
    with pytest.raises(EdgeposeError, match=r"nowhere\.mp4 does not exist; check the path"):
        open_source(str(tmp_path / "nowhere.mp4"), backend=backend)
    with pytest.raises(EdgeposeError, match="parameters need the form file:///"):
        open_source(str(tmp_path / "nowhere.mp4?loop=1"), backend=backend)
    with pytest.raises(EdgeposeError, match="is a folder; for a folder of pictures write images:"):
        open_source(str(tmp_path), backend=backend)
    (tmp_path / "text.mp4").write_text("this is no video at all, but it is long enough\n" * 20)
    with pytest.raises(EdgeposeError, match=r"text\.mp4") as caught:
        read_all(str(tmp_path / "text.mp4"), backend)
    assert "\n" not in str(caught.value)
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        container.mux(audio.encode(samples))
        container.mux(audio.encode(None))
    with pytest.raises(EdgeposeError, match=r"sound\.mkv") as caught:
        read_all(str(tmp_path / "sound.mkv"), backend)
    assert "\n" not in str(caught.value)


def test_a_clip_cut_short_still_gives_its_frames(write_clip: Writer, tmp_path: Path, backend: str) -> None:
    whole = write_clip(frames=20).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) // 2])
    frames = []
    with contextlib.suppress(SourceLost), open_source(str(cut), backend=backend) as source:
        frames.extend(source)
    assert 5 <= len(frames) < 20
    np.testing.assert_array_equal(frames[4].image, picture(4, 64, 48))


def test_the_demo_clip(clip: Path, backend: str) -> None:
    if not clip.is_file():
        pytest.skip(f"{clip} is not there")
    with open_source(str(clip), backend=backend) as source:
        frames = [frame for frame, _ in zip(source, range(50), strict=False)]
    expected = cv2.VideoCapture(str(clip))
    for frame in frames[:10]:
        there, image = expected.read()
        assert there
        assert np.abs(frame.image.astype(int) - image).mean() < 6  # colour matrices differ a little
    assert np.all(np.diff([f.acquired_ns for f in frames]) > 0)


# --- pictures -----------------------------------------------------------------------------------------


def test_images(tmp_path: Path) -> None:
    for i, suffix in enumerate(["png", "bmp", "PNG"]):
        cv2.imwrite(str(tmp_path / f"{i}.{suffix}"), picture(i, 61 + i, 48))
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(f"images://{tmp_path}?fps=10&name=Gallery") as source:
        frames = list(source)
        assert source.camera == "gallery"
        assert source.read() is None
    assert [f.seq for f in frames] == [0, 1, 2]
    assert [(f.acquired_ns - frames[0].acquired_ns) // MS for f in frames] == [0, 100, 200]
    for f in frames:
        np.testing.assert_array_equal(f.image, picture(f.seq, 61 + f.seq, 48))
    with open_source(f"images:{tmp_path}?loop=1") as source:
        assert [f.image.shape[1] for f, _ in zip(source, range(4), strict=False)] == [61, 62, 63, 61]
        source.close()
        assert source.read() is None


def test_images_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EdgeposeError, match="holds no picture"):
        open_source(f"images://{tmp_path}")
    with pytest.raises(EdgeposeError, match="does not exist"):
        open_source(f"images://{tmp_path}/nowhere")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG but no more")
    with open_source(f"images://{tmp_path}") as source, pytest.raises(EdgeposeError, match=r"bad\.png cannot be read"):
        source.read()


def turned_film(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """A film of 96 x 64 px, white at the top left, with a display matrix a, b, c, d: x' = a x + c y, y' = b x + d y."""
    av = pytest.importorskip("av")
    image = np.full((64, 96, 3), 60, np.uint8)
    image[:24, :24] = 255
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt, video.bit_rate = 96, 64, "yuv420p", 2_000_000
        for _ in range(3):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(video.encode())
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # version, flags, times, id, duration, layer, group, volume
    rows = (matrix[0], matrix[1], 0, matrix[2], matrix[3], 0, 0, 0, 1 << 14)
    data[at : at + 36] = b"".join((v << 16).to_bytes(4, "big", signed=True) for v in rows)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
    ],
    ids=["as it is", "90", "180", "270", "mirrored", "upside down, mirrored", "transposed"],
)
def test_a_film_is_shown_as_it_was_filmed(tmp_path: Path, backend: str, matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    image = read_all(str(turned_film(tmp_path / "film.mp4", matrix)), backend)[0].image
    assert image.shape[:2] == ((64, 96) if a else (96, 64))
    right, below = (a < 0 or c < 0), (b < 0 or d < 0)
    corners = {
        (down, along): int(image[-12 if down else 12, -12 if along else 12].mean())
        for down in (False, True)
        for along in (False, True)
    }
    assert max(corners, key=lambda corner: corners[corner]) == (below, right)


def test_a_pause_in_a_film_is_no_lost_camera(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    av = pytest.importorskip("av")
    monkeypatch.setattr(base, "LIVE_TIMEOUT", 0.3)
    monkeypatch.setattr(base, "FIRST_FRAME_TIMEOUT", 0.3)
    path = tmp_path / "screen.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=1000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        for pts in (0, 100, 1600):
            frame = av.VideoFrame.from_ndarray(picture(pts % 7, 64, 48), format="bgr24")
            frame.pts = pts
            container.mux(video.encode(frame))
        container.mux(video.encode())
    with open_source(f"file://{path}?realtime=true", backend=backend) as source:
        assert len(list(source)) == 3


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "1.png").write_bytes(cv2.imencode(".png", picture(3, 64, 48))[1].tobytes())
    with ImagesSource(SourceSpec("images", str(folder), {}, live=False, camera="cam")) as source:
        frame = source.read()
        assert "caf\\udce9" in without_secrets(source.description)  # as the info message tells it, in UTF-8
    assert frame is not None
    assert np.array_equal(frame.image, picture(3, 64, 48))


def test_a_picture_that_claims_too_many_pixels_is_none(tmp_path: Path) -> None:
    path = tmp_path / "vast.png"
    data = bytearray(cv2.imencode(".png", picture(3, 64, 48))[1].tobytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2  # width and height, and the checksum of their chunk
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    assert read_picture(path) is None


def test_an_error_is_kept_until_it_is_told() -> None:
    pytest.importorskip("gi")
    with open_source("videotest://?width=64&height=48&fps=10", backend="gstreamer") as source:
        from gi.repository import GLib, Gst

        assert source.read() is not None
        pipeline = source._pipeline
        pipeline.get_bus().post(Gst.Message.new_latency(pipeline))
        fault = GLib.Error.new_literal(Gst.StreamError.quark(), "the real reason", 1)
        pipeline.get_bus().post(Gst.Message.new_error(pipeline, fault, "x"))
        source._watch_bus()
        pipeline.get_bus().post(Gst.Message.new_latency(pipeline))
        source._watch_bus()
        assert "the real reason" in str(source._error)


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    image = np.full((20, 40, 3), 60, np.uint8)
    image[:8, :8] = 255
    plain = cv2.imencode(".jpg", image)[1].tobytes()
    turned = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: a quarter clockwise
    exif = b"\xff\xe1" + (len(turned) + 8).to_bytes(2, "big") + b"Exif\0\0" + turned
    path = tmp_path / "phone.jpg"
    path.write_bytes(plain[:2] + exif + plain[2:])
    shown = read_picture(path)
    assert shown is not None
    assert shown.shape == (40, 20, 3)
    assert shown[4, -4].mean() > 200


def test_gstreamer_says_that_it_takes_no_name_that_is_not_utf8(tmp_path: Path) -> None:
    if why := absent("gstreamer"):
        pytest.skip(why)
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mkv")
    Path(path).write_bytes(b"x")
    with pytest.raises(EdgeposeError, match="no name that is not UTF-8; rename it, or use --backend pyav"):
        open_source(path, backend="gstreamer")
