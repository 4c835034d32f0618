"""How well ids were kept, given the truth: switches, IDF1, HOTA. Pure functions of a list of ``Sight``.

A published box stands for a person's true box by their IoU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from edgepose.people.association import assign, iou

ALPHAS = np.arange(1, 20) / 20  # 0.05 .. 0.95


class Sight(NamedTuple):
    """One frame: who was there, and who was published."""

    truth_ids: list[str]
    truth_boxes: NDArray[np.float64]  # [P, 4]
    ids: list[str]
    boxes: NDArray[np.float64]  # [N, 4]


def switches(frames: Sequence[Sight], least: float = 0.5, within: int | None = None) -> int:
    """Times that a person is published under another id than when it was last published.

    As in CLEAR MOT (Bernardin & Stiefelhagen 2008): a pair that still overlaps by ``least`` (IoU) stays a pair; who
    is left is paired anew. With ``within``, only of people who were last published at most so many frames before.
    """
    last: dict[str, tuple[str, int]] = {}
    count = 0
    for number, frame in enumerate(frames):
        alike = iou(frame.truth_boxes, frame.boxes)
        # A bonus of twice a whole IoU keeps last frame's pairs together: who breaks one frees two for others at most.
        names = [last.get(person, ("", 0))[0] for person in frame.truth_ids]
        kept = np.array([[name == i for i in frame.ids] for name in names], dtype=float).reshape(alike.shape)
        for row, column in assign(np.where(alike >= least, alike + 2 * kept, 0.0), least):
            person, name = frame.truth_ids[row], frame.ids[column]
            before, when = last.get(person, (name, number))
            count += before != name and (within is None or number - when <= within)
            last[person] = name, number
    return count


def _number(frames: Sequence[Sight]) -> tuple[dict[str, int], dict[str, int]]:
    """Every true id and every published id with a number of its own."""
    truth = {name: n for n, name in enumerate(sorted({i for f in frames for i in f.truth_ids}))}
    ids = {name: n for n, name in enumerate(sorted({i for f in frames for i in f.ids}))}
    return truth, ids


def idf1(frames: Sequence[Sight], least: float = 0.5) -> float:
    """IDF1 = 2 IDTP / (2 IDTP + IDFP + IDFN), 0..1 (Ristani et al. 2016, "Performance measures ...", ECCV workshops).

    IDTP counts the frames in which a person and the one id that it is paired with over the whole sequence overlap by
    ``least`` (IoU), under the pairing that has most of them. 2 IDTP + IDFP + IDFN is the number of true boxes plus the
    number of published ones. NaN where there is neither.
    """
    truth, ids = _number(frames)
    together = np.zeros((len(truth), len(ids)))
    boxes = 0
    for frame in frames:
        boxes += len(frame.truth_ids) + len(frame.ids)
        for row, column in zip(*np.nonzero(iou(frame.truth_boxes, frame.boxes) >= least), strict=True):
            together[truth[frame.truth_ids[row]], ids[frame.ids[column]]] += 1
    rows, columns = linear_sum_assignment(together, maximize=True)
    return float(2 * together[rows, columns].sum() / boxes) if boxes else float("nan")


def hota(frames: Sequence[Sight]) -> float:
    """HOTA, 0..1 (Luiten et al. 2021, "HOTA: a higher order metric ...", IJCV): the mean over alpha 0.05, 0.10 .. 0.95.

        HOTA_alpha = sqrt( sum_{c in TP} A(c) / (|TP| + |FN| + |FP|) )
        A(c) = |TPA(c)| / (|TPA(c)| + |FNA(c)| + |FPA(c)|)

    TP are the pairs that overlap by alpha (IoU), TPA(c) those of them with both ids of c, FNA(c) and FPA(c) the other
    boxes of c's person and of c's id. Pairs are made per frame (Hungarian algorithm) so that the sum of A is largest,
    which the paper's own evaluation approximates, as here, by how much two ids overlap on the whole.
    """
    truth, ids = _number(frames)
    alikes = [iou(f.truth_boxes, f.boxes) for f in frames]
    rows = [np.array([truth[i] for i in f.truth_ids], dtype=int) for f in frames]
    columns = [np.array([ids[i] for i in f.ids], dtype=int) for f in frames]
    true_count, count = np.zeros((len(truth), 1)), np.zeros((1, len(ids)))
    share = np.zeros((len(truth), len(ids)))
    for alike, row, column in zip(alikes, rows, columns, strict=True):
        true_count[row, 0] += 1
        count[0, column] += 1
        rest = alike.sum(axis=0)[None] + alike.sum(axis=1)[:, None] - alike
        share[np.ix_(row, column)] += np.divide(alike, rest, out=np.zeros_like(alike), where=rest > 0)
    if not true_count.sum() + count.sum():
        return float("nan")
    together = share / (true_count + count - share)

    matches = np.zeros((len(ALPHAS), len(truth), len(ids)))
    for alike, row, column in zip(alikes, rows, columns, strict=True):
        i, j = linear_sum_assignment(together[np.ix_(row, column)] * alike, maximize=True)
        matches[:, row[i], column[j]] += alike[i, j] >= ALPHAS[:, None] - 1e-9
    association = matches / np.maximum(true_count + count - matches, 1)  # A(c), the same for all c of two ids
    hits = matches.sum(axis=(1, 2))
    return float(np.sqrt((matches * association).sum(axis=(1, 2)) / (true_count.sum() + count.sum() - hits)).mean())
