"""What every network of the trainer is to the rest of it."""

from __future__ import annotations

from torch import nn

from trainer.targets import Kind


class Network(nn.Module):
    """Image [N, 3, H, W], RGB 0..255 -> a list of maps [N, M, H / stride, W / stride], one for each of ``supervision``.

    The last output is the joints' heatmaps, of a finder its maps of people; it is exported.
    """

    stride: int = 4
    supervision: tuple[Kind, ...]
