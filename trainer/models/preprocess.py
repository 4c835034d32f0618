"""What happens to an image's pixels first; part of the network, so of the exported graph (Ponti et al. 2017).

RGB 0..255 -> values around zero. ``imagenet``: published channel statistics; ``symmetric``: -1..1. The others are
measured on the training crops before the first step and live in the checkpoint: ``z-score`` per channel,
``mean-image`` per pixel, ``pca-whitening`` of the colours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_EPSILON = 1e-3  # a set without contrast is not divided by nought


class Normalise(nn.Module):
    """(x - mean) / deviation, per channel."""

    def __init__(
        self, mean: tuple[float, float, float] = IMAGENET_MEAN, std: tuple[float, float, float] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(std).view(1, 3, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) * self.scale


class Measured(ABC):
    """Preprocessing with statistics of the training crops."""

    @abstractmethod
    def measure(self, crops: Tensor) -> None:
        """Take them from ``crops`` [N, 3, S, S], RGB 0..255, S being the recipe's input size."""


class ZScore(Normalise, Measured):
    """Zero mean and unit deviation of each channel over the training crops."""

    def measure(self, crops: Tensor) -> None:
        self.mean.copy_(crops.mean(dim=(0, 2, 3)).view(1, 3, 1, 1))
        self.scale.copy_(1.0 / crops.std(dim=(0, 2, 3)).clamp(min=_EPSILON).view(1, 3, 1, 1))


class MeanImage(nn.Module, Measured):
    """(x - mean image) / one deviation; the mean image is [3, S, S], resized for other input sizes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, size, size), 127.5))
        self.register_buffer("scale", torch.tensor(1.0 / 64))
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, image: Tensor) -> Tensor:
        mean = self.mean
        if mean.shape[-2:] != image.shape[-2:]:
            mean = functional.interpolate(mean, image.shape[-2:], mode="bilinear", antialias=True)
        return (image - mean) * self.scale

    def measure(self, crops: Tensor) -> None:
        self.mean.copy_(crops.mean(dim=0, keepdim=True))
        self.scale.copy_(1.0 / (crops - self.mean).std().clamp(min=_EPSILON))


class Whiten(nn.Module, Measured):
    """PCA whitening of colours: L^(-1/2) U^T (x - mean), where U L U^T is their covariance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 127.5))
        self.register_buffer("matrix", torch.eye(3).view(3, 3, 1, 1) / 64)
        self.mean: Tensor
        self.matrix: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return functional.conv2d(image - self.mean, self.matrix)

    def measure(self, crops: Tensor) -> None:
        colours = crops.transpose(0, 1).reshape(3, -1).double()
        values, vectors = torch.linalg.eigh(torch.cov(colours))
        self.mean.copy_(colours.mean(dim=1).view(1, 3, 1, 1))
        self.matrix.copy_((vectors / values.clamp(min=_EPSILON**2).sqrt()).T.reshape(3, 3, 1, 1))


def preprocessing(kind: str, size: int) -> nn.Module:
    """The module for a recipe's ``model.preprocessing``; ``size`` is the exported input size."""
    if kind == "mean-image":
        return MeanImage(size)
    if kind == "symmetric":
        return Normalise((127.5,) * 3, (127.5,) * 3)
    made: dict[str, type[nn.Module]] = {"imagenet": Normalise, "z-score": ZScore, "pca-whitening": Whiten}
    return made[kind]()
