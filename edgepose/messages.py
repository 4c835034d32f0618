"""What goes on the wire: four messages, their topics, their encodings and their JSON Schemas. Pure.

Every message names its schema. Times are UTC nanoseconds, coordinates are pixels of the camera image, and
numbers are rounded to what they can mean: 0.1 px, 0.001 of a score, 0.01 px^2. JSON and CBOR carry the same
tree, so one JSON Schema describes both. ``python -m edgepose.messages`` writes the schema files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import cbor2
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgepose import __version__
from edgepose.bundle import LEVELS, Bundle, Manual
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import write_beside
from edgepose.frame import Frame
from edgepose.redact import without_secrets
from edgepose.validation import first_fault, shown

SCHEMAS = Path(__file__).parent / "schemas"
POSE: Final = "edgepose.pose/1"
INFO: Final = "edgepose.info/1"
STATUS: Final = "edgepose.status/1"
STATS: Final = "edgepose.stats/1"

Encoding = Literal["json", "cbor"]
CONTENT_TYPES: dict[Encoding, str] = {"json": "application/json", "cbor": "application/cbor"}

PIXELS = (
    "(x, y) in pixels of the camera image; the centre of the top-left pixel is (0, 0), x grows to the right, "
    "y grows downwards; left and right joints are the person's own"
)
COVARIANCE = "var_x, cov_xy, var_y of the joint's position in pixels squared"
LARGEST = 1 << 20  # bytes of a payload; a hundred people in JSON are a sixth of it
LONGEST_PREFIX, DEEPEST_PREFIX = 1000, 100  # bytes, levels; mosquitto takes 200 levels, device and camera among them
_DECIMALS = np.array([1, 1, 3, 2, 2, 2])  # of x, y, score, var_x, cov_xy, var_y


def _to(decimals: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, decimals))


Pixel: TypeAlias = Annotated[float, Field(allow_inf_nan=False), _to(1)]
Score: TypeAlias = Annotated[float, Field(ge=0, le=1), _to(3)]
Variance: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False), _to(2)]
Covariance: TypeAlias = Annotated[float, Field(allow_inf_nan=False), _to(2)]
Joint: TypeAlias = tuple[Pixel, Pixel, Score, Variance, Covariance, Variance]
Name: TypeAlias = Annotated[str, Field(min_length=1)]
Count: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]
Sha256: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Nanoseconds: TypeAlias = Annotated[int, Field(ge=0, lt=2**63, description="UTC, nanoseconds since 1970")]
Size: TypeAlias = Annotated[
    tuple[Annotated[int, Field(gt=0, lt=2**31)], Annotated[int, Field(gt=0, lt=2**31)]],
    Field(description="width, height in pixels"),
]
StatusState = Literal["online", "stopped", "offline", "camera-lost"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class ModelName(_Strict):
    """Which model found the joints; the same sha256 is the same model."""

    name: Name
    sha256: Sha256


Velocity: TypeAlias = Annotated[float, Field(allow_inf_nan=False), _to(1)]


class Person(_Strict):
    """One person in one image."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=False)  # velocity may be absent

    id: Annotated[str, Field(min_length=1, description="stays the same while the person is followed")]
    box: Annotated[tuple[Pixel, Pixel, Pixel, Pixel], Field(description="x0, y0, x1, y1")]
    score: Annotated[Score, Field(description="of the person, 0..1: the mean of the surer half of its joints' scores")]
    joints: Annotated[
        list[Joint],
        Field(description="[x, y, score, var_x, cov_xy, var_y] per joint, in the order that the info message names"),
    ]
    velocity: Annotated[
        list[tuple[Velocity, Velocity]] | None,
        Field(description="[vx, vy] per joint, pixels per second; absent where it was not asked for"),
    ] = None


class PoseMessage(_Strict):
    """The persons in one camera image; an image without persons has an empty list."""

    schema_: Annotated[Literal["edgepose.pose/1"], Field(alias="schema")] = POSE
    device: Name
    camera: Name
    seq: Annotated[Count, Field(description="counts the camera's images, also those that were not processed")]
    acquired_ns: Annotated[
        Nanoseconds,
        Field(
            description="when the image was taken, of a network camera when it arrived, of a CSI camera when "
            "its driver gave it; UTC, nanoseconds since 1970"
        ),
    ]
    published_ns: Annotated[Nanoseconds, Field(description="when the joints were known; UTC, nanoseconds since 1970")]
    image: Size
    model: ModelName
    skeleton: Name
    people: list[Person]


class ModelInfo(ModelName):
    """Which model runs, and how."""

    precision: str
    engine: str
    accuracy: Annotated[list[str], Field(description="one measurement per line: on what, and the figures in percent")]


class ScoreInfo(_Strict):
    """What a joint's score means."""

    calibrated: Annotated[bool, Field(description="true: the score is a probability; false: it only ranks")]
    meaning: str


class Info(_Strict):
    """Retained: all that one must know to read the pose messages of one camera."""

    schema_: Annotated[Literal["edgepose.info/1"], Field(alias="schema")] = INFO
    device: Name
    camera: Name
    source: str
    image: Size | None
    skeleton: Name
    joints: list[str]
    limbs: Annotated[list[tuple[str, str]], Field(description="pairs of joint names")]
    model: ModelInfo
    score: ScoreInfo
    covariance: str = COVARIANCE
    ellipses: Annotated[
        dict[str, list[float]],
        Field(
            description="percent -> for each joint, the Mahalanobis distance within which it lies in so many cases; "
            "empty where the model's were not fitted"
        ),
    ] = {}
    smoothing: Annotated[str, Field(description="of joints over time: off, one-euro or kalman")] = "off"
    predict_to: Annotated[
        Literal["acquired", "publish"], Field(description="the time that joints are of: the image's, or published_ns")
    ] = "acquired"
    pixels: str = PIXELS
    version: Annotated[str, Field(description="of edgepose")] = __version__


class Status(_Strict):
    """Retained: whether pose messages can be expected. ``offline`` is the broker's word: the link broke."""

    schema_: Annotated[Literal["edgepose.status/1"], Field(alias="schema")] = STATUS
    device: Name
    camera: Name
    state: StatusState
    since_ns: Annotated[
        Nanoseconds | None,
        Field(description="since when; UTC, nanoseconds since 1970; null for offline: nobody was there to look"),
    ]
    reason: Annotated[str, Field(description="of camera-lost, offline and, where a fault ended the run, stopped")] = ""


Latency: TypeAlias = Annotated[
    Annotated[float, Field(allow_inf_nan=False), _to(1)] | None,
    Field(description="from acquisition to publication; null where the images are not live"),
]


class Stats(_Strict):
    """How the device has been doing; rates and latencies are over the last seconds."""

    schema_: Annotated[Literal["edgepose.stats/1"], Field(alias="schema")] = STATS
    device: Name
    camera: Name
    measured_ns: Nanoseconds
    fps: Annotated[float, Field(ge=0, allow_inf_nan=False), _to(2)]
    latency_p50_ms: Latency
    latency_p95_ms: Latency
    people: Annotated[Count, Field(description="in the newest image")]
    dropped_frames: Annotated[Count, Field(description="images not processed, since the start")]
    dropped_messages: Annotated[Count, Field(description="pose messages not sent, since the start")]
    broker_reconnects: Count
    uptime_s: Annotated[float, Field(ge=0, allow_inf_nan=False), _to(1)]


Message: TypeAlias = PoseMessage | Info | Status | Stats
_MESSAGES: dict[str, type[Message]] = {POSE: PoseMessage, INFO: Info, STATUS: Status, STATS: Stats}


@dataclass(frozen=True)
class Topics:
    """The topics of one camera. ``command`` is reserved: nothing reads it yet."""

    poses: str
    info: str
    status: str
    stats: str
    command: str


def topics(prefix: str, device: str, camera: str) -> Topics:
    """``<prefix>/<device>/<camera>/...``; the prefix may have several levels. EdgeposeError for a bad level."""
    base = f"{check_prefix(prefix)}/{check_level('device', device)}/{check_level('camera', camera)}"
    return Topics(*(f"{base}/{leaf}" for leaf in ("poses", "info", "status", "stats", "command")))


def check_prefix(prefix: str) -> str:
    """``prefix`` itself; EdgeposeError where it is not one or more topic levels."""
    for level in prefix.split("/"):
        check_level("topic prefix", level)
    if len(prefix.encode()) > LONGEST_PREFIX or prefix.count("/") >= DEEPEST_PREFIX:
        raise EdgeposeError(f"topic prefix '{prefix[:20]}...' is too long; use {LONGEST_PREFIX} bytes and "
                            f"{DEEPEST_PREFIX} levels at most")  # fmt: skip
    if prefix.startswith("$"):
        raise EdgeposeError(f"topic prefix '{prefix}' begins with '$', which is the broker's own; choose another")
    return prefix


def check_level(what: str, level: str) -> str:
    """``level`` itself; EdgeposeError where it cannot be one level of a topic."""
    if not level or not level.isprintable() or any(c in level for c in "/+#"):
        raise EdgeposeError(
            f"{what} {level!r} cannot be part of an MQTT topic; use letters, digits, '-' and '_'; no '/', '+', '#'"
        )
    if len(level.encode()) > 256:
        raise EdgeposeError(f"{what} '{level[:20]}...' is too long for an MQTT topic; use 256 bytes or fewer")
    return level


def pose_message(
    frame: Frame,
    *,
    device: str,
    model: ModelName,
    skeleton: str,
    ids: Sequence[str],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    joints: NDArray[np.floating],
    joint_scores: NDArray[np.floating],
    covariance: NDArray[np.floating],
    published_ns: int,
    velocity: NDArray[np.floating] | None = None,
) -> PoseMessage:
    """The message for N persons with K joints each, rounded, and not validated again for speed.

    ``boxes`` [N, 4] and ``joints`` [N, K, 2] in image pixels, ``scores`` [N] and ``joint_scores`` [N, K] in 0..1,
    ``covariance`` [N, K, 3] as var_x, cov_xy, var_y in pixels squared, ``velocity`` [N, K, 2] in pixels per second.
    ValueError where a number is not finite or out of range: that is the caller's fault, not the user's.
    """
    rows = np.concatenate([joints, joint_scores[..., None], covariance], axis=-1, dtype=np.float64)  # [N, K, 6]
    for values, least, most in (
        (boxes, -np.inf, np.inf),
        (scores, 0, 1),
        (rows[..., :2], -np.inf, np.inf),
        (joint_scores, 0, 1),
        (rows[..., 3::2], 0, np.inf),
        (rows[..., 4], -np.inf, np.inf),
        (np.zeros(0) if velocity is None else velocity, -np.inf, np.inf),
    ):
        if not (np.isfinite(values) & (values >= least) & (values <= most)).all():
            raise ValueError(f"a number of the pose message is not finite or not in {least} .. {most}")
    rows = np.round(rows * 10.0**_DECIMALS)
    limit = np.floor(np.sqrt(rows[..., 3] * rows[..., 5]))  # rounding must not make a covariance indefinite
    rows[..., 4] = np.clip(rows[..., 4], -limit, limit)
    rows = rows / 10.0**_DECIMALS + 0.0  # + 0.0: no negative zeros
    speeds: list[Any] = [None] * len(ids)
    if velocity is not None:
        speeds = [[tuple(v) for v in person] for person in (np.round(velocity.astype(np.float64), 1) + 0.0).tolist()]
    people = [
        Person.model_construct(
            id=id_, box=tuple(box), score=score, joints=[tuple(joint) for joint in person], velocity=speed
        )
        for id_, box, score, person, speed in zip(
            ids,
            (np.round(boxes.astype(np.float64), 1) + 0.0).tolist(),
            np.round(scores.astype(np.float64), 3).tolist(),
            rows.tolist(),
            speeds,
            strict=True,
        )
    ]
    return PoseMessage.model_construct(
        device=device,
        camera=frame.camera,
        seq=frame.seq,
        acquired_ns=frame.acquired_ns,
        published_ns=published_ns,
        image=frame.size,
        model=model,
        skeleton=skeleton,
        people=people,
    )


def info_message(
    *,
    device: str,
    camera: str,
    source: str,
    bundle: Bundle,
    engine: str,
    precision: str | None = None,
    image: tuple[int, int] | None = None,
    smoothing: str = "off",
    predict_to: Literal["acquired", "publish"] = "acquired",
) -> Info:
    """What the retained info topic says of one camera; user names and passwords in ``source`` are left out.

    ``precision`` is the engine's where it differs from the bundle's; ``image`` is (width, height) if known.
    """
    manual, skeleton = bundle.manual, bundle.skeleton
    meaning = "probability that the joint is within half a head of where we say it is"
    if manual.score.fitted_on:
        score = ScoreInfo(calibrated=True, meaning=f"{meaning}; fitted on {manual.score.fitted_on}")
    else:
        score = ScoreInfo(calibrated=False, meaning="height of the heatmap's peak; it ranks joints, no more")
    accuracy = [
        f"{a.data} {a.split}, {a.persons} persons, {a.engine}: "
        + ", ".join(f"{name} {value:.1f}" for name, value in a.figures.items() if value is not None)
        for a in manual.accuracy
    ]
    return Info(
        device=device,
        camera=camera,
        source=without_secrets(source),
        image=image,
        skeleton=skeleton.name,
        joints=list(skeleton.joints),
        limbs=list(skeleton.limbs),
        model=ModelInfo(
            name=manual.name,
            sha256=bundle.sha256,
            precision=precision or manual.precision,
            engine=engine,
            accuracy=accuracy,
        ),
        score=score,
        ellipses=_ellipses(manual),
        smoothing=smoothing,
        predict_to=predict_to,
    )


def _ellipses(manual: Manual) -> dict[str, list[float]]:
    """For each level of the ellipses, in percent, the radius of each joint; none where nothing was fitted."""
    if not manual.ellipses.fitted_on:
        return {}
    rows = manual.ellipses.radii
    return {
        f"{100 * level:.0f}": [rows[k % len(rows)][i] for k in range(manual.maps)] for i, level in enumerate(LEVELS)
    }


def encode(message: Message, encoding: Encoding = "json") -> bytes:
    """The message as compact UTF-8 JSON, or as CBOR with every joint's floats as short as their rounding allows."""
    if encoding == "json":
        return message.model_dump_json(by_alias=True, exclude_none=isinstance(message, PoseMessage)).encode()
    if encoding != "cbor":
        raise unknown("encoding", encoding, CONTENT_TYPES)
    tree = message.model_dump(by_alias=True, exclude_none=isinstance(message, PoseMessage))
    for person in tree["people"] if isinstance(message, PoseMessage) else ():
        if person["joints"]:
            person["joints"] = _short(person["joints"])
    return bytes(cbor2.dumps(tree, canonical=True))


def _short(joints: list[Any]) -> list[Any]:
    """``joints`` [K, 6] moved to the nearest half or single float that still rounds to the same decimals."""
    exact = np.array(joints, dtype=np.float64)
    room = 0.49 / 10.0**_DECIMALS
    with np.errstate(over="ignore"):
        half, single = (exact.astype(kind).astype(np.float64) for kind in (np.float16, np.float32))
    short = np.where(abs(half - exact) < room, half, np.where(abs(single - exact) < room, single, exact))
    xx, xy, yy = short[:, 3:6].T
    short[xx * yy < xy * xy, 3:6] = exact[xx * yy < xy * xy, 3:6]  # else that joint's covariance were indefinite
    return list(short.tolist())


def decode(payload: bytes, encoding: Encoding | Literal["auto"] = "auto") -> Message:
    """The message in ``payload``; EdgeposeError where it is none, or of a schema not known here."""
    if len(payload) > LARGEST:
        raise EdgeposeError(f"the payload has {len(payload)} bytes; no message of edgepose has more than {LARGEST}")
    if encoding == "auto":
        encoding = "json" if payload.lstrip()[:1] == b"{" else "cbor"  # no CBOR map begins like that
    read: Callable[[bytes], Any] = json.loads if encoding == "json" else cbor2.loads
    try:
        tree = read(payload)
    except (ValueError, RecursionError, cbor2.CBORError) as error:
        raise EdgeposeError(f"the payload is not {encoding.upper()}: {str(error)[:120]}") from error
    name = tree.get("schema") if isinstance(tree, dict) else None
    if not isinstance(name, str) or name not in _MESSAGES:
        named = name if isinstance(name, str) else shown(name)
        raise unknown("message schema", named[:80], _MESSAGES, "the payload")
    kind = _MESSAGES[name]
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise EdgeposeError(f"the payload is no {name} message: {first_fault(kind, error)}") from error


def schemas() -> dict[str, dict[str, Any]]:
    """File name -> JSON Schema (draft 2020-12), one per message."""
    return {
        f"{name.replace('/', '-')}.schema.json": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:{name.replace('/', ':')}",
            **kind.model_json_schema(by_alias=True, mode="serialization"),
        }
        for name, kind in _MESSAGES.items()
    }


def write_schemas(folder: Path = SCHEMAS) -> list[Path]:
    """Write every schema into ``folder``; returns the paths."""
    paths = []
    for name, schema in schemas().items():
        with write_beside(folder / name) as beside:
            beside.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
        paths.append(folder / name)
    return paths


if __name__ == "__main__":
    write_schemas()
