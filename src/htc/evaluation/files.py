"""Annotation and result files as the evaluation reads them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from htc.data.annotation_file import KIND, LISTS, annotation_file, read_annotation_file
from htc.data.coco import ground_truth_of
from htc.errors import DataError
from htc.files import read_json


def read_annotations(annotations: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """A COCO annotation file, or its content, with everything that an evaluation needs; raises `DataError`."""
    return _ground_truth(annotations, LISTS)


def read_images(path: str | Path) -> Mapping[str, Any]:
    """A COCO annotation file for its images; it need not have annotations. Raises `DataError`."""
    return _ground_truth(path, ("images", "categories"))


def image_ids_by_name(path: str | Path) -> dict[str, int | str]:
    """The image ids of a COCO annotation file by file name; it needs no annotations; raises `DataError`."""
    return {image["file_name"]: image["id"] for image in read_images(path)["images"]}


def has_objects(path: str | Path) -> bool:
    """Whether a file has a list of annotations: COCO's test images come with images and categories alone; raises
    `DataError`.
    """
    content = read_json(Path(path), KIND)
    return not isinstance(content, Mapping) or "annotations" in content


def _ground_truth(annotations: str | Path | Mapping[str, Any], lists: tuple[str, ...]) -> Mapping[str, Any]:
    if isinstance(annotations, str | Path):
        file = read_annotation_file(Path(annotations), None, lists=lists)
    else:
        file = annotation_file(annotations, Path("the annotations"), lists=lists)
    return ground_truth_of(replace(file, names_needed=False))


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """A COCO result file, one list of dicts; raises `DataError`."""
    content = read_json(Path(path), "a COCO result file (.json)")
    if not isinstance(content, list) or not all(isinstance(result, dict) for result in content):
        raise DataError(
            f"results: {path} is not a COCO result file: one list of objects with image_id, category_id, score, bbox, "
            f"segmentation"
        )
    return content
