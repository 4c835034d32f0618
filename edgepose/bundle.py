"""A bundle: one ONNX file that carries its own manual.

The manual is JSON under the metadata key ``edgepose``. Input ``image``: float32 [N, 3, H, W], RGB
0..255, normalisation inside the graph. Output ``heatmaps``: [N, K, H/stride, W/stride], a map for each joint of the
skeleton; of a person finder (role ``person``) the five maps of :mod:`edgepose.people.finder`. A file that is not a
bundle, or whose graph contradicts its manual, is refused with one sentence.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from edgepose import skeletons
from edgepose.errors import EdgeposeError, missing, unknown
from edgepose.files import kind, write_beside
from edgepose.skeletons import Skeleton
from edgepose.validation import STRICT, first_fault

KEY = "edgepose"
NAME = r"^[a-z0-9][a-z0-9._-]*$"  # of a model
SCHEMA: Literal["edgepose.bundle/1"] = "edgepose.bundle/1"
FINDER_MAPS = 5
MODELS = Path(__file__).parent / "models"

Positive = Annotated[float, Field(gt=0)]
LEVELS = (0.5, 0.9, 0.95)  # of the ellipses
Radii = tuple[Positive, Positive, Positive]  # of LEVELS
GAUSSIAN_RADII: Radii = (1.17741, 2.145966, 2.447747)  # sqrt(-2 ln(1 - level)): chi with 2 degrees of freedom


class _Strict(BaseModel):
    model_config = STRICT


class Decode(_Strict):
    """How heatmaps become joints; see :mod:`edgepose.heatmaps`."""

    method: Literal["argmax", "quarter", "dark"] = "dark"
    blur_sigma: Positive = 1.0  # heatmap cells
    moment_radius: Annotated[int, Field(ge=3, le=15)] = 5  # heatmap cells
    mirror_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0  # keeps left and right apart; 0: off


class ScoreMap(_Strict):
    """Raw heatmap peak -> probability that the joint is within half a head of where we say.

    Piecewise linear through (raw[i], probability[i]), constant outside. ``fitted_on`` names the persons;
    empty means that the peak itself is published and is not a probability.
    """

    raw: list[float] = [0.0, 1.0]
    probability: list[Annotated[float, Field(ge=0, le=1)]] = [0.0, 1.0]
    fitted_on: str = ""

    @model_validator(mode="after")
    def _monotone(self) -> ScoreMap:
        if len(self.raw) != len(self.probability) or len(self.raw) < 2:
            raise ValueError("score.raw and score.probability must be equally long, with two points or more")
        if any(b <= a for a, b in zip(self.raw, self.raw[1:], strict=False)):
            raise ValueError("score.raw must rise")
        return self


class Ellipses(_Strict):
    """How far a joint may lie from where we say, beyond what its heatmap's moments tell.

    ``factor``, piecewise linear in the raw peak ``raw`` and constant outside, multiplies the moments: weak peaks are
    further off than they look. ``radii``: the Mahalanobis distances from the published joint within which 50, 90 and
    95 % of the joints lie, one row for all joints or one per joint. A Gaussian's are the default; real errors have more
    in the middle and longer tails.
    """

    raw: Annotated[list[float], Field(min_length=2)] = [0.0, 1.0]
    factor: Annotated[list[Positive], Field(min_length=2)] = [1.0, 1.0]
    radii: Annotated[list[Radii], Field(min_length=1)] = [GAUSSIAN_RADII]
    fitted_on: str = ""

    @model_validator(mode="after")
    def _rising(self) -> Ellipses:
        if len(self.raw) != len(self.factor):
            raise ValueError("ellipses.raw and ellipses.factor must be equally long")
        for name, values in (("raw", self.raw), *(("radii", row) for row in self.radii)):
            if any(b <= a for a, b in itertools.pairwise(values)):
                raise ValueError(f"ellipses.{name} must rise")
        return self


Side = Annotated[int, Field(gt=0, le=4096)]  # of an input, pixels


class Accuracy(_Strict):
    """One measurement: on which persons, with what, and the figures in percent."""

    data: str
    split: str
    persons: int
    engine: str
    figures: dict[str, float | None]
    lost: dict[str, float] = {}  # of an INT8 file: points lost against the float one; empty where nobody told


class Manual(_Strict):
    """All that one must know to run the model."""

    schema_: Annotated[Literal["edgepose.bundle/1"], Field(alias="schema")] = SCHEMA
    name: Annotated[str, Field(pattern=NAME)]
    role: Literal["pose", "person"] = "pose"
    skeleton: str = ""  # of role pose
    input_size: tuple[Side, Side]  # width, height in pixels
    stride: Annotated[int, Field(gt=0)] = 4
    padding: Annotated[float, Field(ge=1, le=3)] = 1.25  # crop side / longer side of the box
    decode: Decode = Decode()
    score: ScoreMap = ScoreMap()
    covariance_scale: list[Positive] = [1.0]  # one for all joints, or one per joint; multiplies the moments
    ellipses: Ellipses = Ellipses()
    precision: Literal["float32", "float16", "int8"] = "float32"
    made_from: dict[str, str] = {}  # what -> sha256; of INT8 also ranges -> their method
    recipe: dict[str, Any] = {}
    accuracy: list[Accuracy] = []
    terms: str = ""
    description: str = ""

    @field_validator("skeleton")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and name not in skeletons.SKELETONS:
            raise ValueError(str(unknown("skeleton", name, skeletons.SKELETONS)))
        return name

    @model_validator(mode="after")
    def _role_has_its_maps(self) -> Manual:
        if (self.role == "pose") != bool(self.skeleton):
            raise ValueError("skeleton belongs to role pose: name it there, and leave it out for role person")
        if self.role == "person":
            return self
        if len(self.covariance_scale) not in (1, self.maps):
            raise ValueError(f"covariance_scale has {len(self.covariance_scale)} values for {self.maps} joints")
        if len(self.ellipses.radii) not in (1, self.maps):
            raise ValueError(f"ellipses.radii has {len(self.ellipses.radii)} rows for {self.maps} joints")
        return self

    @property
    def maps(self) -> int:
        """How many maps the network has: one per joint, or a finder's five."""
        return FINDER_MAPS if self.role == "person" else len(skeletons.get(self.skeleton))


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``sha256`` is of the file: two boxes that name the same hash run the same model."""

    path: Path
    manual: Manual
    sha256: str

    @property
    def skeleton(self) -> Skeleton:
        """The skeleton whose joints the heatmaps stand for, in order."""
        return skeletons.get(self.manual.skeleton)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """Width and height of the heatmaps, cells."""
        width, height = self.manual.input_size
        return width // self.manual.stride, height // self.manual.stride


def shipped() -> list[str]:
    """Names of the bundles in the package."""
    return sorted(p.stem for p in MODELS.glob("*.onnx"))


def find(name_or_path: str) -> Path:
    """The file of a shipped bundle, or the path itself; EdgeposeError when there is neither."""
    if name_or_path in shipped():  # first: a folder here may have the same name
        return MODELS / f"{name_or_path}.onnx"
    path = Path(name_or_path)
    there = kind(path)
    if there == "folder":
        raise EdgeposeError(f"model {path} is a folder; name the .onnx file in it")
    if path.suffix == ".onnx" or there != "nothing":
        if there != "file":
            raise EdgeposeError(f"model file {path} does not exist; 'edgepose models' lists the shipped ones")
        return path
    raise unknown("model", name_or_path, shipped())


def load(name_or_path: str | Path, role: Literal["pose", "person"] | None = None) -> Bundle:
    """Read and check a bundle; one of another ``role`` is refused.

    EdgeposeError: no such model, not an ONNX file, no manual inside, a manual that is malformed, or one
    that contradicts the graph.
    """
    path = find(str(name_or_path))
    model = _read(path)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    if KEY not in texts:
        raise EdgeposeError(
            f"{path} is an ONNX file but not an edgepose bundle (no '{KEY}' metadata); "
            "make one with 'edgepose-train export'"
        )
    try:
        manual = Manual.model_validate_json(texts[KEY])
    except ValidationError as error:
        raise EdgeposeError(f"{path}: the bundle's manual is wrong: {first_fault(Manual, error)}") from error
    _check_graph(path, manual, model.graph)
    if role is not None and manual.role != role:
        wanted = {"pose": "a pose model (--model)", "person": "a person finder (--finder)"}
        raise EdgeposeError(f"{path} is {wanted[manual.role]} but {wanted[role]} is asked for here")
    return Bundle(path, manual, hashlib.sha256(path.read_bytes()).hexdigest())


def save(model: Any, manual: Manual, path: Path) -> Bundle:
    """Write ``model`` (an onnx.ModelProto) with its manual to ``path``, whole or not at all, and check it."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, manual.model_dump_json(by_alias=True)
    _check_graph(path, manual, model.graph)
    with write_beside(path) as beside:
        beside.write_bytes(model.SerializeToString())
    return load(path)


def _read(path: Path) -> Any:
    try:
        import onnx
    except ImportError:
        raise missing("onnx", "to read model bundles", "pip install onnx") from None
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(path, format="protobuf", load_external_data=False)
        if not model.graph.node:
            raise DecodeError("it has no graph")
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
            raise DecodeError("its weights lie in another file")  # which its sha256 would say nothing of
        onnx.checker.check_model(model, full_check=True)  # shapes, too: engines rely on what is declared
    except (DecodeError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        reason = (str(error).strip() or "it cannot be parsed").splitlines()[0][:120]
        raise EdgeposeError(f"{path} is not a whole ONNX file ({reason}); fetch or export it again") from error
    except OSError as error:
        raise EdgeposeError(f"{path} cannot be read: {error.strerror}; check the path") from error
    return model


def _shape(value: Any) -> list[int | str]:
    """Dimensions of a graph input or output; a symbolic one is its name."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def _check_graph(path: Path, manual: Manual, graph: Any) -> None:
    width, height = manual.input_size
    if width % manual.stride or height % manual.stride:
        raise EdgeposeError(f"{path}: the manual's input {width}x{height} is no multiple of its stride {manual.stride}")
    expected = {
        "image": (graph.input, [3, height, width]),
        "heatmaps": (graph.output, [manual.maps, height // manual.stride, width // manual.stride]),
    }
    for name, (values, shape) in expected.items():
        found = {v.name: v for v in values}
        if name not in found:
            raise EdgeposeError(f"{path}: the graph has no '{name}' but {sorted(found)}; it is not an edgepose bundle")
        actual = _shape(found[name])
        if len(actual) != 4 or actual[1:] != shape or isinstance(actual[0], int):
            raise EdgeposeError(
                f"{path}: the manual says {name} is [N, {', '.join(map(str, shape))}] "
                f"but the graph says {actual}; export it again"
            )
        if found[name].type.tensor_type.elem_type != 1:  # onnx.TensorProto.FLOAT
            raise EdgeposeError(f"{path}: '{name}' must be float32; export it again")
