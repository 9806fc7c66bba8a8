"""COCO's average precision and recall of boxes, masks and mask boundaries, computed by faster-coco-eval.

The values are pycocotools' own, with two differences. AP counts the `max_detections` best results of an image and
class; COCO's summary always counts 100. And masks are evaluated without boxes, since the COCO tools take the area of a
result from its box if it has one, which changes the AP of small, medium and large masks.

Boundary AP (Cheng et al., CVPR 2021) is sensitive to errors of the outline that the mask IoU of a large instance hides.
The boundary of a mask is the band of its pixels within 2 % of the image's diagonal of its outline; the IoU of two
instances is the smaller of their mask IoU and the IoU of their boundaries.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pycocotools import mask as rle_codec

from htc.evaluation.comparison import Annotation, Comparison, EncodedMask, compare
from htc.evaluation.matching import IOU, Matched
from htc.files import uncollected

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

MetricValues = dict[str, dict[str, Any]]
IouType = Literal["bbox", "segm", "boundary"]

AREAS = {"APs": "small", "APm": "medium", "APl": "large"}
DILATION_RATIO = 0.02
"""Of the image's diagonal: how far from an outline its boundary reaches (Cheng et al. 2021, Boundary IoU)."""


def coco_metrics(
    annotations: str | Path | Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int = 100
) -> MetricValues:
    """COCO numbers of `results`, a list of COCO result dicts in original pixels, against an annotation file or its
    content.

    Returns
    `{"bbox": {AP, AP50, AP75, APs, APm, APl, AR@N}, "segm": {...}, "per_class": {name: {"bbox": AP, "segm": AP}}}` with
    values 0..1, -1 where there is nothing to measure; N is `max_detections`, the number of best detections of an image
    and class that count. Without a mask in any result (or object) there is no `segm`. Crowds are ignored regions.

    Raises `DataError` for results of unknown images or categories, or of which only some have masks.
    """
    return metrics_of(compare(annotations, results), max_detections)


def metrics_of(comparison: Comparison, max_detections: int = 100) -> MetricValues:
    """The numbers of `coco_metrics`."""
    kinds: tuple[IouType, ...] = ("bbox", "segm") if comparison.with_masks else ("bbox",)
    return metrics_from(
        {kind: evaluated(kind, comparison, max_detections) for kind in kinds}, comparison, max_detections
    )


def metrics_from(
    evaluations: "Mapping[IouType, COCOeval_faster]", comparison: Comparison, max_detections: int
) -> MetricValues:
    """The numbers of `coco_metrics` from evaluations of each kind that have run."""
    per_class = {
        name: {
            kind: mean_of_defined(evaluation.eval["precision"][:, :, index, 0, -1])
            for kind, evaluation in evaluations.items()
        }
        for index, (_, name) in enumerate(comparison.categories)
    }
    return {
        **{kind: summary(evaluation, max_detections) for kind, evaluation in evaluations.items()},
        "per_class": per_class,
    }


@uncollected()
def evaluated(kind: IouType, comparison: Comparison, max_detections: int) -> "COCOeval_faster":
    """COCO's evaluation with its arrays: precision (IoU threshold, recall, class, size, count), recall without its
    second axis.

    The last count is `max_detections`; 1 and 10 come before it, as in COCO's own table.
    """
    evaluation = evaluation_of(kind, comparison, max_detections)
    evaluation.params.maxDets = [count for count in (1, 10) if count < max_detections] + [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def evaluation_of(kind: IouType, comparison: Comparison, max_detections: int) -> "COCOeval_faster":
    """COCO's evaluation of boxes (`bbox`), masks (`segm`) or both masks and their boundaries (`boundary`), ready to
    run.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if kind == "bbox":
        objects, found = [dict(item) for item in comparison.objects], [dict(item) for item in comparison.found]
    else:
        assert comparison.object_masks is not None
        assert comparison.found_masks is not None
        objects = [
            {**item, "segmentation": mask}
            for item, mask in zip(comparison.objects, comparison.object_masks, strict=True)
        ]
        found = [_with_mask(item, mask) for item, mask in zip(comparison.found, comparison.found_masks, strict=True)]
    categories = [{"id": id, "name": name} for id, name in comparison.categories]
    # The results go in as annotations: the library's way for result lists works out areas and boxes anew, one at a
    # time.
    reference = COCO({"images": comparison.images, "annotations": objects, "categories": categories})
    answers = COCO({"images": comparison.images, "annotations": found, "categories": categories})
    evaluation = COCOeval_faster(
        reference, answers, kind, boundary_dilation_ratio=DILATION_RATIO, rle_iou_max_workers=1
    )
    evaluation.params.maxDets = [max_detections]
    return evaluation


def _with_mask(item: Annotation, mask: EncodedMask) -> Annotation:
    return {**item, "segmentation": mask, "area": float(rle_codec.area(mask))}


def summary(evaluation: "COCOeval_faster", max_detections: int) -> dict[str, float]:
    """COCO's numbers by the names of the contract."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    labels = evaluation.params.areaRngLbl
    at = {round(float(iou), 2): index for index, iou in enumerate(evaluation.params.iouThrs)}
    numbers = {"AP": mean_of_defined(precision[:, :, :, 0, -1])}
    numbers["AP50"] = mean_of_defined(precision[at[0.5], :, :, 0, -1])
    numbers["AP75"] = mean_of_defined(precision[at[0.75], :, :, 0, -1])
    for name, area in AREAS.items():
        numbers[name] = mean_of_defined(precision[:, :, :, labels.index(area), -1])
    numbers[f"AR@{max_detections}"] = mean_of_defined(recall[:, :, 0, -1])
    return numbers


def recalls(evaluation: "COCOeval_faster") -> dict[str, float]:
    """COCO's average recalls: over the best 1, 10 and N results an image and class, and of each size."""
    recall = evaluation.eval["recall"]
    labels = evaluation.params.areaRngLbl
    numbers = {
        f"AR@{count}": mean_of_defined(recall[:, :, 0, index]) for index, count in enumerate(evaluation.params.maxDets)
    }
    return numbers | {
        name.replace("AP", "AR"): mean_of_defined(recall[:, :, labels.index(area), -1]) for name, area in AREAS.items()
    }


def mean_of_defined(values: np.ndarray) -> float:
    """Mean over what is defined (COCO marks classes without objects by -1), else -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


DOT = {"size": [1, 1], "counts": "1"}
"""Stands for the mask of a result that cannot be right: overlaps nothing, and costs nothing to outline."""


def boundary_metrics(comparison: Comparison, images: Sequence[Matched], max_detections: int) -> dict[str, float]:
    """The numbers of `segm` in `coco_metrics`, by boundaries; `images` are the same results matched by masks."""
    evaluation = boundary_evaluation(comparison, images, max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    return summary(evaluation, max_detections)


def boundary_evaluation(comparison: Comparison, images: Iterable[Matched], max_detections: int) -> "COCOeval_faster":
    """COCO's evaluation by boundaries, ready to run.

    Most results overlap no object of their class by 0.5. They are wrong at every threshold whatever their boundary,
    which is not drawn then: the boundaries are nearly all of the work.
    """
    evaluation = evaluation_of("boundary", comparison, max_detections)
    near = np.zeros(len(comparison.found), bool)
    for image in images:
        own = image.labels[:, None] == image.object_labels[None]
        near[image.found] = ((image.ious >= IOU) & own).any(1)
    for place in np.flatnonzero(~near):
        evaluation.cocoDt.anns[int(place) + 1]["segmentation"] = DOT
    return evaluation
