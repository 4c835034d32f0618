"""Frames from a GStreamer pipeline: zero-copy views, times from the pipeline's clock.

*Picture.* See :mod:`edgepose.sources.views`.

*Time.* Live: base time + running time of the PTS is when the picture was taken on the pipeline's clock; the
difference between that clock and UTC is measured every second. For network sources "taken" means that the
first packet arrived, for a CSI camera that Argus gave the picture: what camera, network and image processor need
before that is not in it. File: the wall clock when the first frame was read + (PTS - first PTS), over all rounds of a
loop; in real time it is as live.

*Sequence.* Live frames are counted where they enter the leaky queue, so gaps in ``seq`` are drops.
"""

from __future__ import annotations

import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.gst import gst
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
from edgepose.sources.pipelines import Has, pipeline
from edgepose.sources.uri import SourceSpec
from edgepose.sources.views import Views

_SLICE_NS = 50_000_000  # how long one wait inside GStreamer may last before bus and close are looked at
_CLOCK_NS = 1_000_000_000  # how often the pipeline clock is compared with UTC
STOPPING = 3.0  # s that a pipeline is given to stop
_STEP_NS = 33_333_333  # between frames that say neither when they are nor how long they last
_PACKAGES = {
    "v4l2src": "gstreamer1.0-plugins-good",
    "rtspsrc": "gstreamer1.0-plugins-good",
    "rtph264depay": "gstreamer1.0-plugins-good",
    "rtph265depay": "gstreamer1.0-plugins-good",
    "souphttpsrc": "gstreamer1.0-plugins-good",
    "multipartdemux": "gstreamer1.0-plugins-good",
    "jpegdec": "gstreamer1.0-plugins-good",
    "videoflip": "gstreamer1.0-plugins-good",
    "h264parse": "gstreamer1.0-plugins-bad",
    "h265parse": "gstreamer1.0-plugins-bad",
    "avdec_h264": "gstreamer1.0-libav",
    "avdec_h265": "gstreamer1.0-libav",
    "avdec_mjpeg": "gstreamer1.0-libav",
    "nvarguscamerasrc": "nvidia-l4t-gstreamer (Jetson only)",
    "nvvidconv": "nvidia-l4t-gstreamer (Jetson only)",
    "nvv4l2decoder": "nvidia-l4t-gstreamer (Jetson only)",
}


def capabilities() -> Has:
    """Which elements and properties this machine's GStreamer has, as :func:`pipelines.pipeline` asks."""
    module = gst()

    def has(name: str) -> bool:
        element, _, prop = name.partition(".")
        factory = module.ElementFactory.find(element)
        if factory is None or not prop:
            return factory is not None
        made = factory.create(None)
        return made is not None and made.find_property(prop) is not None

    return has


def build(text: str, spec: SourceSpec) -> Any:
    """Parse a launch string; EdgeposeError that names the missing element and its package."""
    module = gst()
    from gi.repository import GLib

    try:
        return module.parse_launch(text)
    except UnicodeEncodeError:
        raise EdgeposeError(
            f"{spec.redacted()}: GStreamer takes no name that is not UTF-8; rename it, or use --backend pyav"
        ) from None
    except GLib.Error as error:
        found = re.search(r'no element "([^"]+)"', error.message)
        if found is None:
            raise EdgeposeError(
                f"{spec.redacted()}: GStreamer refuses the pipeline ({sentence(spec.scrub(error.message))}); "
                "see it with 'edgepose run --explain'"
            ) from None
        package = _PACKAGES.get(found.group(1), "gstreamer1.0-plugins-base")
        raise EdgeposeError(
            f"{spec.redacted()} needs GStreamer's element '{found.group(1)}', which is not installed; "
            f"it comes with the package {package}"
        ) from None


class GStreamerSource(Base):
    """A running pipeline. The constructor starts it; frames come with :meth:`read`.

    ``stall_timeout`` in seconds (default 5 live, 10 file) holds once the first frame is there; before that
    it is at least 10.
    """

    def __init__(self, spec: SourceSpec, *, stall_timeout: float | None = None) -> None:
        if spec.kind == "file":
            check_file(spec)
        self._gst = gst()
        has = capabilities()
        self.live, self.reopens, self.camera = spec.live, spec.reopens, spec.camera
        self.description = pipeline(spec.masked(), has)
        self._spec = spec
        self._stall = stall_timeout or stall_timeout_of(spec)
        self._pipeline = build(pipeline(spec, has), spec)
        self._sink = self._pipeline.get_by_name("sink")
        self._views = Views(self._gst)
        self._bus = self._pipeline.get_bus()
        self._counter = _Counter(self._gst, self._pipeline) if spec.live else None
        steps = _leave_out(self._gst, self._pipeline, spec)
        self._times = _LiveTimes(self._gst, self._pipeline) if spec.live else _FileTimes(self._gst, steps)
        self._closed = threading.Event()
        self._started = False
        self._error: EdgeposeError | None = None  # popped from the bus while frames still came
        self._delivered = 0
        self._last_seq = -1
        # Also runs when the source is forgotten or the interpreter ends: a playing pipeline must not be freed.
        self._stop = weakref.finalize(self, self._pipeline.set_state, self._gst.State.NULL)
        started = _within(FIRST_FRAME_TIMEOUT, self._pipeline.set_state, self._gst.State.PLAYING)
        if started is None:
            self.close()
            raise SourceStalled(f"{spec.redacted()} does not start: its driver hangs; check or restart the camera")
        if started == self._gst.StateChangeReturn.FAILURE:
            error = self._bus_error() or SourceLost(f"{spec.redacted()} does not start; is it in use or unplugged?")
            self.close()
            raise error

    @property
    def dropped(self) -> int:
        """See :class:`Source`."""
        return self._last_seq + 1 - self._delivered

    def read(self, timeout: float | None = None) -> Frame | None:
        """See :class:`Source`."""
        first_wait = self._stall if self._started else max(self._stall, FIRST_FRAME_TIMEOUT)
        wait = first_wait if timeout is None else timeout
        deadline = time.monotonic() + wait
        while not self._closed.is_set():
            left = deadline - time.monotonic()
            sample = self._sink.emit("try-pull-sample", max(0, min(_SLICE_NS, int(left * 1e9))))
            if self._closed.is_set():
                break
            if sample is not None:
                return self._frame(sample)
            if (error := self._error or self._bus_error()) is not None:
                raise error
            if self._sink.get_property("eos"):
                if self._closed.is_set():  # a sink that was stopped says so too
                    break
                if self._spec.loops and left > 0 and self._started:
                    self._rewind()
                    continue
                if self._spec.reopens:
                    raise SourceLost(f"{self._spec.redacted()} ended its stream; check the camera")
                if not self._started:
                    raise EdgeposeError(f"{self._spec.redacted()} holds no video; check the file")
                return None
            if left <= 0:
                advice = "check the camera and its cable"
                if self._spec.text("protocol") == "udp":
                    advice += ", and that no firewall keeps its UDP out"
                if self._spec.kind == "file":
                    advice = "check the file, or read it with --backend pyav"
                raise SourceStalled(f"no frame from {self._spec.redacted()} for {wait:g} s; {advice}")
        return None

    def close(self) -> None:
        """See :class:`Source`.

        A driver or decoder that hangs is left alone after STOPPING seconds: for ever in its call, this thread could
        neither tell that the camera is lost, nor try again, nor end at a signal.
        """
        self._closed.set()
        if (stop := self._stop.detach()) is not None:
            _within(STOPPING, stop[1], *stop[2])

    def _frame(self, sample: Any) -> Frame:
        self._started = True
        self._watch_bus()
        buffer = sample.get_buffer()
        seq = self._counter.index(buffer.pts) if self._counter else self._last_seq + 1
        self._last_seq = max(seq, self._last_seq + 1)
        self._delivered += 1
        return Frame(
            picture=self._views(sample),
            acquired_ns=self._times.utc_ns(sample),
            seq=self._last_seq,
            camera=self.camera,
            monotonic_ns=self._times.monotonic_ns(sample),
        )

    def _rewind(self) -> None:
        """Play a file again from its start; EdgeposeError where it has no way back."""
        self._times.rewind()
        flags = self._gst.SeekFlags.FLUSH | self._gst.SeekFlags.KEY_UNIT
        if not self._pipeline.seek_simple(self._gst.Format.TIME, flags, 0):
            raise not_again(self._spec.redacted())

    def _bus_error(self) -> EdgeposeError | None:
        """The first error on the bus as one sentence; keeps latency and clock in order on the way."""
        kinds = self._gst.MessageType
        wanted = kinds.ERROR | kinds.LATENCY | kinds.CLOCK_LOST
        while (message := self._bus.pop_filtered(wanted)) is not None:
            if message.type == kinds.ERROR:
                return self._sentence(message)
            if message.type == kinds.LATENCY:
                self._pipeline.recalculate_latency()
            elif not self._closed.is_set():
                self._pipeline.set_state(self._gst.State.PAUSED)
                self._pipeline.set_state(self._gst.State.PLAYING)
        return None

    def _watch_bus(self) -> None:
        """Empty the bus while frames flow; an error stays for the read that finds no frame."""
        kinds = self._gst.MessageType
        while (message := self._bus.peek()) is not None and message.type != kinds.ERROR:
            if message.type in (kinds.LATENCY, kinds.CLOCK_LOST):
                self._error = self._error or self._bus_error()
                return
            self._bus.pop()

    def _sentence(self, message: Any) -> EdgeposeError:
        error, debug = message.parse_error()
        where = self._spec.redacted()
        reason = sentence(self._spec.scrub(error.message))
        detail = sentence(self._spec.scrub((debug or "").strip().splitlines()[-1] if debug else ""))
        # What names a place in GStreamer's source also names elements, which are numbered anew at every try.
        if detail and detail not in reason and not re.match(r"\S+\.c\w*\(\d+\):", detail):
            reason += f" ({detail})"
        if self._spec.kind == "http" and reason.startswith("Internal data stream error"):
            reason = "the server takes no connection or sends no MJPEG"  # more is not told
        factory = message.src.get_factory() if hasattr(message.src, "get_factory") else None
        element = (factory or message.src).get_name()  # the factory's has no number
        text = f"{where}: {reason}, says GStreamer's {element}"
        if self._spec.kind == "v4l2" and "negotiated" in (debug or ""):
            return SourceLost(f"{text}; ask the camera for a size, rate and format that it has, "
                              "see: v4l2-ctl --list-formats-ext")  # fmt: skip
        if self._spec.reopens:
            return SourceLost(f"{text}; check the camera, its address and its cable")
        return SourceLost(f"{text}; check the file, or install gstreamer1.0-libav if its codec is not known")


def _within(seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
    """What the ``call`` into a driver gives, None where it takes longer; then it is left alone in its thread."""
    given: list[Any] = []
    thread = threading.Thread(target=lambda: given.append(call(*arguments)), name="driver", daemon=True)
    thread.start()
    thread.join(seconds)
    return given[0] if given else None


def _leave_out(module: Any, pipe: Any, spec: SourceSpec) -> deque[int]:
    """Of a source that cannot be asked for ``fps`` pass no more than that, where the launch string has its place.

    Of a film's buffers that have no time it tells, in their order, how long each comes after the one passed before.
    """
    steps = deque[int]()
    element = pipe.get_by_name("pace")
    if element is None:
        return steps
    pace, times = RateLimit(spec.number("fps")), _Stamps(module, by_arrival=spec.kind == "http")
    passed_ns = 0

    def pass_on(_pad: Any, info: Any) -> Any:
        nonlocal passed_ns
        buffer = info.get_buffer()
        at_ns = times.ns(buffer)
        if pace.skips(at_ns):
            return module.PadProbeReturn.DROP
        if buffer.pts == module.CLOCK_TIME_NONE and not spec.live:
            steps.append(at_ns - passed_ns)
        passed_ns = at_ns
        return module.PadProbeReturn.OK

    element.get_static_pad("sink").add_probe(module.PadProbeType.BUFFER, pass_on)
    return steps


class _Stamps:
    """Times of buffers for the pace, ns: by PTS, where there is none one duration later; or by arrival."""

    def __init__(self, module: Any, *, by_arrival: bool) -> None:
        self._none, self._by_arrival = module.CLOCK_TIME_NONE, by_arrival  # of MJPEG pictures not all have a PTS
        self._last_ns = 0

    def ns(self, buffer: Any) -> int:
        if self._by_arrival:
            return time.monotonic_ns()
        if buffer.pts != self._none:
            self._last_ns = buffer.pts
        else:
            self._last_ns += _STEP_NS if buffer.duration in (0, self._none) else buffer.duration
        return self._last_ns


class _Counter:
    """Numbers the frames of a live source where they enter the queue that drops."""

    def __init__(self, module: Any, pipe: Any) -> None:
        self._seen: deque[tuple[int, int]] = deque(maxlen=64)  # (PTS, index)
        self._count = 0
        element = pipe.get_by_name("newest") or pipe.get_by_name("sink")
        seen = self._seen

        def count(_pad: Any, info: Any) -> Any:
            seen.append((info.get_buffer().pts, self._count))
            self._count += 1
            return module.PadProbeReturn.OK

        element.get_static_pad("sink").add_probe(module.PadProbeType.BUFFER, count)

    def index(self, pts: int) -> int:
        """The number of the frame with this PTS; of the newest when a decoder changed it."""
        for known, index in reversed(list(self._seen)):
            if known == pts:
                return index
        return self._count - 1


class _LiveTimes:
    """PTS -> UTC and monotonic time by way of the pipeline's clock."""

    def __init__(self, module: Any, pipe: Any) -> None:
        self._gst, self._pipeline = module, pipe
        self._measured_ns: int | None = None  # pipeline clock
        self._utc_ns = self._monotonic_ns = 0  # of them - pipeline clock

    def utc_ns(self, sample: Any) -> int:
        taken, now = self._ticks(sample), time.time_ns()
        # A jitter buffer that smooths arrivals may be some ms ahead; nothing is taken in the future.
        return now if taken is None else min(now, taken + self._utc_ns)

    def monotonic_ns(self, sample: Any) -> int | None:
        taken, now = self._ticks(sample), time.monotonic_ns()
        return now if taken is None else min(now, taken + self._monotonic_ns)

    def _ticks(self, sample: Any) -> int | None:
        """When ``sample`` was taken by the pipeline's clock, measured now and then; None where it is silent."""
        clock = self._pipeline.get_clock()
        pts = sample.get_buffer().pts
        if clock is None or pts == self._gst.CLOCK_TIME_NONE:
            return None
        ticks = clock.get_time()
        if self._measured_ns is None or abs(ticks - self._measured_ns) > _CLOCK_NS:
            before, steady = time.time_ns(), time.monotonic_ns()
            ticks = clock.get_time()
            self._utc_ns = (before + time.time_ns()) // 2 - ticks
            self._monotonic_ns = (steady + time.monotonic_ns()) // 2 - ticks
            self._measured_ns = ticks
        running = sample.get_segment().to_running_time(self._gst.Format.TIME, pts)
        return None if running == self._gst.CLOCK_TIME_NONE else int(self._pipeline.get_base_time() + running)

    def rewind(self) -> None:
        """The pipeline sets a new base time by itself."""


class _FileTimes:
    """PTS -> start of play + PTS - first PTS, rising over all rounds of a loop."""

    def __init__(self, module: Any, steps: deque[int]) -> None:
        """``steps``: of buffers without a time, where frames are left out before they come; else all are alike."""
        self._none, self._steps = module.CLOCK_TIME_NONE, steps
        self._origin_ns: int | None = None  # what PTS 0 stands for
        self._last_ns = 0
        self._step_ns = _STEP_NS
        self._again = False

    def utc_ns(self, sample: Any) -> int:
        buffer = sample.get_buffer()
        if buffer.duration not in (0, self._none):
            self._step_ns = buffer.duration
        if not self._last_ns:
            self._last_ns = time.time_ns() - self._step_ns
        if buffer.pts == self._none:
            self._last_ns += self._steps.popleft() if self._steps else self._step_ns
            return self._last_ns
        if self._origin_ns is None or self._again:
            self._origin_ns = self._last_ns + self._step_ns - buffer.pts
            self._again = False
        self._last_ns = self._origin_ns + buffer.pts
        return self._last_ns

    def monotonic_ns(self, _sample: Any) -> int | None:
        """A film's frames are of no clock."""
        return None

    def rewind(self) -> None:
        self._again = True
