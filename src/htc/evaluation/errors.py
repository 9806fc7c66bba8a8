"""Errors by kind, similar to TIDE (Bolya et al., ECCV 2020): the number of each kind, and how much AP50 it costs.

A true positive has IoU >= 0.5 with a free instance of its class. Every other result is assigned the first kind that
applies:
- double: IoU >= 0.5 with an instance of its class that a result with a higher score already matches;
- wrong class: IoU >= 0.5 with an instance of another class;
- badly outlined: 0.1 <= IoU < 0.5 with an instance of its class;
- wrong class and outline: 0.1 <= IoU < 0.5 with an instance of another class;
- background: IoU < 0.1 with every instance.
An instance is missed if no result matches it, and no result of kind "wrong class" or "badly outlined" belongs to it.

The cost of a kind is AP50 with all errors of that kind corrected, minus AP50: a result with a wrong class or outline is
corrected if its instance is still unmatched, and removed otherwise; other false positives are removed; missed instances
are removed from the ground truth. The costs do not add up to the missing AP50, since one error can hide another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.matching import IOU, Matched

NEAR = 0.1
"""IoU below which a result and an instance are unrelated."""
RIGHT, DOUBLE, WRONG_CLASS, BAD_OUTLINE, BOTH, BACKGROUND, IGNORED = range(7)
ERROR_KINDS = {
    "double": DOUBLE,
    "wrong class": WRONG_CLASS,
    "badly outlined": BAD_OUTLINE,
    "wrong class and outline": BOTH,
    "background": BACKGROUND,
}
MISSED = "missed"
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ErrorKind:
    """Number and cost of one kind of error."""

    count: int
    """Number among the results with at least the threshold score (missed: instances without a match among these)."""
    cost: float
    """Gain in AP50 (0..1) from correcting all errors of this kind, at any score; -1 if AP50 is undefined."""


@dataclass(frozen=True)
class Sorted:
    """The kind of each result of an image, and its missed instances."""

    kinds: Int[np.ndarray, " D"]
    target: Int[np.ndarray, " D"]
    """Index of the instance that a result of kind "wrong class" or "badly outlined" belongs to, else -1."""
    missed: Bool[np.ndarray, " G"]


def sort_errors(image: Matched) -> Sorted:
    """Assign a kind to each result and find the missed instances."""
    count = len(image.scores)
    own = (image.labels[:, None] == image.object_labels[None]) & ~image.crowd[None]
    other = ~own & ~image.crowd[None]
    best_own, own_at = _best(np.where(own, image.ious, 0.0))
    best_other, other_at = _best(np.where(other, image.ious, 0.0))
    conditions = [
        image.match >= 0,
        image.ignored,
        best_own >= IOU,
        best_other >= IOU,
        best_own >= NEAR,
        best_other >= NEAR,
    ]
    kinds = np.select(conditions, [RIGHT, IGNORED, DOUBLE, WRONG_CLASS, BAD_OUTLINE, BOTH], BACKGROUND)
    target = np.select([kinds == WRONG_CLASS, kinds == BAD_OUTLINE], [other_at, own_at], np.full(count, -1))
    missed = ~image.detected & ~image.crowd
    missed[target[target >= 0]] = False
    return Sorted(kinds, target, missed)


def errors_by_kind(images: Sequence[Matched], classes: int, threshold: float) -> dict[str, ErrorKind]:
    """Return the number of each kind among results of at least `threshold`, and its cost."""
    counts = dict.fromkeys([*ERROR_KINDS, MISSED], 0)
    for image in images:
        cut = at_least(image, threshold)
        errors = sort_errors(cut)
        counts[MISSED] += int(errors.missed.sum())
        for name, kind in ERROR_KINDS.items():
            counts[name] += int((errors.kinds == kind).sum())
    sorted_all = [sort_errors(image) for image in images]
    plain = _ap50(images, sorted_all, classes, None)
    costs = {name: _ap50(images, sorted_all, classes, name) - plain if plain >= 0 else -1.0 for name in counts}
    return {name: ErrorKind(counts[name], costs[name]) for name in counts}


def at_least(image: Matched, threshold: float) -> Matched:
    """Return the image with only the results of at least this score; their matches do not change, since results with
    higher scores are matched first.
    """
    kept = image.scores >= threshold
    return Matched(
        image.image,
        image.results[kept],
        image.scores[kept],
        image.labels[kept],
        image.objects,
        image.object_labels,
        image.crowd,
        image.ious[kept],
        image.match[kept],
        image.ignored[kept],
        image.doubtful[kept],
    )


def average_precision(scores: Float[np.ndarray, " D"], right: Bool[np.ndarray, " D"], objects: int) -> float:
    """Compute COCO's AP at one IoU: the mean of the non-increasing precision at 101 recalls; -1 without instances."""
    if not objects:
        return -1.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    index = np.searchsorted(hits / objects, RECALLS)
    return float(np.append(precision, 0.0)[np.minimum(index, len(hits))].mean())


def _best(ious: Float[np.ndarray, "D G"]) -> tuple[Float[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """Return the largest IoU of each result and the index of that instance."""
    if not ious.shape[1]:
        return np.zeros(len(ious)), np.full(len(ious), -1)
    at = ious.argmax(1)
    return ious[np.arange(len(ious)), at], at


def _ap50(images: Sequence[Matched], sorted_all: Sequence[Sorted], classes: int, fixed: str | None) -> float:
    """Compute AP50 over the classes that have instances, with one kind of error corrected."""
    objects = np.zeros(classes, np.int64)
    scores, rights, labels = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, np.int64)]
    for image, errors in zip(images, sorted_all, strict=True):
        right, kept, own = _corrected(image, errors, fixed)
        scores.append(image.scores[kept])
        rights.append(right[kept])
        labels.append(own[kept])
        counted = ~image.crowd & ~errors.missed if fixed == MISSED else ~image.crowd
        objects += np.bincount(image.object_labels[counted], minlength=classes)
    score, right, label = np.concatenate(scores), np.concatenate(rights), np.concatenate(labels)
    each = [
        average_precision(score[label == k], right[label == k], int(objects[k])) for k in range(classes) if objects[k]
    ]
    return float(np.mean(each)) if each else -1.0


def _corrected(
    image: Matched, errors: Sorted, fixed: str | None
) -> tuple[Bool[np.ndarray, " D"], Bool[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """Return for each result whether it is a true positive, whether it is kept, and its class, after one kind of error
    is corrected.
    """
    right, kept, labels = errors.kinds == RIGHT, errors.kinds != IGNORED, image.labels.copy()
    if fixed is None or fixed == MISSED:
        return right, kept, labels
    mistaken = errors.kinds == ERROR_KINDS[fixed]
    kept &= ~mistaken
    detected = image.detected
    for row in np.flatnonzero(mistaken & (errors.target >= 0)):
        index = errors.target[row]
        if not detected[index]:
            detected[index] = right[row] = kept[row] = True
            labels[row] = image.object_labels[index]
    return right, kept, labels
