"""What the builder and the engine share of TensorRT: finding the library, and hearing what it says.

TensorRT is handed around as a module, because there are two with the same classes: ``tensorrt`` (JetPack, data
centre) and ``tensorrt_rtx`` (desktop cards). What a version can do is asked of the module, never of its number.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections import deque
from typing import Any

from edgepose.errors import EdgeposeError, missing

LIBRARIES = ("tensorrt", "tensorrt_rtx")


def installed() -> str | None:
    """The name of the TensorRT module that :func:`library` gives, if any is installed."""
    return next((name for name in LIBRARIES if importlib.util.find_spec(name) is not None), None)


def library() -> Any:
    """The installed TensorRT module; EdgeposeError where there is none, or it cannot be loaded."""
    name = installed()
    if name is not None:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # for another Python, or without the libraries that it needs
            raise EdgeposeError(f"{name} is installed and cannot be loaded: {error}; install it again, for this Python "
                                "and driver, or choose another --engine") from error  # fmt: skip
    raise missing("tensorrt", "to build and run plans", "sudo apt install python3-libnvinfer (on a Jetson)")


def described(trt: Any) -> str:
    """Which TensorRT this is, for messages: 'tensorrt 10.3.0'."""
    return f"{trt.__name__} {trt.__version__}"


def has(trt: Any, enum: str, member: str) -> bool:
    """Whether ``trt`` has the enumeration and the enumeration that member."""
    return hasattr(getattr(trt, enum, None), member)


class Heard:
    """What TensorRT says from here on; ``logger`` is what it takes to say it to."""

    def __init__(self, trt: Any) -> None:
        self.logger = _logger(trt)
        self._begin = self.logger.count

    def last(self) -> str:
        """The last errors, or the last warning, or that nothing was said."""
        said = self.logger.since(self._begin)
        return "; ".join(" ".join(line.split()) for line in said) or "it gave no reason"


_loggers: list[tuple[Any, Any]] = []  # TensorRT module, its logger


def _logger(trt: Any) -> Any:
    """The process's logger for ``trt``, which prints nothing and remembers.

    TensorRT goes on with the first one that it is given, whoever else brings another: that must not be freed.
    """
    for module, logger in _loggers:
        if module is trt:
            return logger

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.count = 0
            self._errors: deque[tuple[int, str]] = deque(maxlen=3)
            self._warnings: deque[tuple[int, str]] = deque(maxlen=1)

        def log(self, severity: Any, msg: str) -> None:
            """Called by TensorRT, from any of its threads."""
            levels = trt.ILogger.Severity
            if int(severity) <= int(levels.ERROR):
                self._errors.append((self.count, msg))
            elif int(severity) == int(levels.WARNING):
                self._warnings.append((self.count, msg))
            self.count += 1

        def since(self, begin: int) -> list[str]:
            """The last errors since the message of number ``begin``; where there is none, the last warning."""
            found = ([text for number, text in said if number >= begin] for said in (self._errors, self._warnings))
            return next((texts for texts in found if texts), [])

    _loggers.append((trt, Logger()))
    return _loggers[-1][1]
