"""What is in force, and where each value comes from: flags over environment over file over defaults.

The file is ``edgepose.toml``; the environment variable of key ``mqtt.url`` is ``EDGEPOSE_MQTT_URL``.
Unknown keys, in the file or among ``EDGEPOSE_*``, are errors that name the nearest known key.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field, ValidationError, model_validator

from edgepose.engines import Precision
from edgepose.errors import EdgeposeError, unknown
from edgepose.files import real_path
from edgepose.gates import Gate
from edgepose.people.regions import Regions
from edgepose.sources.uri import sanitise
from edgepose.toml import read_toml
from edgepose.validation import STRICT, first_fault, telling_fault

FILE = "edgepose.toml"
PREFIX = "EDGEPOSE_"
# Read elsewhere, never from the file or the command line: folders, and secrets.
OTHER_VARIABLES = frozenset(
    [PREFIX + name for name in ("CACHE", "DATA", "CONFIG")]
    + [f"{PREFIX}{of}_{what}" for of in ("MQTT", "RTSP", "HTTP") for what in ("USER", "PASSWORD")]
)


FILE_ONLY = frozenset({"camera", "regions.only", "regions.ignore"})  # tables and polygons do not fit into a variable


class _Strict(BaseModel):
    model_config = STRICT


def _device() -> str:
    """This machine's name, as a topic level."""
    return re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower()).strip("-") or "device"


# Seconds without a frame after which a camera counts as lost; 0: 5, and 10 for files.
Stall: TypeAlias = Annotated[float, Field(ge=0, le=86400)]


class Source(_Strict):
    """The camera."""

    uri: str = ""
    backend: Literal["auto", "gstreamer", "pyav"] = "auto"
    camera: str = ""  # name in topics; empty: made from the URI
    stall: Stall = 0


class PeopleSettings(_Strict):
    """Who is found and followed, and how joints are smoothed."""

    finder: str = "auto"  # a name or a bundle; auto: the shipped one; none: one person, for a fixed rig
    least: Annotated[float, Field(gt=0, lt=1)] = 0.2  # finder's score from which something may be a person
    every: Annotated[int, Field(ge=1, le=1000)] = 5  # frames between looks of the finder while everybody is seen
    confirm: Annotated[int, Field(ge=1, le=100)] = 3  # sights until a person counts
    patience: Annotated[float, Field(ge=0, le=60)] = 1.0  # seconds unseen until a person is gone
    most: Annotated[int, Field(ge=1, le=64)] = 8  # people at once, per camera
    second_look: bool = True  # at whoever leans far, turned upright; and the finder looks for people who lie
    hold_sides: bool = True  # left and right do not change places from one frame to the next
    smoothing: Literal["off", "one-euro", "kalman"] = "off"
    velocity: bool = False  # publish how fast joints move
    predict_to: Literal["acquired", "publish"] = "acquired"  # the time that published joints are of


class CameraSettings(_Strict):
    """One of several cameras: a table [[camera]]."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]  # in topics
    uri: Annotated[str, Field(min_length=1)]
    backend: Literal["auto", "gstreamer", "pyav"] = "auto"
    stall: Stall = 0
    overlay: str = ""  # a video file
    regions: Regions = Regions()
    gate: Gate = Gate()


class EngineSettings(_Strict):
    """What runs the network."""

    name: str = "auto"
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    precision: Precision = "auto"
    device: str = "auto"
    overlap: bool = True  # begin a film's next frames before the people in the last one are known
    build: bool = True  # build a TensorRT plan where none fits; false: refuse


class Mqtt(_Strict):
    """The broker; the password comes from EDGEPOSE_MQTT_PASSWORD or ``password_file``."""

    url: str = ""
    qos: Annotated[int, Field(ge=0, le=1)] = 0
    encoding: Literal["json", "cbor"] = "json"
    version: Literal["", "5", "3.1.1"] = ""  # of MQTT; empty: as the URL says, else 5
    expiry: Annotated[int, Field(ge=1, le=86400)] = 10  # seconds after which a broker drops an undelivered pose
    queue: Annotated[int, Field(ge=1, le=10000)] = 30  # messages kept while the broker is away; the oldest go first
    password_file: str = ""
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    insecure: bool | None = None  # accept any server certificate; none: as the URL says, else not


class Output(_Strict):
    """Where else poses go."""

    overlay: str = ""  # a video file, or "window"
    record: str = ""  # a .jsonl file
    stdout: bool = False  # JSON lines
    stats_every: Annotated[float, Field(ge=0.5, le=3600)] = 5.0  # seconds between stats messages


class Settings(_Strict):
    """Everything ``edgepose run`` can be told."""

    device: Annotated[str, Field(default_factory=_device, pattern=r"^[A-Za-z0-9_.-]+$")]
    model: str = "edgepose-s"
    max_frames: Annotated[int, Field(ge=0)] = 0  # 0: until the source ends
    source: Source = Source()
    engine: EngineSettings = EngineSettings()
    people: PeopleSettings = PeopleSettings()
    regions: Regions = Regions()  # of the one camera of [source]
    gate: Gate = Gate()  # likewise
    mqtt: Mqtt = Mqtt()
    output: Output = Output()
    camera: list[CameraSettings] = []  # several cameras, instead of [source]

    @model_validator(mode="after")
    def _one_or_several(self) -> Settings:
        if self.camera and self.source.uri:
            raise ValueError("there is both a source and [[camera]] tables; give either")
        if self.camera and (beside := [k for k, v in self.source if v != getattr(Source(), k)]):
            raise ValueError(f"source.{beside[0]} is of the one camera of [source]; where there are [[camera]] tables "
                             "it belongs into each")  # fmt: skip
        if self.camera and (self.output.overlay or self.regions != Regions() or self.gate != Gate()):
            raise ValueError("overlay, regions and gate belong into each [[camera]] table where there is one "
                             "(--overlay, --rate and --on-change are of a single camera)")  # fmt: skip
        for a, b in itertools.combinations(self.camera, 2):
            if (topic := sanitise(a.name)) == sanitise(b.name):
                raise ValueError(f"the [[camera]] tables '{a.name}' and '{b.name}' are both named '{topic}' in topics; "
                                 "rename one")  # fmt: skip
            if a.overlay not in ("", "window") and real_path(a.overlay) == real_path(b.overlay):
                raise ValueError(f"the [[camera]] tables '{a.name}' and '{b.name}' both draw into the overlay "
                                 f"{a.overlay}; give each a file of its own")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _follows_enough(self) -> Settings:
        for regions in (self.regions, *(c.regions for c in self.camera)):
            if regions.most is not None and regions.most > self.people.most:
                raise ValueError(f"regions.most {regions.most} is more than the {self.people.most} people who are "
                                 "followed at once; raise people.most too")  # fmt: skip
        return self

    @property
    def cameras(self) -> list[CameraSettings]:
        """The cameras to read, also where [source] names the only one; its name may be empty: made from the URI."""
        if self.camera or not self.source.uri:
            return self.camera
        source = self.source
        return [
            CameraSettings.model_construct(
                name=source.camera,
                uri=source.uri,
                backend=source.backend,
                stall=source.stall,
                overlay=self.output.overlay,
                regions=self.regions,
                gate=self.gate,
            )
        ]


@dataclass(frozen=True)
class Configuration:
    """Checked settings, and for every key ('mqtt.url') where its value comes from."""

    settings: Settings
    origins: dict[str, str]


def keys() -> list[str]:
    """All keys, dotted, in the file's order."""
    found = []
    for name, field in Settings.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += [f"{name}.{k}" for k in inner.model_fields]
        else:
            found.append(name)
    return found


def variable(key: str) -> str:
    """The environment variable of a key."""
    return PREFIX + key.replace(".", "_").upper()


def load(
    flags: Mapping[str, Any] | None = None, path: Path | None = None, environ: Mapping[str, str] | None = None
) -> Configuration:
    """Merge flags, environment, file and defaults.

    ``flags`` maps dotted keys to values; None means not given. ``path`` is the file; without one
    $EDGEPOSE_CONFIG, then ``edgepose.toml`` in this folder if there is one.
    EdgeposeError: unknown key, wrong value, unreadable file; the sentence names the origin.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origins = dict.fromkeys(keys(), "default")
    as_a_whole = False
    file = _file(path, environ)
    if file is not None:
        table = read_toml(file)
        as_a_whole = _faulty_as_a_whole(table, file)
        for key, value in _flatten(table).items():
            values[key], origins[key] = value, str(file)
    for key, value in _from_environment(environ).items():
        values[key], origins[key] = value, variable(key)
    for key, value in (flags or {}).items():
        if value is not None:
            values[key], origins[key] = value, "command line"
    try:
        return Configuration(Settings.model_validate(_nest(values)), origins)
    except ValidationError as error:
        key = ".".join(str(part) for part in telling_fault(error)["loc"])
        where = origins.get(key) or (str(file) if as_a_whole else "configuration")
        raise EdgeposeError(f"{where}: {first_fault(Settings, error)}") from error


def _faulty_as_a_whole(table: Mapping[str, Any], file: Path) -> bool:
    """Whether keys of the file contradict each other, which flags may put right; EdgeposeError: one is wrong."""
    try:
        Settings.model_validate(table)
    except ValidationError as error:
        if telling_fault(error)["loc"]:
            raise EdgeposeError(f"{file}: {first_fault(Settings, error)}") from error
        return True
    return False


def _file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    if path is None and environ.get(PREFIX + "CONFIG"):
        path = Path(environ[PREFIX + "CONFIG"])
    if path is not None:
        return path
    return Path(FILE) if Path(FILE).is_file() else None


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    variables = {variable(key): key for key in keys() if key not in FILE_ONLY}
    found = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in OTHER_VARIABLES:
            continue
        if name in {variable(key) for key in FILE_ONLY}:
            raise EdgeposeError(f"{name} does not fit into a variable; set it in {FILE}")
        if name not in variables:
            raise unknown("environment variable", name, [*variables, *OTHER_VARIABLES])
        if value != "":
            found[variables[name]] = value
    return found


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (nested.setdefault(table, {}) if table else nested)[name] = value
    return nested


def value_of(settings: Settings, key: str) -> Any:
    """The value of a dotted key, as JSON has it."""
    value: Any = settings.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def require_cameras(settings: Settings) -> list[CameraSettings]:
    """The cameras to read; EdgeposeError where none was given."""
    if not settings.cameras:
        raise EdgeposeError("no source was given; use --source URI, for instance v4l2:///dev/video0 or a video file")
    return settings.cameras


def require_source(settings: Settings) -> str:
    """The one camera's URI; EdgeposeError where there is none, or several."""
    cameras = require_cameras(settings)
    if len(cameras) > 1:
        raise EdgeposeError(
            f"this looks at one camera, and {len(cameras)} are configured; name a file with one by --config"
        )
    return cameras[0].uri
