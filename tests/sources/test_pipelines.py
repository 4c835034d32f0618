"""Pipeline strings as text, per machine; and GStreamer's own parser on those whose elements are here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgepose.errors import EdgeposeError
from edgepose.sources.pipelines import pipeline, quoted
from edgepose.sources.uri import parse

DESKTOP = {"jpegdec", "avdec_mjpeg", "videoconvert.n-threads", "decodebin.force-sw-decoders"}
JETSON = DESKTOP | {
    "nvv4l2decoder", "nvv4l2decoder.mjpeg", "nvvidconv", "nvvidconv.interpolation-method", "nvjpegdec",
    "nvarguscamerasrc", "jpegparse",
}  # fmt: skip
NEW = DESKTOP | {"appsink.leaky-type"}

NEWEST = "queue name=newest leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
TAKES = "video/x-raw,format={I420,NV12,Y42B,Y444,BGRx,BGR,GRAY8}"
LIVE = f"{TAKES} ! appsink name=sink sync=false max-buffers=1 drop=true"
CONVERT = f"videoconvert n-threads=2 ! {LIVE}"
TAKEN = (
    'videoconvert n-threads=2 ! capsfilter caps="video/x-raw(memory:NVMM);'
    'video/x-raw,format={NV12,I420,YUY2,UYVY,Y42B,P010_10LE,BGRx,RGBA}"'
)
HARDWARE = f"nvvidconv flip-method=0 ! video/x-raw,format=BGRx ! {CONVERT}"
DECODE = "decodebin expose-all-streams=false caps=video/x-raw(ANY)"
RTSP = 'rtspsrc location="rtsp://h/x" protocols=tcp latency=100 drop-on-latency=true timeout=0 tcp-timeout=5000000'
V4L2 = 'v4l2src device="/dev/video0"'
HTTP = 'souphttpsrc location="http://h/x" is-live=true do-timestamp=true retries=0 timeout=0'

TEXTS = [
    (
        "csi://1?width=1920&height=1080&fps=60&rotate=180",
        JETSON,
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1,format=NV12"
        f" ! {NEWEST} ! nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! {CONVERT}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg&width=1280&height=720&fps=30",
        DESKTOP,
        f"{V4L2} ! image/jpeg,width=1280,height=720,framerate=30/1 ! {NEWEST} ! jpegdec ! {CONVERT}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg",
        JETSON,
        f"{V4L2} ! image/jpeg ! {NEWEST} ! jpegparse ! nvv4l2decoder mjpeg=1 ! {HARDWARE}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg",
        JETSON - {"nvv4l2decoder.mjpeg", "jpegparse"},
        f"{V4L2} ! image/jpeg ! {NEWEST} ! nvjpegdec ! {HARDWARE}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg",
        JETSON | {"nvv4l2decoder.cudadec-memtype"},  # Thor
        f"{V4L2} ! image/jpeg ! {NEWEST} ! jpegparse ! nvjpegdec ! {HARDWARE}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg&decoder=software",
        JETSON,
        f"{V4L2} ! image/jpeg ! {NEWEST} ! jpegdec ! {CONVERT}",
    ),
    (
        "v4l2:///dev/video0?format=raw&fps=15&rotate=90",
        JETSON,
        f"{V4L2} ! video/x-raw,framerate=15/1 ! {NEWEST}"
        f" ! videoconvert n-threads=2 ! videoflip video-direction=90r ! {CONVERT}",
    ),
    (
        "v4l2:///dev/video0?width=640&height=480",
        DESKTOP,
        f'{V4L2} ! capsfilter caps="video/x-raw,width=640,height=480;image/jpeg,width=640,height=480"'
        f" ! {DECODE} ! {NEWEST} ! {CONVERT}",
    ),
    ("rtsp://h/x", DESKTOP, f"{RTSP} ! application/x-rtp,media=video ! {DECODE} ! {NEWEST} ! {CONVERT}"),
    ("rtsp://h/x", JETSON, f"{RTSP} ! application/x-rtp,media=video ! {DECODE} ! {NEWEST} ! {TAKEN} ! {HARDWARE}"),
    ("rtsp://h/x?codec=h265", JETSON, f"{RTSP} ! rtph265depay ! h265parse ! nvv4l2decoder ! {NEWEST} ! {HARDWARE}"),
    (
        "rtsp://h/x?codec=h264&fps=10&width=640&height=360",
        DESKTOP,
        f"{RTSP} ! rtph264depay ! h264parse ! avdec_h264 ! identity name=pace ! {NEWEST}"
        f" ! videoscale ! video/x-raw,width=640,height=360 ! {CONVERT}",
    ),
    (
        "rtsp://me:a%22b@h/x?protocol=udp&latency=0",
        DESKTOP,
        'rtspsrc location="rtsp://h/x" user-id="me" user-pw="a\\"b" protocols=udp latency=0 drop-on-latency=true'
        " timeout=0 tcp-timeout=5000000"
        f" ! application/x-rtp,media=video ! {DECODE} ! {NEWEST} ! {CONVERT}",
    ),
    (
        "http://h/x",
        DESKTOP,
        f"{HTTP} ! multipartdemux single-stream=true ! image/jpeg ! {NEWEST} ! jpegdec ! {CONVERT}",
    ),
    (
        "http://h/x",
        JETSON,
        f"{HTTP} ! multipartdemux single-stream=true ! image/jpeg ! {NEWEST} ! jpegparse ! nvv4l2decoder mjpeg=1"
        f" ! {HARDWARE}",
    ),
    (
        "http://h/x",
        NEW - {"jpegdec", "videoconvert.n-threads"},
        f"{HTTP} ! multipartdemux single-stream=true ! image/jpeg ! {NEWEST} ! avdec_mjpeg ! videoconvert"
        f" ! {TAKES} ! appsink name=sink sync=false max-buffers=1 leaky-type=downstream",
    ),
    (
        "file:///a.mp4?realtime=1",
        DESKTOP,
        f'filesrc location="/a.mp4" ! {DECODE} ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0'
        f" ! videoconvert n-threads=2 ! videoflip video-direction=auto ! videoconvert n-threads=2 ! {TAKES}"
        " ! appsink name=sink sync=true max-buffers=1 drop=true",
    ),
    (
        "file:///a.mp4?rotate=0&decoder=software&fps=5",
        JETSON,
        f'filesrc location="/a.mp4" ! {DECODE} force-sw-decoders=true ! identity name=pace'
        " ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0"
        f" ! {TAKEN} ! nvvidconv flip-method=0 ! video/x-raw,format=BGRx"
        f" ! videoconvert n-threads=2 ! {TAKES} ! appsink name=sink sync=false max-buffers=2",
    ),
    (
        "v4l2:///dev/video0?width=640&height=480",
        JETSON,
        f'{V4L2} ! capsfilter caps="video/x-raw,width=640,height=480;image/jpeg,width=640,height=480"'
        f" ! {DECODE} ! {NEWEST} ! {TAKEN} ! {HARDWARE}",
    ),
    (
        "v4l2:///dev/video0?format=mjpeg&width=640&height=480&rotate=90",
        JETSON,
        f"{V4L2} ! image/jpeg,width=640,height=480 ! {NEWEST} ! jpegparse ! nvv4l2decoder mjpeg=1"
        f" ! nvvidconv flip-method=3 ! video/x-raw,format=BGRx ! {CONVERT}",  # its size, turned
    ),
    (
        "file:///a.mp4?width=360&height=640",  # of the picture as the phone was held: turned first, then made smaller
        JETSON,
        f'filesrc location="/a.mp4" ! {DECODE} ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 ! {TAKEN}'
        " ! nvvidconv ! video/x-raw,format=BGRx ! videoflip video-direction=auto ! videoscale"
        f" ! video/x-raw,width=360,height=640 ! videoconvert n-threads=2 ! {TAKES}"
        " ! appsink name=sink sync=false max-buffers=2",
    ),
    (
        "rtsp://h/x?codec=h264&width=1280&height=720",  # its own default is the nearest pixel
        JETSON,
        f"{RTSP} ! rtph264depay ! h264parse ! nvv4l2decoder ! {NEWEST}"
        f" ! nvvidconv flip-method=0 interpolation-method=1"
        f" ! video/x-raw,format=BGRx,width=1280,height=720 ! {CONVERT}",
    ),
    (
        "rtsp://h/x?codec=h264&decoder=software",
        JETSON,
        f"{RTSP} ! rtph264depay ! h264parse ! avdec_h264 ! {NEWEST} ! {CONVERT}",
    ),
]


@pytest.mark.parametrize(("uri", "machine", "text"), TEXTS, ids=[f"{i}-{t[0]}" for i, t in enumerate(TEXTS)])
def test_text(uri: str, machine: set[str], text: str) -> None:
    assert pipeline(parse(uri, environ={}), machine.__contains__) == text


@pytest.fixture(scope="module")
def gst() -> Any:
    pytest.importorskip("gi")
    from edgepose.gst import gst

    return gst()


@pytest.mark.parametrize("uri", sorted({t[0] for t in TEXTS if not t[0].startswith("csi")}))
def test_gstreamer_parses_it(gst: Any, uri: str) -> None:
    from edgepose.sources.gstreamer import build, capabilities

    spec = parse(uri, environ={})
    element = {"v4l2": "v4l2src", "rtsp": "rtspsrc", "http": "souphttpsrc", "file": "filesrc"}[spec.kind]
    if gst.ElementFactory.find(element) is None:
        pytest.skip(f"GStreamer's {element} is not installed")
    built = build(pipeline(spec, capabilities()), spec)
    assert built.get_by_name("sink").get_factory().get_name() == "appsink"


@pytest.mark.parametrize(
    ("caps", "given"),
    [
        ("video/x-raw(memory:NVMM),format=NV12", "video/x-raw(memory:NVMM),format=NV12"),
        ("video/x-raw,format=I420", "video/x-raw,format=I420"),
        ("video/x-raw,format=GRAY8", None),
        ("video/x-raw,format=RGB", None),
    ],
)
def test_what_nvidias_converter_would_be_given(gst: Any, caps: str, given: str | None) -> None:
    """Frames in NVIDIA's memory go through untouched; what the converter cannot take is converted before."""
    size = ",width=64,height=48,framerate=10/1"
    line = pipeline(parse("file:///a.mp4", environ={}), JETSON.__contains__)
    takes = next(part for part in line.split(" ! ") if part.startswith("capsfilter"))
    built = gst.parse_launch(f'appsrc name=in caps="{caps}{size}" ! videoconvert ! {takes} ! fakesink name=out')
    sink, source = built.get_by_name("out"), built.get_by_name("in")
    sink.set_property("enable-last-sample", True)
    sent = gst.Buffer.new_wrapped(bytes(range(256)) * 36)
    built.set_state(gst.State.PLAYING)
    source.emit("push-buffer", sent)
    source.emit("end-of-stream")
    message = built.get_bus().timed_pop_filtered(5 * gst.SECOND, gst.MessageType.EOS | gst.MessageType.ERROR)
    sample = sink.get_property("last-sample")
    built.set_state(gst.State.NULL)
    assert message.type == gst.MessageType.EOS, message.parse_error()
    got = sample.get_caps()
    assert got.can_intersect(gst.Caps.from_string(given or "video/x-raw,format={NV12,I420,YUY2,UYVY,Y42B,BGRx,RGBA}"))
    if given:
        assert sample.get_buffer().extract_dup(0, 9216) == sent.extract_dup(0, 9216)


def test_missing_element_names_its_package(gst: Any) -> None:
    from edgepose.sources.gstreamer import build

    if gst.ElementFactory.find("nvarguscamerasrc") is not None:
        pytest.skip("this is a Jetson")
    spec = parse("csi://0", environ={})
    with pytest.raises(
        EdgeposeError, match=r"csi://0 needs GStreamer's element 'nvarguscamerasrc'.*nvidia-l4t-gstreamer"
    ):
        build(pipeline(spec, JETSON.__contains__), spec)


NASTY = [
    "/a b",
    "/a!b",
    '/a"b',
    "/a'b",
    "/a\\b",
    '/a\\"b',
    '"a"',
    '"a',
    '/x" ! fakesink name="pwn',
    "/trail\\",
    "NULL",
    '"\\101"',
    "(string)x",
    "",
    "ä,;=#()",
    '\\\\\\"',
    "true",
    "0x10",
]


@pytest.mark.parametrize("text", NASTY)
def test_quoting_survives_gstreamer(gst: Any, text: str) -> None:
    built = gst.parse_launch(f"filesrc name=source location={quoted(text)} ! fakesink")
    assert built.get_by_name("source").get_property("location") == text
    assert built.get_by_name("pwn") is None


def test_a_file_name_cannot_add_elements(gst: Any, tmp_path: Path) -> None:
    from edgepose.sources.gstreamer import build, capabilities

    name = str(tmp_path / 'x" ! filesink name="pwn" location="y')
    spec = parse(name)
    assert build(pipeline(spec, capabilities()), spec).get_by_name("pwn") is None
