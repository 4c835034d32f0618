"""k-means on features that are there already.

The baseline of Guérin et al. 2017, CNN features are also great at unsupervised classification (arXiv:1707.01700), and
of Min et al. 2018, A survey of clustering with deep learning: a pretrained network's features, then plain k-means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.clustering import Clustering
from edgepose.errors import EdgeposeError, missing

_STARTS = 20  # of k-means++, the best is kept; Xie et al. 2016 do the same


def kmeans(features: NDArray[np.floating], clusters: int, *, seed: int = 0) -> Clustering:
    """``clusters`` clusters of ``features`` [N, D] by scikit-learn; EdgeposeError where there are too few samples."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise missing("scikit-learn", "to cluster", "pip install 'edgepose[calibration]'") from None
    if not 2 <= clusters <= len(features):
        raise EdgeposeError(f"{len(features)} samples cannot make {clusters} clusters; "
                            f"choose 2 to {len(features)} clusters")  # fmt: skip
    found = KMeans(clusters, n_init=_STARTS, random_state=seed).fit(features)
    labels = found.labels_.astype(np.int64)
    return Clustering(
        labels, found.cluster_centers_.astype(np.float32), np.asarray(features, dtype=np.float32), start=labels
    )
