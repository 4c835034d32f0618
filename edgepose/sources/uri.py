"""Source URIs -> a checked SourceSpec. Pure: nothing is opened and no file is looked for.

    file:///clip.mp4  clip.mp4     every frame; a plain path is taken literally, parameters need file://
    v4l2:///dev/video0             USB and other V4L2 cameras (also /dev/video0)
    csi://0                        sensor 0 on a Jetson
    rtsp://host/path  rtsps://     network cameras
    http://host/path  https://     MJPEG over HTTP
    videotest://?pattern=ball      a moving test picture
    images:///folder               a folder of jpg, png, webp, bmp in name order

Parameters follow ``?``; :data:`PARAMETERS` lists them per kind. In rtsp and http URLs only those are taken
out and all others are left to the server; elsewhere an unknown one is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias
from urllib.parse import quote, unquote, unquote_plus, urlsplit

from edgepose.errors import EdgeposeError, unknown
from edgepose.redact import MASK, is_utf8, redact, secrets_of

Kind: TypeAlias = Literal["file", "v4l2", "csi", "rtsp", "http", "videotest", "images"]
Value: TypeAlias = str | int | bool

_SCHEMES: dict[str, Kind] = {
    "file": "file",
    "v4l2": "v4l2",
    "csi": "csi",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "http",
    "https": "http",
    "videotest": "videotest",
    "images": "images",
}


@dataclass(frozen=True)
class SourceSpec:
    """What to open. ``location`` is a path, a sensor number or a URL; never does it hold the password."""

    kind: Kind
    location: str
    options: Mapping[str, Value]  # validated; what the URI does not say is absent
    live: bool  # newest frame wins, as against every frame arrives
    camera: str  # [a-z0-9_-]
    user: str = ""
    password: str = field(default="", repr=False)

    @property
    def reopens(self) -> bool:
        """Whether opening it again makes sense after a loss."""
        return self.kind in ("v4l2", "csi", "rtsp", "http")

    @property
    def network(self) -> bool:
        """Whether it comes over the network."""
        return self.kind in ("rtsp", "http")

    def number(self, key: str, default: int = 0) -> int:
        """An integer option."""
        return int(self.options.get(key, default))

    def text(self, key: str, default: str = "") -> str:
        """A text option."""
        return str(self.options.get(key, default))

    @property
    def loops(self) -> bool:
        """Whether it begins again at its end."""
        return bool(self.options.get("loop", False))

    def url(self) -> str:
        """rtsp, http: the URL with user and password in it. Not for messages."""
        if not self.user:
            return self.location
        credentials = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return self.location.replace("://", f"://{credentials}@", 1)

    def masked(self) -> SourceSpec:
        """The same with ``***`` for the password and for what looks like a secret in the URL."""
        location = self.location
        for secret in secrets_of(location) if self.network else ():
            location = location.replace(f"={secret}", f"={MASK}")
        return replace(self, location=location, password=MASK if self.password else "")

    def redacted(self) -> str:
        """The source in words, for messages and logs: no password."""
        safe = self.masked()
        if self.network:
            if not self.user:
                return safe.location
            user = quote(self.user, safe="")  # as it must be written, so that whoever takes it out knows its end
            return safe.location.replace("://", f"://{user}{':' + MASK if self.password else ''}@", 1)
        if self.kind == "file":
            return self.location
        return {"v4l2": "v4l2://", "csi": "csi://", "videotest": "videotest://", "images": "images:"}[
            self.kind
        ] + self.location

    def scrub(self, text: str) -> str:
        """``text`` (a library's message) without the secrets of this source."""
        secrets = {self.password, quote(self.password, safe=""), quote(self.password)}
        if self.network:
            secrets.update(secrets_of(self.location))
        for secret in sorted(secrets - {""}, key=len, reverse=True):
            text = text.replace(secret, MASK)
        return text


def parse(uri: str, *, camera: str | None = None, environ: Mapping[str, str] | None = None) -> SourceSpec:
    """The checked form of ``uri``; EdgeposeError, without the password, for what cannot be meant.

    ``camera`` overrides the name. Credentials that an RTSP URI lacks come from EDGEPOSE_RTSP_USER and
    EDGEPOSE_RTSP_PASSWORD in ``environ`` (default: the process's), those of an HTTP one from EDGEPOSE_HTTP_USER and
    EDGEPOSE_HTTP_PASSWORD.
    """
    if not uri.strip():
        raise EdgeposeError("the source is empty; give a URI such as v4l2:///dev/video0, rtsp://host/path or clip.mp4")
    if any(ord(c) < 32 or ord(c) == 127 for c in uri):
        raise EdgeposeError(f"the source {redact(uri)!r} holds a control character; write it as %XX")
    # A path may begin with a blank, and no URI.
    if re.match(rf"(?i)(?:{'|'.join(_SCHEMES)})(?:[:;]|//|/.*@)", uri.strip()):
        uri = uri.strip()
    scheme, kind, rest = _split_scheme(uri)
    if kind in ("rtsp", "http"):
        spec = _network(kind, uri, os.environ if environ is None else environ)
    else:
        path, options = rest, dict[str, Value]()
        if scheme:
            path, _, query = rest.partition("?")
            options = _options(kind, query, uri)[0]
        spec = _local(kind, scheme, path, options, uri)
    _check_size(spec.options, uri)
    wanted = camera if camera is not None else spec.options.get("name")
    if wanted is None:
        return spec
    if not (name := sanitise(str(wanted))):
        raise EdgeposeError(f"the camera name '{wanted}' has no letter or digit (a-z, 0-9); choose another")
    return replace(spec, camera=name)


def sanitise(name: str) -> str:
    """``name`` as an MQTT topic level: lower case, ``[a-z0-9_-]``, at most 64 long; may come out empty."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:64].strip("-")


# --- per kind ---------------------------------------------------------------------------------------


def _split_scheme(uri: str) -> tuple[str, Kind, str]:
    """Scheme ('' for a plain path), kind, and what follows ``scheme:``."""
    if wrong := re.match(r"(?i)(rtsps?|https?)(?!://)(?:[:;]|//|/.*@)", uri):  # may hold a password: not to be shown
        raise EdgeposeError(f"the source begins with '{wrong.group(1)}', but not with '{wrong.group(1)}://'; write it "
                            f"as {wrong.group(1).lower()}://host/path")  # fmt: skip
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?", uri)
    if match and match.group(1).lower() in _SCHEMES:
        scheme = match.group(1).lower()
        return scheme, _SCHEMES[scheme], uri[len(scheme) + 1 :]
    if match and match.group(2):
        raise unknown("source scheme", match.group(1), _SCHEMES, f"'{redact(uri)}'")
    if uri.isdigit():
        raise EdgeposeError(f"'{uri}' is no source; did you mean v4l2:///dev/video{uri} or csi://{uri}?")
    return "", "v4l2" if uri.startswith(("/dev/video", "/dev/v4l/")) else "file", uri


def _local(kind: Kind, scheme: str, rest: str, options: dict[str, Value], uri: str) -> SourceSpec:
    host, path = "", rest
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        path = slash + path
    if scheme:
        host, path = unquote(host), unquote(path)
        if "\0" in path:
            raise EdgeposeError(f"'{uri}' holds a null character (%00), which no path has; take it out")
    live = True
    if kind == "csi":
        location, camera = host or path, f"csi{host or path}"
        if not re.fullmatch("[0-9]{1,3}", location):
            raise EdgeposeError(f"'{uri}' names no sensor; give its number, such as csi://0")
    elif kind == "videotest":
        if host or path.strip("/"):
            raise EdgeposeError(f"'{uri}': videotest takes only parameters, such as videotest://?pattern=ball")
        location, camera, live = "", "videotest", bool(options.get("live", True))
    else:
        example = {"file": "file:///clip.mp4", "v4l2": "v4l2:///dev/video0", "images": "images:///folder"}[kind]
        if host not in ("", "localhost"):
            raise EdgeposeError(f"'{uri}' takes '{host}' for a host name; a path has three slashes, such as {example}")
        location = path
        if not location.strip("/"):
            raise EdgeposeError(f"'{uri}' names no path; write it as {example}")
        leaf = location.rstrip("/").rpartition("/")[2]
        camera = sanitise(leaf.rpartition(".")[0] or leaf if kind == "file" else leaf) or kind
        if kind != "v4l2":
            live = kind == "file" and bool(options.get("realtime", False))
    if kind == "videotest" and not live and "frames" not in options:
        raise EdgeposeError(f"'{uri}' would never end; say how many with frames=N, or leave live=true")
    return SourceSpec(kind, location, options, live, camera)


def _network(kind: Kind, uri: str, environ: Mapping[str, str]) -> SourceSpec:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise EdgeposeError(
            f"'{redact(uri)}' is not a URL (check host and port; in a password write / ? # @ as %2F %3F %23 %40)"
        ) from None
    if not host:
        raise EdgeposeError(f"'{redact(uri)}' names no host; write it as {parts.scheme}://host/path")
    if "@" not in parts.netloc and parts.port is not None and "@" in uri:
        raise EdgeposeError(f"'{redact(uri)}' has an @ behind its path; in a password write / ? # @ as %2F %3F %23 "
                            "%40, and in the path too %40")  # fmt: skip
    options, kept = _options(kind, parts.query, uri)
    userinfo, _, address = parts.netloc.rpartition("@")
    user, _, password = (unquote(part) for part in userinfo.partition(":"))
    variable = f"EDGEPOSE_{kind.upper()}"
    user = user or environ.get(f"{variable}_USER", "")
    password = password or environ.get(f"{variable}_PASSWORD", "") if user else ""
    if not is_utf8(user + password):
        raise EdgeposeError(f"the name or password for '{redact(uri)}' is no UTF-8; set it in a terminal that writes "
                            "UTF-8")  # fmt: skip
    location = f"{parts.scheme}://{address}{parts.path}{'?' + kept if kept else ''}"
    return SourceSpec(kind, location, options, True, sanitise(host) or kind, user, password)


# --- parameters -------------------------------------------------------------------------------------


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise ValueError("is not a whole number above 0")
    return int(text)


def _natural(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _boolean(text: str) -> bool:
    found = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
    if found is None:
        raise ValueError("is neither true nor false")
    return found


def _text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _one_of(*known: str) -> Callable[[str], Value]:
    def check(text: str) -> Value:
        if text not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return int(text) if text.isdigit() else text

    return check


_ROTATE = _one_of("0", "90", "180", "270")  # degrees clockwise
_DECODER = _one_of("auto", "software")  # software: leave the video hardware alone
_SIZED: dict[str, Callable[[str], Value]] = {"name": _text, "width": _positive, "height": _positive, "fps": _positive}
_PICTURE = {**_SIZED, "rotate": _ROTATE, "decoder": _DECODER}

#: kind -> parameter -> its check. width and height in pixels, fps in 1/s, latency in ms.
PARAMETERS: dict[Kind, dict[str, Callable[[str], Value]]] = {
    "file": {**_PICTURE, "realtime": _boolean, "loop": _boolean},
    "v4l2": {**_PICTURE, "format": _one_of("mjpeg", "raw")},
    "csi": {**_SIZED, "rotate": _ROTATE},
    "rtsp": {**_PICTURE, "latency": _natural, "protocol": _one_of("tcp", "udp"), "codec": _one_of("h264", "h265")},
    "http": _PICTURE,
    "videotest": {**_SIZED, "pattern": _one_of("smpte", "ball", "snow", "black", "white", "pinwheel", "gradient")}
    | {"frames": _positive, "live": _boolean},
    "images": {"name": _text, "fps": _positive, "loop": _boolean},
}


def _options(kind: Kind, query: str, uri: str) -> tuple[dict[str, Value], str]:
    """Our parameters, checked; and the rest of the query as it was (network kinds only)."""
    known = PARAMETERS[kind]
    options: dict[str, Value] = {}
    kept = []
    for pair in filter(None, query.split("&")):
        key, _, raw = pair.partition("=")
        if key not in known:
            if kind in ("rtsp", "http"):
                kept.append(pair)
                continue
            raise unknown("parameter", unquote_plus(key), known, f"'{redact(uri)}'")
        value = unquote_plus(raw)
        if any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise EdgeposeError(f"{key} in '{redact(uri)}' holds a control character; take it out")
        try:
            options[key] = known[key](value)
        except ValueError as error:
            raise EdgeposeError(f"{key}={value} in '{redact(uri)}' {error}; correct it") from None
    return options, "&".join(kept)


def _check_size(options: Mapping[str, Value], uri: str) -> None:
    if ("width" in options) != ("height" in options):
        raise EdgeposeError(f"'{redact(uri)}' gives only one of width and height; give both or none")
