"""Several cameras, the finder, regions, gates and smoothing, as users start them: real programs, a real broker."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
from fractions import Fraction

import cv2
import jsonschema
import numpy as np
import pytest

from edgepose import EdgeposeError, app, config
from edgepose import bundle as bundles
from edgepose.bundle import Manual
from edgepose.messages import schemas
from tests import rtsp
from tests.broker import Mosquitto, wait_for, watch
from tests.conftest import CLIP
from tests.people.test_crowd import constant, finder_of_the_middle, person_of_every_crop
from tests.test_run import EDGEPOSE, bodies, running

SECOND = 10**9


@pytest.fixture
def networks(tmp_path):
    """A pose bundle that sees somebody in every crop, and a finder that sees one person in the middle."""
    return person_of_every_crop(tmp_path / "pose.onnx"), finder_of_the_middle(tmp_path / "finder.onnx")


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """The first 40 frames of the shipped clip: four seconds at 10 frames per second."""
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clips") / "short.mp4"
    with av.open(str(CLIP)) as whole, av.open(str(path), "w") as cut:
        video = whole.streams.video[0]
        stream = cut.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = video.width // 4, video.height // 4, "yuv420p"
        for number, frame in zip(range(40), whole.decode(video), strict=False):
            small = frame.reformat(stream.width, stream.height, "yuv420p")
            small.pts, small.time_base = number, Fraction(1, 10)
            cut.mux(stream.encode(small))
        cut.mux(stream.encode(None))
    return path


@contextlib.contextmanager
def mute_server():
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"rtsp://127.0.0.1:{server.getsockname()[1]}/cam"


def at(seen, camera, leaf):
    """Bodies of what arrived for one camera."""
    return bodies(seen, f"{camera}/{leaf}")


def camera(name, uri, *more):
    return "\n".join(["[[camera]]", f"name = '{name}'", f"uri = '{uri}'", *more, ""])


def settings_file(folder, *parts, pose=None, finder=None, broker=None):
    """``edgepose.toml`` with these tables."""
    lines = ["device = 'box'"]
    if pose is not None:
        lines.append(f"model = '{pose.path}'")
    lines += ["[engine]", "threads = 1", "name = 'onnxruntime'"]
    if finder is not None:
        lines += ["[people]", f"finder = '{finder.path}'"]
    if broker is not None:
        lines += ["[mqtt]", f"url = '{broker.url}'", "qos = 1", "queue = 1000"]
    path = folder / "edgepose.toml"
    path.write_text("\n".join([*lines, "", *parts]))
    return path


def pauses(poses):
    """Seconds of video between messages with the same people: who comes or goes is told at once."""
    return np.array([
        (b["acquired_ns"] - a["acquired_ns"]) / SECOND
        for a, b in itertools.pairwise(poses)
        if [p["id"] for p in a["people"]] == [p["id"] for p in b["people"]]
    ])  # fmt: skip


@pytest.mark.timeout(300)
def test_four_cameras_and_one_is_not_there(networks, short, tmp_path):
    if rtsp.why_not():
        pytest.skip(rtsp.why_not())
    pose, finder = networks
    with (
        Mosquitto(tmp_path) as broker,
        watch(broker.port) as seen,
        rtsp.RtspServer() as server,
        mute_server() as mute,
    ):
        path = settings_file(
            tmp_path,
            camera("Front.Door", server.url, "gate = { rate = 5 }"),
            camera("walk", f"file://{CLIP}?realtime=true"),
            camera("short", short, f"overlay = '{tmp_path / 'drawn.mp4'}'"),
            camera("mute", mute),
            pose=pose, finder=finder, broker=broker,
        )  # fmt: skip
        with running("--config", path, EDGEPOSE_OUTPUT_STATS_EVERY="0.5") as p:
            wait_for(lambda: "stopped" in [s["state"] for s in at(seen, "short", "status")], 60)
            wait_for(lambda: len(at(seen, "front-door", "poses")) >= 15, 60)
            wait_for(lambda: len(at(seen, "walk", "poses")) >= 20, 60)
            assert p.poll() is None, p.errors()

            # The short file came whole, said so after its last frame, and the others went on.
            assert [b["seq"] for b in at(seen, "short", "poses")] == list(range(40))
            mine = [m.topic.rsplit("/", 1)[1] for m in list(seen.messages) if m.topic.startswith("edgepose/box/short/")]
            assert mine.index("status", mine.index("poses")) == len(mine) - 1
            after = len(at(seen, "walk", "poses"))
            wait_for(lambda: len(at(seen, "walk", "poses")) >= after + 5)

            # Each at its own rate.
            door = pauses(at(seen, "front-door", "poses"))
            assert door.min() > 0.1
            assert np.median(door) == pytest.approx(0.2, abs=0.05)
            walk = pauses(at(seen, "walk", "poses"))
            assert np.median(walk) == pytest.approx(0.1, abs=0.02)

            # One that delivered and freezes slows nobody.
            server.freeze()
            before = len(at(seen, "walk", "poses"))
            wait_for(lambda: len(at(seen, "walk", "poses")) >= before + 30, 60)
            walk = pauses(at(seen, "walk", "poses")[before:])
            assert np.median(walk) == pytest.approx(0.1, abs=0.02)

            # Who is not there is told, and sends nothing.
            assert at(seen, "mute", "poses") == []
            assert at(seen, "mute", "status")[0]["state"] == "camera-lost"
            assert "online" not in [s["state"] for s in at(seen, "mute", "status")]
            for name in ("front-door", "walk", "short"):
                assert "online" in [s["state"] for s in at(seen, name, "status")]

            # Each has its own info, people and stats.
            for name, what in (("front-door", [320, 240]), ("walk", [768, 432]), ("short", [192, 108])):
                infos = at(seen, name, "info")
                assert [(info["camera"], info["image"]) for info in infos] == [(name, None), (name, what)]
                people = at(seen, name, "poses")[-1]["people"]
                assert len(people) == 1
                assert re.fullmatch(rf"[0-9a-f]{{8}}-{name}-1", people[0]["id"])
            assert server.url.rpartition("/")[2] in at(seen, "front-door", "info")[0]["source"]
            assert [info["image"] for info in at(seen, "mute", "info")] == [None]
            wait_for(lambda: at(seen, "front-door", "stats"))
            assert at(seen, "front-door", "stats")[0]["latency_p50_ms"] > 0

            p.send_signal(signal.SIGTERM)
            assert p.wait(20) == 0, p.errors()
            assert "Traceback" not in p.errors()
        for name in ("front-door", "walk", "short", "mute"):
            wait_for(lambda name=name: at(seen, name, "status")[-1]["state"] == "stopped")
        assert [s["state"] for s in at(seen, "short", "status")].count("stopped") == 1
    film = cv2.VideoCapture(str(tmp_path / "drawn.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 40


def test_a_file_that_breaks_is_told_and_the_others_go_on(networks, short, tmp_path):
    """A picture that is none comes second in its folder."""
    pose, _ = networks
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "1.png"), np.zeros((48, 64, 3), np.uint8))
    (folder / "2.png").write_bytes(b"no picture")
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        path = settings_file(
            tmp_path, camera("broken", f"images://{folder}"), camera("whole", short), pose=pose, broker=broker
        )
        done = subprocess.run(
            [*EDGEPOSE, "run", "--config", path], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "camera broken ended: picture" in done.stderr
        assert "41 frames" in done.stderr
        wait_for(lambda: at(seen, "whole", "status")[-1]["state"] == "stopped")
        assert [b["seq"] for b in at(seen, "whole", "poses")] == list(range(40))
        lost = [s for s in at(seen, "broken", "status") if s["state"] == "camera-lost"]
        assert "2.png cannot be read" in lost[0]["reason"]


def test_when_all_break_it_is_an_error(networks, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"no picture")
    path = settings_file(tmp_path, *(camera(n, f"images://{tmp_path / n}") for n in "ab"), pose=networks[0])
    done = subprocess.run(
        [*EDGEPOSE, "run", "--stdout", "--config", path], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 2
    assert re.search(r"^error: picture .*1.png cannot be read", done.stderr, re.MULTILINE)
    assert done.stderr.count("going on without it") == 2


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self):
        self.messages = []

    def publish(self, message):
        self.messages.append(message)

    def close(self):
        pass

    def of(self, camera, schema="edgepose.pose/1"):
        return [m for m in self.messages if m.camera == camera and m.schema_ == schema]


def in_process(path, **flags):
    """Run the whole loop here; what it said, and its end."""
    kept = Kept()
    settings = config.load({k.replace("__", "."): v for k, v in flags.items()}, path, environ={}).settings
    with app.assembled(settings, extra_sinks=(kept,)) as parts:
        end = parts.loop.run(settings.max_frames)
    return kept, end


def test_two_files_in_one_loop(networks, short, tmp_path):
    path = settings_file(tmp_path, camera("a", short), camera("b", short), pose=networks[0], finder=networks[1])
    kept, end = in_process(path)
    for name in "ab":
        assert [m.seq for m in kept.of(name)] == list(range(40))
        assert len(kept.of(name, "edgepose.info/1")) == 1
    assert (end.frames, end.dropped_frames, end.dropped_messages) == (80, 0, 0)
    assert end.latency_p50_ms is None
    assert end.frames_with_people >= 2 * 37  # a person counts from the third sight


def test_max_frames_are_of_all_cameras_together(networks, short, tmp_path):
    path = settings_file(tmp_path, camera("a", short), camera("b", short), pose=networks[0])
    kept, end = in_process(path, max_frames=7)
    assert end.frames == len(kept.of("a")) + len(kept.of("b")) == 7


def test_one_table_is_as_good_as_a_source(networks, short, tmp_path):
    kept, _ = in_process(settings_file(tmp_path, camera("only", short), pose=networks[0], finder=networks[1]))
    assert [m.seq for m in kept.of("only")] == list(range(40))
    assert re.fullmatch("[0-9a-f]{8}-1", kept.of("only")[-1].people[0].id)


def test_regions_are_each_cameras_own(networks, short, tmp_path):
    left = "regions = { only = [[[0, 0], [0.3, 0], [0.3, 1], [0, 1]]] }"
    path = settings_file(
        tmp_path, camera("left", short, left), camera("all", short), pose=networks[0], finder=networks[1]
    )
    kept, _ = in_process(path)
    assert all(m.people == [] for m in kept.of("left"))
    assert len(kept.of("all")[-1].people) == 1


def finder_of_many(path):
    """A finder that sees twelve small people in every image."""
    maps = np.zeros((5, 16, 16))
    maps[0, 2:13:4, 1:14:4] = 0.9
    maps[1:3] = np.log(2)
    return bundles.save(constant(maps), Manual(name="many", role="person", input_size=(64, 64)), path)


@pytest.mark.parametrize(
    ("flags", "regions", "expected"),
    [({}, "", 8), ({"people__most": 12}, "", 12), ({"people__most": 12}, "most = 3", 3), ({}, "most = 2", 2)],
    ids=["default", "more", "fewer in one camera", "of the camera alone"],
)
def test_most_people(networks, tmp_path, flags, regions, expected):
    many = finder_of_many(tmp_path / "many.onnx")
    path = settings_file(tmp_path, camera("a", "videotest://?live=false&frames=5&width=640&height=640",
                         f"regions = {{ {regions} }}"), pose=networks[0], finder=many)  # fmt: skip
    kept, _ = in_process(path, **flags)
    assert len(kept.of("a")[-1].people) == expected


def test_nothing_is_left_open_when_a_camera_cannot_be_opened(networks, short, tmp_path):
    """The cameras before it said that they are there; now they say that they stopped."""
    with Mosquitto(tmp_path) as broker, watch(broker.port) as seen:
        path = settings_file(
            tmp_path, camera("a", short), camera("b", "/nowhere/b.mp4"), pose=networks[0], broker=broker
        )
        with pytest.raises(EdgeposeError, match=r"/nowhere/b\.mp4 does not exist"):
            in_process(path)
        for name in "ab":
            wait_for(lambda name=name: [s["state"] for s in at(seen, name, "status")] == ["online", "stopped"])


def test_the_cameras_before_one_that_cannot_be_opened_are_closed(networks, tmp_path):
    path = settings_file(
        tmp_path, camera("first", CLIP, "backend = 'pyav'"), camera("second", "/nowhere/b.mp4"), pose=networks[0]
    )
    with pytest.raises(EdgeposeError, match="does not exist"):
        in_process(path)
    wait_for(lambda: "edgepose-first" not in {t.name for t in threading.enumerate()}, 5)


def test_a_broker_that_refuses_one_camera_is_left_by_the_others(networks, short, tmp_path):
    acl = "user me\ntopic readwrite edgepose/box/a/#\n"
    with Mosquitto(tmp_path, users={"me": "right", "you": "see"}, acl=acl) as broker:
        path = settings_file(tmp_path, camera("a", short), camera("b", short), pose=networks[0], broker=broker)
        done = subprocess.run(
            [*EDGEPOSE, "run", "--config", path], capture_output=True, text=True, timeout=100, check=False,
            env={**os.environ, "EDGEPOSE_MQTT_USER": "me", "EDGEPOSE_MQTT_PASSWORD": "right"},
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "edgepose/box/b" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_away_is_told_once(networks, short, tmp_path):
    path = settings_file(tmp_path, *(camera(n, short) for n in "abcd"), pose=networks[0], broker=Mosquitto(tmp_path))
    done = subprocess.run(
        [*EDGEPOSE, "run", "--config", path, "--max-frames", "4"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("going on, and trying again") == 1
    assert "4 frames" in done.stderr


# --- gates, velocity, smoothing, the finder ----------------------------------------------------------


def run(*arguments):
    """``edgepose run`` to its end; every message on its standard output."""
    done = subprocess.run(
        [*EDGEPOSE, "run", "--stdout", "--threads", "1", "--engine", "onnxruntime", *map(str, arguments)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for body in found:
        jsonschema.validate(body, schemas()[f"{body['schema'].replace('/', '-')}.schema.json"])
    return found


def poses_of(found):
    return [b for b in found if b["schema"] == "edgepose.pose/1"]


def test_rate_is_in_the_videos_time(networks, short):
    pose, finder = networks
    poses = poses_of(run("--source", short, "--model", pose.path, "--finder", finder.path, "--rate", "2"))
    assert np.allclose(pauses(poses)[1:], 0.5, atol=0.11)
    assert 8 <= len(poses) <= 10  # of four seconds
    assert len(poses_of(run("--source", short, "--model", pose.path, "--finder", finder.path))) == 40


def test_a_rate_holds_for_a_file_played_in_real_time(networks, short):
    pose, finder = networks
    poses = poses_of(run("--source", f"file://{short}?realtime=true", "--model", pose.path, "--finder", finder.path,
                         "--rate", "2"))  # fmt: skip
    assert 2 <= len(poses) <= 11
    assert pauses(poses)[1:].min(initial=1) > 0.3


def test_what_rests_is_published_by_its_heartbeat(networks, short):
    pose, finder = networks
    poses = poses_of(run("--source", short, "--model", pose.path, "--finder", finder.path, "--on-change", "0.05"))
    assert len(poses) == 5
    assert np.allclose(pauses(poses), 1.0, atol=0.11)


def test_velocity_is_published_where_it_is_asked_for(networks, short):
    pose, finder = networks
    common = ("--source", short, "--model", pose.path, "--finder", finder.path)
    with_it = [p for b in poses_of(run(*common, "--velocity")) for p in b["people"]]
    assert len(with_it) >= 37
    for person in with_it:
        assert np.shape(person["velocity"]) == (16, 2)
        assert np.abs(person["velocity"]).max() < 5  # the person stands
    without = [p for b in poses_of(run(*common)) for p in b["people"]]
    assert len(without) >= 37
    assert all("velocity" not in p for p in without)
    assert [p["joints"] for p in without] == [p["joints"] for p in with_it]


def info_of(found):
    (info,) = [b for b in found if b["schema"] == "edgepose.info/1"]
    return info


def test_smoothing_and_prediction_are_told(networks):
    pose, finder = networks
    source = "videotest://?width=64&height=64&fps=30"
    common = ("--source", source, "--model", pose.path, "--finder", finder.path, "--max-frames", "8")
    plain = info_of(run(*common))
    assert (plain["smoothing"], plain["predict_to"]) == ("off", "acquired")
    told = info_of(run(*common, "--smoothing", "kalman", "--predict-to", "publish"))
    assert (told["smoothing"], told["predict_to"]) == ("kalman", "publish")


def test_the_frames_of_a_file_are_not_predicted_to_now(networks, short):
    """And the info message does not say that they were."""
    pose, finder = networks
    common = ("--source", short, "--model", pose.path, "--finder", finder.path, "--smoothing", "kalman")
    plain, predicted = run(*common), run(*common, "--predict-to", "publish")
    assert info_of(predicted)["predict_to"] == "acquired"
    assert [p["people"][0]["joints"] for p in poses_of(predicted)[2:]] == [
        p["people"][0]["joints"] for p in poses_of(plain)[2:]
    ]


def test_without_a_finder_there_is_one_person(networks, short):
    poses = poses_of(run("--source", short, "--model", networks[0].path, "--finder", "none"))
    assert {len(p["people"]) for p in poses} == {1}
