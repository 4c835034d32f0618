"""SourceSpec -> the GStreamer launch string. Pure text; nothing is imported or opened.

Every string ends in ``appsink name=sink`` with one of LAYOUTS. Live sources keep one frame and throw older ones away
at a leaky queue called ``newest``, which stands before the most costly step that may skip frames.
Elements are chosen by ``has``: it answers for an element (``nvvidconv``) and for a property of one
(``appsink.leaky-type``), so that versions are never compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from edgepose.sources.uri import SourceSpec

Has: TypeAlias = Callable[[str], bool]

# What decoders and cameras give, as it is; colours are converted where a network looks (edgepose.picture).
LAYOUTS = "video/x-raw,format={I420,NV12,Y42B,Y444,BGRx,BGR,GRAY8}"

_NEWEST = "queue name=newest leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0"
_EVERY = "queue max-size-buffers=2 max-size-bytes=0 max-size-time=0"
_DIRECTION = {90: "90r", 180: "180", 270: "90l"}  # clockwise degrees -> videoflip
# What nvvidconv takes from either memory; grey it takes and then cannot turn into colours.
_NVIDIA_TAKES = "video/x-raw(memory:NVMM);video/x-raw,format={NV12,I420,YUY2,UYVY,Y42B,P010_10LE,BGRx,RGBA}"
_FLIP_METHOD = {0: 0, 90: 3, 180: 2, 270: 1}  # clockwise degrees -> nvvidconv, which counts the other way round


def quoted(text: str) -> str:
    """``text`` as a property value that a launch string hands over unchanged, whatever it holds."""
    escaped = _escape(text)
    if text.startswith('"') or text in ("NULL", "(NULL)"):  # the value parser would take these for syntax
        escaped = _escape(f'"{escaped}"')
    return f'"{escaped}"'


def pipeline(spec: SourceSpec, has: Has) -> str:
    """The launch string for ``spec``; KeyError for ``images`` (which needs no pipeline)."""
    head = {
        "file": _file,
        "v4l2": _v4l2,
        "csi": _csi,
        "rtsp": _rtsp,
        "http": _http,
        "videotest": _videotest,
    }[spec.kind](spec, has)
    return " ! ".join([*head, LAYOUTS, _appsink(spec, has)])


# --- per kind: the elements up to the layouts -------------------------------------------------------


def _file(spec: SourceSpec, has: Has) -> list[str]:
    path = str(Path(spec.location).absolute())
    source = f"filesrc location={quoted(path)}"
    return [source, _decodebin(spec, has), *_rate(spec), _queue(spec), *_convert(spec, has)]


def _v4l2(spec: SourceSpec, has: Has) -> list[str]:
    wanted = _size(spec) + (f",framerate={spec.number('fps')}/1" if "fps" in spec.options else "")
    source = f"v4l2src device={quoted(spec.location)}"
    if spec.text("format") == "raw":
        return [source, f"video/x-raw{wanted}", _queue(spec), *_software(spec, has, scale=False)]
    if spec.text("format") == "mjpeg":
        return [source, f"image/jpeg{wanted}", _queue(spec), *_jpeg(spec, has, scale=False)]
    caps = [f'capsfilter caps="video/x-raw{wanted};image/jpeg{wanted}"'] if wanted else []
    return [source, *caps, _decodebin(spec, has), _queue(spec), *_convert(spec, has)]


def _csi(spec: SourceSpec, has: Has) -> list[str]:
    width, height, fps = spec.number("width", 1280), spec.number("height", 720), spec.number("fps", 30)
    return [
        f"nvarguscamerasrc sensor-id={int(spec.location)}",
        f"video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12",
        _queue(spec),
        f"nvvidconv flip-method={_FLIP_METHOD[spec.number('rotate')]}",
        "video/x-raw,format=BGRx",
        _videoconvert(has),
    ]


def _rtsp(spec: SourceSpec, has: Has) -> list[str]:
    source = (
        f"rtspsrc location={quoted(spec.location)}{_credentials(spec)} protocols={spec.text('protocol', 'tcp')} "
        f"latency={spec.number('latency', 100)} drop-on-latency=true timeout=0 tcp-timeout=5000000"
    )
    after = [*_rate(spec), _queue(spec)]
    if codec := spec.text("codec"):
        parse = [f"rtp{codec}depay", f"{codec}parse"]
        if has("nvv4l2decoder") and not _software_only(spec):
            return [source, *parse, "nvv4l2decoder", *after, *_hardware(spec, has)]
        return [source, *parse, f"avdec_{codec}", *after, *_software(spec, has, scale=True)]
    return [source, "application/x-rtp,media=video", _decodebin(spec, has), *after, *_convert(spec, has)]


def _http(spec: SourceSpec, has: Has) -> list[str]:
    source = f"souphttpsrc location={quoted(spec.location)}{_credentials(spec)} is-live=true do-timestamp=true"
    return [
        f"{source} retries=0 timeout=0",  # how long it may be silent is for the reader to say
        "multipartdemux single-stream=true",
        "image/jpeg",
        *_rate(spec),
        _queue(spec),
        *_jpeg(spec, has, scale=True),
    ]


def _videotest(spec: SourceSpec, has: Has) -> list[str]:
    width, height, fps = spec.number("width", 640), spec.number("height", 480), spec.number("fps", 30)
    frames = f" num-buffers={spec.number('frames')}" if "frames" in spec.options else ""
    live = "true" if spec.live else "false"
    return [
        f"videotestsrc is-live={live} pattern={spec.text('pattern', 'ball')}{frames}",
        f"video/x-raw,width={width},height={height},framerate={fps}/1",
        _queue(spec),
        _videoconvert(has),
    ]


# --- parts ------------------------------------------------------------------------------------------


def _appsink(spec: SourceSpec, has: Has) -> str:
    sync = "true" if spec.kind == "file" and spec.live else "false"
    if not spec.live:
        return f"appsink name=sink sync={sync} max-buffers=2"
    newest = "leaky-type=downstream" if has("appsink.leaky-type") else "drop=true"
    return f"appsink name=sink sync={sync} max-buffers=1 {newest}"


def _queue(spec: SourceSpec) -> str:
    # A file in real time is paced by the sink's clock, so its frames are dropped there and not before.
    return _NEWEST if spec.live and spec.kind != "file" else _EVERY


def _decodebin(spec: SourceSpec, has: Has) -> str:
    """Decodes whatever it is, the video only: sound and subtitles are not even exposed."""
    software = " force-sw-decoders=true" if _software_only(spec) and has("decodebin.force-sw-decoders") else ""
    return f"decodebin expose-all-streams=false caps=video/x-raw(ANY){software}"


def _convert(spec: SourceSpec, has: Has) -> list[str]:
    """Decoded video to one of LAYOUTS: on the hardware's converter where there is one.

    Also where software is to decode: on a Jetson decodebin may take NVIDIA's decoder all the same, which does not say
    that it is hardware; and this converter takes frames from both memories.
    """
    if has("nvvidconv"):
        # It takes few formats from ordinary memory; frames in NVIDIA's own pass through untouched.
        return [_videoconvert(has), f'capsfilter caps="{_NVIDIA_TAKES}"', *_hardware(spec, has)]
    return _software(spec, has, scale=spec.kind != "v4l2")


def _hardware(spec: SourceSpec, has: Has) -> list[str]:
    if spec.kind == "file" and "rotate" not in spec.options:  # its size is of the picture as it is turned
        turned = ["nvvidconv", "video/x-raw,format=BGRx", "videoflip video-direction=auto"]
        return [*turned, *_scale(spec), _videoconvert(has)]
    # A V4L2 camera was asked for its size, which holds before it is turned.
    size = "" if spec.kind == "v4l2" else _size(spec)
    # Otherwise it takes the nearest pixel and leaves out the others.
    between = " interpolation-method=1" if size and has("nvvidconv.interpolation-method") else ""
    turned = [f"nvvidconv flip-method={_FLIP_METHOD[spec.number('rotate')]}{between}"]
    return [*turned, f"video/x-raw,format=BGRx{size}", _videoconvert(has)]


def _software(spec: SourceSpec, has: Has, *, scale: bool) -> list[str]:
    parts, convert = [], _videoconvert(has)  # videoflip does not take every layout, such as 4:2:2 in 8 bits
    if spec.number("rotate"):
        parts = [convert, f"videoflip video-direction={_DIRECTION[spec.number('rotate')]}"]
    elif spec.kind == "file" and "rotate" not in spec.options:
        parts = [convert, "videoflip video-direction=auto"]  # as the phone that filmed it was held
    return [*parts, *(_scale(spec) if scale else []), convert]


def _jpeg(spec: SourceSpec, has: Has, *, scale: bool) -> list[str]:
    if has("nvvidconv") and not _software_only(spec):
        decoders = [("nvv4l2decoder mjpeg=1", "nvv4l2decoder.mjpeg"), ("nvjpegdec", "nvjpegdec")]
        if has("nvv4l2decoder.cudadec-memtype"):  # by CUVID, as on Thor: no JPEG
            del decoders[0]
        for element, known in decoders:
            if has(known):
                parse = ["jpegparse"] if has("jpegparse") else []  # NVIDIA's decoders ask for it
                return [*parse, element, *_hardware(spec, has)]
    decoder = "jpegdec" if has("jpegdec") or not has("avdec_mjpeg") else "avdec_mjpeg"
    return [decoder, *_software(spec, has, scale=scale)]


def _rate(spec: SourceSpec) -> list[str]:
    """Where the reader leaves frames out, for at most ``fps``: videorate aborts on buffers that do not last."""
    return ["identity name=pace"] if "fps" in spec.options else []


def _videoconvert(has: Has) -> str:
    return "videoconvert n-threads=2" if has("videoconvert.n-threads") else "videoconvert"


def _scale(spec: SourceSpec) -> list[str]:
    return ["videoscale", f"video/x-raw{_size(spec)}"] if "width" in spec.options else []


def _size(spec: SourceSpec) -> str:
    return f",width={spec.number('width')},height={spec.number('height')}" if "width" in spec.options else ""


def _credentials(spec: SourceSpec) -> str:
    return f" user-id={quoted(spec.user)} user-pw={quoted(spec.password)}" if spec.user else ""


def _software_only(spec: SourceSpec) -> bool:
    return spec.text("decoder") == "software"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
