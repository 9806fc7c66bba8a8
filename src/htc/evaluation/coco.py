"""COCO's average precision and recall of boxes and masks, by faster-coco-eval; the numbers are pycocotools' own.

Two habits of the COCO tools are not followed. Their summary always takes average precision over 100 detections a picture,
whatever was asked for: here it is over `max_detections`. And a result that carries a box gets the *box's* area, which moves
mask AP_S/M/L: here the mask evaluation sees masks alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as rle_codec

from htc.errors import DataError
from htc.evaluation.files import read_annotations

Metrics = dict[str, dict[str, Any]]
Annotation = dict[str, Any]

AREAS = {"APs": "small", "APm": "medium", "APl": "large"}


def coco_metrics(annotations: str | Path | Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int = 100) -> Metrics:
    """COCO numbers of `results`, a list of COCO result dicts in original pixels, against an annotation file or its content.

    Returns `{"bbox": {AP, AP50, AP75, APs, APm, APl, AR@N}, "segm": {...}, "per_class": {name: {"bbox": AP, "segm": AP}}}` with
    values 0..1, -1 where there is nothing to measure; N is `max_detections`, the number of best detections of a picture
    and class that count. Without a mask in any result (or object) there is no `segm`. Crowds are ignored regions.

    Raises `DataError` for results of unknown pictures or categories, or of which only some have masks.
    """
    truth = read_annotations(annotations)
    check_results(truth, results)
    numbers: Metrics = {}
    names = _class_names(truth)
    per_class: dict[str, dict[str, float]] = {name: {} for name in names}
    kinds = ["bbox", "segm"] if _with_masks(truth, results) else ["bbox"]
    for kind in kinds:
        evaluation = evaluation_of(kind, truth, results, max_detections)
        evaluation.evaluate()
        evaluation.accumulate()
        numbers[kind] = _summary(evaluation, max_detections)
        for index, name in enumerate(names):
            per_class[name][kind] = mean_of_defined(evaluation.eval["precision"][:, :, index, 0, -1])
    return {**numbers, "per_class": per_class}


def check_results(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Raises `DataError` that names the first result which cannot be matched with the annotations, and what to do."""
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    for index, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing or not ("bbox" in result or "segmentation" in result):
            lacks = ", ".join(missing) or "bbox and segmentation"
            raise DataError(f"result {index} lacks {lacks}: a COCO result has image_id, category_id, score and bbox or segmentation")
        if result["image_id"] not in images:
            raise DataError(
                f"result {index} is of image_id {result['image_id']!r}, which the annotations do not have: "
                "give the annotations of the same pictures (htc predict --annotations FILE takes their ids by file name)"
            )
        if result["category_id"] not in categories:
            known = ", ".join(f"{key} {name}" for key, name in list(categories.items())[:8])
            raise DataError(f"result {index} is of category_id {result['category_id']!r}, which the annotations do not have; they know {known}")
        if not math.isfinite(result["score"]):
            raise DataError(f"result {index} has score {result['score']}: scores must be finite")


def _with_masks(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether masks can be measured. Without any result the annotations decide, so that a model that finds nothing scores 0."""
    objects = [a for a in truth["annotations"] if not a.get("iscrowd", 0)]
    annotated = [bool(a.get("segmentation")) for a in objects]
    found = ["segmentation" in result for result in results]
    if (results and not any(found)) or (annotated and not any(annotated)):
        return False
    if not all(found):
        raise DataError(f"result {found.index(False)} has no segmentation, others have: give all results a mask, or none")
    if not all(annotated):
        bad = objects[annotated.index(False)]["id"]
        raise DataError(f"annotation {bad} has no segmentation, others have: masks are measured where every object has one; add it or remove the object")
    return True


def _class_names(truth: Mapping[str, Any]) -> list[str]:
    """Names in the order of ids, as the evaluation has them; a name that occurs twice carries its id."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    return [f"{c['name']} ({c['id']})" if names.count(c["name"]) > 1 else c["name"] for c in categories]


def evaluation_of(kind: str, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], max_detections: int) -> COCOeval_faster:
    """COCO's evaluation of boxes (`bbox`) or masks (`segm`), ready to run, on copies: the COCO tools write into what they are given."""
    # Pictures are numbered anew, in order, since ids may be strings; objects too, since an id of 0 counts as "unmatched".
    numbers = {image: number for number, image in enumerate(sorted((i["id"] for i in truth["images"]), key=_order), start=1)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    images = [{"id": numbers[i["id"]], "height": i["height"], "width": i["width"]} for i in truth["images"]]
    objects = [_object(kind, a, index, numbers, sizes) for index, a in enumerate(truth["annotations"], start=1)]
    reference = COCO({"images": images, "annotations": objects, "categories": [dict(c) for c in truth["categories"]]})
    found = [_result(kind, r, numbers, sizes) for r in results]
    evaluation = COCOeval_faster(reference, reference.loadRes(found), "segm" if kind == "segm" else "bbox")
    evaluation.params.maxDets = [max_detections]
    return evaluation


def _order(image_id: int | str) -> tuple[bool, int, str]:
    return (True, 0, image_id) if isinstance(image_id, str) else (False, image_id, "")


def _object(kind: str, annotation: Mapping[str, Any], number: int, images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]) -> Annotation:
    crowd = int(annotation.get("iscrowd", 0))
    copy: Annotation = {"id": number, "image_id": images[annotation["image_id"]], "category_id": annotation["category_id"], "iscrowd": crowd}
    copy["bbox"] = list(annotation["bbox"])
    height, width = sizes[annotation["image_id"]]
    if kind == "segm":
        # A crowd without a mask is its box.
        copy["segmentation"] = to_rle(annotation.get("segmentation") or [_corners(annotation["bbox"])], height, width)
    if "area" in annotation:
        copy["area"] = annotation["area"]
    elif annotation.get("segmentation"):
        copy["area"] = float(rle_codec.area(to_rle(annotation["segmentation"], height, width)))
    else:
        copy["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    return copy


def _result(kind: str, result: Mapping[str, Any], images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]) -> Annotation:
    copy: Annotation = {"image_id": images[result["image_id"]], "category_id": result["category_id"], "score": float(result["score"])}
    if kind == "bbox" and "bbox" in result:
        copy["bbox"] = list(result["bbox"])
        return copy
    rle = to_rle(result["segmentation"], *sizes[result["image_id"]])
    if kind == "bbox":
        copy["bbox"] = rle_codec.toBbox(rle).tolist()
    else:
        copy["segmentation"] = rle
    return copy


def _corners(bbox: Sequence[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x, y + height, x + width, y + height, x + width, y]


def to_rle(segmentation: Any, height: int, width: int) -> Any:
    """A compressed RLE (`size`, `counts`) of polygons, uncompressed or compressed RLE of a picture of that size."""
    if isinstance(segmentation, list):
        return rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle_codec.frPyObjects(segmentation, height, width)
    return {"size": segmentation["size"], "counts": segmentation["counts"]}


def _summary(evaluation: COCOeval_faster, max_detections: int) -> dict[str, float]:
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


def mean_of_defined(values: np.ndarray) -> float:
    """Mean over what is defined (COCO marks classes without objects by -1), else -1."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
