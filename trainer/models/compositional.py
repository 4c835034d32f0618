"""Deeply learned compositional models (Tang, Yu & Wu 2018).

Three semantic levels: joints, bones, limbs. Bottom-up, one hourglass per level predicts its score maps from the
level below; top-down, one hourglass per level predicts them again, joined with the maps of the way up. All
parts of a level share one hourglass, which stands for the paper's spatially local information summaries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.blocks import Residual
from trainer.models.hourglass import Output, Parts, StackedHourglass
from trainer.models.initialise import initialise
from trainer.parts import Composition


class Compositional(StackedHourglass):
    """Outputs joints, bones, limbs, bones, joints with three levels; joints, bones, joints with two."""

    def __init__(
        self,
        joints: int,
        composition: Composition,
        *,
        width: int = 256,
        depth: int = 4,
        levels: int = 3,
        parts: Parts | None = None,
    ) -> None:
        up = [
            Output("joints", joints),
            Output("bones", len(composition.bones)),
            Output("limbs", len(composition.limbs)),
        ]
        way = [*range(levels), *reversed(range(levels - 1))]
        super().__init__(joints, width=width, depth=depth, parts=parts, outputs=[up[level] for level in way])
        self._way, self._levels = way, levels
        block = parts.block if parts is not None else Residual
        self.rejoin = nn.ModuleList(block(width, width - up[level].maps) for level in way[levels:])
        initialise(self.rejoin, "he")  # what is there before has been

    def enter(self, stack: int, x: Tensor, outputs: list[Tensor]) -> Tensor:
        """On the way down a level's maps from the way up, which are output number ``level``, join the features."""
        if stack < self._levels:
            return x
        return torch.cat([outputs[self._way[stack]], self.rejoin[stack - self._levels](x)], dim=1)
