"""A small fully convolutional autoencoder of images.

Convolutions only, as in Aljalbout et al. 2018, Clustering with Deep Learning (sec. 4): the code is made by a linear
convolution over the whole last map, batch norm follows every other convolution. Ours are strided convolutions in
place of pooling and unpooling, the widths, and Adam.
"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from edgepose.errors import EdgeposeError
from trainer.models.blocks import conv_bn
from trainer.progress import progress

SIDE = 48  # pixels of a thumbnail: limbs can be seen, and a thousand crops train in a minute on one core


class Autoencoder(nn.Module):
    """Images [N, C, S, S] -> codes [N, D] -> images; S is halved while it is even and above 3."""

    def __init__(self, channels: int, side: int, code: int = 32, width: int = 16) -> None:
        super().__init__()
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        inputs, outputs = channels, width
        while side % 2 == 0 and side > 3:
            down.append(conv_bn(inputs, outputs, 3, stride=2))
            above = nn.ConvTranspose2d(outputs, inputs, 4, stride=2, padding=1)
            # The image itself has any sign and mean; what lies between is normalised and rectified.
            up.insert(0, above if inputs == channels else nn.Sequential(above, nn.BatchNorm2d(inputs), nn.ReLU()))
            inputs, outputs, side = outputs, min(outputs * 2, 4 * width), side // 2
        if not down:
            raise EdgeposeError(f"images of {side} x {side} pixels cannot be halved; give the autoencoder an even side")
        self.encoder = nn.Sequential(*down, nn.Conv2d(inputs, code, side), nn.Flatten())
        widen = nn.Sequential(nn.ConvTranspose2d(code, inputs, side), nn.BatchNorm2d(inputs), nn.ReLU())
        self.decoder = nn.Sequential(nn.Unflatten(1, (code, 1, 1)), widen, *up)

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction of ``images``."""
        return cast(Tensor, self.decoder(self.encoder(images)))


def thumbnails(crops: NDArray[np.uint8], side: int = SIDE) -> Tensor:
    """``crops`` [N, 3, H, W] as float images [N, 3, side, side], 0..1."""
    small = [cv2.resize(c.transpose(1, 2, 0), (side, side), interpolation=cv2.INTER_AREA) for c in crops]
    return torch.from_numpy(np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / 255)


def train(
    images: Tensor, *, code: int = 32, width: int = 16, epochs: int = 40, batch: int = 64, rate: float = 1e-3, seed: int
) -> Autoencoder:
    """An autoencoder of ``images`` [N, C, S, S] with the least mean squared error after ``epochs``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Autoencoder(images.shape[1], images.shape[2], code, width)
        optimiser = torch.optim.Adam(network.parameters(), lr=rate)
        network.train()
        for _ in progress(range(epochs), epochs, "training autoencoder"):
            for chosen in torch.split(torch.randperm(len(images)), batch):
                if len(chosen) == 1 and len(images) > 1:
                    continue  # batch norm has nothing to normalise by
                loss = functional.mse_loss(network(images[chosen]), images[chosen])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return network.eval()


@torch.no_grad()
def encode(network: Autoencoder, images: Tensor, batch: int = 256) -> NDArray[np.float32]:
    """Codes [N, D] of ``images``."""
    network.eval()
    return torch.cat([network.encoder(part) for part in torch.split(images, batch)]).numpy()
