"""Errors by kind, in the spirit of TIDE (Bolya et al., ECCV 2020): how many of each, and how much AP50 each costs.

Every result that is not right (IoU 0.5 with a free object of its class) has one kind, the first of:
- double: IoU >= 0.5 with an object of its class that a better result found already;
- wrong class: IoU >= 0.5 with an object of another class;
- badly outlined: 0.1 <= IoU < 0.5 with an object of its class;
- wrong class and outline: 0.1 <= IoU < 0.5 with an object of another class;
- background: less than 0.1 with every object.
An object is missed if no result found it, and none of wrong class or bad outline was meant for it.

The cost of a kind is AP50 with all errors of that kind put right, minus AP50: a wrong class or outline is corrected, if
its object is still to be found, and else removed; other wrong results are removed; missed objects need not be found.
Costs do not add up to what is missing, since errors hide one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.matching import IOU, Matched

NEAR = 0.1
"""Below this IoU a result has nothing to do with an object."""
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
    """One kind of error."""

    count: int
    """Among the results of at least the threshold (missed: objects that these leave)."""
    cost: float
    """AP50 (0..1) that correcting all of them, of whatever score, would gain; -1 where AP50 is undefined."""


@dataclass(frozen=True)
class Sorted:
    """One image's results with their kinds."""

    kinds: Int[np.ndarray, " D"]
    meant: Int[np.ndarray, " D"]
    """The object that a result of wrong class or outline was meant for, -1 elsewhere."""
    missed: Bool[np.ndarray, " G"]


def sort_errors(image: Matched) -> Sorted:
    """The kind of each result, and the objects that were missed."""
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
    meant = np.select([kinds == WRONG_CLASS, kinds == BAD_OUTLINE], [other_at, own_at], np.full(count, -1))
    missed = ~image.detected & ~image.crowd
    missed[meant[meant >= 0]] = False
    return Sorted(kinds, meant, missed)


def errors_by_kind(images: Sequence[Matched], classes: int, threshold: float) -> dict[str, ErrorKind]:
    """Every kind's count, among results of at least `threshold`, and cost."""
    counts = dict.fromkeys([*ERROR_KINDS, MISSED], 0)
    for image in images:
        cut = at_least(image, threshold)
        found = sort_errors(cut)
        counts[MISSED] += int(found.missed.sum())
        for name, kind in ERROR_KINDS.items():
            counts[name] += int((found.kinds == kind).sum())
    sorted_all = [sort_errors(image) for image in images]
    plain = _ap50(images, sorted_all, classes, None)
    costs = {name: _ap50(images, sorted_all, classes, name) - plain if plain >= 0 else -1.0 for name in counts}
    return {name: ErrorKind(counts[name], costs[name]) for name in counts}


def at_least(image: Matched, threshold: float) -> Matched:
    """The image with its results of at least that score alone; their matches are the same, since better results
    choose first.
    """
    kept = image.scores >= threshold
    return Matched(
        image.image,
        image.found[kept],
        image.scores[kept],
        image.labels[kept],
        image.objects,
        image.object_labels,
        image.crowd,
        image.ious[kept],
        image.match[kept],
        image.ignored[kept],
    )


def average_precision(scores: Float[np.ndarray, " D"], right: Bool[np.ndarray, " D"], objects: int) -> float:
    """COCO's AP at one IoU: precision, made non-increasing, at 101 recalls; -1 without objects."""
    if not objects:
        return -1.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    place = np.searchsorted(hits / objects, RECALLS)
    return float(np.append(precision, 0.0)[np.minimum(place, len(hits))].mean())


def _best(ious: Float[np.ndarray, "D G"]) -> tuple[Float[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """The largest IoU of each result and whose it is."""
    if not ious.shape[1]:
        return np.zeros(len(ious)), np.full(len(ious), -1)
    at = ious.argmax(1)
    return ious[np.arange(len(ious)), at], at


def _ap50(images: Sequence[Matched], found: Sequence[Sorted], classes: int, fixed: str | None) -> float:
    """AP50 over the classes that have objects, with one kind of error put right."""
    objects = np.zeros(classes, np.int64)
    scores, rights, labels = [np.empty(0)], [np.empty(0, bool)], [np.empty(0, np.int64)]
    for image, errors in zip(images, found, strict=True):
        right, kept, own = _put_right(image, errors, fixed)
        scores.append(image.scores[kept])
        rights.append(right[kept])
        labels.append(own[kept])
        wanted = ~image.crowd & ~errors.missed if fixed == MISSED else ~image.crowd
        objects += np.bincount(image.object_labels[wanted], minlength=classes)
    score, right, label = np.concatenate(scores), np.concatenate(rights), np.concatenate(labels)
    each = [
        average_precision(score[label == k], right[label == k], int(objects[k])) for k in range(classes) if objects[k]
    ]
    return float(np.mean(each)) if each else -1.0


def _put_right(
    image: Matched, errors: Sorted, fixed: str | None
) -> tuple[Bool[np.ndarray, " D"], Bool[np.ndarray, " D"], Int[np.ndarray, " D"]]:
    """Whether each result is right, whether it is kept, and its class, after the errors of one kind are put right."""
    right, kept, labels = errors.kinds == RIGHT, errors.kinds != IGNORED, image.labels.copy()
    if fixed is None or fixed == MISSED:
        return right, kept, labels
    mistaken = errors.kinds == ERROR_KINDS[fixed]
    kept &= ~mistaken
    found = image.detected
    for row in np.flatnonzero(mistaken & (errors.meant >= 0)):
        place = errors.meant[row]
        if not found[place]:
            found[place] = right[row] = kept[row] = True
            labels[row] = image.object_labels[place]
    return right, kept, labels
