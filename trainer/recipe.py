"""A recipe: everything that makes a model, in one TOML file. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgepose import skeletons
from edgepose.heatmaps import METHODS
from edgepose.toml import read_toml, validate
from trainer.augment import Augmentation

Positive = Annotated[int, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSet(_Strict):
    """One labelled set and how often each of its persons is drawn in a pass."""

    data: str  # as for --data: lsp:DIR, coco:JSON:DIR, mpii:FILE:DIR
    split: Literal["train", "dev", "val", "all"] = "train"
    share: Annotated[float, Field(gt=0)] = 1.0


class Model(_Strict):
    """The network."""

    kind: Literal["stacked-hourglass"] = "stacked-hourglass"
    width: Annotated[int, Field(ge=16, le=512, multiple_of=4)] = 256  # channels
    depth: Annotated[int, Field(ge=1, le=5)] = 4  # poolings within an hourglass
    stacks: Annotated[int, Field(ge=1, le=8)] = 8
    block: Literal["residual", "narrow", "depthwise", "reparam"] = "residual"  # the last three: trainer.models.compact
    order: Literal["pre", "post"] = "pre"  # block residual: where it puts batch norm and ReLU


class Target(_Strict):
    """Heatmap targets and the loss on them."""

    sigma: Annotated[float, Field(gt=0)] = 1.0  # Gaussian, heatmap cells, at the final size
    foreground: Annotated[float, Field(ge=0)] = 25.0  # squared error is weighted by 1 + foreground * target


class StageSpec(_Strict):
    """A stretch of training: so many images at one input size."""

    images: Positive
    size: Annotated[int, Field(ge=32, le=1024)]
    batch: Positive = 16
    sigma: Annotated[float, Field(gt=0)] | None = None  # overrides target.sigma


class Optimiser(_Strict):
    """Rule, rate and its course, weight decay, EMA of weights; see :mod:`trainer.optimise`."""

    kind: Literal["sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam", "adamw"] = "adamw"
    rate: Annotated[float, Field(gt=0)] = 2e-3
    reference_batch: Annotated[int, Field(ge=0)] = 0  # the batch that ``rate`` is meant for; 0: the recipe's own
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of kind momentum
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 200  # steps
    course: Literal["cosine", "steps", "geometric", "constant"] = "cosine"
    drops: list[Annotated[float, Field(gt=0, lt=1)]] = [0.75, 0.85]  # course steps: where, as shares of the run
    drop_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    final: Annotated[float, Field(gt=0, le=1)] = 0.025  # course geometric: last rate / first rate
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998  # 0: off
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest gradient norm; 0: off


class Recipe(_Strict):
    """See the fields; ``load`` reads one from TOML."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    seed: int = 1
    skeleton: str = "mpii16"
    padding: Annotated[float, Field(ge=1.0, le=3.0)] = 1.25  # crop side / longer side of the box
    decode: str = "dark"
    mirror_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0  # see edgepose.heatmaps.Decoder; 0: off
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    start_from: str = (
        ""  # a checkpoint whose weights to begin with, from the current folder; empty: He's initialisation
    )
    data: Annotated[list[DataSet], Field(min_length=1)]
    validation: list[DataSet] = []
    validate_every: Positive = 1000  # steps
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0
    model: Model = Model()
    target: Target = Target()
    stages: Annotated[list[StageSpec], Field(min_length=1)]
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()

    @field_validator("skeleton")
    @classmethod
    def _known_skeleton(cls, name: str) -> str:
        if name not in skeletons.SKELETONS:
            raise ValueError(f"unknown skeleton; known: {', '.join(sorted(skeletons.SKELETONS))}")
        return name

    @field_validator("decode")
    @classmethod
    def _known_decode(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"unknown decode method; known: {', '.join(METHODS)}")
        return name

    @model_validator(mode="after")
    def _sizes_fit(self) -> Recipe:
        step = 4 * 2**self.model.depth
        for number, stage in enumerate(self.stages):
            if stage.size % step:
                raise ValueError(f"stages.{number}.size {stage.size} must be a multiple of {step} "
                                 f"(stride 4, {self.model.depth} poolings)")  # fmt: skip
            if stage.images < stage.batch:
                raise ValueError(f"stages.{number}.images {stage.images} is less than one batch of {stage.batch}")
        if self.stages[-1].size != max(s.size for s in self.stages):
            raise ValueError("the last stage must have the largest size: it is the size that is exported")
        return self

    @property
    def input_size(self) -> int:
        """Side of the exported network's square input, pixels."""
        return self.stages[-1].size

    def at(self, step: int) -> Recipe:
        """The recipe cut after the stage that ``step`` falls into: what the network is at that moment."""
        last = 0
        for number, stage in enumerate(self.stages):
            last += stage.images // stage.batch
            if step <= last:
                return self.model_copy(update={"stages": self.stages[: number + 1]})
        return self


def load(path: Path) -> Recipe:
    """Read and check a recipe; EdgeposeError names the file, the key and what is wrong with it."""
    return validate(Recipe, read_toml(path), str(path))
