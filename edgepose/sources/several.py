"""Several cameras at once: whichever has a frame is served; one that dies or lags holds up nobody."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping

from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.sources.base import Source

log = logging.getLogger(__name__)

AHEAD = 2  # frames of a film that may be read, and begun, before the one before them is dealt with


class Several:
    """Reads every source in a thread of its own and hands out what is there: at most one frame of each.

    Of a live source the newest frame waits to be taken, and those that it replaces count as dropped. A file waits
    until its frame is taken, so that none is lost. One source alone is read directly, without a thread.
    """

    def __init__(
        self, sources: Mapping[str, Source], on_end: Callable[[str, EdgeposeError | None], None] = lambda *_: None
    ) -> None:
        """``on_end(camera, error)`` hears of every source that ended or failed, in that source's thread.

        It does so when the source's last frame was dealt with: when the next ``read`` was called, or where that was
        ``ready`` so many reads later as frames may be read ``AHEAD``.
        """
        self._sources, self._on_end = dict(sources), on_end
        self._news = threading.Condition()
        self._waiting: dict[str, Frame] = {}
        self._taken: set[str] = set()  # whose frames the last read handed out
        self._in_hand = deque[set[str]](maxlen=AHEAD)  # and those before it
        self._replaced = dict.fromkeys(self._sources, 0)
        self._running = set(self._sources)
        self._faults: list[EdgeposeError] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._pump, args=(name,), name=f"camera {name}", daemon=True)
            for name in self._sources
        ]
        if len(self._threads) > 1:
            for thread in self._threads:
                thread.start()

    def ready(self) -> bool:
        """Whether ``read`` may be called before the last frames are dealt with: all are files, and a frame is there.

        One file's always are: what is done with it does not depend on how fast it is decoded.
        """
        if any(source.live for source in self._sources.values()):
            return False
        return len(self._sources) == 1 or bool(self._waiting)

    def read(self) -> list[Frame] | None:
        """The frames that are there, waiting for one if there is none; None when all sources have ended.

        EdgeposeError: every source failed, or the only one did.
        """
        if len(self._sources) == 1:
            frame = next(iter(self._sources.values())).read()
            return None if frame is None else [frame]
        with self._news:
            self._in_hand.append(self._taken)
            if not self.ready():
                self._in_hand.clear()
            self._taken = set()
            self._news.notify_all()
            self._news.wait_for(lambda: self._waiting or not self._running or self._closed)
            if self._waiting and not self._closed:
                frames = list(self._waiting.values())
                self._taken = set(self._waiting)
                self._waiting.clear()
                self._news.notify_all()
                return frames
            if self._closed or len(self._faults) < len(self._sources):
                return None
            raise self._faults[0]

    def dropped(self, camera: str) -> int:
        """Frames of ``camera`` that nobody took."""
        return self._sources[camera].dropped + self._replaced[camera]

    def close(self) -> None:
        """Close every source and wait for their threads; from any thread."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        for source in self._sources.values():
            source.close()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(timeout=5)

    def _pump(self, name: str) -> None:
        source, fault = self._sources[name], None
        try:
            while (frame := source.read()) is not None and self._offer(name, source, frame):
                pass
        except EdgeposeError as error:
            fault = error
        except Exception as error:
            log.exception("camera %s: unexpected fault", name)
            fault = EdgeposeError(f"unexpected fault: {error!r}")
        with self._news:
            self._news.wait_for(lambda: self._closed or not self._is_out(name))
        try:
            if not self._closed:
                self._on_end(name, fault)
        finally:
            with self._news:
                self._running.discard(name)
                if fault is not None:
                    self._faults.append(fault)
                self._news.notify_all()

    def _is_out(self, name: str) -> bool:
        """Whether a frame of the source is there to be taken, or was taken and may not be dealt with yet."""
        return any(name in names for names in (self._waiting, self._taken, *self._in_hand))

    def _offer(self, name: str, source: Source, frame: Frame) -> bool:
        """Put ``frame`` out to be taken; False where nobody will."""
        with self._news:
            if source.live:
                self._replaced[name] += name in self._waiting
            else:
                self._news.wait_for(lambda: name not in self._waiting or self._closed)
            if self._closed:
                return False
            self._waiting[name] = frame
            self._news.notify_all()
            return True
