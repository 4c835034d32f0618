"""Sources: camera and file URIs -> frames with acquisition times.

``open_source(uri)`` picks GStreamer where its Python bindings are installed, else PyAV; ``images:///``
needs neither. See :mod:`edgepose.sources.uri` for the URIs.

Live sources never queue: the newest frame wins and drops are counted. Files lose no frame unless asked to
play in real time. A lost camera is SourceLost or SourceStalled; :class:`Reconnecting` brings it back.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from edgepose.errors import EdgeposeError
from edgepose.sources.base import Source, SourceLost, SourceStalled
from edgepose.sources.discover import Camera, cameras
from edgepose.sources.reconnect import Reconnecting, State
from edgepose.sources.uri import SourceSpec, parse

__all__ = [
    "Backend",
    "Camera",
    "Reconnecting",
    "Source",
    "SourceLost",
    "SourceSpec",
    "SourceStalled",
    "State",
    "cameras",
    "explain",
    "open_source",
    "parse",
]

Backend: TypeAlias = Literal["auto", "gstreamer", "pyav"]


def open_source(
    uri: str | SourceSpec,
    *,
    backend: Backend = "auto",
    camera: str | None = None,
    stall_timeout: float | None = None,
) -> Source:
    """Start reading ``uri``; ``camera`` names its frames (default: from the URI).

    ``stall_timeout`` in seconds, default 5 live and 10 for files. EdgeposeError for what cannot work;
    SourceLost when the camera is not there (:class:`Reconnecting` then waits for it).
    """
    spec = parse(uri, camera=camera) if isinstance(uri, str) else uri
    if spec.kind == "images":
        from edgepose.sources.images import ImagesSource

        return ImagesSource(spec)
    if _chosen(spec, backend) == "gstreamer":
        from edgepose.sources.gstreamer import GStreamerSource

        return GStreamerSource(spec, stall_timeout=stall_timeout)
    from edgepose.sources.pyav import PyAVSource

    return PyAVSource(spec, stall_timeout=stall_timeout)


def explain(uri: str | SourceSpec, *, backend: Backend = "auto") -> str:
    """How ``uri`` would be read: the exact GStreamer pipeline, or libav's arguments. No password; opens nothing."""
    spec = (parse(uri) if isinstance(uri, str) else uri).masked()
    if spec.kind == "images":
        return f"the pictures in {spec.location}, in name order"
    if _chosen(spec, backend) == "gstreamer":
        from edgepose.sources.gstreamer import capabilities
        from edgepose.sources.pipelines import pipeline

        return pipeline(spec, capabilities())
    from edgepose.sources.pyav import describe

    return describe(spec)


def _chosen(spec: SourceSpec, backend: Backend) -> Literal["gstreamer", "pyav"]:
    from edgepose.gst import gst

    if backend != "auto":
        return backend
    try:
        gst()
    except EdgeposeError:
        return "gstreamer" if spec.kind == "csi" else "pyav"
    return "gstreamer"
