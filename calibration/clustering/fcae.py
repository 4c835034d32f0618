"""A fully convolutional autoencoder whose code is clustered: Aljalbout et al. 2018, Clustering with Deep Learning.

Phase one trains for reconstruction alone. Phase two keeps the reconstruction loss and adds cluster hardening, in one
weighted sum, L = alpha L_clustering + (1 - alpha) L_reconstruction (sec. 2.5): without it what the features had
learnt can be destroyed (sec. 4). At the end k-means is run from scratch on the codes (sec. 2.7 and 4). Soft
assignments and targets are those of DEC. alpha = 0.5 is the paper's example for joint training, and the
equal weights of its code; layers, optimiser, lengths and the stop by resting labels are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from calibration import autoencoder
from calibration.clustering import Clustering
from calibration.clustering.hardening import Schedule, refine
from calibration.clustering.kmeans import kmeans

JOINT = Schedule(interval=0, batch=64, most=30)  # a target for each pass, as in the authors' own code


def fcae(
    images: Tensor,
    clusters: int,
    *,
    alpha: float = 0.5,
    code: int = 32,
    width: int = 16,
    epochs: int = 40,
    schedule: Schedule | None = None,
    seed: int = 0,
) -> Clustering:
    """``clusters`` clusters of ``images`` [N, C, S, S], 0..1, in an embedding of ``code`` features.

    EdgeposeError where there are too few images. The same seed gives the same clusters on one thread.
    """
    network = autoencoder.train(images, code=code, width=width, epochs=epochs, seed=seed)
    start = kmeans(autoencoder.encode(network, images), clusters, seed=seed)

    def joint(batch: Tensor, embedding: Tensor, hardening: Tensor) -> Tensor:
        return alpha * hardening + (1 - alpha) * functional.mse_loss(network.decoder(embedding), batch)

    _, _, updates = refine(
        network.encoder,
        images,
        torch.from_numpy(start.centres),
        trained=list(network.parameters()),
        loss=joint,
        schedule=schedule or JOINT,
        seed=seed,
    )
    end = kmeans(autoencoder.encode(network, images), clusters, seed=seed)
    return Clustering(end.labels, end.centres, end.embedding, start.labels, updates)
