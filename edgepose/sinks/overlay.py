"""Frames with skeletons drawn in, as a video file or in a window."""

from __future__ import annotations

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgepose import console
from edgepose.draw import draw_pose
from edgepose.errors import EdgeposeError, missing
from edgepose.files import kind
from edgepose.frame import Frame
from edgepose.gst import gst
from edgepose.people import People
from edgepose.people.steady import Steady
from edgepose.picture import to_bgr
from edgepose.skeletons import Skeleton

VISIBLE = 0.4  # joint score from which a joint is drawn
LONGEST_GAP, GAP_SHOWN = 10.0, 1.0  # seconds: a camera that was away for longer than the one is shown so for the other


class Overlay(Protocol):
    """Something that shows frames with their people."""

    def show(self, frame: Frame, people: People) -> None:
        """Draw and hand on one frame."""
        ...

    def close(self) -> None:
        """Finish; a file is in its place after this and not before."""
        ...


def annotate(frame: Frame, people: People, skeleton: Skeleton) -> NDArray[np.uint8]:
    """A copy of the frame's image [H, W, 3] with skeletons, ids and scores."""
    image = to_bgr(frame.picture)
    thickness = max(2, round(min(image.shape[:2]) / 240))
    for i, name in enumerate(people.ids):
        draw_pose(image, people.poses.joints[i], people.poses.scores[i] >= VISIBLE, skeleton, thickness)
        x, y = people.boxes[i][:2]
        text = f"{name}  {people.poses.person_scores[i]:.2f}"
        at = (max(int(x), 2), max(int(y) - 6, 14))
        # Thicker letters are wider ones since OpenCV 5, so the black rim is the same letters to all four sides.
        for dx, dy, colour in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 255)):
            place = (at[0] + dx, at[1] + dy)
            cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (colour,) * 3, 1, cv2.LINE_AA)
    return image


def open_overlay(target: str, skeleton: Skeleton) -> Overlay:
    """An overlay for ``target``: 'window', or the name of a video file (.mp4, .mkv, .avi)."""
    if target == "window":
        return WindowOverlay(skeleton)
    path = Path(target)
    if path.suffix.lower() not in (".mp4", ".mkv", ".avi"):
        raise EdgeposeError(f"overlay '{target}' must be 'window' or a file that ends in .mp4, .mkv or .avi")
    if kind(path.absolute().parent) != "folder":
        raise EdgeposeError(f"overlay folder {path.absolute().parent} does not exist; make it first")
    if kind(path) == "folder":
        raise EdgeposeError(f"overlay {path} is a folder; name a file in it")
    return FileOverlay(path, skeleton)


class FileOverlay:
    """A video file: H.264 with the frames' own times where PyAV is installed, else MPEG-4 at a fixed rate.

    Pictures of another size than the first are fitted into it, with black beside them.
    """

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        self._path, self._skeleton = path, skeleton
        self._beside = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: _AvWriter | _CvWriter | None = None
        self._claimed: IO[bytes] | None = None  # the unfinished file, locked
        self._size = (0, 0)
        self._steady = Steady()
        self._last = self._left_out = 0.0  # seconds

    def show(self, frame: Frame, people: People) -> None:
        """Append one frame; EdgeposeError where the file cannot be written."""
        image = annotate(frame, people, self._skeleton)
        if self._writer is None:
            self._claim()
        with self._one_sentence():
            if self._writer is None:
                # H.264 wants even sides.
                self._size = (max(image.shape[1] // 2 * 2, 2), max(image.shape[0] // 2 * 2, 2))
                self._writer = _writer(self._beside, self._size)
            self._writer.add(_fitted(image, self._size), self._seconds(frame.steady_ns))

    def _claim(self) -> None:
        """Make the unfinished file ours until the film is whole; EdgeposeError where another run writes it."""
        with self._one_sentence():
            self._claimed = self._beside.open("ab")
        with suppress(OSError):  # a file system that knows no locks
            try:
                fcntl.flock(self._claimed, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._release()
                raise EdgeposeError(
                    f"another run is writing overlay {self._path}; choose another file, or end that run"
                ) from None
        if self._keep_earlier():
            self._release()
            self._claim()

    def _release(self) -> None:
        if self._claimed is not None:
            self._claimed.close()
            self._claimed = None

    def _keep_earlier(self) -> bool:
        """What a run that was killed had drawn, and can be seen, stays: as film.1.mkv, ...; whether there was such."""
        if self._path.suffix.lower() == ".mp4" or not self._beside.stat().st_size:
            return False
        names = (self._path.with_name(f"{self._path.stem}.{n}{self._path.suffix}") for n in itertools.count(1))
        kept = next(name for name in names if kind(name) == "nothing")
        try:
            self._beside.replace(kept)
        except OSError as error:
            raise EdgeposeError(
                f"cannot put {self._beside} of an earlier run aside: {error.strerror or error}; move it yourself"
            ) from error
        console.say(f"note: overlay {self._path} of an earlier run was not finished; what there is of it is {kept}")
        return True

    def _seconds(self, taken_ns: int) -> float:
        """When the frame is shown: the camera's own time, without the hours for which it was away."""
        now = self._steady(taken_ns) / 1e9
        if now - self._last > LONGEST_GAP:
            self._left_out += now - self._last - GAP_SHOWN
        self._last = now
        return now - self._left_out

    def close(self) -> None:
        """Finish the file and put it in its place."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._one_sentence():
                writer.close()
            try:
                self._beside.replace(self._path)
            except OSError as error:  # the film is whole: it stays
                raise EdgeposeError(
                    f"cannot put overlay {self._path} in its place: {error.strerror or error}; it is {self._beside}"
                ) from error
            finally:
                self._release()

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        """A full disk or a folder that may not be written as one sentence; what is not whole is removed."""
        faults: tuple[type[Exception], ...] = (OSError,)
        with suppress(ImportError):
            import av

            faults += (av.FFmpegError,)
        try:
            yield
        except faults as error:
            self._writer = None  # not to be finished: what is in it is not whole, and on a full disk libav would crash
            kept = ""
            with suppress(OSError):  # a file system that fails, or may only be read
                if self._path.suffix.lower() != ".mp4" and self._beside.stat().st_size:
                    kept = f"; what there is of it is {self._beside}"  # it can be seen as far as it goes
                else:
                    self._beside.unlink(missing_ok=True)
            self._release()
            reason = getattr(error, "strerror", None) or error
            raise EdgeposeError(
                f"cannot write overlay {self._path}: {reason}; make room or choose another file{kept}"
            ) from error


def _fitted(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``image`` [H, W, 3] in a picture of ``size`` (width, height): cut by an odd line, or made to fit."""
    width, height = size
    if (image.shape[1] // 2 * 2, image.shape[0] // 2 * 2) == size:
        return image[:height, :width]
    zoom = min(width / image.shape[1], height / image.shape[0])
    inner = cv2.resize(image, (max(round(image.shape[1] * zoom), 1), max(round(image.shape[0] * zoom), 1)))
    left, top = (width - inner.shape[1]) // 2, (height - inner.shape[0]) // 2
    whole = np.zeros((height, width, 3), np.uint8)
    whole[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return whole


def _writer(path: Path, size: tuple[int, int]) -> _AvWriter | _CvWriter:
    try:
        import av

        av.codec.Codec("libx264", "w")
    except (ImportError, ValueError):
        return _CvWriter(path, size)
    return _AvWriter(path, size)


class _AvWriter:
    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        from fractions import Fraction

        import av

        self._container: Any = av.open(f"file:{path}", "w")  # a name with a colon is no protocol
        options = {"crf": "23", "preset": "veryfast"}
        if path.suffix.lower() == ".avi":
            options["bf"] = "0"  # an AVI shows pictures in the order in which they lie in it
        self._stream: Any = self._container.add_stream("libx264", rate=30, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._base = Fraction(1, 1000)
        self._stream.codec_context.time_base = self._base
        self._last = -1

    def add(self, image: NDArray[np.uint8], seconds: float) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="bgr24")
        # Times must rise; a camera that came back may repeat one.
        self._last = max(round(seconds * 1e3), self._last + 1)
        frame.pts, frame.time_base = self._last, self._base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


class _CvWriter:
    RATE = 25.0

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        path.touch()  # OpenCV does not say why it cannot write
        self._writer = cv2.VideoWriter(str(path.absolute()), cv2.VideoWriter.fourcc(*"mp4v"), self.RATE, size)
        if not self._writer.isOpened():
            path.unlink()
            raise EdgeposeError(
                f"cannot write {path}: OpenCV found no MPEG-4 encoder; run: pip install 'edgepose[pyav]'"
            )
        self._written = 0

    def add(self, image: NDArray[np.uint8], seconds: float) -> None:
        # A fixed rate: repeat or leave out frames so that the film keeps the camera's time.
        due = round(seconds * self.RATE) + 1
        while self._written < due:
            self._writer.write(image)
            self._written += 1

    def close(self) -> None:
        self._writer.release()


def _window_sink(module: Any) -> str:
    """The element that opens a window here. Not autovideosink: without a display it may end the whole process."""
    wanted = []
    if os.environ.get("WAYLAND_DISPLAY"):
        wanted += ["waylandsink"]
    if os.environ.get("DISPLAY"):
        wanted += ["ximagesink", "xvimagesink", "glimagesink"]
    if not wanted:
        raise EdgeposeError("there is no display for --overlay window; use --overlay FILE.mp4, or set DISPLAY")
    for name in wanted:
        if module.ElementFactory.find(name) is not None:
            return name
    raise missing("a GStreamer window element", "to show a window", "sudo apt install gstreamer1.0-x")


class WindowOverlay:
    """A window on the desktop, through GStreamer."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._gst = gst("to show a window")
        self._sink = _window_sink(self._gst)
        self._skeleton = skeleton
        self._pipeline: Any = None
        self._size = (0, 0)

    def _open(self, width: int, height: int) -> None:
        module = self._gst
        self._pipeline = module.parse_launch(
            "appsrc name=in is-live=true block=false max-buffers=1 leaky-type=downstream do-timestamp=true format=time "
            f"caps=video/x-raw,format=BGR,width={width},height={height},framerate=0/1 "
            f"! videoconvert ! {self._sink} name=out sync=false"
        )
        out = self._pipeline.get_by_name("out")
        if out.find_property("handle-events") is not None:
            out.set_property("handle-events", False)  # nothing is clicked; some X servers refuse the request
        if self._pipeline.set_state(module.State.PLAYING) == module.StateChangeReturn.FAILURE:
            self._pipeline.set_state(module.State.NULL)
            raise EdgeposeError(f"{self._sink} cannot open a window on this display; use --overlay FILE.mp4")

    def show(self, frame: Frame, people: People) -> None:
        """Show one frame; EdgeposeError where there is no display or the window was closed."""
        image = annotate(frame, people, self._skeleton)
        height, width = image.shape[:2]
        width -= width % 4  # rows of raw video are padded to four bytes
        if self._size != (width, height):
            self.close()
            self._open(width, height)
            self._size = (width, height)
        buffer = self._gst.Buffer.new_wrapped(np.ascontiguousarray(image[:, :width]).tobytes())
        self._pipeline.get_by_name("in").emit("push-buffer", buffer)
        fault = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if fault is not None:
            error, _ = fault.parse_error()
            raise EdgeposeError(
                f"the overlay window stopped: {error.message}; use --overlay FILE.mp4 without a display"
            )

    def close(self) -> None:
        """Close the window."""
        if self._pipeline is not None:
            self._pipeline.set_state(self._gst.State.NULL)
            self._pipeline = None
            self._size = (0, 0)
