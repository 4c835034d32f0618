"""One camera's way out: what it publishes of its people, and the figures that it tells of itself."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgepose import camera as cameras
from edgepose.bundle import Bundle
from edgepose.camera import Camera, Speaking
from edgepose.estimator import Poses
from edgepose.frame import Frame
from edgepose.gates import Gate
from edgepose.loop import Loop
from edgepose.messages import Info, PoseMessage, Stats
from edgepose.people import People
from edgepose.people.smooth import smoother
from tests.conftest import tiny_manual

MS = 1_000_000
SPEED = np.array([50.0, -20.0])  # px/s


class Clock:
    """UTC in ns and the monotonic clock in s, both set by the test."""

    def __init__(self) -> None:
        self.utc, self.running = 10**15, 100.0

    def pass_(self, seconds: float) -> None:
        self.utc, self.running = self.utc + round(seconds * 1e9), self.running + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(cameras.time, "monotonic", lambda: made.running)
    monkeypatch.setattr(cameras.time, "monotonic_ns", lambda: round(made.running * 1e9))
    return made


class Sink:
    """Keeps what it is given; has the counts of a link to a broker."""

    dropped, reconnects, state = 3, 2, "online"

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def publish(self, message: Any) -> None:
        self.taken.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.taken if isinstance(message, kind)]


@pytest.fixture
def made(clock: Clock, tmp_path: Any) -> Callable[..., tuple[Camera, Sink]]:
    def make(*, live: bool = True, dropped: int = 0, gate: Gate | None = None, **speaking: Any) -> tuple[Camera, Sink]:
        bundle = Bundle(tmp_path / "tiny.onnx", tiny_manual(), "0" * 64)
        engine = SimpleNamespace(name="none", precision="float32")
        said = Speaking("bench", bundle, engine, clock=lambda: clock.utc, **speaking)  # type: ignore[arg-type]
        source, sink = SimpleNamespace(live=live, description="x", dropped=dropped), Sink()
        return Camera(source, said, mqtt=sink, gate=gate), sink  # type: ignore[arg-type]

    return make


def frame(at_ns: int, seq: int = 0, size: tuple[int, int] = (64, 48), steady_ns: int | None = None) -> Frame:
    return Frame(np.zeros((size[1], size[0], 3), np.uint8), at_ns, seq, "front", steady_ns)


def walkers(count: int, at_ns: int) -> People:
    """People who moved by SPEED until ``at_ns``, the second twice as fast, as the smoothers see them."""
    joints = np.random.default_rng(0).uniform(0, 40, (count, 16, 2))
    step = SPEED * (1 + np.arange(count))[:, None, None]
    moving, ids = smoother("off"), [f"r-{n + 1}" for n in range(count)]
    covariance = np.ones((count, 16, 3)) * [2, 0, 2]
    for back in (0.1, 0.0):
        poses = Poses(joints - step * back, np.full((count, 16), 0.9), covariance)
        motion = moving.smooth(ids, poses, at_ns - round(back * 1e9))
    return People(ids, np.zeros((count, 4)), poses, motion)


@pytest.mark.parametrize("live", [True, False])
def test_joints_of_a_live_camera_are_told_as_of_their_publication(clock, made, live: bool) -> None:
    """At constant velocity, and less surely; a film's frames are not of now."""
    taken = clock.utc
    people = walkers(2, taken)
    camera, sink = made(live=live, predict_to="publish", velocity=True)
    clock.pass_(0.1)
    camera.publish(frame(taken), people)
    (message,) = sink.of(PoseMessage)
    assert message.published_ns - message.acquired_ns == 100 * MS
    for index, person in enumerate(message.people):
        told, speed = np.array(person.joints), SPEED * (1 + index)
        np.testing.assert_allclose(told[:, :2], people.poses.joints[index] + (speed * 0.1 if live else 0), atol=0.051)
        np.testing.assert_allclose(person.velocity, np.tile(speed, (16, 1)), atol=0.051)
        grown = 2 + (0.1 * speed) ** 2 if live else np.full(2, 2.0)
        np.testing.assert_allclose(told[:, [3, 5]], np.tile(grown, (16, 1)), rtol=0.01)


@pytest.mark.parametrize("hours", [1, -1])
def test_utc_that_is_set_moves_no_joints_and_holds_no_message_up(clock, made, hours: int) -> None:
    """What a camera's frames say of a clock that nobody sets is what counts."""
    camera, sink = made(predict_to="publish", gate=Gate(rate=1))
    for number in range(30):  # ten a second
        if number == 15:
            clock.utc += hours * 3_600 * 10**9
        taken, steady = clock.utc - hours * 3_600 * 10**9 * (number == 15), round(clock.running * 1e9)
        people = walkers(1, steady)
        clock.pass_(0.1)
        camera.publish(frame(taken, number, steady_ns=steady), people)
        told = np.array(sink.of(PoseMessage)[-1].people[0].joints)
        np.testing.assert_allclose(told[:, :2], people.poses.joints[0] + SPEED * 0.1, atol=0.051)
    assert [message.seq for message in sink.of(PoseMessage)] == [0, 10, 20]


def test_velocity_is_told_where_it_is_asked_for(clock, made) -> None:
    camera, sink = made()
    camera.publish(frame(clock.utc), walkers(1, clock.utc))
    assert sink.of(PoseMessage)[0].people[0].velocity is None


def test_the_figures_of_a_camera(clock, made) -> None:
    """Twenty frames at 10 a second, after 2 s of silence; ten are 5 ms late and ten 100."""
    camera, sink = made(dropped=7, stats_every=3.85)
    clock.pass_(2.0)
    for number in range(20):
        clock.pass_(0.1)
        late = 0.005 if number < 10 else 0.1
        camera.publish(frame(clock.utc - round(late * 1e9), number), walkers(number % 3, clock.utc))
    (stats,) = sink.of(Stats)
    now = camera.snapshot()
    assert (now.frames, now.frames_with_people, now.people) == (20, 13, 1)
    for told in (stats, now):
        assert told.fps == pytest.approx(10, abs=0.01)
        assert told.dropped_frames == 7
        assert told.dropped_messages == 3
    assert (now.latency_p50_ms, now.latency_p95_ms) == (pytest.approx(52.5), pytest.approx(100))
    assert (stats.people, stats.broker_reconnects, now.broker) == (0, 2, "online")  # of the 19th frame
    assert stats.uptime_s == pytest.approx(3.9)
    assert stats.measured_ns == sink.of(PoseMessage)[18].published_ns
    clock.pass_(4.45)
    later = camera.snapshot()
    assert later.fps == pytest.approx(5 / 4.95)  # six frames in the last 5 s
    assert later.latency_p50_ms == pytest.approx(100)  # of those frames alone
    clock.pass_(60)
    quiet = camera.snapshot()
    assert (quiet.fps, quiet.people, quiet.latency_p50_ms) == (0.0, 0, None)
    assert quiet.seconds == pytest.approx(68.45)


def test_a_film_has_no_latency(clock, made) -> None:
    camera, _ = made(live=False)
    camera.publish(frame(clock.utc), walkers(1, clock.utc))
    assert camera.snapshot().latency_p50_ms is None


def test_readers_are_told_again_where_the_picture_has_another_size(clock, made) -> None:
    camera, sink = made()
    for seq, size in enumerate([(64, 48), (64, 48), (32, 24), (64, 48)]):
        camera.publish(frame(clock.utc, seq, size), walkers(0, clock.utc))
    assert [tuple(info.image) for info in sink.of(Info)] == [(64, 48), (32, 24), (64, 48)]
    kinds = [type(message) for message in sink.taken]
    assert kinds == [Info, PoseMessage, PoseMessage, Info, PoseMessage, Info, PoseMessage]


def test_several_cameras_are_told_as_one_with_the_worst_latency(clock, made) -> None:
    (first, _), (second, other), (third, _) = made(dropped=1), made(dropped=2), made(live=False)
    other.state = "lost"
    for number in range(10):
        clock.pass_(0.1)
        first.publish(frame(clock.utc - 5 * MS, number), walkers(1, clock.utc))
        second.publish(frame(clock.utc - 20 * MS, number), walkers(2, clock.utc))
        third.publish(frame(clock.utc, number), walkers(0, clock.utc))
    now = Loop(None, None, {"a": first, "b": second, "c": third}).snapshot()  # type: ignore[arg-type]
    assert (now.frames, now.frames_with_people, now.people, now.dropped_frames) == (30, 20, 3, 3)
    assert now.dropped_messages == 9
    assert now.fps == pytest.approx(30, abs=0.01)
    assert (now.latency_p50_ms, now.latency_p95_ms) == (pytest.approx(20), pytest.approx(20))
    assert now.broker == "lost, online"
