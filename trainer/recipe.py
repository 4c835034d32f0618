"""A recipe: everything that makes a model, in one TOML file. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from edgepose import skeletons
from edgepose.errors import EdgeposeError
from edgepose.heatmaps import METHODS
from edgepose.toml import read_toml
from edgepose.validation import STRICT, validate
from trainer.augment import Augmentation
from trainer.parts import composition_of

Positive = Annotated[int, Field(gt=0)]


class Strict(BaseModel):
    model_config = STRICT


class DataSet(Strict):
    """One labelled set and how often each of its persons is drawn in a pass."""

    data: str  # as for --data: DIR, lsp:DIR, coco:JSON:DIR, mpii:FILE:DIR, synth:COUNT
    split: Literal["train", "dev", "val", "all"] = "train"
    share: Annotated[float, Field(gt=0)] = 1.0
    behind: Annotated[float, Field(gt=0)] = 1.0  # times as often who is seen from behind, by the labels
    limit: Annotated[int, Field(ge=0)] = 0  # at most so many persons, evenly drawn; 0: all
    corrections: str = ""  # CSV of 'edgepose-train data clean', from the current folder: labels to put right or hide
    labels: bool = True  # false: its joints are hidden from training and the teacher alone teaches (distillation)


def on_dev(sets: Any) -> Any:
    """What ``[[validation]]`` gives, with split dev where none is said: those of train are whom the network knows."""
    return [{"split": "dev", **s} if isinstance(s, dict) else s for s in sets] if isinstance(sets, list) else sets


class Background(Strict):
    """Windows of photographs in which nobody is: the network learns to leave its heatmaps empty."""

    data: str  # as for data
    guesses: str = ""  # file of people that were found by other models: data label not everybody
    split: Literal["train", "dev", "val", "all"] = "train"
    windows: Positive = 5  # of one photograph, at most
    share: Annotated[float, Field(gt=0)] = 1.0  # how often each window is drawn in a pass
    empty: bool = False  # whether nobody is in images that no annotation is of; else these are left out


class Attention(Strict):
    """Multi-context attention (Chu et al. 2017); each flag is one ablation. See :mod:`trainer.models.attention`."""

    normaliser: Literal["crf", "softmax"] = "crf"
    iterations: Annotated[int, Field(ge=1, le=10)] = 3  # of the mean field; normaliser crf
    kernel: Annotated[int, Field(ge=3, le=15)] = 9  # of the correlation between neighbours, cells; normaliser crf
    multi_resolution: bool = True  # maps from every resolution of an hourglass, not from the finest alone
    multi_semantics: bool = True  # every stack attends, not the last alone
    parts: bool = True  # a map of its own for each joint, in the later half of the stacks

    @field_validator("kernel")
    @classmethod
    def _centred(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("must be odd, so that it has a centre")
        return kernel


class Pyramid(Strict):
    """Pyramid residual modules (Yang et al. 2017); see :mod:`trainer.models.pyramid`."""

    levels: Annotated[int, Field(ge=1, le=8)] = 4  # C, beside the full resolution
    ratio: Annotated[float, Field(gt=0, le=4)] = 1.0  # M: level c is sub-sampled by 2^(-M c / C)
    reduction: Annotated[int, Field(ge=1, le=32)] = 9  # block's outputs / channels of a level


class Model(Strict):
    """The network."""

    kind: Literal["stacked-hourglass", "cascade", "compositional"] = "stacked-hourglass"
    width: Annotated[int, Field(ge=16, le=512, multiple_of=4)] = 256  # channels
    depth: Annotated[int, Field(ge=1, le=5)] = 4  # poolings within an hourglass
    stacks: Annotated[int, Field(ge=1, le=8)] = 8  # compositional: 1, 3 or 5, for 1, 2 or 3 semantic levels
    stem: Literal["newell", "compact", "mobile"] = "newell"
    multiplier: Annotated[float, Field(ge=0.25, le=2)] = 1.0  # of the channels of stem mobile
    shallow: bool = False  # stem mobile goes down to stride 16 instead of 32, with a quarter of the weights
    frozen: Annotated[int, Field(ge=0, le=7)] = (
        0  # stages of stem mobile that stay as they begin, with its first convolution
    )
    early: bool = False  # the stem's features give maps too, supervised, before the first hourglass
    block: Literal[
        "residual", "hru", "prm-a", "prm-b", "prm-c", "prm-d", "narrow", "depthwise", "reparam"
    ] = "residual"  # fmt: skip
    side: Literal["same", "hru"] = "same"  # the blocks on an hourglass's side branches
    order: Literal["pre", "post"] = "pre"  # blocks residual and hru: where they put batch norm and ReLU
    preprocessing: Literal["imagenet", "symmetric", "z-score", "mean-image", "pca-whitening"] = "imagenet"
    norm: Literal["batch", "lrn", "l2", "none"] = "batch"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # share of feature maps dropped before each head
    initialisation: Literal["he", "xavier", "branches"] = "he"
    attention: Attention | None = None
    pyramid: Pyramid = Pyramid()

    @property
    def poolings(self) -> int:
        """How often the resolution is halved from stride 4 on."""
        # Hourglass residual units pool once more, at the lowest resolution too where they are the block; stem mobile
        # goes down to stride 32 itself.
        stem = 0 if self.stem != "mobile" else 2 if self.shallow else 3
        return max(self.depth + (self.block == "hru"), stem)

    @model_validator(mode="after")
    def _composes(self) -> Model:
        if self.stem != "mobile" and (self.frozen or self.shallow or self.multiplier != 1):
            raise ValueError(f"frozen, shallow and multiplier belong to stem mobile, not to {self.stem}")
        if self.shallow and self.frozen > 5:
            raise ValueError(f"frozen is {self.frozen}, but a shallow stem has 5 stages")
        if self.early and self.kind != "stacked-hourglass":
            raise ValueError(f"early belongs to kind stacked-hourglass, not to {self.kind}")
        if self.kind == "compositional" and self.stacks not in (1, 3, 5):
            raise ValueError("stacks of kind compositional must be 1, 3 or 5: up and down 1, 2 or 3 semantic levels")
        if self.kind != "stacked-hourglass" and self.attention is not None:
            raise ValueError(f"attention belongs to kind stacked-hourglass, not to {self.kind}")
        if self.block == "reparam" and self.norm != "batch":
            raise ValueError("block reparam folds batch norms; it needs norm = 'batch'")
        return self


class Target(Strict):
    """Heatmap targets and the loss on them."""

    sigma: Annotated[float, Field(gt=0)] = 1.0  # Gaussian, heatmap cells, at the final size
    foreground: Annotated[float, Field(ge=0)] = 25.0  # squared error is weighted by 1 + foreground * target
    false_peaks: bool = False  # ... by the larger of target and prediction: a false peak costs as much as a missed one


class StageSpec(Strict):
    """A stretch of training: so many images at one input size."""

    images: Positive
    size: Annotated[int, Field(ge=32, le=1024)]
    batch: Positive = 16
    sigma: Annotated[float, Field(gt=0)] | None = None  # overrides target.sigma


class Optimiser(Strict):
    """Rule, rate and its course, weight decay, EMA of weights; see :mod:`trainer.optimise`."""

    kind: Literal["sgd", "momentum", "adagrad", "adadelta", "rmsprop", "adam", "adamw"] = "adamw"
    rate: Annotated[float, Field(gt=0)] = 2e-3
    stem_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the stem, as a share of ``rate``
    reference_batch: Annotated[int, Field(ge=0)] = 0  # the batch that ``rate`` is meant for; 0: the recipe's own
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of kind momentum
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 200  # steps
    course: Literal["cosine", "steps", "geometric", "constant"] = "cosine"
    drops: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)] = [
        0.75,
        0.85,
    ]  # course steps: where, as shares of the run
    drop_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1  # of the rate, at each drop
    final: Annotated[float, Field(gt=0, le=1)] = 0.025  # course geometric: last rate / first rate
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998  # 0: off
    accumulate: Positive = 1  # parts that a batch is worked off in, where it does not fit into memory at once
    clip: Annotated[float, Field(ge=0)] = 0.0  # largest gradient norm; 0: off


class Distillation(Strict):
    """Learning from a teacher's heatmaps beside the labels; see :mod:`trainer.distil`."""

    teacher: str  # a bundle: the name of a shipped one, or a file
    weight: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the teacher's part in the loss
    mirrored: bool = False  # the teacher looks at the mirror image, too, and teaches the mean of both answers


class Quantisation(Strict):
    """Learning with INT8's rounding in the network (QAT); see :mod:`trainer.qat`."""

    crops: Annotated[int, Field(ge=1)] = 128  # training crops that the ranges of activations are taken from


class Course(Strict):
    """What every recipe says about its run, whatever is learnt."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1  # of the draws, the augmentation and the first weights
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    # A checkpoint or a bundle (a shipped one's name, or a file) whose weights to begin with, from the current folder;
    # empty: fresh ones. A whole finder's is a checkpoint.
    start_from: str = ""
    # Of start_from: the network, to which a pose network may add stacks, or the stem mobile of a pose network.
    start_with: Literal["all", "stem"] = "all"
    pretrained: str = ""  # a MoveNet .tflite whose weights stem mobile begins with, from the current folder
    validate_every: Positive = 1000  # steps
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 5.0  # between the checkpoints that a run resumes from
    stages: Annotated[list[StageSpec], Field(min_length=1)]
    optimiser: Optimiser = Optimiser()


def begins_once(course: Course, model: Model) -> None:
    """ValueError where what ``model`` begins with is missing, said twice or not for it."""
    if course.start_with == "stem" and (not course.start_from or model.stem != "mobile" or model.kind == "cascade"):
        raise ValueError("start_with = 'stem' takes the stem mobile of another run; set start_from and model.stem, "
                         "and no kind cascade")  # fmt: skip
    if course.pretrained and (course.start_from or model.stem != "mobile" or model.kind == "cascade"):
        raise ValueError("pretrained weights are for a fresh network of stem mobile; "
                         "set model.stem = 'mobile', no kind cascade, and no start_from")  # fmt: skip
    if course.pretrained and (model.preprocessing, model.norm) != ("symmetric", "batch"):
        raise ValueError("pretrained weights were learnt with model.preprocessing = 'symmetric' and norm = "
                         "'batch'; set these")  # fmt: skip
    if model.frozen and not (course.pretrained or course.start_from):
        raise ValueError("model.frozen keeps what a stem begins with; say by pretrained or start_from what that is")


def refuse_lone_value(number: int, stage: StageSpec, model: Model, parts: int) -> None:
    """ValueError where batch norm has one value to take statistics of: a part of one image, its map one cell."""
    if stage.size == 4 * 2**model.poolings and stage.batch == parts and model.norm == "batch":
        raise ValueError(f"stages.{number}: the smallest map of {stage.size} pixels is one cell, and batch norm needs "
                         "more than one of one image; choose a larger size or batch, or fewer poolings")  # fmt: skip


class Recipe(Course):
    """A pose network's; see the fields. ``load`` reads one from TOML."""

    skeleton: str = "mpii16"
    padding: Annotated[float, Field(ge=1.0, le=3.0)] = 1.25  # crop side / longer side of the box
    decode: str = "dark"  # argmax | quarter | dark: joints from heatmaps, in the exported bundle
    mirror_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0  # see edgepose.heatmaps.Decoder; 0: off
    data: Annotated[list[DataSet], Field(min_length=1)]
    background: list[Background] = []
    validation: list[DataSet] = []  # of split dev where none is said
    model: Model = Model()
    target: Target = Target()
    augmentation: Augmentation = Augmentation()
    distillation: Distillation | None = None
    quantisation: Quantisation | None = None

    _on_dev = field_validator("validation", mode="before")(on_dev)

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
    def _somebody_teaches(self) -> Recipe:
        for number, spec in enumerate(self.data):
            if not spec.labels and self.distillation is None:
                raise ValueError(f"data.{number}.labels = false leaves nothing to learn from; add [distillation]")
        for number, spec in enumerate(self.validation):
            if not spec.labels:
                raise ValueError(f"validation.{number}.labels = false leaves nothing to validate on; leave it out")
            for key in ("share", "behind"):
                if getattr(spec, key) != 1:
                    raise ValueError(f"validation.{number}.{key} is of who is drawn to learn from; leave it out")
        return self

    @model_validator(mode="after")
    def _rounds_what_is_learnt(self) -> Recipe:
        if self.quantisation is not None:
            if not self.start_from:
                raise ValueError("quantisation fine-tunes a trained network; say by start_from which")
            if self.start_with != "all":
                raise ValueError(f"quantisation fine-tunes a trained network, not its {self.start_with} alone; leave "
                                 "start_with out")  # fmt: skip
            if self.model.block == "reparam":
                raise ValueError("quantisation cannot be learnt with block reparam, whose branches are one convolution "
                                 "in the exported network; choose another block")  # fmt: skip
            if len(self.stages) > 1:
                raise ValueError("quantisation has ranges of one input size; give one stage")
        return self

    @model_validator(mode="after")
    def _begins_once(self) -> Recipe:
        begins_once(self, self.model)
        return self

    @model_validator(mode="after")
    def _parts_exist(self) -> Recipe:
        if self.model.kind == "compositional":
            skeleton = skeletons.get(self.skeleton)
            if not composition_of(skeleton).limbs:
                raise ValueError(f"skeleton {self.skeleton} has no limb to compose; choose another model.kind")
            if self.augmentation.truncated:
                raise ValueError("augmentation.truncated leaves joints without a place, and kind compositional draws "
                                 "bones between places; leave it out")  # fmt: skip
            if self.model.width <= len(skeleton):
                raise ValueError(f"model.width {self.model.width} must be more than the skeleton's {len(skeleton)} "
                                 "joints for kind compositional, which joins their maps to the features")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Recipe:
        poolings = self.model.poolings
        step = 4 * 2**poolings
        for number, stage in enumerate(self.stages):
            if stage.size % step:
                raise ValueError(f"stages.{number}.size {stage.size} must be a multiple of {step} "
                                 f"(stride 4, {poolings} poolings)")  # fmt: skip
            if stage.batch % self.optimiser.accumulate:
                raise ValueError(f"stages.{number}.batch {stage.batch} must be a multiple of optimiser.accumulate, "
                                 f"{self.optimiser.accumulate}")  # fmt: skip
            if stage.images < stage.batch:
                raise ValueError(f"stages.{number}.images {stage.images} is less than one batch of {stage.batch}")
            refuse_lone_value(number, stage, self.model, self.optimiser.accumulate)
        if len({(s.size, s.sigma) for s in self.stages}) > len({s.size for s in self.stages}):
            raise ValueError("stages of one size must have one sigma: give each sigma a size of its own")
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
                own = stage.sigma or self.target.sigma * stage.size / self.input_size  # as its targets are drawn
                cut = [*self.stages[:number], stage.model_copy(update={"sigma": own})]
                return self.model_copy(update={"stages": cut})
        return self


def load(path: Path) -> Recipe:
    """Read and check a recipe; EdgeposeError names the file, the key and what is wrong with it."""
    content = read_toml(path)
    if content.get("role") == "person":
        raise EdgeposeError(f"{path} is the recipe of a person finder; this is for pose networks alone")
    return validate(Recipe, content, str(path))
