"""A finder's recipe: everything that makes it, in one TOML file. Unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from edgepose.toml import read_toml
from edgepose.validation import validate
from trainer.augment import Scale, Share
from trainer.recipe import Course, Model, Positive, Strict, begins_once, on_dev, refuse_lone_value


class SceneSet(Strict):
    """Images with labelled persons, and other models' guesses about the rest."""

    data: str  # as for --data of edgepose-train: whose joints give the boxes
    guesses: str = ""  # file of people that were found by other models; empty: the data label everybody
    split: Literal["train", "dev", "val", "all"] = "train"
    share: Annotated[float, Field(gt=0)] = 1.0  # the three that join an image in a mosaic are of all sets alike
    empty: bool = False  # whether nobody is in images that no annotation is of; else these are left out


class SceneAugmentation(Strict):
    """How far scenes are varied; draws are uniform, of the scale's logarithm."""

    scale: Scale = (0.6, 1.6)  # of an image, relative to the size at which all of it is seen
    mosaic: Share = 0.5  # share of samples that are made of four images
    flip: Share = 0.5
    colour: Annotated[float, Field(ge=0, le=1)] = 0.4
    blur: Share = 0.1


class FinderRecipe(Course):
    """See the fields; :func:`load` reads one from TOML."""

    role: Literal["person"]
    input_size: tuple[Positive, Positive] = (320, 192)  # of the exported finder: width, height
    data: Annotated[list[SceneSet], Field(min_length=1)]
    validation: tuple[SceneSet, ...] = ()  # of split dev where none is said
    model: Model = Model(width=64, depth=4, stacks=1, stem="compact", block="narrow")
    augmentation: SceneAugmentation = SceneAugmentation()

    _on_dev = field_validator("validation", mode="before")(on_dev)

    @model_validator(mode="after")
    def _fits(self) -> FinderRecipe:
        if self.model.kind != "stacked-hourglass" or self.model.stacks != 1 or self.model.attention is not None:
            raise ValueError("model of a finder must be one plain hourglass: kind stacked-hourglass, stacks 1")
        if self.model.early:
            raise ValueError("model.early gives joints' maps, which a finder does not have; leave it out")
        if self.model.preprocessing not in ("imagenet", "symmetric"):
            raise ValueError("model.preprocessing of a finder must be imagenet or symmetric; the others are measured "
                             "on crops")  # fmt: skip
        begins_once(self, self.model)
        poolings = self.model.poolings
        step = 4 * 2**poolings
        for side in (*self.input_size, *(s.size for s in self.stages)):
            if side % step:
                raise ValueError(f"size {side} must be a multiple of {step} (stride 4, {poolings} poolings)")
        for number, spec in enumerate(self.validation):
            if spec.share != 1:
                raise ValueError(f"validation.{number}.share is of scenes that are drawn to learn from; leave it out")
        for number, stage in enumerate(self.stages):
            if stage.sigma is not None:
                raise ValueError(f"stages.{number}.sigma is of joints' targets; a finder's follow from the boxes")
            if stage.images < stage.batch:
                raise ValueError(f"stages.{number}.images {stage.images} is less than one batch of {stage.batch}")
            refuse_lone_value(number, stage, self.model, 1)
        if self.optimiser.accumulate > 1:  # the loss is per person of a batch, and its parts have different numbers
            raise ValueError("optimiser.accumulate must be 1 for a finder, whose loss counts the people of a batch")
        return self


def load(path: Path) -> FinderRecipe:
    """Read and check a recipe; EdgeposeError names the file, the key and what is wrong with it."""
    return validate(FinderRecipe, read_toml(path), str(path))
