"""GStreamer's Python binding, loaded once and safely."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

from edgepose.errors import missing

APT = "sudo apt install python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good"


def gst(purpose: str = "for this source") -> Any:
    """The initialised ``Gst`` module; EdgeposeError where the bindings are absent."""
    # GObject introspection opens libgstreamer with global symbols, and with it libunwind, whose _Unwind_* functions
    # would then serve every C++ library that is loaded later: its first exception would end the process. The
    # compiler's own unwinder, made global first, keeps its place.
    with contextlib.suppress(OSError):  # no libgcc_s: not a glibc system, and not this trouble
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        from gi.repository import Gst, GstVideo  # noqa: F401
    except (ImportError, ValueError):
        raise missing("GStreamer with its Python bindings", purpose, APT) from None
    if not Gst.is_initialized():
        Gst.init(None)
    return Gst
