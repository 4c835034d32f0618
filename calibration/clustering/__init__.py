"""Clustering: k-means on given features, and two methods that learn the features with the clusters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clustering:
    """Clusters of N samples, in the space of D features in which they were made."""

    labels: NDArray[np.int64]  # [N], 0..K-1
    centres: NDArray[np.float32]  # [K, D]
    embedding: NDArray[np.float32]  # [N, D]
    start: NDArray[np.int64]  # [N] labels of the k-means that the method began with
    updates: int = 0  # of the target distribution, until labels rested or the limit was reached
