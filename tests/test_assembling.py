"""Every setting reaches the part that it is for: one run is put together with all of them other than the default."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgepose import app, config, sources
from edgepose.gates import Gate
from edgepose.mqtt import Broker
from edgepose.people.regions import Regions
from tests.people.test_crowd import LEFT, finder_of_the_middle, person_of_every_crop
from tests.test_loop import Listed

FILE = """
device = "bench"
model = "pose.onnx"
max_frames = 9
source = { uri = "film.mp4", backend = "pyav", camera = "door", stall = 3.5 }
engine = { name = "openvino", threads = 6, precision = "bfloat16", device = "CPU", overlap = false, build = false }
gate = { rate = 4.0, on_change = 0.05, heartbeat = 2.0 }

[regions]
only = [[[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]]
ignore = [[[0.9, 0.9], [1.0, 0.9], [1.0, 1.0]]]
min_size = 0.15
most = 2

[people]
finder = "finder.onnx"
least = 0.33
every = 7
confirm = 5
patience = 2.5
most = 3
second_look = false
hold_sides = false
smoothing = "kalman"
velocity = true
predict_to = "publish"

[mqtt]
url = "mqtts://me@broker.invalid/home"
qos = 1
encoding = "cbor"
version = "3.1.1"
expiry = 33
queue = 44
password_file = "password"
cafile = "ca.pem"
certfile = "client.pem"
keyfile = "client.key"
insecure = true

[output]
overlay = "drawn.mp4"
record = "kept.jsonl"
stdout = true
stats_every = 7.0
"""


class Link:
    """Stands in for the link to a broker."""

    dropped = reconnects = 0
    state, reason = "online", ""

    def connect(self, seconds: float) -> bool:
        return True

    def begin_close(self, *, reason: str) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Part -> the positional and named arguments that it was made with, for a run by FILE."""
    monkeypatch.chdir(tmp_path)
    person_of_every_crop(Path("pose.onnx"))
    finder_of_the_middle(Path("finder.onnx"))
    found: dict[str, Any] = {}

    def note(holder: Any, name: str, instead: Any = None) -> None:
        real = getattr(holder, name)

        def noting(*arguments: Any, **named: Any) -> Any:
            key = "finder's engine" if name == "load" and arguments[0].manual.role == "person" else name
            found[key] = (arguments, named)
            return instead(*arguments, **named) if instead else real(*arguments, **named)

        monkeypatch.setattr(holder, name, noting)

    for name in ("Following", "Finder", "Everybody", "OneEach", "Estimator", "Speaking", "Camera", "Loop"):
        note(app, name)
    for name in ("RecordingSink", "open_overlay"):
        note(app, name)
    note(app.engines, "load")
    note(app, "parse_broker", lambda *_, **__: Broker("broker.invalid", 8883))
    note(app, "MQTTSink", lambda *_, **__: Link())
    note(app.sources, "open_source", lambda *_, **__: Listed())
    Path("settings.toml").write_text(FILE)
    settings = config.load({}, Path("settings.toml"), environ={}).settings
    with app.assembled(settings):
        return found


def test_the_file_here_sets_every_key_to_something_else(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(FILE)
    loaded = config.load({}, tmp_path / "settings.toml", environ={})
    assert {key for key, origin in loaded.origins.items() if origin == "default"} == {"camera"}
    plain = config.Settings()
    same = [key for key in config.keys() if config.value_of(plain, key) == config.value_of(loaded.settings, key)]
    assert same == ["camera"]


def test_the_reason_of_now_is_told_to_the_broker_and_each_once_to_who_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A camera that is refused while it starts: who reads the status must not look for a wrong password for days."""
    away, refused = sources.SourceLost("host unreachable"), sources.SourceLost("Unauthorized")
    script = [away, refused, away, away, refused]
    told: list[tuple[str, str]] = []

    def open_source(*_: Any, **__: Any) -> Any:
        if script:
            raise script.pop(0)
        return Listed()

    monkeypatch.setattr(app.sources, "open_source", open_source)
    link = SimpleNamespace(set_status=lambda state, reason: told.append((state, reason)))
    spec = sources.parse("rtsp://h/x", camera="door", environ={})
    source = app._open(config.CameraSettings(name="door", uri="rtsp://h/x"), spec, link)  # type: ignore[arg-type]
    source._wait = lambda _: False  # type: ignore[attr-defined]
    assert source.read() is None
    reasons = ["host unreachable", "Unauthorized", "host unreachable", "Unauthorized"]
    assert told == [("camera-lost", reason) for reason in reasons]
    assert capsys.readouterr().err.splitlines() == [
        f"camera door lost: {reason}; waiting for it" for reason in reasons[:2]
    ]


def test_of_the_engine_and_the_source(given: dict[str, Any]) -> None:
    (bundle, name, options), _ = given["load"]
    assert (bundle.manual.name, name) == ("filled", "openvino")
    assert (options.threads, options.precision, options.device, options.build) == (6, "bfloat16", "CPU", False)
    assert given["finder's engine"][0][2].threads == 3
    assert given["Loop"][1] == {"overlap": False}
    (spec,), named = given["open_source"]
    assert (spec.location, spec.camera) == ("film.mp4", "door")
    assert named == {"backend": "pyav", "stall_timeout": 3.5}


def test_of_people(given: dict[str, Any]) -> None:
    assert given["Following"][1] == {"every": 7, "confirm": 5, "patience": 2.5, "most": 3}
    (_, manual, least), _ = given["Finder"]
    assert (manual.name, least) == ("middle", 0.33)
    assert given["Estimator"][1] == {"second_look": False}
    (*_, regions), named = given["Everybody"]
    corner = [(0.9, 0.9), (1.0, 0.9), (1.0, 1.0)]
    assert regions == {"door": Regions(only=[LEFT], ignore=[corner], min_size=0.15, most=2)}
    assert {key: named[key] for key in ("smoothing", "hold_sides", "lying")} == {
        "smoothing": "kalman", "hold_sides": False, "lying": False,
    }  # fmt: skip
    assert named["following"].every == 7


def test_of_what_is_told(given: dict[str, Any]) -> None:
    said = given["Speaking"][1]
    assert {key: said[key] for key in ("device", "stats_every", "velocity", "predict_to", "smoothing")} == {
        "device": "bench", "stats_every": 7.0, "velocity": True, "predict_to": "publish", "smoothing": "kalman",
    }  # fmt: skip
    camera = given["Camera"][1]
    assert camera["gate"] == Gate(rate=4.0, on_change=0.05, heartbeat=2.0)
    assert isinstance(camera["mqtt"], Link)
    assert [type(sink).__name__ for sink in camera["sinks"]] == ["ConsoleSink", "RecordingSink"]
    assert camera["overlay"] is not None
    assert given["open_overlay"][0][0] == "drawn.mp4"
    assert given["RecordingSink"][0] == (Path("kept.jsonl"),)


def test_of_the_broker(given: dict[str, Any]) -> None:
    assert given["parse_broker"] == (
        ("mqtts://me@broker.invalid/home",),
        {
            "version": "3.1.1", "cafile": Path("ca.pem"), "certfile": Path("client.pem"),
            "keyfile": Path("client.key"), "insecure": True, "password_file": Path("password"),
        },
    )  # fmt: skip
    (_, device, camera), named = given["MQTTSink"]
    assert (device, camera) == ("bench", "door")
    assert {key: named[key] for key in ("encoding", "qos", "expiry_s", "queue_size")} == {
        "encoding": "cbor", "qos": 1, "expiry_s": 33, "queue_size": 44,
    }  # fmt: skip


@pytest.mark.parametrize("finder", ["none", "finder.onnx"])
@pytest.mark.parametrize("held", [True, False])
def test_of_how_people_move(given: dict[str, Any], finder: str, held: bool) -> None:
    """To the end, with a finder and without: what holds the sides and what smooths."""
    flags = {"people.finder": finder, "people.hold_sides": held, "mqtt.url": "", "output.overlay": ""}
    for kind in ("off", "one-euro", "kalman"):
        settings = config.load({**flags, "people.smoothing": kind}, Path("settings.toml"), environ={}).settings
        with app.assembled(settings) as parts:
            (camera,) = parts.loop._crowd._cameras.values()  # type: ignore[attr-defined]
            motion = camera.motion
        assert (motion._sides is not None) == held
        assert type(motion._smoother).__name__ == {"off": "Off", "one-euro": "OneEuro", "kalman": "Kalman"}[kind]
