"""Recipe -> network."""

from __future__ import annotations

from edgepose import skeletons
from trainer.models.hourglass import StackedHourglass
from trainer.recipe import Recipe


def build(recipe: Recipe) -> StackedHourglass:
    """The recipe's network with freshly initialised weights (from torch's global random state)."""
    model = recipe.model
    return StackedHourglass(
        len(skeletons.get(recipe.skeleton)),
        width=model.width,
        depth=model.depth,
        stacks=model.stacks,
        order=model.order,
    )
