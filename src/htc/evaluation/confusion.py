"""Which class was taken for which: the confusion matrix of detections, with a row and column for the background."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from htc.evaluation.matching import IOU, Matched


def confusion_matrix(pictures: Iterable[Matched], classes: int, threshold: float) -> Int[np.ndarray, "K1 K1"]:
    """Counts [object's class, result's class]; the last row are results without object, the last column objects without
    result.

    Results of at least `threshold` and objects are paired one to one whatever their classes, the largest IoU first and
    down to 0.5. A result without object that lies in a crowd (of any class) is left out.
    """
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for picture in pictures:
        kept = picture.scores >= threshold
        ious, labels = picture.ious[kept], picture.labels[kept]
        pairs = pair_by_overlap(np.where(picture.crowd[None], 0.0, ious))
        np.add.at(matrix, (picture.object_labels[pairs[pairs >= 0]], labels[pairs >= 0]), 1)
        in_crowd = (ious[:, picture.crowd] >= IOU).any(1)
        matrix[classes, :classes] += np.bincount(labels[(pairs < 0) & ~in_crowd], minlength=classes)
        missed = _free(len(picture.objects), pairs) & ~picture.crowd
        matrix[:classes, classes] += np.bincount(picture.object_labels[missed], minlength=classes)
    return matrix


def pair_by_overlap(ious: Float[np.ndarray, "D G"], iou: float = IOU) -> Int[np.ndarray, " D"]:
    """The object (0 .. G-1) of each result, or -1: pairs one to one, the largest IoU first, down to `iou`."""
    pairs = np.full(len(ious), -1)
    rows, columns = np.nonzero(ious >= iou)
    free = np.ones(ious.shape[1], bool)
    for place in np.argsort(-ious[rows, columns], kind="stable"):
        row, column = rows[place], columns[place]
        if pairs[row] < 0 and free[column]:
            pairs[row] = column
            free[column] = False
    return pairs


def _free(objects: int, pairs: Int[np.ndarray, " D"]) -> Bool[np.ndarray, " G"]:
    free = np.ones(objects, bool)
    free[pairs[pairs >= 0]] = False
    return free
