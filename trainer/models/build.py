"""Recipe -> network."""

from __future__ import annotations

from functools import partial

from edgepose import skeletons
from trainer.models.blocks import Block, Residual
from trainer.models.compact import depthwise, narrow, reparam
from trainer.models.hourglass import StackedHourglass
from trainer.recipe import Model, Recipe


def block_of(model: Model) -> Block:
    """What the hourglass is made of: (inputs, outputs) -> module."""
    blocks: dict[str, Block] = {
        "residual": partial(Residual, order=model.order),
        "narrow": narrow,
        "depthwise": depthwise,
        "reparam": reparam,
    }
    return blocks[model.block]


def build(recipe: Recipe) -> StackedHourglass:
    """The recipe's network with freshly initialised weights (from torch's global random state)."""
    model = recipe.model
    return StackedHourglass(
        len(skeletons.get(recipe.skeleton)),
        width=model.width,
        depth=model.depth,
        stacks=model.stacks,
        block=block_of(model),
    )
