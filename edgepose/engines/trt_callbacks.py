"""What TensorRT calls while it builds: the progress bar, and the calibrator of versions that still have one.

The classes are made inside functions because their bases come from whichever TensorRT is installed. Nothing may be
raised in what TensorRT calls, its logger among it: its Python bindings print that and go on as if nothing were.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepose.engines.device_memory import Memory
from edgepose.signals import die

CALIBRATION_BATCH = 8  # crops that the calibrator is given at once


@contextmanager
def shown(trt: Any, config: Any, what: str) -> Iterator[None]:
    """Show a build on the terminal: bars by phase where ``trt`` reports progress, else one that only moves.

    A Ctrl-C during the build cancels it, where ``trt`` lets it, and is raised at its end; a later one ends the process.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with (
        _ctrl_c_noted() as pressed,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bars,
    ):
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = _monitor(trt, bars, pressed)
        else:
            bars.add_task(what, total=None)
        yield
        if pressed.is_set():
            raise KeyboardInterrupt


@contextmanager
def _ctrl_c_noted() -> Iterator[threading.Event]:
    """Set inside by a Ctrl-C, which raises nothing then; whoever handles it otherwise already goes on to do so."""
    pressed = threading.Event()

    def press(number: int, frame: Any) -> None:
        if pressed.is_set():
            die(number)
        pressed.set()

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield pressed
        return
    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _monitor(trt: Any, bars: Any, cancelled: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._tasks: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase of ``num_steps`` begins; called from any thread, as the others are."""
            self._tasks[phase_name] = bars.add_task(phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False asks TensorRT to stop."""
            if phase_name in self._tasks:
                bars.update(self._tasks[phase_name], completed=step + 1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """The phase ends, done or not."""
            if phase_name in self._tasks:
                bars.remove_task(self._tasks.pop(phase_name))

    return Monitor()


def calibrator(
    trt: Any, memory: Memory | None, crops: NDArray[np.uint8], cache: Path, keep: Callable[[Path, bytes], None]
) -> Any:
    """An IInt8EntropyCalibrator2 over ``crops`` [N, 3, H, W] RGB; reads ``cache`` where it is, else has it kept.

    ``memory`` may be None where the cache is there, for then no crop is asked for. ``fault`` is what went wrong in it,
    which the caller raises after the build: ranges of a part of the crops are neither kept nor good for a plan.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            whole = len(crops) // CALIBRATION_BATCH * CALIBRATION_BATCH
            self._starts = iter(range(0, whole, CALIBRATION_BATCH))
            self._pointer = 0
            self.fault: Exception | None = None
            if memory is not None and len(crops):
                with memory.active():
                    self._pointer = memory.device(CALIBRATION_BATCH * crops[0].size * 4)

        def get_batch_size(self) -> int:
            """Crops in one batch."""
            return CALIBRATION_BATCH

        def get_batch(self, names: list[str]) -> list[int] | None:
            """The device address of the next batch, None at the end."""
            start = next(self._starts, None)
            if start is None or memory is None:
                return None
            batch = crops[start : start + CALIBRATION_BATCH].astype(np.float32)  # must outlive the copy
            with self._noted(), memory.active():
                memory.upload(self._pointer, batch)
                memory.synchronize()
            return [self._pointer] if self.fault is None else None

        def read_calibration_cache(self) -> bytes | None:
            """The file, where there is one."""
            ranges: list[bytes] = []
            with self._noted():
                ranges += [cache.read_bytes()] if cache.is_file() else []
            return ranges[0] if ranges else None

        def write_calibration_cache(self, found: Any) -> None:
            """Keep it for the next build."""
            if self.fault is None:
                with self._noted():
                    keep(cache, bytes(found))

        @contextmanager
        def _noted(self) -> Iterator[None]:
            try:
                yield
            except Exception as fault:  # noqa: BLE001 - raised after the build
                self.fault = fault

    return Calibrator()
