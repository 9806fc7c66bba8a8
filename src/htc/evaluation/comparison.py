"""Annotations and results on common ground: checked, numbered alike, masks as run lengths with their areas.

Everything that measures results begins here, so that a file is taken apart once, whatever is measured afterwards.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as rle_codec

from htc.errors import DataError
from htc.evaluation.files import read_annotations
from htc.files import uncollected

Annotation = dict[str, Any]
EncodedMask = Any
"""COCO's compressed run lengths, `{"size": [height, width], "counts": str or bytes}`; the COCO tools have types of
their own for it.
"""


@dataclass(frozen=True)
class Comparison:
    """Objects and results of the same images.

    `objects` and `found` are COCO annotations without masks: `id` (from 1, their place in `object_masks` and
    `found_masks`), `image_id` (from 1, the place in `image_ids`), `category_id`, `bbox` (xywh), `area` (of the object
    as annotated, of a result's box), `iscrowd`, and `score`.
    """

    image_ids: tuple[int | str, ...]
    """The images' own ids, in order."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each image."""
    categories: tuple[tuple[int, str], ...]
    """(id, name) of each category, by id; a name that occurs twice carries its id."""
    objects: list[Annotation]
    found: list[Annotation]
    object_masks: list[EncodedMask] | None
    """None where masks cannot be compared."""
    found_masks: list[EncodedMask] | None

    @property
    def with_masks(self) -> bool:
        """Whether masks can be compared."""
        return self.object_masks is not None and self.found_masks is not None

    @property
    def images(self) -> list[dict[str, int]]:
        """COCO images, numbered from 1."""
        return [
            {"id": number, "height": height, "width": width}
            for number, (height, width) in enumerate(self.sizes, start=1)
        ]

    def by_image(self) -> Iterator[tuple[list[Annotation], list[Annotation]]]:
        """For each image its objects, as annotated, and its results, best first (equals: in the order they were
        given).
        """
        objects: list[list[Annotation]] = [[] for _ in self.image_ids]
        found: list[list[Annotation]] = [[] for _ in self.image_ids]
        for item in self.objects:
            objects[item["image_id"] - 1].append(item)
        for item in self.found:
            found[item["image_id"] - 1].append(item)
        for ours, theirs in zip(objects, found, strict=True):
            yield ours, sorted(theirs, key=lambda item: -item["score"])


@uncollected()
def compare(annotations: Mapping[str, Any] | Any, results: Sequence[Mapping[str, Any]]) -> Comparison:
    """Sets COCO results against COCO annotations (a file or its content); neither is changed.

    Images and objects are numbered anew from 1, in order: their own ids may be texts, and the COCO tools take an
    object of id 0 for "unmatched". Raises `DataError` for results of unknown images or categories, or of which only
    some have masks.
    """
    truth = read_annotations(annotations)
    check_results(truth, results)
    ordered = sorted(truth["images"], key=lambda image: _order(image["id"]))
    numbers = {image["id"]: number for number, image in enumerate(ordered, start=1)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in ordered}
    object_masks = found_masks = None
    if _with_masks(truth, results):
        # A crowd without a mask is its box.
        object_masks = [
            to_rle(a.get("segmentation") or [_corners(a["bbox"])], *sizes[a["image_id"]]) for a in truth["annotations"]
        ]
        found_masks = [to_rle(r["segmentation"], *sizes[r["image_id"]]) for r in results]
    return Comparison(
        image_ids=tuple(numbers),
        sizes=tuple(sizes.values()),
        categories=_names(truth),
        objects=[_object(a, number, numbers, sizes) for number, a in enumerate(truth["annotations"], start=1)],
        found=[_found(r, number, numbers, sizes) for number, r in enumerate(results, start=1)],
        object_masks=object_masks,
        found_masks=found_masks,
    )


def check_results(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Raises `DataError` that names the first result which cannot be matched with the annotations, and what to do."""
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    for index, result in enumerate(results):
        missing = [key for key in ("image_id", "category_id", "score") if key not in result]
        if missing or not ("bbox" in result or "segmentation" in result):
            lacks = ", ".join(missing) or "bbox and segmentation"
            raise DataError(
                f"result {index} lacks {lacks}: a COCO result has image_id, category_id, score and bbox or segmentation"
            )
        if result["image_id"] not in images:
            raise DataError(
                f"result {index} is of image_id {result['image_id']!r}, which the annotations do not have: "
                "give the annotations of the same images (htc predict --annotations FILE takes their ids by "
                "file name)"
            )
        if result["category_id"] not in categories:
            known = ", ".join(f"{key} {name}" for key, name in list(categories.items())[:8])
            raise DataError(
                f"result {index} is of category_id {result['category_id']!r}, which the annotations do not have; they "
                f"know {known}"
            )
        if not math.isfinite(result["score"]):
            raise DataError(f"result {index} has score {result['score']}: scores must be finite")


def to_rle(segmentation: Any, height: int, width: int) -> EncodedMask:
    """A compressed RLE (`size`, `counts`) of polygons, uncompressed or compressed RLE of an image of that size."""
    if isinstance(segmentation, list):
        return rle_codec.merge(rle_codec.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return rle_codec.frPyObjects(segmentation, height, width)
    return segmentation


def _with_masks(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether masks can be measured. Without any result the annotations decide, so that a model that finds nothing
    scores 0.
    """
    objects = [a for a in truth["annotations"] if not a.get("iscrowd", 0)]
    annotated = [bool(a.get("segmentation")) for a in objects]
    found = ["segmentation" in result for result in results]
    if (results and not any(found)) or (annotated and not any(annotated)):
        return False
    if not all(found):
        raise DataError(
            f"result {found.index(False)} has no segmentation, others have: give all results a mask, or none"
        )
    if not all(annotated):
        bad = objects[annotated.index(False)]["id"]
        raise DataError(
            f"annotation {bad} has no segmentation, others have: masks are measured where every object has one; add "
            f"it or remove the object"
        )
    return True


def _names(truth: Mapping[str, Any]) -> tuple[tuple[int, str], ...]:
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    return tuple((c["id"], f"{c['name']} ({c['id']})" if names.count(c["name"]) > 1 else c["name"]) for c in categories)


def _order(image_id: int | str) -> tuple[bool, int, str]:
    return (True, 0, image_id) if isinstance(image_id, str) else (False, image_id, "")


def _object(
    annotation: Mapping[str, Any], number: int, images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]
) -> Annotation:
    image, box = annotation["image_id"], list(annotation["bbox"])
    if "area" in annotation:
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


def _found(
    result: Mapping[str, Any], number: int, images: Mapping[Any, int], sizes: Mapping[Any, tuple[int, int]]
) -> Annotation:
    image = result["image_id"]
    box = (
        list(result["bbox"])
        if "bbox" in result
        else rle_codec.toBbox(to_rle(result["segmentation"], *sizes[image])).tolist()
    )
    where = {"id": number, "image_id": images[image], "category_id": result["category_id"], "iscrowd": 0}
    return {**where, "bbox": box, "area": box[2] * box[3], "score": float(result["score"])}


def _corners(bbox: Sequence[float]) -> list[float]:
    x, y, width, height = bbox
    return [x, y, x, y + height, x + width, y + height, x + width, y]
