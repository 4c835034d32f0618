"""Which crops calibrate: a set drawn from a pool of persons, so that rare poses are in it too.

random    uniformly, without replacement: what one does without thinking, and the baseline
farthest  greedy k-centre: each next crop is the one farthest from those chosen (Gonzalez 1985, Clustering to minimize
          the maximum intercluster distance); at most twice the least possible radius of coverage
kmeans, dec, fcae    clusters of the pool, and an equal share of each

An equal share over-represents rare clusters: a cluster smaller than its share is taken whole and leaves the rest to the
others. Within a cluster the crop nearest to its mean comes first, then each next one farthest from those chosen, all
in feature space, whichever method made the clusters. Crops come in rounds, one of each cluster at a time, so that
the first crops of a set are a smaller set of the same kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration import features as feature_kinds
from calibration.autoencoder import thumbnails
from calibration.clustering import Clustering
from calibration.clustering.dec import dec
from calibration.clustering.fcae import fcae
from calibration.clustering.kmeans import kmeans
from calibration.features import Crops, Features
from calibration.sets import About, CalibrationSet, cut
from edgepose.bundle import Bundle
from edgepose.errors import EdgeposeError, unknown
from trainer.data.persons import Person
from trainer.explain.tiles import BGR, PAPER, fitted, paragraph
from trainer.grid import require_picture, write_picture

Indices = NDArray[np.int64]

# name -> clusters of a pool, of its features or of the crops themselves: (features, crops, clusters, seed)
CLUSTERINGS: dict[str, Callable[[Features, Crops, int, int], Clustering]] = {
    "kmeans": lambda features, crops, clusters, seed: kmeans(features, clusters, seed=seed),
    "dec": lambda features, crops, clusters, seed: dec(features, clusters, seed=seed),
    "fcae": lambda features, crops, clusters, seed: fcae(thumbnails(crops), clusters, seed=seed),
}
METHODS = ("random", "farthest", *CLUSTERINGS)
_PER_CLUSTER = 4  # chosen crops that a cluster has on average, unless the number of clusters is given
_TILE, _MARGIN, _COLUMNS, _GAP = 96, 150, 10, 4  # of the contact sheet, pixels and tiles


@dataclass(frozen=True)
class Choice:
    """What was drawn from a pool of N crops."""

    indices: Indices  # [count] into the pool, in the order of choice
    labels: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # [N] clusters; [0] without


@dataclass(frozen=True)
class Selection(CalibrationSet):
    """A set just drawn, which still knows the clusters of the whole pool [N] ([0] where the method has none)."""

    pool_labels: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def sizes(self) -> dict[int, int]:
        """Cluster -> its persons in the pool."""
        names, sizes = np.unique(self.pool_labels, return_counts=True)
        return {int(n): int(s) for n, s in zip(names, sizes, strict=True)}


def select(
    bundle: Bundle,
    persons: Sequence[Person],
    count: int,
    *,
    method: str = "kmeans",
    seed: int = 0,
    clusters: int = 0,
    features: str = "bottleneck",
    data: Sequence[str] = (),
) -> Selection:
    """Draw ``count`` of ``persons`` by ``method``, one of :data:`METHODS`; the same seed draws the same set.

    ``clusters`` 0: a quarter of ``count``. ``features``: one of :data:`calibration.features.KINDS`. ``data`` names,
    as DATA@SPLIT, where the persons are from. EdgeposeError: unknown method or features, more crops than persons,
    more clusters than crops, or an image that cannot be read.
    """
    _check(len(persons), count, method, clusters)
    if features not in feature_kinds.KINDS:
        raise unknown("features", features, feature_kinds.KINDS)
    if method == "random":  # needs no look at the crops
        choice = Choice(_at_random(len(persons), count, seed))
        crops = cut([persons[i] for i in choice.indices], bundle.manual)
    else:
        pool = cut(list(persons), bundle.manual)
        known = feature_kinds.extract(features, bundle, pool, seed=seed)
        choice = choose(known, pool, count, method=method, seed=seed, clusters=clusters)
        crops = pool[choice.indices]
    about = About(
        model=bundle.manual.name,
        data=list(data),
        method=method,
        seed=seed,
        pool=len(persons),
        padding=bundle.manual.padding,
        persons=[f"{persons[i].image.name}: {i}" for i in choice.indices],
        clusters=[int(choice.labels[i]) for i in choice.indices] if len(choice.labels) else [],
    )
    return Selection(crops, about, pool_labels=choice.labels)


def choose(features: Features, crops: Crops, count: int, *, method: str, seed: int = 0, clusters: int = 0) -> Choice:
    """Draw ``count`` of a pool by its ``features`` [N, D] or its ``crops`` [N, 3, H, W]; see :func:`select`."""
    _check(len(features), count, method, clusters)
    if method == "random":
        return Choice(_at_random(len(features), count, seed))
    if method == "farthest":
        return Choice(farthest_first(features, count))
    labels = CLUSTERINGS[method](features, crops, clusters or _default_clusters(count), seed).labels
    return Choice(equal_shares(features, labels, count), labels)


def farthest_first(features: Features, count: int) -> Indices:
    """``count`` positions in ``features`` [N, D]: nearest to the mean, then each next farthest from all before."""
    nearest = np.square(features - features.mean(axis=0)).sum(axis=1).argmin()
    chosen = [int(nearest)]
    distance = np.full(len(features), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.square(features - features[chosen[-1]]).sum(axis=1))
        distance[chosen[-1]] = -1.0  # never again, though others may lie in the same place
        chosen.append(int(distance.argmax()))
    return np.array(chosen, dtype=np.int64)


def equal_shares(features: Features, labels: Indices, count: int) -> Indices:
    """``count`` positions, in rounds of one from each cluster that still has members, large clusters first."""
    names, sizes = np.unique(labels, return_counts=True)
    queues = []
    for name in names[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(labels == name)
        queues.append(members[farthest_first(features[members], min(len(members), count))])
    rounds = [queue[turn] for turn in range(count) for queue in queues if turn < len(queue)]
    return np.array(rounds[:count], dtype=np.int64)


def radius(features: Features, chosen: Indices) -> float:
    """Radius of coverage: the largest distance from any of ``features`` [N, D] to the nearest chosen one."""
    distance = np.full(len(features), np.inf)
    for index in chosen:
        distance = np.minimum(distance, np.square(features - features[index]).sum(axis=1))
    return float(np.sqrt(distance.max()))


def contact_sheet(chosen: CalibrationSet, path: Path, sizes: Mapping[int, int] | None = None) -> None:
    """Write a picture: a row for each cluster, with its chosen crops and, from ``sizes``, its persons in the pool.

    The largest cluster comes first. EdgeposeError where the file name is not that of a picture.
    """
    require_picture(path)
    about = chosen.about
    rows: list[tuple[str, NDArray[np.uint8]]] = []
    if not about.clusters:
        text = f"{about.method}: {len(chosen)} of {about.pool} persons, of no cluster"
        for first in range(0, len(chosen), _COLUMNS):
            rows.append((text if first == 0 else "", chosen.crops[first : first + _COLUMNS]))
    clusters = np.array(about.clusters, dtype=np.int64)
    weight = sizes or Counter(about.clusters)
    for name in sorted(set(about.clusters), key=lambda n: (-weight[n], n)):
        mine = chosen.crops[clusters == name]
        pool = f" of {sizes[name]} in the pool" if sizes else ""
        rows.append((f"cluster {name}: {len(mine)} chosen{pool}", mine[:_COLUMNS]))
    columns = max(len(crops) for _, crops in rows)
    write_picture(np.vstack([_row(text, crops, columns) for text, crops in rows]), path)


def _row(text: str, crops: NDArray[np.uint8], columns: int) -> BGR:
    """``text`` in the margin, then ``crops`` [n, 3, H, W] RGB as the first of ``columns`` tiles."""
    row: BGR = np.full((_TILE + _GAP, _MARGIN + columns * (_TILE + _GAP), 3), PAPER, dtype=np.uint8)
    words = paragraph(text, _MARGIN)[:_TILE]
    row[: len(words), :_MARGIN] = words
    for number, crop in enumerate(crops):
        left = _MARGIN + number * (_TILE + _GAP)
        row[:_TILE, left : left + _TILE] = fitted(np.ascontiguousarray(crop.transpose(1, 2, 0)[:, :, ::-1]), _TILE)
    return row


def _at_random(pool: int, count: int, seed: int) -> Indices:
    return np.random.default_rng(seed).permutation(pool)[:count].astype(np.int64)


def _default_clusters(count: int) -> int:
    return max(2, count // _PER_CLUSTER)


def _check(pool: int, count: int, method: str, clusters: int) -> None:
    if method not in METHODS:
        raise unknown("selection method", method, METHODS)
    if not 1 <= count <= pool:
        raise EdgeposeError(f"{count} crops cannot be chosen of {pool} persons; ask for 1 to {pool}, or add data")
    if method not in CLUSTERINGS:
        return
    clusters = clusters or _default_clusters(count)
    if not 2 <= clusters <= count:
        raise EdgeposeError(f"{count} crops cannot cover {clusters} clusters; "
                            "ask for two clusters or more, and at least as many crops")  # fmt: skip
