"""Messages: what is built validates, survives both encodings, and is what the schema files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import hypothesis.strategies as st
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings

from edgepose import skeletons
from edgepose.bundle import Accuracy, Bundle, ScoreMap
from edgepose.errors import EdgeposeError
from edgepose.frame import Frame
from edgepose.messages import (
    INFO,
    POSE,
    SCHEMAS,
    STATS,
    STATUS,
    Encoding,
    ModelName,
    PoseMessage,
    Stats,
    Status,
    decode,
    encode,
    info_message,
    pose_message,
    schemas,
    topics,
    without_secrets,
    write_schemas,
)
from tests.conftest import tiny_manual

MODEL = ModelName(name="tiny", sha256="0" * 64)
ENCODINGS: tuple[Encoding, ...] = ("json", "cbor")


def example(people: int = 2, seed: int = 0, seq: int = 7, camera: str = "front", spread: float = 20.0) -> PoseMessage:
    """A pose message of random numbers."""
    rng = np.random.default_rng(seed)
    var = rng.uniform(0, spread, (people, 16, 2))
    cov = rng.uniform(-1, 1, (people, 16)) * np.sqrt(var.prod(axis=-1))
    return pose_message(
        Frame(np.zeros((72, 128, 3), np.uint8), 1_800_000_000_123_456_789, seq, camera),
        device="bench",
        model=MODEL,
        skeleton="mpii16",
        ids=[f"p{i}" for i in range(people)],
        boxes=rng.uniform(-100, 4000, (people, 4)),
        scores=rng.uniform(0, 1, people),
        joints=rng.uniform(-100, 4000, (people, 16, 2)),
        joint_scores=rng.uniform(0, 1, (people, 16)),
        covariance=np.stack([var[..., 0], cov, var[..., 1]], axis=-1),
        published_ns=1_800_000_000_234_567_890,
    )


def check_schema(tree: dict[str, Any]) -> None:
    """``tree`` fits the schema file of the schema it names."""
    file = SCHEMAS / f"{tree['schema'].replace('/', '-')}.schema.json"
    jsonschema.Draft202012Validator(json.loads(file.read_text())).validate(tree)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(0, 10_000), st.sampled_from([0.001, 1.0, 30.0, 1e5]))
def test_what_is_built_survives_both_encodings_and_fits_the_schema(people: int, seed: int, spread: float) -> None:
    message = example(people, seed, spread=spread)
    assert PoseMessage.model_validate(message.model_dump(by_alias=True)) == message  # though built unchecked
    for encoding, read in (("json", json.loads), ("cbor", cbor2.loads)):
        payload = encode(message, encoding)  # type: ignore[arg-type]
        check_schema(read(payload))
        assert decode(payload) == message
    for person in message.people:
        for x, y, score, var_x, cov, var_y in person.joints:
            assert (x, y, score) == (round(x, 1), round(y, 1), round(score, 3))
            assert cov**2 <= var_x * var_y * (1 + 1e-12)  # rounding left it a covariance


def test_covariances_stay_such_in_short_floats() -> None:
    """At a correlation of nearly 1 each of the three numbers, shortened by itself, can leave none."""
    rng = np.random.default_rng(0)
    message = example(4)
    joints = []
    for xx, yy in rng.uniform(1, 40, (64, 2)).round(2):
        xy = np.floor(np.sqrt(xx * yy) * 100) / 100
        joints.append((1.0, 2.0, 0.5, float(xx), float(xy), float(yy)))
    people = [
        person.model_copy(update={"joints": joints[16 * i : 16 * i + 16]}) for i, person in enumerate(message.people)
    ]
    told = cbor2.loads(encode(message.model_copy(update={"people": people}), "cbor"))
    for person in told["people"]:
        for _, _, _, xx, xy, yy in person["joints"]:
            assert xx * yy >= xy * xy


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1e6, 1e6), st.floats(0, 1), st.floats(0, 1e6), st.text(min_size=1), st.integers(0, 2**63 - 1)
)  # fmt: skip
def test_a_message_made_by_hand_is_rounded_and_survives(
    at: float, score: float, var: float, name: str, now: int
) -> None:
    tree = example(1).model_dump(by_alias=True)
    person = {"id": name, "box": [at, at, at, at], "score": score, "joints": [[at, at, score, var, 0, var]]}
    message = PoseMessage.model_validate(tree | {"device": name, "acquired_ns": now, "people": [person]})
    for encoding in ENCODINGS:
        payload = encode(message, encoding)
        assert decode(payload, encoding) == decode(payload) == message


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"{" + tail))
def test_decoding_noise_is_a_sentence(payload: bytes) -> None:
    with pytest.raises(EdgeposeError):
        decode(payload)


def test_cbor_is_smaller_than_json() -> None:
    message = example(2)
    assert len(encode(message, "cbor")) < 0.75 * len(encode(message, "json"))


@pytest.mark.parametrize("name", ["boxes", "scores", "joints", "joint_scores", "covariance", "velocity"])
def test_a_number_that_is_none_is_the_callers_fault(name: str) -> None:
    arrays: dict[str, Any] = {
        "boxes": np.zeros((1, 4)),
        "scores": np.zeros(1),
        "joints": np.zeros((1, 16, 2)),
        "joint_scores": np.zeros((1, 16)),
        "covariance": np.zeros((1, 16, 3)),
        "velocity": np.zeros((1, 16, 2)),
    }
    frame = Frame(np.zeros((2, 2, 3), np.uint8), 1, 0, "front")

    def build() -> PoseMessage:
        return pose_message(
            frame, device="d", model=MODEL, skeleton="mpii16", ids=["1"], published_ns=2, **arrays
        )  # fmt: skip

    build()
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        build()
    if name in ("scores", "joint_scores"):
        arrays[name].flat[0] = 1.01
        with pytest.raises(ValueError, match=r"not in 0 \.\. 1"):
            build()


def test_the_info_message_names_joints_and_tells_what_the_score_means(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "tiny.onnx", tiny_manual(), "a" * 64)
    info = info_message(device="d", camera="c", source="rtsp://me:secret@cam/1", bundle=bundle, engine="openvino")
    assert info.joints == list(skeletons.MPII16.joints)
    assert set(sum(info.limbs, ())) <= set(info.joints)
    assert not info.score.calibrated
    assert info.ellipses == {}, "of a model whose ellipses were not fitted nothing is promised"
    assert "secret" not in info.source
    check_schema(json.loads(encode(info)))
    assert decode(encode(info, "cbor")) == info
    manual = tiny_manual(
        score=ScoreMap(fitted_on="100 persons of x"),
        accuracy=[
            Accuracy(data="x", split="val", persons=9, engine="ort", figures={"pckh@0.5": 66.04, "ap": None})
        ],
    )  # fmt: skip
    info = info_message(
        device="d", camera="c", source="x", bundle=Bundle(bundle.path, manual, "a" * 64), engine="e", image=(4, 3)
    )
    assert info.score.calibrated
    assert "100 persons of x" in info.score.meaning
    assert info.model.accuracy == ["x val, 9 persons, ort: pckh@0.5 66.0"]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://me:p@ss@cam:554/1?token=abc&x=1", "rtsp://cam:554/1?token=...&x=1"),
        ("rtspsrc location=rtsp://a:b@cam/ user-pw=secret ! x", "rtspsrc location=rtsp://cam/ user-pw=... ! x"),
        ("v4l2:///dev/video0", "v4l2:///dev/video0"),
        ("file:///data/a@b.mp4", "file:///data/a@b.mp4"),
        ("http://cam/v.mjpg?user=bob&pw=hush&x=1", "http://cam/v.mjpg?user=...&pw=...&x=1"),
        ("http://cam/v.cgi?loginuse=bob&loginpas=hush", "http://cam/v.cgi?loginuse=...&loginpas=..."),
        ("rtsp://cam/user=a_password=hush_channel=1", "rtsp://cam/user=..."),
        ("http://cam/c.cgi?cmd=Get&usr=bob&pwd=hush", "http://cam/c.cgi?cmd=Get&usr=...&pwd=..."),
        ("http://cam/v?login=bob&credential=hush&x=1", "http://cam/v?login=...&credential=...&x=1"),
        ("http://cam/v?jwt=hush&session_id=hush", "http://cam/v?jwt=...&session_id=..."),
        ("rtsp://cam/s?access_code=hush", "rtsp://cam/s?access_code=..."),
        (
            'rtspsrc location="rtsps://nvr/7vKqY3x9ZlQ2mN8p?x=1" ! y',
            'rtspsrc location="rtsps://nvr/...?x=1" ! y',
        ),
        ("http://cam/5f3a9c0d1e2b4a6f/v", "http://cam/.../v"),
        (
            "rtsp://cam/h264Preview_01_main/Streaming/Channels/101",
            "rtsp://cam/h264Preview_01_main/Streaming/Channels/101",
        ),
        ("file:///films/7vKqY3x9ZlQ2mN8p.mp4", "file:///films/7vKqY3x9ZlQ2mN8p.mp4"),
        ("rtsp://me:12/hush@cam/s lost", "rtsp://cam/s lost"),
        ("rtsp://cam/a@b", "rtsp://cam/a@b"),
        (r'rtspsrc user-id="cam \"the\" admin!" user-pw="a b" ! x', "rtspsrc user-id=... user-pw=... ! x"),
        ("images:///data/a@b", "images:///data/a@b"),
    ],
)
def test_sources_are_shown_without_secrets(source: str, shown: str) -> None:
    assert without_secrets(source) == shown


def test_status_and_stats_survive() -> None:
    status = Status(device="d", camera="c", state="offline", since_ns=None)
    stats = Stats(
        device="d", camera="c", measured_ns=1, fps=29.97, latency_p50_ms=12.3, latency_p95_ms=None, people=1,
        dropped_frames=2, dropped_messages=3, broker_reconnects=4, uptime_s=5.5,
    )  # fmt: skip
    for message in (status, stats):
        for encoding in ENCODINGS:
            assert decode(encode(message, encoding)) == message
        check_schema(json.loads(encode(message)))


def test_schema_files_are_what_the_models_say(tmp_path: Path) -> None:
    written = write_schemas(tmp_path)
    assert {p.name for p in written} == {p.name for p in SCHEMAS.glob("*.json")} == set(schemas())
    for path in written:
        assert path.read_text() == (SCHEMAS / path.name).read_text(), "run: python -m edgepose.messages"
        jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"extra": 1}, "Additional properties"),
        ({"people": [{"id": "1", "box": [0, 0, 1, 1], "score": 1, "joints": [[1, 2, 3]]}]}, "too short"),
        ({"seq": -1}, "minimum"),
        ({"schema": INFO}, "was expected"),
    ],
)
def test_the_schema_refuses_what_is_wrong(change: dict[str, Any], complaint: str) -> None:
    schema = schemas()["edgepose.pose-1.schema.json"]
    tree = json.loads(encode(example(1))) | change
    with pytest.raises(jsonschema.ValidationError, match=complaint):
        jsonschema.validate(tree, schema)
    missing = {key: value for key, value in tree.items() if key != "schema"}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(missing, schema)


def test_topics() -> None:
    assert topics("site/a", "bench", "front").poses == "site/a/bench/front/poses"
    assert topics("edgepose", "bench", "front").command == "edgepose/bench/front/command"


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        (("edgepose", "a/b", "c"), "device 'a/b' cannot be part of an MQTT topic; use letters"),
        (("edgepose", "a", "c+"), r"camera 'c\+' cannot be part"),
        (("edgepose", "a", "#"), "camera '#' cannot be part"),
        (("edgepose", "", "c"), "device '' cannot be part"),
        (("edgepose", "a\n", "c"), r"device 'a\\n' cannot be part"),
        (("a//b", "a", "c"), "topic prefix '' cannot be part"),
        (("$SYS", "a", "c"), r"begins with '\$', which is the broker's own"),
        (("edgepose", "a" * 300, "c"), "too long"),
    ],
)
def test_bad_topic_levels_are_sentences(levels: tuple[str, str, str], sentence: str) -> None:
    with pytest.raises(EdgeposeError, match=sentence):
        topics(*levels)


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b'{"schema": ', "the payload is not JSON"),
        (b"\xff\xff", "the payload is not CBOR"),
        (b"[1, 2]", "unknown message schema 'None' in the payload|not CBOR"),
        (b'{"schema": "edgepose.pose/2"}', "unknown message schema 'edgepose.pose/2' in the payload; did you mean"),
        (json.dumps({"schema": STATUS}).encode(), "no edgepose.status/1 message: key 'device' is missing"),
        (json.dumps({"schema": POSE, "sequence": 1}).encode(), "no edgepose.pose/1 message"),
        (cbor2.dumps({"schema": 10**5000}), "unknown message schema 'a very long number'"),
        (cbor2.dumps({"schema": STATUS, "device": 10**5000}), r"key 'device' \(it is a very long number\)"),
        (cbor2.dumps({"schema": STATS, "dropped_frames": 10**5000}), "no edgepose.stats/1 message"),
    ],
)
def test_bad_payloads_are_sentences(payload: bytes, sentence: str) -> None:
    with pytest.raises(EdgeposeError, match=sentence):
        decode(payload)


def test_an_unknown_encoding_is_a_sentence() -> None:
    with pytest.raises(EdgeposeError, match="unknown encoding 'jsn'; did you mean 'json'"):
        encode(example(0), "jsn")  # type: ignore[arg-type]


def test_info_tells_the_ellipses_of_every_joint(tmp_path: Path) -> None:
    radii = [[k + 1.0, k + 2.0, k + 3.0] for k in range(16)]
    bundle = Bundle(tmp_path, tiny_manual(ellipses={"radii": radii, "fitted_on": "x"}), "a" * 64)
    info = info_message(device="d", camera="c", source="x", bundle=bundle, engine="e")
    assert info.ellipses == {name: [row[i] for row in radii] for i, name in enumerate(("50", "90", "95"))}


def test_a_payload_that_no_message_needs_is_not_read() -> None:
    huge = b'{"schema": "edgepose.status/1", "state": "' + b"://" * (1 << 19) + b'"}'
    with pytest.raises(EdgeposeError, match="the payload has 1572908 bytes; no message of edgepose has more than"):
        decode(huge)
    with pytest.raises(EdgeposeError, match="a text of 30000 characters"):
        decode(b'{"schema": "edgepose.status/1", "device": "d", "camera": "c", "state": "' + b"://" * 10_000 + b'"}')
