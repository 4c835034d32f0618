"""URIs -> SourceSpec, and one sentence for each that cannot be meant."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from edgepose.errors import EdgeposeError
from edgepose.redact import redact, without_secrets
from edgepose.sources.uri import parse, sanitise

GOOD = [
    # uri, kind, location, camera, live, options
    ("clip.mp4", "file", "clip.mp4", "clip", False, {}),
    ("a dir/My Clip.final.MP4", "file", "a dir/My Clip.final.MP4", "my-clip-final", False, {}),
    ("what?.mp4", "file", "what?.mp4", "what", False, {}),
    ("a:b.mp4", "file", "a:b.mp4", "a-b", False, {}),
    ("file:///a%20b/x%3F.mp4?loop=yes", "file", "/a b/x?.mp4", "x", False, {"loop": True}),
    ("file:rel/x.mp4", "file", "rel/x.mp4", "x", False, {}),
    ("file://localhost/x.mp4", "file", "/x.mp4", "x", False, {}),
    ("file:///x.mp4?realtime=true", "file", "/x.mp4", "x", True, {"realtime": True}),
    ("file:///äöü.mp4", "file", "/äöü.mp4", "file", False, {}),
    ("/dev/video2", "v4l2", "/dev/video2", "video2", True, {}),
    ("v4l2:///dev/video0", "v4l2", "/dev/video0", "video0", True, {}),
    (
        "v4l2:///dev/video0?width=1280&height=720&fps=30&format=mjpeg&name=Front%20Door",
        "v4l2",
        "/dev/video0",
        "front-door",
        True,
        {"width": 1280, "height": 720, "fps": 30, "format": "mjpeg", "name": "Front Door"},
    ),
    ("csi://0", "csi", "0", "csi0", True, {}),
    ("CSI://1?rotate=180", "csi", "1", "csi1", True, {"rotate": 180}),
    ("rtsp://cam.local/live", "rtsp", "rtsp://cam.local/live", "cam-local", True, {}),
    (
        "rtsp://10.0.0.5:8554/a?channel=1&latency=0&subtype=0&protocol=udp",
        "rtsp",
        "rtsp://10.0.0.5:8554/a?channel=1&subtype=0",
        "10-0-0-5",
        True,
        {"latency": 0, "protocol": "udp"},
    ),
    ("rtsps://[::1]:322/x", "rtsp", "rtsps://[::1]:322/x", "1", True, {}),
    ("https://h/mjpg?a=%20b&fps=5", "http", "https://h/mjpg?a=%20b", "h", True, {"fps": 5}),
    ("videotest://", "videotest", "", "videotest", True, {}),
    (
        "videotest://?pattern=ball&frames=3&live=0",
        "videotest",
        "",
        "videotest",
        False,
        {"pattern": "ball", "frames": 3, "live": False},
    ),
    ("images:///a/b/", "images", "/a/b/", "b", False, {}),
    ("images:rel/dir?fps=5", "images", "rel/dir", "dir", False, {"fps": 5}),
]


@pytest.mark.parametrize(("uri", "expected"), [(g[0], g[1:]) for g in GOOD], ids=[g[0] for g in GOOD])
def test_good(uri: str, expected: tuple[object, ...]) -> None:
    spec = parse(uri, environ={})
    assert (spec.kind, spec.location, spec.camera, spec.live, dict(spec.options)) == expected


BAD = [
    ("", "the source is empty"),
    ("  ", "the source is empty"),
    ("rstp://h/x", "unknown source scheme 'rstp' in 'rstp://h/x'; did you mean 'rtsp'?"),
    ("gopher://x", "unknown source scheme 'gopher'"),
    ("0", "did you mean v4l2:///dev/video0 or csi://0?"),
    ("csi://", "names no sensor"),
    ("csi://front", "give its number, such as csi://0"),
    ("csi://-1", "names no sensor"),
    ("csi://" + "1" * 5000, "names no sensor"),
    ("rtsp:cam/x", "the source begins with 'rtsp', but not with 'rtsp://'; write it as rtsp://host/path"),
    ("HTTP//cam/x", "begins with 'HTTP', but not with 'HTTP://'; write it as http://host/path"),
    ("file://", "names no path"),
    ("file:///", "names no path"),
    ("file://clip.mp4", "takes 'clip.mp4' for a host name"),
    ("v4l2://", "names no path; write it as v4l2:///dev/video0"),
    ("v4l2://video0", "three slashes"),
    ("images:", "names no path"),
    ("rtsp://", "names no host"),
    ("rtsp:///cam", "names no host"),
    ("rtsp://h:port/x", "is not a URL"),
    ("http://[::1/x", "is not a URL"),
    ("videotest://ball", "takes only parameters"),
    ("videotest://?live=no", "would never end"),
    ("videotest://?patern=ball", "unknown parameter 'patern' in 'videotest://?patern=ball'; did you mean 'pattern'?"),
    ("v4l2:///dev/video0?latency=3", "unknown parameter 'latency'"),
    ("csi://0?width=1280", "only one of width and height"),
    ("csi://0?width=0&height=3", "width=0 in 'csi://0?width=0&height=3' is not a whole number above 0"),
    ("csi://0?width=-1&height=3", "is not a whole number above 0"),
    ("csi://0?fps=29.97", "fps=29.97"),
    ("csi://0?fps=", "fps= in"),
    ("csi://0?fps=٣", "is not a whole number above 0"),
    ("csi://0?rotate=45", "is none of 0, 90, 180, 270"),
    ("file:///x.mp4?loop=maybe", "is neither true nor false"),
    ("rtsp://h/x?protocol=sctp", "is none of tcp, udp"),
    ("v4l2:///dev/video0?format=h264", "is none of mjpeg, raw"),
    ("videotest://?name=%2F%2F", "has no letter or digit"),
    ("file:///a\nb.mp4", "control character"),
    ("csi://0?name=a%0Ab", "control character"),
]


@pytest.mark.parametrize(("uri", "said"), BAD, ids=[repr(b[0]) for b in BAD])
def test_bad(uri: str, said: str) -> None:
    with pytest.raises(EdgeposeError) as caught:
        parse(uri, environ={})
    text = str(caught.value)
    assert said in text
    assert "\n" not in text
    assert caught.value.exit_code == 2


SECRET = "pa@s&w0rd"


@pytest.mark.parametrize("start", ["rtsp//", "rtsp:/", "rtsp/", "rtsps:", "https:", "rtsp;//"])
def test_password_of_a_url_that_lacks_a_sign_is_in_no_message(start: str) -> None:
    """Else it would be a file's name, which is shown."""
    for rest in (f"me:{SECRET}@h/x", f"me:{SECRET}@h", f"me:/{SECRET}@h/x"):
        assert "w0rd" not in redact(start + rest)
        with pytest.raises(EdgeposeError, match="the source begins with '.*', but not with '.*://'") as caught:
            parse(start + rest, environ={})
        assert "me:" not in str(caught.value)
        assert "w0rd" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://me:pa%40s%26w0rd@h/x",
        "rtsp://me:pa@s&w0rd@h/x",
        "rtsp://me:pa@s&w0rd@h:port/x",
        "rtsp://me:pa@s&w0rd@h/x?fps=no",
        "rtsp://me:pa@s&w0rd@h/x?width=3",
        "rtsp://me:pa@s&w0rd@/x",
        "rstp://me:pa@s&w0rd@h/x",
        "rtsp://me:pa@s&w0rd@h/x\n",
        "rtsp://me:pa@s w0rd@h/x?width=3",
    ],
)
def test_password_is_in_no_message(uri: str) -> None:
    try:
        spec = parse(uri, environ={})
    except EdgeposeError as error:
        text = str(error)
    else:
        assert spec.password == SECRET
        text = f"{spec!r} {spec} {spec.redacted()} {spec.masked()!r} {spec.scrub(f'401 at {spec.url()}, {SECRET}')}"
        assert spec.redacted() == "rtsp://me:***@h/x"
    assert "w0rd" not in text
    assert "***" in text


@pytest.mark.parametrize("user", ["cam%20admin", "DOM%2Fjoe", "joe%22"])
def test_whatever_a_user_is_called_readers_of_topics_do_not_learn_it(user: str) -> None:
    spec = parse(f"rtsp://{user}:pw@h/s", environ={})
    assert spec.redacted() == f"rtsp://{user}:***@h/s"
    assert without_secrets(f"no frame from {spec.redacted()} for 5 s") == "no frame from rtsp://h/s for 5 s"


def test_secrets_in_the_query_are_in_no_fault() -> None:
    with pytest.raises(EdgeposeError, match=r"token=\*\*\*&width=3") as caught:
        parse("rtsp://h/x?token=hush&width=3", environ={})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("blanks", [("", " "), (" ", ""), ("  ", "  ")])
def test_blanks_around_a_uri_make_it_no_file(blanks: tuple[str, str]) -> None:
    """Whose name would be shown, with the password in it."""
    uri = f"rtsp://me:{quote(SECRET, safe='')}@h/x".join(blanks)
    spec = parse(uri, environ={})
    assert (spec.kind, spec.password) == ("rtsp", SECRET)
    assert spec.location == "rtsp://h/x"
    for start in ("rtsp:/", "rtsp//", "rtsp;//", "rtsp/"):
        with pytest.raises(EdgeposeError, match="the source begins with 'rtsp', but not with 'rtsp://'") as caught:
            parse(f"{start}me:{SECRET}@h/x".join(blanks), environ={})
        assert "w0rd" not in str(caught.value)
    assert parse(" my film.mp4").location == " my film.mp4"


def test_secrets_in_the_query() -> None:
    spec = parse("http://h/x?user=a&pwd=hush&fps=5", environ={})
    assert spec.redacted() == "http://h/x?user=a&pwd=***"
    assert "hush" in spec.url()
    assert "hush" not in spec.scrub("GET /x?pwd=hush")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://h/v.mjpg?user=bob&pw=hush&fps=5", "http://h/v.mjpg?user=bob&pw=***"),
        ("http://h/v.cgi?loginuse=bob&loginpas=hush", "http://h/v.cgi?loginuse=bob&loginpas=***"),
        ("http://h/v?user=bob;password=hush", "http://h/v?user=bob;password=***"),
        ("http://h/v?credential=hush&jwt=hush&x=1", "http://h/v?credential=***&jwt=***&x=1"),
        ("rtsp://h/channel=1_user=a_password=hush/s", "rtsp://h/channel=1_user=a_password=***/s"),
        (
            "rtsp://h/user=a_password=hush_channel=1_stream=0.sdp?real_stream",
            "rtsp://h/user=a_password=***?real_stream",
        ),
    ],
)
def test_secrets_as_cameras_want_them(uri, shown) -> None:
    assert "hush" not in redact(uri)
    with pytest.raises(EdgeposeError, match="gives only one of width and height") as caught:
        parse(f"{uri}{'&' if '?' in uri else '?'}width=3", environ={})
    assert "hush" not in str(caught.value)
    spec = parse(uri, environ={})
    assert spec.redacted() == shown
    assert "hush" in spec.url()
    assert "hush" not in spec.scrub(f"cannot open {spec.url()}")


@pytest.mark.parametrize("uri", ["rtsp://me:12/hush@h/s", "rtsp://me:12?hush@h/s", "http://me:1#hush@h/s"])
def test_a_password_that_ends_the_host_early_is_refused_without_it(uri) -> None:
    with pytest.raises(EdgeposeError, match=r"has an @ behind its path; in a password write / \? # @ as %2F") as caught:
        parse(uri, environ={})
    assert "hush" not in str(caught.value)
    assert parse("rtsp://h:554/a%40b", environ={}).location == "rtsp://h:554/a%40b"
    assert parse("rtsp://h/a@b", environ={}).location == "rtsp://h/a@b"  # without a port nothing is in doubt


@pytest.mark.parametrize(("kind", "other"), [("rtsp", "http"), ("http", "rtsp")])
def test_credentials_from_the_environment(kind: str, other: str) -> None:
    environ = {f"EDGEPOSE_{kind.upper()}_USER": "me", f"EDGEPOSE_{kind.upper()}_PASSWORD": "hush"}
    spec = parse(f"{kind}://h/x", environ=environ)
    assert (spec.user, spec.password, spec.location) == ("me", "hush", f"{kind}://h/x")
    assert spec.url() == f"{kind}://me:hush@h/x"
    assert parse(f"{kind}s://h/x", environ=environ).url() == f"{kind}s://me:hush@h/x"
    assert parse(f"{kind}://you:own@h/x", environ=environ).password == "own"
    assert parse(f"{other}://h/x", environ=environ).user == ""


def test_camera_name() -> None:
    assert parse("csi://0?name=a", camera="Porch #2").camera == "porch-2"
    with pytest.raises(EdgeposeError, match="no letter or digit"):
        parse("csi://0", camera="+/#")
    assert sanitise("A/b+c#d é" + "x" * 99) == "a-b-c-d-" + "x" * 56
