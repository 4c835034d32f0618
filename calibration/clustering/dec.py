"""Deep Embedded Clustering: Xie, Girshick & Farhadi 2016, Unsupervised Deep Embedding for Clustering Analysis.

A denoising autoencoder is trained on the features, k-means in its code gives the first centres, and encoder and
centres are then moved by cluster hardening alone. Ours: all layers are pre-trained at once, with Adam and a part of the
inputs hidden, where the paper stacks them one by one, hides a part of each one's inputs (eqs. 6 to 9) and then trains
the whole with nothing hidden; and layers of a size for thousands of samples, not for tens of thousands. Nothing holds
clusters apart, so with many of them on data that has none, as poses are, some lose all members.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from calibration.clustering import Clustering
from calibration.clustering.hardening import Schedule, refine
from calibration.clustering.kmeans import kmeans
from trainer.progress import progress

LAYERS = (256, 256, 512, 10)  # widths of the encoder; the paper's are 500, 500, 2000, 10
CORRUPTION = 0.2  # share of inputs hidden while pre-training; the paper's (sec. 4.3)


def dec(
    features: NDArray[np.floating],
    clusters: int,
    *,
    layers: tuple[int, ...] = LAYERS,
    epochs: int = 100,
    schedule: Schedule | None = None,
    seed: int = 0,
) -> Clustering:
    """``clusters`` clusters of ``features`` [N, D], in an embedding of ``layers[-1]`` features.

    EdgeposeError where there are too few samples. The same seed gives the same clusters on one thread.
    """
    inputs = scaled(features)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, _ = pretrain(inputs, layers, epochs)
    with torch.no_grad():
        start = kmeans(encoder(inputs).numpy(), clusters, seed=seed)
    labels, centres, updates = refine(
        encoder,
        inputs,
        torch.from_numpy(start.centres),
        trained=list(encoder.parameters()),
        loss=lambda batch, embedding, hardening: hardening,
        schedule=schedule or Schedule(),
        seed=seed,
    )
    with torch.no_grad():
        embedding = encoder(inputs).numpy()
    return Clustering(labels.numpy(), centres.numpy(), embedding, start.labels, updates)


def scaled(features: NDArray[np.floating]) -> Tensor:
    """``features`` [N, D] by one factor, so that the mean of their squares is 1 (Xie et al. 2016, sec. 4.1)."""
    x = torch.from_numpy(np.asarray(features, dtype=np.float32))
    return x / x.square().mean().sqrt().clamp_min(1e-12)


def pretrain(inputs: Tensor, layers: tuple[int, ...], epochs: int, batch: int = 256) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder, trained to restore ``inputs`` [N, D] of which a part is hidden."""
    widths = [inputs.shape[1], *layers]
    encoder, decoder = _mlp(widths), _mlp(widths[::-1])
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for _ in progress(range(epochs), epochs, "training autoencoder"):
        for chosen in torch.split(torch.randperm(len(inputs)), batch):
            hidden = functional.dropout(inputs[chosen], CORRUPTION)
            restored = cast(Tensor, decoder(encoder(hidden)))
            loss = functional.mse_loss(restored, inputs[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return encoder, decoder


def _mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them; none at the end, so that code and restoration keep their sign."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
