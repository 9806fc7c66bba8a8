"""Boundary AP (Cheng et al., CVPR 2021): outlines count, where mask IoU of large objects forgives them.

A mask's boundary are its pixels within 2 % of the picture's diagonal of its outline; the IoU of two objects is the
smaller one of mask IoU and the IoU of their boundaries.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from faster_coco_eval import COCOeval_faster

from htc.evaluation.coco import evaluation_of, summary
from htc.evaluation.comparison import Comparison
from htc.evaluation.matching import IOU, Matched

DOT = {"size": [1, 1], "counts": "1"}
"""Stands for the mask of a result that cannot be right: overlaps nothing, and costs nothing to outline."""


def boundary_metrics(comparison: Comparison, pictures: Sequence[Matched], max_detections: int) -> dict[str, float]:
    """The numbers of `segm` in `coco_metrics`, by boundaries; `pictures` are the same results matched by masks."""
    evaluation = boundary_evaluation(comparison, pictures, max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    return summary(evaluation, max_detections)


def boundary_evaluation(comparison: Comparison, pictures: Iterable[Matched], max_detections: int) -> COCOeval_faster:
    """COCO's evaluation by boundaries, ready to run.

    Most results overlap no object of their class by 0.5. They are wrong at every threshold whatever their boundary,
    which is not drawn then: the boundaries are nearly all of the work.
    """
    evaluation = evaluation_of("boundary", comparison, max_detections)
    near = np.zeros(len(comparison.found), bool)
    for picture in pictures:
        own = picture.labels[:, None] == picture.object_labels[None]
        near[picture.found] = ((picture.ious >= IOU) & own).any(1)
    for place in np.flatnonzero(~near):
        evaluation.cocoDt.anns[int(place) + 1]["segmentation"] = DOT
    return evaluation
