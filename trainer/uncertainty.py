"""Scores and covariances that mean what they say, fitted on persons that training did not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepose.bundle import GAUSSIAN_RADII, LEVELS, Ellipses, Radii, ScoreMap
from edgepose.errors import EdgeposeError
from edgepose.metrics import HEAD, correct, segment_length
from edgepose.skeletons import Skeleton
from trainer.evaluate import Predictions

KNOTS = 12
DRAWS, CAUTION = 200, 0.16
LEAST = 20  # labels of a joint from which its ellipses get a size of their own; of fewer there is no 95 % quantile
SPREAD_KNOTS = 8
_NINETY = 4.605170185988092  # 90 % quantile of chi-squared with 2 degrees of freedom: -2 ln 0.1


def _reference(predictions: Predictions, skeleton: Skeleton, *, by_torso: bool = False) -> NDArray[np.float64]:
    """Half a head length [N] in pixels; by the torso where the skeleton has no head.

    ``by_torso``: also where it has one that no person has labelled, as in COCO's and LSP's labels.
    """

    def length(ends: tuple[str, str]) -> NDArray[np.float64]:
        indices = (skeleton.index(ends[0]), skeleton.index(ends[1]))
        return segment_length(predictions.truth, predictions.labelled, indices)

    if skeleton.head is not None:
        heads = length(skeleton.head)
        if np.isfinite(heads).any() or not by_torso:
            return 0.5 * heads
    return 0.5 * HEAD * length(skeleton.torso)


def score_map(predictions: Predictions, skeleton: Skeleton, fitted_on: str) -> ScoreMap:
    """Isotonic regression of 'within half a head' on the raw peak, thinned to a few knots, on the cautious side.

    The persons are a sample, and others may be harder. Of DRAWS samples drawn from them with replacement (bootstrap,
    Efron & Tibshirani 1993, chapter 6) each knot takes the probability that all but CAUTION of them exceed: about one
    standard error below the mean, were persons independent; those of one scene are not, so that it is less. In a bin
    joints are right with a probability of Beta(1/2, 1/2) beforehand (Jeffreys 1946): where none was wrong one may be.
    Expects predictions whose scores are raw peaks (a manual with the identity score map).
    """
    from scipy.optimize import isotonic_regression

    reference = _reference(predictions, skeleton, by_torso=True)
    hits = correct(predictions.joints, predictions.truth, predictions.labelled, reference, 1.0)
    judged = np.isfinite(hits)
    if judged.sum() < KNOTS:
        raise EdgeposeError(f"scores cannot be fitted on {fitted_on}: too few joints whose head or torso is labelled; "
                            "choose other data")  # fmt: skip
    if (count := int(judged.any(axis=1).sum())) < len(judged):  # the others' heads are not labelled
        fitted_on = f"{count} of {fitted_on}"
    peaks = np.sort(predictions.scores[judged])
    # Knots are means over equally filled bins: smooth.
    raw = np.array([b.mean() for b in np.array_split(peaks, KNOTS) if len(b)])
    rng, fits = np.random.default_rng(0), []
    for _ in range(DRAWS):
        drawn = rng.integers(len(hits), size=len(hits))
        chosen = judged[drawn]
        if chosen.sum() < KNOTS:
            continue
        peaks, hit = predictions.scores[drawn][chosen], hits[drawn][chosen]
        order = np.argsort(peaks, kind="stable")
        bins = np.array_split(isotonic_regression(hit[order]).x, KNOTS)
        middles = [b.mean() for b in np.array_split(peaks[order], KNOTS)]
        fits.append(np.interp(raw, middles, [(b.sum() + 0.5) / (len(b) + 1) for b in bins]))
    probability = np.maximum.accumulate(np.quantile(fits, CAUTION, axis=0))
    keep = np.concatenate([[True], np.diff(raw) > 1e-4])
    raw, probability = raw[keep], probability[keep]
    if len(raw) < 2:
        return ScoreMap()
    # Below the weakest bin the probability falls to nought with the peak.
    if raw[0] > 1e-3:
        raw, probability = np.concatenate([[0.0], raw]), np.concatenate([[0.0], probability])
    return ScoreMap(
        raw=[round(float(v), 5) for v in raw],
        probability=[round(float(v), 4) for v in probability],
        fitted_on=fitted_on,
    )


def _quantile(values: NDArray[np.float64], level: float | Sequence[float]) -> NDArray[np.float64]:
    """Below which the next value of the kind lies with the probability ``level``: rank p (n + 1), not p (n - 1) + 1."""
    return np.asarray(np.quantile(values, level, method="weibull"))


def mahalanobis(predictions: Predictions) -> NDArray[np.float64]:
    """Squared Mahalanobis distance [N, K] of the labels from the predictions: e^T S^-1 e, written out for 2 x 2."""
    error = predictions.joints - predictions.truth
    xx, xy, yy = np.moveaxis(predictions.covariance, -1, 0)
    det = np.maximum(xx * yy - xy * xy, 1e-9)
    ex, ey = error[..., 0], error[..., 1]
    squared: NDArray[np.float64] = (yy * ex * ex - 2 * xy * ex * ey + xx * ey * ey) / det
    return squared


def ellipses(predictions: Predictions, skeleton: Skeleton, fitted_on: str) -> tuple[list[float], Ellipses]:
    """Covariance scale per joint and the ellipses with which 50, 90 and 95 % of these persons' joints are held.

    In this order, each on what the ones before leave: a factor that falls with the peak, isotonic over equally filled
    bins; then, per joint, a factor and the radii, quantiles of the distances. The factors make 90 % ellipses hold 90 %.
    Expects predictions whose scores are raw peaks and whose covariances are plain moments.
    """
    from scipy.optimize import isotonic_regression

    labelled = predictions.labelled
    squared, peaks = mahalanobis(predictions), predictions.scores
    if labelled.sum() < SPREAD_KNOTS * 10:
        raise EdgeposeError(f"covariances cannot be fitted on {fitted_on}: {int(labelled.sum())} labelled joints are "
                            "too few; choose more persons")  # fmt: skip
    order = np.argsort(peaks[labelled], kind="stable")
    bins = np.array_split(order, SPREAD_KNOTS)
    raw = np.array([peaks[labelled][b].mean() for b in bins])
    needed = np.log([max(float(_quantile(squared[labelled][b], 0.9)) / _NINETY, 1e-3) for b in bins])
    factor = np.exp(isotonic_regression(needed, increasing=False).x)
    keep = np.concatenate([[True], np.diff(raw) > 1e-4])
    raw, factor = raw[keep].round(5), factor[keep].round(5)
    if len(raw) < 2:
        raw, factor = np.array([0.0, 1.0]), np.repeat(factor[:1], 2)
    squared = squared / np.interp(peaks, raw, factor)
    scale, radii = np.ones(len(skeleton)), np.tile(GAUSSIAN_RADII, (len(skeleton), 1))
    for k in range(len(skeleton)):
        own = squared[labelled[:, k], k]
        if len(own) >= LEAST:  # of fewer persons the quantiles are one and the same
            of_joint = round(max(float(_quantile(own, 0.9)) / _NINETY, 1e-3), 4)
            quantiles = _quantile(np.sqrt(own / of_joint), LEVELS).round(4)
            if (np.diff(quantiles) > 0).all() and quantiles[0] > 0:
                scale[k], radii[k] = of_joint, quantiles
    return scale.tolist(), Ellipses.model_validate(
        {"raw": raw.tolist(), "factor": factor.tolist(), "radii": radii.tolist(), "fitted_on": fitted_on}
    )


def calibration(
    scores: NDArray[np.float64], right: NDArray[np.float64], bins: int = 10
) -> tuple[list[dict[str, float]], float]:
    """Per bin of the N ``scores`` how many, their mean and the share that is ``right`` (1 or 0); and the expected
    calibration error (Guo et al. 2017, eq. 3).
    """
    bin_of = np.clip((scores * bins).astype(int), 0, bins - 1)  # raw peaks may lie outside 0..1
    table, ece = [], 0.0
    for b in range(bins):
        inside = bin_of == b
        if inside.any():
            score, share = float(scores[inside].mean()), float(right[inside].mean())
            ece += abs(score - share) * float(inside.mean())
            table.append({"joints": int(inside.sum()), "score": round(score, 3), "within": round(share, 3)})
    return table, ece


def reliability(
    predictions: Predictions, skeleton: Skeleton, radii: Sequence[Radii] = (GAUSSIAN_RADII,), bins: int = 10
) -> dict[str, object]:
    """How far published scores and covariances keep their word on these persons; ``radii`` as in the manual.

    ``table`` and ``ece``: as :func:`calibration`, right being within half a head; ``ellipse_50``, ``_90``, ``_95``: the
    share of joints inside their 50, 90 and 95 % ellipses, of all and, in ``ellipses_by_joint``, of each.
    """
    hits = correct(predictions.joints, predictions.truth, predictions.labelled, _reference(predictions, skeleton), 1.0)
    judged = np.isfinite(hits)
    table, ece = calibration(predictions.scores[judged], hits[judged], bins)
    squared = mahalanobis(predictions)
    rows = np.broadcast_to(np.square(radii), (len(skeleton), len(LEVELS)))

    def held(mask: NDArray[np.bool_]) -> dict[str, float]:
        return {
            f"ellipse_{round(100 * level)}": round(float((squared <= rows[:, i])[mask].mean()), 3)
            for i, level in enumerate(LEVELS)
        }

    labelled = predictions.labelled
    by_joint = {}
    for k, joint in enumerate(skeleton.joints):
        mine = labelled & (np.arange(len(skeleton)) == k)
        if mine.any():
            by_joint[joint] = held(mine)
    return {
        "ece": round(ece, 4) if table else None,  # without labelled heads nothing tells
        "table": table,
        **held(labelled),
        "ellipses_by_joint": by_joint,
    }
