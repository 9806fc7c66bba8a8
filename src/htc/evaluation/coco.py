"""COCO's average precision and recall of boxes, masks and mask boundaries, computed by faster-coco-eval.

The values equal those of pycocotools, with two differences. AP counts the `max_detections` best results of an image and
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

from htc.evaluation.comparison import Annotation, Comparison, EncodedMask, Federated, compare
from htc.evaluation.matching import IOU, Matched
from htc.files import uncollected

if TYPE_CHECKING:
    from faster_coco_eval import COCOeval_faster

MetricValues = dict[str, dict[str, Any]]
IouType = Literal["bbox", "segm", "boundary"]

AREAS = {"APs": "small", "APm": "medium", "APl": "large"}
FREQUENCIES = {"APr": "r", "APc": "c", "APf": "f"}
"""LVIS: AP of classes that are rare (in 1 to 10 training images), common (11 to 100) and frequent."""
DILATION_RATIO = 0.02
"""Width of the boundary as a fraction of the image's diagonal (Cheng et al. 2021, Boundary IoU)."""


def coco_metrics(
    annotations: str | Path | Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int = 100
) -> MetricValues:
    """Compute the COCO metrics of `results`, a list of COCO result dicts in original pixels, against an annotation file
    or its content.

    Returns
    `{"bbox": {AP, AP50, AP75, APs, APm, APl, AR@N}, "segm": {...}, "per_class": {name: {"bbox": AP, "segm": AP}}}` with
    values 0..1, -1 if undefined; N is `max_detections`, the maximum number of detections of an image and class. If no
    result (or no annotation) has a mask, there is no `segm`. Crowds are ignored regions.

    Raises `DataError` if results belong to unknown images or categories, or if only some have masks.
    """
    return metrics_of(compare(annotations, results, max_detections), max_detections)


def metrics_of(comparison: Comparison, max_detections: int = 100) -> MetricValues:
    """Compute the metrics of `coco_metrics` from a `Comparison`."""
    kinds: tuple[IouType, ...] = ("bbox", "segm") if comparison.with_masks else ("bbox",)
    return metrics_from(
        {kind: evaluated(kind, comparison, max_detections) for kind in kinds}, comparison, max_detections
    )


def metrics_from(
    evaluations: "Mapping[IouType, COCOeval_faster]", comparison: Comparison, max_detections: int
) -> MetricValues:
    """Collect the metrics of `coco_metrics` from finished evaluations of each kind."""
    per_class = {
        name: {
            kind: mean_of_defined(evaluation.eval["precision"][:, :, index, 0, -1])
            for kind, evaluation in evaluations.items()
        }
        for index, (_, name) in enumerate(comparison.categories)
    }
    return {
        **{kind: summary(evaluation, max_detections, comparison.federated) for kind, evaluation in evaluations.items()},
        "per_class": per_class,
    }


@uncollected()
def evaluated(kind: IouType, comparison: Comparison, max_detections: int) -> "COCOeval_faster":
    """Run COCO's evaluation and return it with its arrays: precision (IoU threshold, recall, class, size, maximum
    detections), and recall without the second axis.

    The last maximum is `max_detections`; 1 and 10 come before it, as in COCO's summary.
    """
    evaluation = evaluation_of(kind, comparison, max_detections)
    evaluation.params.maxDets = [count for count in (1, 10) if count < max_detections] + [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def evaluation_of(kind: IouType, comparison: Comparison, max_detections: int) -> "COCOeval_faster":
    """Prepare COCO's evaluation of boxes (`bbox`), masks (`segm`), or masks together with their boundaries
    (`boundary`).
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if kind == "bbox":
        objects, results = [dict(item) for item in comparison.objects], [dict(item) for item in comparison.results]
    else:
        assert comparison.object_masks is not None
        assert comparison.result_masks is not None
        objects = [
            {**item, "segmentation": mask}
            for item, mask in zip(comparison.compared_objects, comparison.object_masks, strict=True)
        ]
        results = [
            _with_mask(item, mask) for item, mask in zip(comparison.results, comparison.result_masks, strict=True)
        ]
    federated = comparison.federated
    frequency = {} if federated is None else federated.frequency
    # LVIS's evaluation needs a frequency of every category; AP by frequency is computed in `summary`.
    categories = [{"id": id, "name": name, "frequency": frequency.get(id, "f")} for id, name in comparison.categories]
    # Pass the results as annotations: the library's own loading of results recomputes areas and boxes one by one.
    reference = COCO({"images": comparison.images, "annotations": objects, "categories": categories})
    predictions = COCO({"images": comparison.images, "annotations": results, "categories": categories})
    evaluation = COCOeval_faster(
        reference,
        predictions,
        kind,
        lvis_style=federated is not None,
        boundary_dilation_ratio=DILATION_RATIO,
        rle_iou_max_workers=1,
    )
    evaluation.params.maxDets = [max_detections]
    return evaluation


def _with_mask(item: Annotation, mask: EncodedMask) -> Annotation:
    return {**item, "segmentation": mask, "area": float(rle_codec.area(mask))}


def summary(evaluation: "COCOeval_faster", max_detections: int, federated: Federated | None = None) -> dict[str, float]:
    """Return COCO's metrics under the names of the metrics JSON, and for LVIS AP by the frequency of the classes."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    labels = evaluation.params.areaRngLbl
    at = {round(float(iou), 2): index for index, iou in enumerate(evaluation.params.iouThrs)}
    values = {"AP": mean_of_defined(precision[:, :, :, 0, -1])}
    values["AP50"] = mean_of_defined(precision[at[0.5], :, :, 0, -1])
    values["AP75"] = mean_of_defined(precision[at[0.75], :, :, 0, -1])
    for name, area in AREAS.items():
        values[name] = mean_of_defined(precision[:, :, :, labels.index(area), -1])
    if federated is not None and federated.frequency:
        of_class = [federated.frequency.get(id) for id in evaluation.params.catIds]
        for name, frequency in FREQUENCIES.items():
            rows = [index for index, one in enumerate(of_class) if one == frequency]
            values[name] = mean_of_defined(precision[:, :, rows, 0, -1])
    values[f"AR@{max_detections}"] = mean_of_defined(recall[:, :, 0, -1])
    return values


def recalls(evaluation: "COCOeval_faster") -> dict[str, float]:
    """Return COCO's average recalls: with at most 1, 10 and N results for each image and class, and for each size."""
    recall = evaluation.eval["recall"]
    labels = evaluation.params.areaRngLbl
    values = {
        f"AR@{count}": mean_of_defined(recall[:, :, 0, index]) for index, count in enumerate(evaluation.params.maxDets)
    }
    return values | {
        name.replace("AP", "AR"): mean_of_defined(recall[:, :, labels.index(area), -1]) for name, area in AREAS.items()
    }


def mean_of_defined(values: np.ndarray) -> float:
    """Return the mean over the defined values (COCO marks classes without instances by -1), or -1 without any."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0


DOT = {"size": [1, 1], "counts": "1"}
"""Replaces the mask of a result that cannot be a true positive: it overlaps nothing and its boundary is cheap."""


def boundary_metrics(comparison: Comparison, images: Sequence[Matched], max_detections: int) -> dict[str, float]:
    """Compute the metrics of `segm` in `coco_metrics` with boundary IoU; `images` are the results matched by masks."""
    evaluation = boundary_evaluation(comparison, images, max_detections)
    evaluation.evaluate()
    evaluation.accumulate()
    return summary(evaluation, max_detections, comparison.federated)


def boundary_evaluation(comparison: Comparison, images: Iterable[Matched], max_detections: int) -> "COCOeval_faster":
    """Prepare COCO's evaluation by boundaries.

    Most results overlap no instance of their class with IoU 0.5. They are false positives at every threshold, so their
    boundary is not computed: boundaries take nearly all of the time.
    """
    evaluation = evaluation_of("boundary", comparison, max_detections)
    near = np.zeros(len(comparison.results), bool)
    for image in images:
        own = image.labels[:, None] == image.object_labels[None]
        near[image.results] = ((image.ious >= IOU) & own).any(1)
    for index in np.flatnonzero(~near):
        evaluation.cocoDt.anns[int(index) + 1]["segmentation"] = DOT
    return evaluation
