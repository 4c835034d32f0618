"""A real RTSP camera on 127.0.0.1, in a child process that can be killed, frozen and started again.

>>> with RtspServer() as server:
...     open_source(server.url)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import TracebackType

from edgepose import EdgeposeError
from edgepose.gst import gst
from tests.broker import free_port

_PICTURE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=320,height=240,framerate=30/1 "
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)

_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

port, picture, user, password = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(picture)
factory.set_shared(True)
if user:
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
    factory.add_role_from_structure(Gst.Structure.from_string(
        "viewer,media.factory.access=(boolean)true,media.factory.construct=(boolean)true")[0])
server.get_mount_points().add_factory("/cam", factory)
if not server.attach(None):
    sys.exit("cannot listen")
print("ready", flush=True)
GLib.MainLoop().run()
"""


def why_not() -> str:
    """Why no server can run here; empty when one can."""
    try:
        module = gst()
        import gi

        gi.require_version("GstRtspServer", "1.0")
        from gi.repository import GstRtspServer  # noqa: F401
    except (EdgeposeError, ImportError, ValueError) as error:
        return f"gst-rtsp-server's Python bindings are absent ({error})"
    absent = [
        name for name in ("x264enc", "rtph264pay", "rtspsrc", "videotestsrc") if not module.ElementFactory.find(name)
    ]
    return f"GStreamer lacks {', '.join(absent)}" if absent else ""


class RtspServer:
    """320x240, 30 frames/s, H.264, a moving ball; ``url`` stays the same over restarts."""

    def __init__(self, *, user: str = "", password: str = "", picture: str = _PICTURE) -> None:
        self.port = free_port()
        self.url = f"rtsp://127.0.0.1:{self.port}/cam"
        self._arguments = [str(self.port), picture, user, password]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> RtspServer:
        """Start it and wait until it listens."""
        command = [sys.executable, "-c", _SERVER, *self._arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"the RTSP server did not start (exit code {self._process.wait(5)})")
        return self

    def kill(self) -> None:
        """Pull the plug: the process dies at once, without a word to its clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open, nothing comes."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def __enter__(self) -> RtspServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
