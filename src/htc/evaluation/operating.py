"""Score thresholds and calibration: the best F1 of each class, reliability curve, expected calibration error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.matching import Matched

BINS = 10


class OperatingPoint(NamedTuple):
    """F1, precision and recall of the results with a score of at least `threshold`; all -1 without instances."""

    threshold: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Judged:
    """All results of a dataset as true or false positives; results in crowds are neither and are left out."""

    scores: Float[np.ndarray, " D"]
    right: Bool[np.ndarray, " D"]
    """Whether each result is a true positive."""
    labels: Int[np.ndarray, " D"]
    objects: Int[np.ndarray, " K"]
    """Number of instances of each class, without crowds."""


@dataclass(frozen=True)
class Bin:
    """Results with scores in one of `BINS` equal intervals."""

    count: int
    score: float
    """Mean score; -1 without results."""
    right: float
    """Share of true positives; -1 without results."""


@dataclass(frozen=True)
class Calibration:
    """The reliability curve (scores from 0 to 1 in `BINS` equal bins) and the expected calibration error."""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error (Guo et al. 2017): mean of |score - right| over the bins, weighted by their counts; -1
    without results.
    """


def judged(images: Sequence[Matched], classes: int) -> Judged:
    """Collect the results of all images; a true positive matches an instance of its class at IoU 0.5."""
    objects = np.zeros(classes, np.int64)
    for image in images:
        objects += np.bincount(image.object_labels[~image.crowd], minlength=classes)
    kept = [~image.ignored for image in images]
    return Judged(
        np.concatenate([np.empty(0), *(p.scores[k] for p, k in zip(images, kept, strict=True))]),
        np.concatenate([np.empty(0, bool), *(p.match[k] >= 0 for p, k in zip(images, kept, strict=True))]),
        np.concatenate([np.empty(0, np.int64), *(p.labels[k] for p, k in zip(images, kept, strict=True))]),
        objects,
    )


def best_f1(scores: Float[np.ndarray, " D"], right: Bool[np.ndarray, " D"], objects: int) -> OperatingPoint:
    """Find the threshold with the best F1 = 2 TP / (kept results + instances); of equals, the highest."""
    if not objects:
        return OperatingPoint(-1.0, -1.0, -1.0, -1.0)
    if not len(scores):
        return OperatingPoint(1.0, 0.0, 0.0, 0.0)
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(right[order])
    kept = np.arange(1, len(scores) + 1)
    # Equal scores are kept or dropped together.
    last = np.append(ranked[1:] != ranked[:-1], True)
    f1 = np.where(last, 2 * hits / (kept + objects), -1.0)
    best = int(f1.argmax())
    return OperatingPoint(
        float(ranked[best]), float(f1[best]), float(hits[best] / kept[best]), float(hits[best] / objects)
    )


def operating_points(results: Judged, classes: Sequence[str]) -> tuple[OperatingPoint, dict[str, OperatingPoint]]:
    """Find the best common threshold of all classes, and the best one of each class."""
    each = {}
    for label, name in enumerate(classes):
        own = results.labels == label
        each[name] = best_f1(results.scores[own], results.right[own], int(results.objects[label]))
    return best_f1(results.scores, results.right, int(results.objects.sum())), each


def calibration(results: Judged) -> Calibration:
    """Compute the share of true positives by score."""
    bin_index = np.clip((results.scores * BINS).astype(np.int64), 0, BINS - 1)
    count = np.bincount(bin_index, minlength=BINS)
    score = np.bincount(bin_index, results.scores, BINS)
    right = np.bincount(bin_index, results.right.astype(float), BINS)
    bins = tuple(
        Bin(int(n), float(s / n) if n else -1.0, float(r / n) if n else -1.0)
        for n, s, r in zip(count, score, right, strict=True)
    )
    return Calibration(bins, float(np.abs(score - right).sum() / count.sum()) if count.sum() else -1.0)
