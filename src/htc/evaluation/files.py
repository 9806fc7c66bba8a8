"""Annotation and result files as the evaluation reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from htc.data.json_file import read_json
from htc.errors import DataError

ANNOTATIONS_HINT = "COCO annotations (.json)"


def read_annotations(annotations: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """A COCO annotation file, or its content, checked for what an evaluation needs; raises `DataError`."""
    name = str(annotations) if isinstance(annotations, str | Path) else "the annotations"
    content = read_json(Path(annotations), ANNOTATIONS_HINT) if isinstance(annotations, str | Path) else annotations
    if not isinstance(content, Mapping):
        raise DataError(
            f"{name}: not COCO annotations (a JSON object with images, annotations and categories), but a "
            f"{type(content).__name__}"
        )
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise DataError(
            f"{name}: lists {', '.join(missing)} are missing; COCO annotations have images, annotations and categories"
        )
    images = {image.get("id") for image in content["images"]}
    categories = {category.get("id") for category in content["categories"]}
    for image in content["images"]:
        if not {"id", "height", "width"} <= image.keys():
            raise DataError(f"{name}: image {image.get('file_name', image.get('id'))!r} lacks id, height or width")
    for annotation in content["annotations"]:
        if not {"id", "image_id", "category_id", "bbox"} <= annotation.keys():
            raise DataError(f"{name}: annotation {annotation.get('id')} lacks image_id, category_id or bbox")
        if annotation["image_id"] not in images or annotation["category_id"] not in categories:
            raise DataError(
                f"{name}: annotation {annotation['id']} names an image or category that the file does not have"
            )
    return content


def read_pictures(path: str | Path) -> Mapping[str, Any]:
    """A COCO annotation file for the sake of its pictures: it may say nothing of objects; raises `DataError`."""
    content = read_json(Path(path), ANNOTATIONS_HINT)
    without = isinstance(content, Mapping) and "annotations" not in content
    return read_annotations({**content, "annotations": []} if without else path)


def image_ids_by_name(path: str | Path) -> dict[str, int | str]:
    """The image ids of a COCO annotation file by file name; it needs no annotations; raises `DataError`."""
    return {image["file_name"]: image["id"] for image in read_pictures(path)["images"]}


def has_objects(path: str | Path) -> bool:
    """Whether a file says anything of objects: COCO's test pictures come with images and categories alone; raises
    `DataError`.
    """
    content = read_json(Path(path), ANNOTATIONS_HINT)
    return not isinstance(content, Mapping) or "annotations" in content


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """A COCO result file, one list of dicts; raises `DataError`."""
    content = read_json(Path(path), "a COCO result file (.json)")
    if not isinstance(content, list) or not all(isinstance(result, dict) for result in content):
        raise DataError(
            f"results: {path} is not a COCO result file: one list of objects with image_id, category_id, score, bbox, "
            f"segmentation"
        )
    return content
