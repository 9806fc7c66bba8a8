"""Matching of results to ground truth, image by image.

`matched_images` follows COCO's rule: by descending score, within a class. `pair_by_overlap` uses the overlap alone,
regardless of the classes; it gives the confusion matrix, which has a row and a column for the background. Score
thresholds and the kinds of errors are computed from the same matches.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.comparison import Annotation, Comparison

IOU = 0.5
"""Minimum IoU of a true positive with an instance of its class."""


@dataclass(frozen=True)
class Matched:
    """One image: D results by descending score, and G ground-truth instances, including crowds."""

    image: int
    """Index in `Comparison.image_ids`."""
    results: Int[np.ndarray, " D"]
    """Indices in `Comparison.results`."""
    scores: Float[np.ndarray, " D"]
    labels: Int[np.ndarray, " D"]
    """Indices in `Comparison.categories`."""
    objects: Int[np.ndarray, " G"]
    """Indices in `Comparison.objects`."""
    object_labels: Int[np.ndarray, " G"]
    crowd: Bool[np.ndarray, " G"]
    ious: Float[np.ndarray, "D G"]
    """IoU of masks, or of boxes without masks; for a crowd, the fraction of the result inside it."""
    match: Int[np.ndarray, " D"]
    """Index (0 .. G-1) of the instance that each result matches, by COCO's rule at IoU 0.5; -1: none."""
    ignored: Bool[np.ndarray, " D"]
    """Unmatched results inside a crowd of their class, or of a class whose instances are not all annotated in the
    image (LVIS): neither true nor false positives.
    """
    doubtful: Bool[np.ndarray, " D"]
    """Results of classes whose instances are not all annotated in the image."""

    @property
    def detected(self) -> Bool[np.ndarray, " G"]:
        """Whether any result matches each instance."""
        detected = np.zeros(len(self.objects), bool)
        detected[self.match[self.match >= 0]] = True
        return detected


def matched_images(comparison: Comparison, max_detections: int) -> Iterator[Matched]:
    """Yield the results of each image, at most `max_detections` of a class, matched at IoU 0.5."""
    labels = {category: label for label, (category, _) in enumerate(comparison.categories)}
    for image, (objects, results) in enumerate(comparison.by_image()):
        kept = _best(results, max_detections)
        own = np.array([labels[item["category_id"]] for item in kept], np.int64)
        object_labels = np.array([labels[item["category_id"]] for item in objects], np.int64)
        crowd = np.array([item["iscrowd"] for item in objects], bool)
        ious = overlaps(comparison, kept, objects)
        match, ignored = match_by_score(np.where(own[:, None] == object_labels[None], ious, 0.0), crowd)
        doubtful = _doubtful(comparison, image, kept)
        ignored |= doubtful & (match < 0)
        scores = np.array([item["score"] for item in kept], np.float64)
        yield Matched(
            image, _indices(kept), scores, own, _indices(objects), object_labels, crowd, ious, match, ignored, doubtful
        )


def _doubtful(comparison: Comparison, image: int, results: Sequence[Annotation]) -> Bool[np.ndarray, " D"]:
    classes = frozenset() if comparison.federated is None else comparison.federated.not_exhaustive[image]
    return np.array([item["category_id"] in classes for item in results], bool)


def overlaps(
    comparison: Comparison, results: Sequence[Annotation], objects: Sequence[Annotation]
) -> Float[np.ndarray, "D G"]:
    """Compute the IoU of every result with every instance, regardless of their classes."""
    if not results or not objects:
        return np.zeros((len(results), len(objects)))
    annotated: list[Any] = [item["bbox"] for item in objects]
    predicted: list[Any] = [item["bbox"] for item in results]
    if comparison.object_masks is not None and comparison.result_masks is not None:
        annotated = [comparison.object_masks[item["id"] - 1] for item in objects]
        predicted = [comparison.result_masks[item["id"] - 1] for item in results]
    from faster_coco_eval.core import mask as mask_api

    ious: Any = mask_api.iou(predicted, annotated, [item["iscrowd"] for item in objects])
    return np.asarray(ious, np.float64).reshape(len(results), len(objects))


def match_by_score(
    ious: Float[np.ndarray, "D G"], crowd: Bool[np.ndarray, " G"], iou: float = IOU
) -> tuple[Int[np.ndarray, " D"], Bool[np.ndarray, " D"]]:
    """Match by COCO's rule: each result, by descending score, takes the free instance with the largest IoU of at least
    `iou`.

    `ious` is 0 where classes differ. Returns the index of each result's instance (-1: none), and whether an unmatched
    result is ignored because it lies in a crowd.
    """
    match = np.full(len(ious), -1)
    if not ious.size:
        return match, np.zeros(len(ious), bool)
    near = ious >= min(iou, 1 - 1e-10)
    ignored = (near & crowd).any(1)
    near &= ~crowd
    free = np.ones(ious.shape[1], bool)
    for row in np.flatnonzero(near.any(1)):
        candidates = np.flatnonzero(near[row] & free)
        if len(candidates):
            # Of equal IoUs the last one, as in pycocotools.
            match[row] = candidates[len(candidates) - 1 - ious[row, candidates][::-1].argmax()]
            free[match[row]] = False
    return match, ignored & (match < 0)


def _best(results: Sequence[Annotation], most: int) -> list[Annotation]:
    """Return the first `most` results of each class."""
    if len(results) <= most:
        return list(results)
    counts: dict[int, int] = {}
    kept = []
    for item in results:
        counts[item["category_id"]] = counts.get(item["category_id"], 0) + 1
        if counts[item["category_id"]] <= most:
            kept.append(item)
    return kept


def _indices(items: Sequence[Annotation]) -> Int[np.ndarray, " _"]:
    return np.array([item["id"] - 1 for item in items], np.int64)


def confusion_matrix(images: Iterable[Matched], classes: int, threshold: float) -> Int[np.ndarray, "K1 K1"]:
    """Count pairs by [ground-truth class, predicted class]; the last row counts results without an instance, the last
    column instances without a result.

    Results of at least `threshold` and instances are paired one to one regardless of their classes, by descending IoU
    down to 0.5. An unpaired result that lies in a crowd (of any class), or of a class whose instances are not all
    annotated in the image, is not counted.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for image in images:
        kept = image.scores >= threshold
        ious, labels = image.ious[kept], image.labels[kept]
        pairs = pair_by_overlap(np.where(image.crowd[None], 0.0, ious))
        np.add.at(matrix, (image.object_labels[pairs[pairs >= 0]], labels[pairs >= 0]), 1)
        in_crowd = (ious[:, image.crowd] >= IOU).any(1)
        false = (pairs < 0) & ~in_crowd & ~image.doubtful[kept]
        matrix[classes, :classes] += np.bincount(labels[false], minlength=classes)
        missed = _free(len(image.objects), pairs) & ~image.crowd
        matrix[:classes, classes] += np.bincount(image.object_labels[missed], minlength=classes)
    return matrix


def pair_by_overlap(ious: Float[np.ndarray, "D G"], iou: float = IOU) -> Int[np.ndarray, " D"]:
    """Pair results and instances one to one, by descending IoU down to `iou`; returns each result's instance or -1."""
    pairs = np.full(len(ious), -1)
    rows, columns = np.nonzero(ious >= iou)
    free = np.ones(ious.shape[1], bool)
    for index in np.argsort(-ious[rows, columns], kind="stable"):
        row, column = rows[index], columns[index]
        if pairs[row] < 0 and free[column]:
            pairs[row] = column
            free[column] = False
    return pairs


def _free(objects: int, pairs: Int[np.ndarray, " D"]) -> Bool[np.ndarray, " G"]:
    free = np.ones(objects, bool)
    free[pairs[pairs >= 0]] = False
    return free
