"""Frames through PyAV (libav) where GStreamer is absent.

A thread demuxes and decodes; it hands over through a slot of one (live: the newest frame wins) or a short
queue (files: every frame). Pictures in YUV are views of libav's memory, others are copies; so are those of a V4L2
camera, whose memory is the driver's and goes with the connection. ``close`` never waits for libav: a thread that is
stuck in a dead connection ends with libav's own time-out (a V4L2 camera has none: one that hangs is taken up again by
GStreamer alone).

*Time.* File: start of play + PTS - first PTS. RTSP: PTS + the least (arrival - PTS) seen, which takes the
network's jitter out and may rise by 1 ms/s to follow a drifting camera. V4L2: the driver's time. MJPEG over
HTTP: arrival. Arrivals and waits go by a clock that nobody sets; a network camera's times are taken to UTC at the end.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgepose.errors import EdgeposeError, missing
from edgepose.frame import Frame
from edgepose.picture import Picture
from edgepose.sources.base import (
    FIRST_FRAME_TIMEOUT,
    Base,
    SourceLost,
    SourceStalled,
    check_file,
    not_again,
    sentence,
    stall_timeout_of,
)
from edgepose.sources.pace import RateLimit
from edgepose.sources.planes import colours_of, yuv_of
from edgepose.sources.uri import SourceSpec

# What is done to a picture: its axes exchanged, then its columns taken from the right, its rows from below.
_Turn: TypeAlias = tuple[bool, bool, bool]
_TURNED: dict[int, _Turn] = {  # by clockwise degrees
    0: (False, False, False),
    90: (True, True, False),
    180: (False, True, True),
    270: (True, False, True),
}
_RTSP_FIRST = 30.0  # s
_DRIFT = 1e-3  # how fast the least delay may rise, s/s
_SET_BACK_NS = 500_000_000  # by which a frame lies before the last one where the camera's clock was set back
_PATTERNS = {
    "ball": "testsrc",  # the default: something that moves
    "smpte": "smptebars",
    "black": "color=c=black",
    "white": "color=c=white",
    "gradient": "gradients",
}


def av() -> Any:
    """The ``av`` module; EdgeposeError where it is absent.

    Leave its logging off, as it is by default: with it on, a decoder's thread that logs while a container is
    freed waits for the interpreter's lock for ever, and the whole process stands still.
    """
    try:
        import av as module
    except ImportError:
        raise missing("PyAV", "to read video without GStreamer", "pip install av") from None
    return module


def opening(spec: SourceSpec) -> tuple[str, str | None, dict[str, str]]:
    """What libav opens: URL or file, format name (None: found out), options."""
    options: dict[str, str] = {}
    if spec.kind == "file":
        return f"file:{spec.location}", None, options
    if spec.kind == "v4l2":
        if "width" in spec.options:
            options["video_size"] = f"{spec.number('width')}x{spec.number('height')}"
        if "fps" in spec.options:
            options["framerate"] = str(spec.number("fps"))
        if spec.text("format") == "mjpeg":
            options["input_format"] = "mjpeg"
        return spec.location, "v4l2", {**options, "timestamps": "abs"}
    if spec.kind == "rtsp":
        delay_us = str(spec.number("latency", 100) * 1000)
        options = {"rtsp_transport": spec.text("protocol", "tcp"), "allowed_media_types": "video"}
        return spec.url(), "rtsp", {**options, "max_delay": delay_us, "fflags": "nobuffer", **_verified(spec)}
    if spec.kind == "http":
        return spec.url(), "mpjpeg", _verified(spec)
    if spec.kind == "videotest":
        size, fps = f"{spec.number('width', 640)}x{spec.number('height', 480)}", spec.number("fps", 30)
        name = _PATTERNS.get(pattern := spec.text("pattern", "ball"))
        if name is None:
            raise EdgeposeError(f"PyAV has no test picture '{pattern}', which needs GStreamer; it has "
                                f"{', '.join(_PATTERNS)}")  # fmt: skip
        return f"{name}{':' if '=' in name else '='}size={size}:rate={fps}", "lavfi", options
    raise EdgeposeError(f"{spec.redacted()} needs GStreamer, PyAV cannot read it; run it on a Jetson with JetPack")


def _encrypted(spec: SourceSpec) -> bool:
    return spec.location.startswith(("https://", "rtsps://"))


def _verified(spec: SourceSpec) -> dict[str, str]:
    """Options by which a certificate is looked at, as GStreamer does and libav by itself does not."""
    authorities = ssl.get_default_verify_paths().cafile  # what SSL_CERT_FILE names, else the system's
    if not _encrypted(spec):
        return {}
    return {"tls_verify": "1", **({"ca_file": authorities} if authorities else {})}


def describe(spec: SourceSpec) -> str:
    """The call that opens ``spec``, secrets masked."""
    url, form, options = opening(spec.masked())
    return f"av.open({url!r}, format={form!r}, options={options!r})"


class PyAVSource(Base):
    """A reading thread and its hand-over. ``stall_timeout`` as for GStreamer, but RTSP has 30 s for its first frame."""

    def __init__(self, spec: SourceSpec, *, stall_timeout: float | None = None) -> None:
        opening(spec)  # refuses what it cannot do before PyAV is asked for
        if spec.kind == "file":
            check_file(spec)
        self._av = av()
        self.live, self.reopens, self.camera = spec.live, spec.reopens, spec.camera
        self.description = describe(spec)
        self._spec = spec
        self._stall = stall_timeout or stall_timeout_of(spec)
        # Of an RTSP stream libav wants several pictures before it hands out one.
        self._first_wait = max(self._stall, _RTSP_FIRST if spec.kind == "rtsp" else FIRST_FRAME_TIMEOUT)
        self._changed = threading.Condition()
        self._ready: deque[Frame] = deque()
        self._end: EdgeposeError | bool = False  # True: the end was reached
        self._closed = threading.Event()
        self._opened = self._started = False
        self._delivered = 0
        self._last_seq = -1
        self._thread = threading.Thread(target=self._run, name=f"edgepose-{spec.camera}", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """See :class:`Source`."""
        return self._last_seq + 1 - self._delivered

    def read(self, timeout: float | None = None) -> Frame | None:
        """See :class:`Source`."""
        first_wait = self._stall if self._started else self._first_wait
        wait = first_wait if timeout is None else timeout
        with self._changed:
            there = self._changed.wait_for(lambda: self._ready or self._end or self._closed.is_set(), wait)
            if self._closed.is_set():
                return None
            if self._ready:
                frame = self._ready.popleft()
                self._changed.notify_all()
                self._started = True
                self._delivered += 1
                self._last_seq = frame.seq
                return frame
            if isinstance(self._end, EdgeposeError):
                raise self._end
            if there:
                return None
        raise SourceStalled(f"no frame from {self._spec.redacted()} for {wait:g} s; check the camera and its cable")

    def close(self) -> None:
        """See :class:`Source`."""
        self._closed.set()
        with self._changed:
            self._ready.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(0.2)

    # --- the reading thread ---

    def _run(self) -> None:
        end: EdgeposeError | bool = True
        try:
            self._play()
            if self._spec.reopens and not self._closed.is_set():
                end = SourceLost(f"{self._spec.redacted()} ended its stream; check the camera")
        except EdgeposeError as error:
            end = error
        except self._av.error.FFmpegError as error:
            end = self._sentence(error)
        except Exception as error:  # noqa: BLE001 - the thread has nobody else to tell
            end = SourceLost(f"{self._spec.redacted()}: PyAV failed ({sentence(self._spec.scrub(repr(error)))})")
        with self._changed:
            self._end = end
            self._changed.notify_all()

    def _play(self) -> None:
        url, form, options = opening(self._spec)
        # (to open, to read) in s; libav gives up by itself, which is what ends this thread on a dead line.
        waits = (self._first_wait, self._stall)
        with self._av.open(url, format=form, options=options, timeout=waits) as container:
            self._opened = True
            if not container.streams.video:
                raise self._no_video()
            stream = container.streams.video[0]
            stream.thread_type = "SLICE" if self._spec.live else "AUTO"  # frame threads would delay
            times = _Times(self._spec, stream)
            pace = RateLimit(self._spec.number("fps") if self._spec.kind in ("file", "rtsp", "http") else 0)
            seq = 0
            begun: tuple[int, int] | None = None  # the first frame's time, and when it was there
            while True:
                for frame, arrival_ns in self._decode(container, stream):
                    if self._closed.is_set() or seq >= self._spec.number("frames", 1 << 62):
                        return
                    taken_ns = times.taken_ns(frame, arrival_ns)
                    if pace.skips(taken_ns):
                        continue
                    if self._spec.live and not self._spec.reopens:
                        begun = begun or (taken_ns, time.monotonic_ns())
                        self._closed.wait((taken_ns - begun[0] - (time.monotonic_ns() - begun[1])) / 1e9)
                    steady_ns = taken_ns if self._spec.network else None
                    self._hand_over(Frame(self._picture(frame), times.utc_ns(taken_ns), seq, self.camera, steady_ns))
                    seq += 1
                if not seq:
                    raise self._no_video()
                if not self._spec.loops or self._closed.is_set():
                    return
                try:
                    container.seek(0)
                except self._av.error.FFmpegError as error:
                    raise not_again(self._spec.redacted()) from error
                times.rewind()

    def _no_video(self) -> EdgeposeError:
        if self._spec.reopens:  # it may be starting, or have too many viewers
            return SourceLost(f"{self._spec.redacted()} sends no video; check the camera")
        return EdgeposeError(f"{self._spec.redacted()} holds no video; check the file")

    def _decode(self, container: Any, stream: Any) -> Iterator[tuple[Any, int]]:
        for packet in container.demux(stream):
            arrival_ns = time.monotonic_ns()
            try:
                frames = packet.decode()
            except self._av.error.InvalidDataError:
                continue  # a damaged packet costs its frame, not the stream
            for frame in frames:
                yield frame, arrival_ns

    def _hand_over(self, frame: Frame) -> None:
        with self._changed:
            if self._spec.live:
                self._ready.clear()
            else:
                self._changed.wait_for(lambda: len(self._ready) < 2 or self._closed.is_set())
            self._ready.append(frame)
            self._changed.notify_all()

    def _picture(self, frame: Any) -> Picture:
        transposed, from_right, from_below = _TURNED[self._spec.number("rotate")]
        if self._spec.kind == "file" and "rotate" not in self._spec.options:
            transposed, from_right, from_below = _as_filmed(frame)
        size: dict[str, int] = {}
        if "width" in self._spec.options and self._spec.kind not in ("v4l2", "videotest"):
            size = {"width": self._spec.number("width"), "height": self._spec.number("height")}
            if transposed:
                size = {"width": size["height"], "height": size["width"]}
        turned = transposed or from_right or from_below
        borrowed = self._spec.kind == "v4l2" and self._spec.text("format") != "mjpeg"
        as_it_is = None if turned or size or borrowed else yuv_of(frame)
        if as_it_is is not None:
            return as_it_is
        image: NDArray[np.uint8] = frame.to_ndarray(format="bgr24", **size, **colours_of(frame))
        if not turned:
            return image
        exchanged = image.transpose(1, 0, 2) if transposed else image
        return np.ascontiguousarray(exchanged[:: -1 if from_below else 1, :: -1 if from_right else 1])

    def _sentence(self, error: Any) -> EdgeposeError:
        where, av_error = self._spec.redacted(), self._av.error
        if isinstance(error, (av_error.ExitError, av_error.TimeoutError)):
            waited = self._stall if self._opened else self._first_wait
            return SourceStalled(f"no frame from {where} for {waited:g} s; check the camera and its cable")
        reason = sentence(self._spec.scrub(error.strerror or type(error).__name__))
        advice = "the camera, its address and its cable" if self._spec.reopens else "the file"
        if _encrypted(self._spec):
            advice += ", and its certificate (SSL_CERT_FILE names a CA of your own)"
        return SourceLost(f"{where}: {reason}, says libav; check {advice}")


def _as_filmed(frame: Any) -> _Turn:
    """How to turn, and mirror, a film's frame by its display matrix: x' = a x + c y, y' = b x + d y."""
    found = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return _TURNED[0]
    (a, b), (c, d) = np.frombuffer(bytes(found), np.int32).reshape(3, 3)[:2, :2].tolist()
    return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)


class _Times:
    """When a frame was taken; see the module. Of a network camera by the monotonic clock, of others in UTC."""

    def __init__(self, spec: SourceSpec, stream: Any) -> None:
        self._by_arrival = spec.kind == "http"
        self._absolute = spec.kind == "v4l2"
        self._envelope = spec.kind == "rtsp"
        self._network = spec.network
        rate = stream.average_rate
        self._step_ns = int(1_000_000_000 / rate) if rate else 33_333_333
        self._origin_ns: int | None = None
        self._last_ns = 0
        self._last_arrival_ns = self._last_pts_ns = 0
        self._again = False
        self._stamps: dict[str, int] = {}  # the last PTS and DTS
        self._faults = {"pts": 0, "dts": 0}  # how often they did not rise

    def utc_ns(self, taken_ns: int) -> int:
        """A network camera's time, by what the clock says now; the others are in UTC already."""
        return taken_ns + time.time_ns() - time.monotonic_ns() if self._network else taken_ns

    def taken_ns(self, frame: Any, arrival_ns: int) -> int:
        """When ``frame`` was taken, whose packet came at ``arrival_ns`` by the monotonic clock."""
        if not self._network:
            arrival_ns += time.time_ns() - time.monotonic_ns()
        if self._by_arrival or (frame.pts is None and (self._envelope or self._absolute)):
            return arrival_ns
        if frame.pts is None:
            self._last_ns = (self._last_ns or arrival_ns) + self._step_ns
            return self._last_ns
        pts_ns = int(frame.pts * frame.time_base * 1_000_000_000)
        if self._absolute:  # a driver without such times gives those of its boot
            return pts_ns if abs(pts_ns - arrival_ns) < 10_000_000_000 else arrival_ns
        if self._envelope:
            offset = arrival_ns - pts_ns
            # Where the camera's clock was set back that is no delay, to be worked off.
            set_back = pts_ns < self._last_pts_ns - _SET_BACK_NS
            if self._origin_ns is None or set_back or abs(offset - self._origin_ns) > 10_000_000_000:
                self._origin_ns = offset
            else:
                risen = self._origin_ns + int(_DRIFT * (arrival_ns - self._last_arrival_ns))
                self._origin_ns = min(offset, risen)
            self._last_arrival_ns, self._last_pts_ns = arrival_ns, pts_ns
            return min(arrival_ns, self._origin_ns + pts_ns)
        pts_ns = self._rising(frame)
        # A film played again, or two of them joined in one file, begins anew.
        if self._origin_ns is None or self._again or self._origin_ns + pts_ns < self._last_ns:
            self._origin_ns = (self._last_ns + self._step_ns if self._last_ns else time.time_ns()) - pts_ns
            self._again = False
        self._last_ns = self._origin_ns + pts_ns
        return self._last_ns

    def _rising(self, frame: Any) -> int:
        """A film's time of ``frame``, ns: its PTS, or the DTS where that runs back less often.

        As libavcodec guesses it (``guess_correct_pts``). An AVI with B-frames has no PTS of its own.
        """
        for name in ("pts", "dts"):
            stamp, before = getattr(frame, name), self._stamps.get(name)
            if stamp is not None:
                self._faults[name] += before is not None and stamp <= before and not self._again
                self._stamps[name] = stamp
        by_dts = frame.dts is not None and self._faults["pts"] > self._faults["dts"]
        return int((frame.dts if by_dts else frame.pts) * frame.time_base * 1_000_000_000)

    def rewind(self) -> None:
        self._again = True
