"""What SIGINT, SIGTERM and SIGHUP do to a run: it ends in peace, or at the second signal at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LETTING_GO = 3.0  # s
_AT_ONCE = 0.5  # s; of several signals that come together, as some supervisors send them, the later ones say no more


def die(number: int) -> None:
    """End as by signal ``number`` that nobody handles."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # process 1 of a container is spared by signals that it does not handle


class _StopRequested(BaseException):
    """A signal came before the loop ran; unwinds like KeyboardInterrupt, through everything that was opened."""


class Stopper:
    """What SIGINT, SIGTERM and SIGHUP do: before the loop runs, it is not begun; after, it ends. A later one kills.

    The handler itself raises nothing: it may strike inside a library's import or callback, which swallow what is
    raised or, in C++, crash on it. So what is opened before the loop asks with ``check`` in between: a step that takes
    long, as building a TensorRT plan does, ends first, or at the second signal.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._stopping: threading.Thread | None = None
        self._requested, self._since = False, 0.0

    def check(self) -> None:
        """Unwind where a signal came."""
        if self._requested:
            raise _StopRequested

    def running(self, stop: Callable[[], None]) -> None:
        """From now on a signal calls ``stop``; one that came before unwinds."""
        self._stop = stop
        self.check()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._requested:
            if time.monotonic() - self._since > _AT_ONCE:
                die(number)
            return
        self._requested, self._since = True, time.monotonic()
        if self._stop is not None:
            # In a thread of its own: the main thread may hold, right now, the locks that stopping takes.
            self._stopping = threading.Thread(target=self._stop, name="stop", daemon=True)
            self._stopping.start()

    def settle(self) -> None:
        """Wait for what was stopped to be let go, as long as a camera may be expected to take."""
        if self._stopping is not None:
            self._stopping.join(_LETTING_GO)


@contextmanager
def stopping_on_signals() -> Iterator[Stopper]:
    """Handle signals inside; a stop that was asked for ends the block in peace.

    A hang-up that is ignored stays so: ``nohup`` asks for it.
    """
    stopper = Stopper()
    handled = (each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN)
    before = {each: signal.signal(each, stopper.handle) for each in handled}
    try:
        yield stopper
    except _StopRequested:
        return
    finally:
        stopper.settle()
        for each, old in before.items():
            signal.signal(each, old)
