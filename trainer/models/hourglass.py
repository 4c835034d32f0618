"""Stacked hourglasses (Newell, Yang & Deng 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.attention import Holistic, PartHead
from trainer.models.blocks import Block, Head, Residual, conv_bn, newell_stem
from trainer.models.initialise import initialise
from trainer.models.network import Network
from trainer.models.preprocess import Normalise
from trainer.recipe import Attention
from trainer.targets import Kind

Stem = Callable[[int, Block, int], nn.Module]


class Output(NamedTuple):
    """What one stack predicts: maps of a kind of :mod:`trainer.targets`."""

    kind: Kind
    maps: int


@dataclass(frozen=True)
class Parts:
    """What hourglasses are made of."""

    block: Block = Residual
    side: Block | None = None  # on the side branches; None: ``block``
    rise: Block | None = None  # before each upsampling; None: ``block``
    stem: Stem = newell_stem
    normalise: Callable[[], nn.Module] = Normalise
    attention: Attention | None = None
    dropout: float = 0.0  # share of feature maps dropped before each head


class Hourglass(nn.Module):
    """One hourglass: ``depth`` poolings down and as many nearest upsamplings back, a side branch at each level."""

    def __init__(self, depth: int, width: int, parts: Parts) -> None:
        super().__init__()
        block = parts.block
        self.side = (parts.side or block)(width, width)
        self.down = nn.Sequential(nn.MaxPool2d(2, 2), block(width, width))
        self.inner = Hourglass(depth - 1, width, parts) if depth > 1 else block(width, width)
        self.up = nn.Sequential((parts.rise or block)(width, width), nn.Upsample(scale_factor=2, mode="nearest"))

    def levels(self, x: Tensor) -> list[Tensor]:
        """The outputs at every resolution, coarsest first; the last has the size of ``x``."""
        down = self.down(x)
        lower = self.inner.levels(down) if isinstance(self.inner, Hourglass) else []
        low = self.up(lower[-1] if lower else self.inner(down))
        return [*lower, self.side(x) + low]

    def forward(self, x: Tensor) -> Tensor:
        return self.levels(x)[-1]


class Early(nn.Module):
    """The joints' maps as the stem's features alone give them, and their way back into the features (section 3.3)."""

    def __init__(self, width: int, joints: int) -> None:
        super().__init__()
        self.head = Head(width, joints)
        self.injection = nn.Conv2d(joints, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features -> maps, features to go on with."""
        maps = self.head(x)
        return maps, x + self.injection(maps)


class StackedHourglass(Network):
    """Image [N, 3, H, W], RGB 0..255 -> a list of maps [N, M, H/4, W/4], one per stack.

    The last are the joints'; with an early output there is one more, the first.
    Every stack is supervised; its features and maps are re-injected into the next (section 3.3).
    """

    def __init__(
        self,
        joints: int,
        *,
        width: int = 256,
        depth: int = 4,
        stacks: int = 8,
        parts: Parts | None = None,
        outputs: list[Output] | None = None,
        inputs: int = 3,
        early: bool = False,
    ) -> None:
        """``outputs``: what each stack predicts, where it is not the joints; ``inputs``: channels of the stem.

        With ``early`` the first output is the stem's own, on which the first hourglass builds.
        """
        super().__init__()
        parts = parts or Parts()
        outputs = outputs or [Output("joints", joints)] * stacks
        before: tuple[Kind, ...] = ("joints",) if early else ()
        self.supervision = (*before, *(o.kind for o in outputs))
        self.normalise = parts.normalise()
        self.stem = parts.stem(width, parts.block, inputs)
        self.early = Early(width, joints) if early else None
        self.hourglasses = nn.ModuleList(Hourglass(depth, width, parts) for _ in outputs)
        self.features = nn.ModuleList(
            nn.Sequential(parts.block(width, width), conv_bn(width, width, 1)) for _ in outputs
        )
        self.dropout = nn.Dropout2d(parts.dropout)
        self.heads = nn.ModuleList(Head(width, o.maps) for o in outputs)
        self.holistic = nn.ModuleDict()  # by stack, where it attends
        if parts.attention is not None:
            self._add_attention(parts.attention, width, depth, joints)
        self.feature_injections = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in outputs[:-1])
        self.heatmap_injections = nn.ModuleList(nn.Conv2d(o.maps, width, 1) for o in outputs[:-1])
        initialise(self, "he")

    def _add_attention(self, spec: Attention, width: int, depth: int, joints: int) -> None:
        count = len(self.heads)
        for stack in range(count) if spec.multi_semantics else [count - 1]:
            self.holistic[str(stack)] = Holistic(width, spec, depth)
            if spec.parts and stack >= count // 2:  # stacks 5 to 8 of 8 in the paper
                self.heads[stack] = PartHead(width, joints, spec)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.run(self.normalise(image))

    def run(self, x: Tensor) -> list[Tensor]:
        """As forward, of an image that is normalised already."""
        x = self.stem(x)
        outputs: list[Tensor] = []
        if self.early is not None:
            maps, x = self.early(x)
            outputs.append(maps)
        for stack, (hourglass, feature, head) in enumerate(
            zip(self.hourglasses, self.features, self.heads, strict=True)
        ):
            x = self.enter(stack, x, outputs)
            *coarser, finest = hourglass.levels(x)  # type: ignore[operator]
            y = feature(finest)
            if str(stack) in self.holistic:
                y = self.holistic[str(stack)](y, coarser)
            maps = head(self.dropout(y))
            outputs.append(maps)
            if stack < len(self.feature_injections):
                x = x + self.feature_injections[stack](y) + self.heatmap_injections[stack](maps)
        return outputs

    def grow_from(self, other: StackedHourglass) -> None:
        """Begin with a network that is the same but for fewer stacks, and at first with what it gives.

        The stacks that it lacks begin as copies of its last, and the injections between them at zero (progressive
        stacking: Gong et al. 2019, Efficient training of BERT, of our injections).
        """
        theirs, last = other.state_dict(), len(other.hourglasses) - 1
        begun = {}
        for key, value in self.state_dict().items():
            part, _, rest = key.partition(".")
            stack, _, inner = rest.partition(".")
            added = part in ("feature_injections", "heatmap_injections") and int(stack) >= last
            copied = part in ("hourglasses", "features", "heads") and int(stack) > last
            begun[key] = torch.zeros_like(value) if added else theirs[f"{part}.{last}.{inner}" if copied else key]
        self.load_state_dict(begun)

    def enter(self, stack: int, x: Tensor, outputs: list[Tensor]) -> Tensor:
        """What hourglass ``stack`` is given: ``x``, unless a kind of network joins earlier ``outputs`` to it."""
        return x


class Final(nn.Module):
    """The last output only: what is exported and run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.model(image)[-1]
        return result
