"""What TensorRT calls while it builds: the progress bar, and the calibrator of versions that still have one.

The classes are made inside functions because their bases come from whichever TensorRT is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepose.engines.device_memory import Memory

T = TypeVar("T")
CALIBRATION_BATCH = 8  # crops that the calibrator is given at once


@contextmanager
def shown(trt: Any, config: Any, what: str) -> Iterator[None]:
    """Show a build on the terminal: bars by phase where ``trt`` reports progress, else one that only moves.

    A Ctrl-C during the build cancels it and is raised at the end, where no foreign frame is in between.
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    monitor = None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        if hasattr(trt, "IProgressMonitor"):
            monitor = _monitor(trt, bars)
            config.progress_monitor = monitor
        else:
            bars.add_task(what, total=None)
        yield
        if monitor is not None and monitor.cancelled:
            raise KeyboardInterrupt


def _monitor(trt: Any, bars: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._tasks: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """A phase of ``num_steps`` begins; called from any thread, as the others are."""
            self._guarded(lambda: self._tasks.__setitem__(phase_name, bars.add_task(phase_name, total=num_steps)))

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False asks TensorRT to stop."""
            self._guarded(lambda: bars.update(self._tasks[phase_name], completed=step + 1))
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            """The phase ends, done or not."""
            self._guarded(lambda: bars.remove_task(self._tasks.pop(phase_name)))

        def _guarded(self, act: Callable[[], Any]) -> None:
            try:
                act()
            except KeyboardInterrupt:  # must not fly through TensorRT's own frames
                self.cancelled = True
            except KeyError:  # a phase that never began
                pass

    return Monitor()


def calibrator(
    trt: Any, memory: Memory | None, crops: NDArray[np.uint8], cache: Path, keep: Callable[[Path, bytes], None]
) -> Any:
    """An IInt8EntropyCalibrator2 over ``crops`` [N, 3, H, W] RGB; reads ``cache`` where it is, else has it kept.

    ``memory`` may be None where the cache is there, for then no crop is asked for.
    """

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            whole = len(crops) // CALIBRATION_BATCH * CALIBRATION_BATCH
            self._starts = iter(range(0, whole, CALIBRATION_BATCH))
            self._pointer = 0
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
            with memory.active():
                memory.upload(self._pointer, batch)
                memory.synchronize()
            return [self._pointer]

        def read_calibration_cache(self) -> bytes | None:
            """The file, where there is one."""
            return cache.read_bytes() if cache.is_file() else None

        def write_calibration_cache(self, found: Any) -> None:
            """Keep it for the next build."""
            keep(cache, bytes(found))

    return Calibrator()
