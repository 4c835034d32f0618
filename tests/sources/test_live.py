"""Live sources, for real: a test picture, an RTSP camera and an MJPEG camera on 127.0.0.1."""

from __future__ import annotations

import base64
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.gst import gst
from edgepose.sources import SourceLost, SourceStalled, open_source, parse, pyav
from edgepose.sources.pace import RateLimit
from tests.broker import Certificates, free_port
from tests.rtsp import RtspServer, why_not

S = 1_000_000_000
LATE = 2.0  # s; how late a frame may be on a machine that has much else to do

needs_rtsp = pytest.mark.skipif(bool(why_not()), reason=why_not() or "an RTSP server runs here")


def age_s(acquired_ns: int) -> float:
    return (time.time_ns() - acquired_ns) / S


# --- a test picture -----------------------------------------------------------------------------------


def test_live_numbers_add_up(backend: str) -> None:
    with open_source("videotest://?frames=20&fps=50&width=62&height=48", backend=backend) as source:
        assert source.live
        frames = list(source)
        assert 1 <= len(frames) <= 20
        assert len(frames) + source.dropped == frames[-1].seq + 1 <= 20
        assert source.read() is None
    assert frames[0].image.shape == (48, 62, 3)
    steps = np.diff([f.acquired_ns for f in frames]) / np.diff([f.seq for f in frames])
    np.testing.assert_allclose(steps / S, 0.02, atol=0.01)


def test_newest_wins_for_a_slow_reader(backend: str) -> None:
    with open_source("videotest://?fps=30", backend=backend) as source:
        first = source.read()
        assert first is not None
        time.sleep(0.7)
        source.read()  # may have been taken out before the pause
        frame = source.read()
        assert frame is not None
        assert age_s(frame.acquired_ns) < 0.3
        assert source.dropped >= 5
        assert frame.seq == source.dropped + 2
        assert age_s(frame.acquired_ns) >= 0  # never in the future
        assert (frame.acquired_ns - first.acquired_ns) / S == pytest.approx((frame.seq - first.seq) / 30, abs=0.1)


def test_close_from_another_thread_ends_a_blocked_read(backend: str) -> None:
    source = open_source("videotest://?fps=1", backend=backend)
    assert source.read() is not None
    ended: list[float] = []

    def read() -> None:
        while source.read() is not None:
            pass
        ended.append(time.monotonic())

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    closed = time.monotonic()
    source.close()
    reader.join(5)
    assert not reader.is_alive()
    assert ended[0] - closed < 0.5
    source.close()  # again is nothing
    assert source.read() is None


def test_many_opens_leave_no_threads(backend: str) -> None:
    def cycle() -> None:
        with open_source("videotest://?fps=100", backend=backend) as source:
            assert source.read() is not None

    cycle()
    before = thread_count()
    for _ in range(8):
        cycle()
    deadline = time.monotonic() + 5
    while thread_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert thread_count() <= before + 1


def thread_count() -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123
        return next(int(line.split()[1]) for line in status if line.startswith("Threads:"))


def test_a_read_that_may_not_wait(backend: str) -> None:
    with open_source("videotest://?fps=1", backend=backend) as source:
        assert source.read() is not None
        with pytest.raises(SourceStalled, match=r"no frame from videotest:// for 0\.05 s"):
            list(iter(lambda: source.read(timeout=0.05), None))


def test_csi_without_the_hardware() -> None:
    with pytest.raises(EdgeposeError, match="csi://0 needs GStreamer"):
        open_source("csi://0", backend="pyav")


def test_no_such_device(backend: str) -> None:
    with (
        pytest.raises(SourceLost, match="/dev/video97") as caught,
        open_source("v4l2:///dev/video97", backend=backend) as s,
    ):
        s.read()
    assert "\n" not in str(caught.value)


# --- RTSP ---------------------------------------------------------------------------------------------


@needs_rtsp
def test_rtsp_frames_times_freeze_and_kill(backend: str) -> None:
    with RtspServer() as server:
        with open_source(server.url, backend=backend, stall_timeout=1.5) as source:
            assert source.camera == "127-0-0-1"
            frames = []
            for frame in source:
                assert 0 <= age_s(frame.acquired_ns) < LATE
                frames.append(frame)
                if len(frames) == 15:
                    break
            assert frames[0].image.shape == (240, 320, 3)
            assert not np.array_equal(frames[0].image, frames[-1].image)  # the ball moves
            times = np.array([f.acquired_ns for f in frames]) / S
            assert np.all(np.diff(times) > 0)
            time.sleep(0.5)
            source.read()
            frame = source.read()
            assert frame is not None
            assert source.dropped > 0
            assert age_s(frame.acquired_ns) < LATE
            server.freeze()
            start = time.monotonic()
            with pytest.raises(SourceStalled, match=f"no frame from {server.url} for 1.5 s"):
                for _ in source:
                    pass
            assert 1.0 < time.monotonic() - start < 8
        server.kill()
        with pytest.raises(SourceLost) as caught, open_source(server.url, backend=backend) as source:
            source.read()
        assert server.url in str(caught.value)
        assert "\n" not in str(caught.value)


_NO_TIMING = (  # its stream does not say how long a picture lasts
    "( videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1 ! openh264enc gop-size=15 "
    "! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


@needs_rtsp
@pytest.mark.parametrize("picture", [{}, {"picture": _NO_TIMING}], ids=["timed", "untimed"])
def test_fps_of_an_rtsp_camera(backend: str, picture: dict[str, str]) -> None:
    if picture and not gst().ElementFactory.find("openh264enc"):
        pytest.skip("GStreamer lacks openh264enc")
    with RtspServer(**picture) as server, open_source(f"{server.url}?fps=5", backend=backend) as source:
        times = [frame.acquired_ns / S for frame, _ in zip(source, range(8), strict=False)]
    assert np.median(np.diff(times)) > 0.15
    assert times[-1] - times[0] < 7 * 0.2 + LATE


@needs_rtsp
def test_rtsp_server_dies(backend: str) -> None:
    with RtspServer() as server, open_source(server.url, backend=backend, stall_timeout=3) as source:
        assert source.read() is not None
        server.kill()
        with pytest.raises((SourceLost, SourceStalled), match=r"127\.0\.0\.1"):
            for _ in source:
                pass


@needs_rtsp
def test_rtsp_password(backend: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with RtspServer(user="me", password='p@ss "w0rd') as server:
        good = server.url.replace("rtsp://", "rtsp://me:p%40ss%20%22w0rd@")
        with open_source(good, backend=backend) as source:
            assert source.read() is not None
            assert "w0rd" not in source.description
        monkeypatch.setenv("EDGEPOSE_RTSP_USER", "me")
        monkeypatch.setenv("EDGEPOSE_RTSP_PASSWORD", "wr0ng-w0rd")
        with pytest.raises(SourceLost) as caught, open_source(server.url, backend=backend) as source:
            source.read()
        assert "w0rd" not in str(caught.value)
        assert "rtsp://me:***@127.0.0.1" in str(caught.value)
    out, err = capfd.readouterr()
    assert "w0rd" not in out + err


@needs_rtsp
def test_rtsp_close_is_quick_when_the_camera_hangs(backend: str) -> None:
    with RtspServer() as server:
        source = open_source(server.url, backend=backend)
        assert source.read() is not None
        server.freeze()
        start = time.monotonic()
        source.close()
        assert time.monotonic() - start < 2


# --- MJPEG over HTTP ------------------------------------------------------------------------------------


@contextmanager
def mjpeg_server(
    frames: int, *, then_hang: bool = False, at_once: int = 1, needs: str = "", tls: Certificates | None = None
) -> Iterator[str]:
    """Serves ``frames`` JPEGs at 25 / s, frame i being as bright as i * 8; then ends, or says nothing more.

    ``at_once`` are in one write. ``needs``: the user:password without which nothing is served.
    """
    let_in = f"Basic {base64.b64encode(needs.encode()).decode()}" if needs else None
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/cam?key=hush"):
                self.send_error(404)
                return
            if let_in and self.headers.get("Authorization") != let_in:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            try:
                written = b""
                for i in range(frames):
                    jpeg = cv2.imencode(".jpg", np.full((48, 62, 3), i * 8 % 256, np.uint8))[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    written += head.encode() + jpeg + b"\r\n"
                    if (i + 1) % at_once:
                        continue
                    self.wfile.write(written)
                    written = b""
                    if done.wait(0.04 * at_once):
                        return
                if then_hang:
                    done.wait(30)
            except OSError:
                pass  # the client has gone

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.server_pem, tls.server_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        host = "https://localhost" if tls else "http://127.0.0.1"
        yield f"{host}:{server.server_address[1]}/cam?key=hush&name=Yard"
    finally:
        done.set()
        server.shutdown()
        server.server_close()


def by_both_clocks(frame: Frame) -> list[float]:
    """How old a camera's frame is, in s: by UTC, and by the clock that nobody sets."""
    assert frame.monotonic_ns is not None
    return [age_s(frame.acquired_ns), (time.monotonic_ns() - frame.monotonic_ns) / S]


def test_mjpeg(backend: str) -> None:
    with mjpeg_server(20) as url, open_source(url, backend=backend) as source:
        assert source.camera == "yard"
        assert "hush" not in source.description
        frames = []
        ages = []
        with pytest.raises(SourceLost, match=r"ended its stream|Input.output error") as caught:
            frames.extend(frame for frame in source if ages.extend(by_both_clocks(frame)) is None)
        assert all(0 <= age < LATE for age in ages)
        assert "hush" not in str(caught.value)
    assert len(frames) >= 5
    assert frames[0].image.shape == (48, 62, 3)
    levels = [int(f.image.mean()) for f in frames]
    assert levels == sorted(levels)
    assert all(abs(level - 8 * round(level / 8)) <= 2 for level in levels)


def test_mjpeg_password(backend: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EDGEPOSE_HTTP_USER", "me")
    with mjpeg_server(20, needs='me:p@ss "w0rd') as url:
        monkeypatch.setenv("EDGEPOSE_HTTP_PASSWORD", 'p@ss "w0rd')
        with open_source(url, backend=backend) as source:
            assert source.read() is not None
            assert "w0rd" not in source.description
        monkeypatch.setenv("EDGEPOSE_HTTP_PASSWORD", "wr0ng-w0rd")
        with pytest.raises(SourceLost, match=r"me:\*\*\*@127") as caught, open_source(url, backend=backend) as source:
            source.read()
        assert "w0rd" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "w0rd" not in out + err


@pytest.mark.parametrize("at_once", [1, 2])
def test_fps_of_an_mjpeg_camera_whose_pictures_say_no_duration(backend: str, at_once: int) -> None:
    with mjpeg_server(60, at_once=at_once) as url, open_source(f"{url}&fps=5", backend=backend) as source:
        frames = []
        with pytest.raises(SourceLost):
            frames.extend(source)
    assert 6 <= len(frames) <= 14  # in 2.4 s
    steps = np.diff([f.acquired_ns for f in frames]) / S
    assert np.median(steps) > 0.15
    assert [f.seq for f in frames] == list(range(len(frames))), "what is left out on purpose is no drop"


def test_mjpeg_that_stops(backend: str) -> None:
    with mjpeg_server(5, then_hang=True) as url, open_source(url, backend=backend, stall_timeout=0.7) as source:
        assert source.read() is not None
        with pytest.raises(SourceStalled, match=r"key=\*\*\* for 0\.7 s"):
            for _ in source:
                pass


def test_nobody_there(backend: str) -> None:
    url = f"http://127.0.0.1:{free_port()}/cam"
    with pytest.raises(SourceLost, match=url) as caught, open_source(url, backend=backend) as source:
        source.read()
    assert "\n" not in str(caught.value)
    with mjpeg_server(1) as url:
        wrong = url.replace("/cam", "/wrong")
        with pytest.raises(SourceLost, match=r"(?i)not found") as caught, open_source(wrong, backend=backend) as source:
            source.read()
        assert "hush" not in str(caught.value)


class _HangsUp(socketserver.StreamRequestHandler):
    """An RTSP camera that lets everybody in and ends the stream before its first picture."""

    def handle(self) -> None:
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
        while (line := self.rfile.readline().decode()).strip():
            head = dict(h.split(": ", 1) for h in iter(lambda: self.rfile.readline().decode().strip(), ""))
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {head['CSeq']}\r\nSession: 1\r\n"
            if line.startswith("OPTIONS"):
                answer += "Public: DESCRIBE, SETUP, PLAY\r\n\r\n"
            elif line.startswith("DESCRIBE"):
                answer += f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}"
            else:
                answer += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n"
            self.wfile.write(answer.encode())
            if line.startswith("PLAY"):
                return


def test_a_camera_that_hangs_up_before_its_first_picture_is_lost_and_may_come_back(backend: str) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _HangsUp) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"rtsp://127.0.0.1:{server.server_address[1]}/cam"
        with pytest.raises((SourceLost, SourceStalled)), open_source(url, backend=backend, stall_timeout=2) as source:
            source.read()
        server.shutdown()


@pytest.mark.parametrize("uri", ["rtsp://h/x?fps=10", "http://h/x?fps=10"])
def test_a_clock_that_is_set_moves_a_network_cameras_times_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"utc": 1_000 * S, "running": 50 * S}
    monkeypatch.setattr(pyav.time, "time_ns", lambda: now["utc"])
    monkeypatch.setattr(pyav.time, "monotonic_ns", lambda: now["running"])
    spec = parse(uri, environ={})
    times, pace = pyav._Times(spec, SimpleNamespace(average_rate=10)), RateLimit(10)
    for number in range(40):
        if number == 20:
            now["utc"] += 5 * S  # as NTP does once on a board without a clock of its own
        if number == 30:
            now["utc"] -= 3_600 * S
        taken = times.taken_ns(SimpleNamespace(pts=number, time_base=Fraction(1, 10)), now["running"])
        assert not pace.skips(taken)
        assert abs(times.utc_ns(taken) - now["utc"]) < S // 100
        now = {name: value + S // 10 for name, value in now.items()}


@pytest.mark.parametrize("jump", [-5, -0.8, 5])
def test_a_cameras_clock_that_is_set_costs_no_frame_its_time(jump: float) -> None:
    """As NTP does to cameras that stamp by wall clock. A delay on the way, which keeps the order, is still one."""
    times = pyav._Times(parse("rtsp://h/x", environ={}), SimpleNamespace(average_rate=10))
    for number in range(60):
        arrival = 50 * S + number * S // 10
        stamp = Fraction(100) + Fraction(number, 10) + (Fraction(jump) if number >= 20 else 0)
        late = 2 * S if number in (40, 41, 42) else 0
        taken = times.taken_ns(SimpleNamespace(pts=stamp, time_base=1), arrival + late)
        assert abs(taken - arrival) < S // 100, number


def test_a_camera_whose_certificate_nobody_vouches_for_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """Who stands between would get the password, and could show anything."""
    certificates = Certificates.make(tmp_path / "tls")
    with mjpeg_server(20, tls=certificates) as url:
        with pytest.raises(SourceLost, match="certificate|takes no connection"):
            next(iter(open_source(url, backend=backend)))
        if backend == "pyav":
            monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_pem))
            with open_source(url, backend=backend) as source:
                assert next(iter(source)).size == (62, 48)
