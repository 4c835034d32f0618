"""A camera that comes back: re-open a lost source with growing, jittered pauses."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias

from edgepose.backoff import Backoff
from edgepose.frame import Frame
from edgepose.sources.base import Base, Source, SourceLost, SourceStalled

State: TypeAlias = Literal["online", "camera-lost"]

BACKOFF = Backoff(0.5, 10.0)
_TOLD = 50  # reasons that are kept, so that each is new once
STABLE = 5.0  # s of frames after which a camera is not one that comes for a moment and goes again


class Reconnecting(Base):
    """Wraps ``open_``: after SourceLost or SourceStalled it reports, closes, waits and opens again, until closed.

    ``seq`` and ``dropped`` go on over all connections. ``on_state`` hears ``online`` at the first frame (and at the
    first one after a loss), and ``camera-lost`` with each sentence that differs from the one before; the last argument
    says whether this reason is new since the camera was lost. Each pause is 0.5 to 1 times 0.5 s, 1 s, 2 s, ... 10 s;
    STABLE seconds of frames set them back. A source that is not worth re-opening (a file) fails as if it were not
    wrapped.

    The constructor opens at once: a wrong URI or a missing library is raised there, a camera that is not
    there yet is only reported.
    """

    def __init__(
        self,
        open_: Callable[[], Source],
        *,
        camera: str,
        on_state: Callable[[State, str, bool], None] = lambda _state, _sentence, _new: None,
        wait: Callable[[float], bool] | None = None,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``wait(s)`` pauses and says whether it was ended by ``close``; ``clock`` gives s."""
        self._open = open_
        self.camera = camera
        self.live = True
        self.reopens = True
        self.description = ""
        self._on_state = on_state
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._wait = wait or self._closed.wait
        self._backoff, self._clock = backoff, clock
        self._inner: Source | None = None
        self._state: tuple[State, str] | None = None
        self._told = deque[str](maxlen=_TOLD)
        self._failures = 0
        self._connected = 0.0
        self._next_try = 0.0
        self._base_seq = 0
        self._last_seq = -1
        self._lost_frames = 0  # dropped by connections that are gone
        self._connect()

    @property
    def dropped(self) -> int:
        """See :class:`Source`; over all connections."""
        inner = self._inner
        return self._lost_frames + (inner.dropped if inner else 0)

    def read(self, timeout: float | None = None) -> Frame | None:
        """The newest frame; waits for a lost camera until it is back, or at most ``timeout`` s (SourceStalled).

        While the camera is there its own stall time-out holds.
        """
        deadline = None if timeout is None else self._clock() + timeout
        while not self._closed.is_set():
            if self._inner is None and not self._reopen(deadline):
                break
            inner = self._inner
            if inner is None:
                continue
            try:
                frame = inner.read()
            except (SourceLost, SourceStalled) as error:
                if not inner.reopens:
                    raise
                self._lose(str(error))
                continue
            if frame is None:
                break
            if self._clock() - self._connected >= STABLE:
                self._failures = 0
            self._report("online", f"camera {self.camera} delivers")
            self._last_seq = self._base_seq + frame.seq
            return replace(frame, seq=self._last_seq, camera=self.camera)
        return None

    def close(self) -> None:
        """See :class:`Source`."""
        self._closed.set()
        with self._lock:
            inner = self._inner
        if inner is not None:
            inner.close()

    def _reopen(self, deadline: float | None) -> bool:
        """Wait out the pause, then try; False when closed. SourceStalled when the deadline comes first."""
        pause = self._next_try - self._clock()
        if deadline is not None and deadline < self._next_try:
            if self._wait(max(0.0, deadline - self._clock())):
                return False
            raise SourceStalled(
                f"camera {self.camera} is still lost; it is tried again in {self._next_try - deadline:.1f} s"
            )
        if pause > 0 and self._wait(pause):
            return False
        self._connect()
        return not self._closed.is_set()

    def _connect(self) -> None:
        try:
            inner = self._open()
        except (SourceLost, SourceStalled) as error:
            self._lose(str(error))
            return
        self._connected = self._clock()
        with self._lock:
            self._inner = inner
        self.description, self.live, self.reopens = inner.description, inner.live, inner.reopens
        self._base_seq = self._last_seq + 1
        if self._closed.is_set():
            inner.close()

    def _lose(self, sentence: str) -> None:
        if not self._closed.is_set():
            self._report("camera-lost", sentence)  # first: a driver that hangs may take its time to be closed
        if self._inner is not None:
            self._inner.close()
            self._lost_frames += self._inner.dropped
        with self._lock:
            self._inner = None
        if self._closed.is_set():
            return
        self._failures += 1
        self._next_try = self._clock() + self._backoff.delay(self._failures)

    def _report(self, state: State, sentence: str) -> None:
        """Tell a change of state, and of the reason for which a camera is lost."""
        if (state, sentence) == self._state:
            return
        if self._state is None or state != self._state[0]:
            self._told.clear()
        self._state, new = (state, sentence), sentence not in self._told
        if new:
            self._told.append(sentence)
        self._on_state(state, sentence, new)
