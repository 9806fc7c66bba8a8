"""Annotations and results in one common form: checked, with the same ids, masks as RLE with their areas.

Every metric starts from a `Comparison`, so that a file is parsed only once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as rle_codec

from htc.data.coco_records import usable_box
from htc.data.mask_encodings import valid_counts
from htc.data.record_values import KnownIds, is_number, short
from htc.data.segmentation import EMPTY, parse_segmentation
from htc.errors import DataError
from htc.evaluation.files import read_annotations
from htc.files import uncollected

Annotation = dict[str, Any]
EncodedMask = Any
"""COCO's compressed RLE, `{"size": [height, width], "counts": str or bytes}`."""


@dataclass(frozen=True)
class Federated:
    """What LVIS's annotations say about classes that are not annotated in every image (Gupta et al. 2019, section 4.2).

    In an image, only results of its annotated classes and of its negative classes are evaluated; of its
    non-exhaustively annotated classes, results without an instance are ignored.
    """

    not_exhaustive: tuple[frozenset[int], ...]
    """Categories of which an image may have further instances, in the order of the images."""
    negative: tuple[frozenset[int], ...]
    """Categories of which an image has no instance."""
    frequency: Mapping[int, str]
    """`r` (rare), `c` (common) or `f` (frequent) in the training images, by category."""


@dataclass(frozen=True)
class Comparison:
    """Ground-truth instances (`objects`) and results of the same images.

    `objects` and `results` are COCO annotations without masks: `id` (1 + the index in `object_masks` and
    `result_masks`), `image_id` (1 + the index in `image_ids`), `category_id`, `bbox` (xywh), `area` (as annotated; of a
    result: its box's), `iscrowd`, and `score`.
    """

    image_ids: tuple[int | str, ...]
    """The original ids of the images, in order."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image."""
    categories: tuple[tuple[int, str], ...]
    """(id, name) of each category, ordered by id; the id is appended to a name that occurs twice."""
    objects: list[Annotation]
    results: list[Annotation]
    object_masks: list[EncodedMask] | None
    """None if masks cannot be compared."""
    result_masks: list[EncodedMask] | None
    boxes_only: frozenset[int] = frozenset()
    """Ids of the instances without a mask while others have one: for masks, their box is a crowd region."""
    federated: Federated | None = None
    """For LVIS; None: every class is annotated in every image."""

    @cached_property
    def compared_objects(self) -> list[Annotation]:
        """The instances, those without a mask as crowds if masks are compared."""
        if not self.with_masks or not self.boxes_only:
            return self.objects
        return [{**item, "iscrowd": 1} if item["id"] in self.boxes_only else item for item in self.objects]

    @property
    def with_masks(self) -> bool:
        """Whether masks can be compared."""
        return self.object_masks is not None and self.result_masks is not None

    @property
    def images(self) -> list[dict[str, Any]]:
        """COCO images with ids from 1."""
        images: list[dict[str, Any]] = [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in enumerate(self.sizes, start=1)
        ]
        if self.federated is not None:
            for image, negative, doubtful in zip(
                images, self.federated.negative, self.federated.not_exhaustive, strict=True
            ):
                image |= {"neg_category_ids": sorted(negative), "not_exhaustive_category_ids": sorted(doubtful)}
        return images

    def by_image(self) -> Iterator[tuple[list[Annotation], list[Annotation]]]:
        """Yield the instances and the results of each image, the results by descending score (a stable sort)."""
        objects: list[list[Annotation]] = [[] for _ in self.image_ids]
        results: list[list[Annotation]] = [[] for _ in self.image_ids]
        for item in self.compared_objects:
            objects[item["image_id"] - 1].append(item)
        for item in self.results:
            results[item["image_id"] - 1].append(item)
        for annotated, predicted in zip(objects, results, strict=True):
            yield annotated, sorted(predicted, key=lambda item: -item["score"])


@uncollected()
def compare(
    annotations: Mapping[str, Any] | Any, results: Sequence[Mapping[str, Any]], max_detections: int | None = None
) -> Comparison:
    """Bring COCO results and COCO annotations (a file or its content) into a `Comparison`; neither is changed.

    For LVIS, only the `max_detections` best results of an image (None: all) are taken, and of these only those of
    classes that are annotated in it.

    Images and instances get new ids from 1, in order: their own ids may be strings, and the COCO tools read id 0 as
    "unmatched". Raises `DataError` if results belong to unknown images or categories, have no valid score or box, or if
    only some have masks.
    """
    ground_truth = read_annotations(annotations)
    results = checked_results(ground_truth, results)
    if is_federated(ground_truth):
        results = _verified(ground_truth, results, max_detections)
    ordered = sorted(ground_truth["images"], key=lambda image: _order(image["id"]))
    numbers = {image["id"]: number for number, image in enumerate(ordered, start=1)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in ordered}
    object_masks = result_masks = None
    boxes_only: frozenset[int] = frozenset()
    if _with_masks(ground_truth, results):
        # The box serves as the mask of a crowd or an instance without one.
        boxes_only = frozenset(
            number
            for number, a in enumerate(ground_truth["annotations"], start=1)
            if not a.get("segmentation") and not a.get("iscrowd", 0)
        )
        object_masks = [
            to_rle(a.get("segmentation") or [_corners(a["bbox"])], *sizes[a["image_id"]])
            for a in ground_truth["annotations"]
        ]
        result_masks = [to_rle(r["segmentation"], *sizes[r["image_id"]]) for r in results]
    return Comparison(
        image_ids=tuple(numbers),
        sizes=tuple(sizes.values()),
        categories=_names(ground_truth),
        objects=[_object(a, number, numbers, sizes) for number, a in enumerate(ground_truth["annotations"], start=1)],
        results=[_result(r, number, numbers, sizes) for number, r in enumerate(results, start=1)],
        object_masks=object_masks,
        result_masks=result_masks,
        boxes_only=boxes_only,
        federated=_federated(ground_truth, ordered),
    )


def is_federated(ground_truth: Mapping[str, Any]) -> bool:
    """Return whether annotations are LVIS's, whose images list their negative classes."""
    return any("neg_category_ids" in image for image in ground_truth["images"])


def _federated(ground_truth: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> Federated | None:
    if not is_federated(ground_truth):
        return None
    doubtful, negative = (
        tuple(frozenset(image.get(key) or ()) for image in images)
        for key in ("not_exhaustive_category_ids", "neg_category_ids")
    )
    categories = ground_truth["categories"]
    frequency = {category["id"]: category["frequency"] for category in categories if category.get("frequency")}
    return Federated(doubtful, negative, frequency)


def _verified(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], most: int | None
) -> list[Mapping[str, Any]]:
    """Return the best results of each image, as LVIS's evaluation takes them, of classes that are annotated in it."""
    allowed = {image["id"]: set(image.get("neg_category_ids") or ()) for image in ground_truth["images"]}
    for annotation in ground_truth["annotations"]:
        allowed[annotation["image_id"]].add(annotation["category_id"])
    counts: dict[int | str, int] = {}
    kept: list[int] = []
    for index in sorted(range(len(results)), key=lambda index: -results[index]["score"]):
        result = results[index]
        image = result["image_id"]
        counts[image] = counts.get(image, 0) + 1
        if (most is None or counts[image] <= most) and result["category_id"] in allowed[image]:
            kept.append(index)
    return [results[index] for index in sorted(kept)]


def checked_results(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """The results, with the ids of the annotations where these are written as text or float.

    Raises a `DataError` that names the first result that cannot be used or does not belong to the annotations, and what
    to do.
    """
    images = KnownIds(image["id"] for image in ground_truth["images"])
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    categories = KnownIds(names)
    checked: list[Mapping[str, Any]] = []
    for index, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        with_mask = result.get("segmentation") not in EMPTY
        if missing or not (result.get("bbox") is not None or with_mask):
            keys = ", ".join(missing) or "bbox and segmentation"
            raise DataError(
                f"result {index}: {keys} missing; a COCO result has image_id, category_id, score and bbox or "
                f"segmentation"
            )
        image, category = images.find(result["image_id"]), categories.find(result["category_id"])
        if image is None:
            raise DataError(
                f"result {index}: image_id {short(result['image_id'])} is not in the annotations. Use the annotations "
                "of the same images (htc predict --annotations FILE writes their ids)"
            )
        if category is None:
            known = ", ".join(f"{key} {name}" for key, name in list(names.items())[:8])
            raise DataError(
                f"result {index}: category_id {short(result['category_id'])} is not in the annotations, whose "
                f"categories are {known}"
            )
        if not is_number(result["score"]):
            raise DataError(f"result {index}: score {short(result['score'])} is not a finite number")
        if result.get("bbox") is not None and usable_box(result["bbox"]) is None:
            raise DataError(
                f"result {index} (image {image}): bbox {short(result['bbox'])} is not [x, y, width, height], four "
                f"finite numbers with sizes that are not negative"
            )
        changed: dict[str, Any] = {}
        if type(result["image_id"]) is not type(image):
            changed["image_id"] = image
        if type(result["category_id"]) is not int:
            changed["category_id"] = category
        unused = [key for key in ("bbox", "segmentation") if key in result and result[key] in EMPTY]
        if changed or unused:
            kept = {key: value for key, value in result.items() if key not in unused}
            checked.append({**kept, **changed})
        else:
            checked.append(result)
    return checked


def check_masks(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Raise a `DataError` that names the first result whose segmentation cannot be decoded; `results` are checked."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    texts: list[tuple[int, bytes, int]] = []
    for index, result in enumerate(results):
        value = result.get("segmentation")
        if value is None:
            continue
        height, width = sizes[result["image_id"]]
        counts = value.get("counts") if isinstance(value, dict) else None
        if isinstance(counts, str) and counts.isascii() and value.get("size") == [height, width]:
            texts.append((index, counts.encode(), height * width))
            continue
        parsed = parse_segmentation(value, height, width)
        if parsed.faults or parsed.understood or parsed.segmentation is None:
            what = parsed.faults[0].what if parsed.faults else parsed.understood or "its segmentation is empty"
            raise _mask_error(index, result, what)
    valid = valid_counts([text for _, text, _ in texts], np.array([pixels for _, _, pixels in texts], np.int64))
    if not valid.all():
        index = texts[int(np.argmin(valid))][0]
        height, width = sizes[results[index]["image_id"]]
        faults = parse_segmentation(results[index]["segmentation"], height, width).faults
        raise _mask_error(index, results[index], faults[0].what if faults else "its run-length text is damaged")


def _mask_error(index: int, result: Mapping[str, Any], what: str) -> DataError:
    return DataError(f"result {index} (image {result['image_id']}): {what}; export the results again")


def to_rle(segmentation: Any, height: int, width: int) -> EncodedMask:
    """Encode polygons, uncompressed or compressed RLE of an image of this size as compressed RLE (`size`, `counts`)."""
    if isinstance(segmentation, list):
        return rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle_codec.frPyObjects(segmentation, height, width)
    return segmentation


def _with_masks(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether masks can be evaluated. Without results the annotations decide, so that a model without
    predictions scores 0.
    """
    objects = [a for a in ground_truth["annotations"] if not a.get("iscrowd", 0)]
    annotated = [bool(a.get("segmentation")) for a in objects]
    predicted = [result.get("segmentation") not in EMPTY for result in results]
    if (results and not any(predicted)) or (annotated and not any(annotated)):
        return False
    if not all(predicted):
        raise DataError(
            f"result {predicted.index(False)} has no segmentation, but others have one: every result or none must have "
            f"a mask"
        )
    return True


def _names(ground_truth: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    return tuple((c["id"], f"{c['name']} ({c['id']})" if names.count(c["name"]) > 1 else c["name"]) for c in categories)


def _order(image_id: int | str) -> tuple[bool, int, str]:
    return (True, 0, image_id) if isinstance(image_id, str) else (False, image_id, "")


def _object(
    annotation: Mapping[str, Any], number: int, images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]
) -> Annotation:
    image, box = annotation["image_id"], list(annotation["bbox"])
    if annotation.get("area") is not None:
        area = annotation["area"]
    elif annotation.get("segmentation"):
        area = float(rle_codec.area(to_rle(annotation["segmentation"], *sizes[image])))
    else:
        area = box[2] * box[3]
    crowd = int(annotation.get("iscrowd", 0))
    return {
        "id": number,
        "image_id": images[image],
        "category_id": annotation["category_id"],
        "iscrowd": crowd,
        "bbox": box,
        "area": area,
    }


def _result(
    result: Mapping[str, Any], number: int, images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]
) -> Annotation:
    image = result["image_id"]
    box = (
        list(result["bbox"])
        if result.get("bbox") is not None
        else rle_codec.toBbox(to_rle(result["segmentation"], *sizes[image])).tolist()
    )
    where = {"id": number, "image_id": images[image], "category_id": result["category_id"], "iscrowd": 0}
    return {**where, "bbox": box, "area": box[2] * box[3], "score": float(result["score"])}


def _corners(bbox: Sequence[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x, y + height, x + width, y + height, x + width, y]
