"""Sources: camera and file URIs -> frames with acquisition times.

``open_source(uri)`` picks GStreamer where its Python bindings are installed, else PyAV; ``images:///``
needs neither. See :mod:`edgepose.sources.uri` for the URIs.
"""
