"""Readers of annotation and result files for the evaluation."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from htc.data.annotation_file import KIND, LISTS, annotation_file, read_annotation_file
from htc.data.coco import ground_truth_of
from htc.data.faults import Faults
from htc.data.image_names import ListedNames
from htc.errors import DataError
from htc.files import read_json


def read_annotations(annotations: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Read a COCO annotation file, or take its content, with everything that evaluation needs; raises `DataError`."""
    return _ground_truth(annotations, LISTS)


def read_images(path: str | Path) -> Mapping[str, Any]:
    """Read the images of a COCO annotation file; annotations are optional. Raises `DataError`."""
    return _ground_truth(path, ("images", "categories"))


def listed_names(path: str | Path) -> ListedNames:
    """The image ids of a COCO annotation file by file name; annotations are optional. Raises `DataError`."""
    file = read_annotation_file(Path(path), None, lists=("images", "categories"))
    faults = Faults(file.file)
    for fault in file.image_faults:
        if fault.code != "image-size-missing":
            faults.add(fault.message)
    faults.check()
    try:
        return ListedNames((image.name, image.id) for image in file.images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def has_objects(path: str | Path) -> bool:
    """Return whether a file has a list of annotations: the files of COCO's test images have only images and categories.
    Raises `DataError`.
    """
    content = read_json(Path(path), KIND)
    return not isinstance(content, Mapping) or "annotations" in content


class GroundTruth(dict[str, Any]):
    """The content of an annotation file that has been checked for the evaluation."""


def _ground_truth(annotations: str | Path | Mapping[str, Any], lists: tuple[str, ...]) -> Mapping[str, Any]:
    if isinstance(annotations, GroundTruth):
        return annotations
    if isinstance(annotations, str | Path):
        file = read_annotation_file(Path(annotations), None, lists=lists)
    else:
        file = annotation_file(annotations, Path("the annotations"), lists=lists)
    return GroundTruth(ground_truth_of(replace(file, names_needed=False)))


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """Read a COCO result file, a list of dicts; raises `DataError`."""
    content = read_json(Path(path), "a COCO result file (.json)")
    if not isinstance(content, list) or not all(isinstance(result, dict) for result in content):
        raise DataError(
            f"results: {path} is not a COCO result file, which is a JSON list of objects with image_id, category_id, "
            f"score, bbox, segmentation"
        )
    return content
