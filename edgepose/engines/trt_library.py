"""What the builder and the engine share of TensorRT: finding the library, and hearing what it says.

TensorRT is handed around as a module, because there are two with the same classes: ``tensorrt`` (JetPack, data
centre) and ``tensorrt_rtx`` (desktop cards). What a version can do is asked of the module, never of its number.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from typing import Any

from edgepose.errors import missing

LIBRARIES = ("tensorrt", "tensorrt_rtx")


def installed() -> str | None:
    """The name of the TensorRT module that :func:`library` gives, if any is installed."""
    return next((name for name in LIBRARIES if importlib.util.find_spec(name) is not None), None)


def library() -> Any:
    """The installed TensorRT module; EdgeposeError where there is none."""
    name = installed()
    if name is not None:
        return importlib.import_module(name)
    raise missing("tensorrt", "to build and run plans", "sudo apt install python3-libnvinfer (on a Jetson)")


def described(trt: Any) -> str:
    """Which TensorRT this is, for messages: 'tensorrt 10.3.0'."""
    return f"{trt.__name__} {trt.__version__}"


def has(trt: Any, enum: str, member: str) -> bool:
    """Whether ``trt`` has the enumeration and the enumeration that member."""
    return hasattr(getattr(trt, enum, None), member)


def listener(trt: Any) -> Any:
    """A TensorRT logger that prints nothing and remembers: ``.last()`` is what it heard last, errors first."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=3)
            self._warnings: deque[str] = deque(maxlen=1)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any of its threads."""
            levels = trt.ILogger.Severity
            if int(severity) <= int(levels.ERROR):
                self._errors.append(msg)
            elif int(severity) == int(levels.WARNING):
                self._warnings.append(msg)

        def last(self) -> str:
            """The last errors, or the last warning, or that nothing was said."""
            said = self._errors or self._warnings
            return "; ".join(" ".join(line.split()) for line in said) or "it gave no reason"

    return Listener()
