"""How well clusters agree with known classes; neither figure depends on how clusters are numbered."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def accuracy(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Share of samples whose cluster is matched to their class, under the best one-to-one matching, 0..1.

    Xie et al. 2016, eq. 10; the matching is found by the Hungarian method.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    shared = contingency_matrix(classes, clusters)
    return float(shared[linear_sum_assignment(shared, maximize=True)].sum() / shared.sum())


def nmi(classes: ArrayLike, clusters: ArrayLike) -> float:
    """Normalised mutual information, 0..1: mutual information over the mean of the two entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(np.asarray(classes), np.asarray(clusters)))
