"""What INT8 lost by joint, by activity and by cluster of poses: a mean hides a group that broke."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calibration.clustering.kmeans import kmeans
from calibration.features import bottleneck_features
from calibration.judge import Answers, Judge, Masks
from edgepose.bundle import Bundle

CLUSTERS = 8  # of the judged persons' poses
_SMALLEST = 4  # persons that a cluster has on average, at least


def by_joint(judge: Judge, float_: Answers, int8: Answers, metric: str) -> dict[str, float]:
    """Points lost by joint, the worst first."""
    lost = {}
    for k, joint in enumerate(judge.skeleton.joints):
        a, b = float_.hits[metric][:, k], int8.hits[metric][:, k]
        if np.isfinite(a).any():
            lost[joint] = float(100 * (np.nanmean(a) - np.nanmean(b)))
    return _worst_first(lost)


def by_group(groups: Masks, float_: Answers, int8: Answers, metric: str) -> dict[str, float]:
    """Points lost by group, the worst first; groups in which nobody can be judged are left out."""
    return _worst_first(
        {
            f"{name} ({mask.sum()})": float_.percent(metric, mask) - int8.percent(metric, mask)
            for name, mask in groups.items()
            if np.isfinite(float_.hits[metric][mask]).any()
        }
    )


def activities(judge: Judge) -> Masks:
    """The persons of each activity that the data know."""
    names = np.array([p.activity for p in judge.persons])
    return {str(name): names == name for name in sorted(set(names) - {""})}


def clusters(bundle: Bundle, judge: Judge, count: int = CLUSTERS) -> Masks:
    """The judged persons by likeness of pose: k-means at the hourglass's bottleneck, large clusters first."""
    count = min(count, len(judge.persons) // _SMALLEST)
    if count < 2:
        return {}
    labels = kmeans(bottleneck_features(bundle, judge.crops), count, seed=0).labels
    names, sizes = np.unique(labels, return_counts=True)
    return {f"cluster {i + 1}": labels == name for i, name in enumerate(names[np.argsort(-sizes, kind="stable")])}


def _worst_first(lost: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(lost.items(), key=lambda item: -item[1]))
