"""Faults of annotation files: one value per fault, and all faults of a file in one message."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from htc.errors import DataError

FAULTS_SHOWN = 5
FAULT_REMEDIES = {
    "list-empty": "export the dataset again",
    "image-record": "give it an id and a file_name",
    "image-outside": "write the path below the images folder, with forward slashes",
    "image-size-missing": "add the image's size",
    "image-id-twice": "give every image its own id",
    "annotation-record": "remove it",
    "annotation-id-twice": "give every annotation its own id",
    "annotation-without-image": "add the image or remove the annotation",
    "category-record": "correct it",
    "category-id-twice": "give every category its own id",
    "category-name-twice": "merge them, or give each its own name",
    "category-unknown": "add the category, or correct category_id",
    "crowd-value": "write 0 or 1",
    "object-empty": "give it one, or remove it",
    "box-wrong": "write four finite numbers, sizes not negative",
    "outline-unknown": "export it as COCO instances, or leave it empty for a box without mask",
    "polygon-flat": "put it in another pair of brackets",
    "polygon-not-numbers": "correct it, or remove the polygon",
    "polygon-odd": "correct it",
    "polygon-short": "outline the object, or remove the polygon",
    "polygon-taken-for-box": "outline the object with at least three points",
    "polygon-far": "correct its coordinates, or its image_id",
    "rle-size": "encode the mask again at the image's size",
    "rle-length": "encode the mask again",
    "rle-damaged": "encode the mask again, for example with pycocotools",
}
"""Remedy for each fault that makes a COCO file unusable, by its code."""


@dataclass(frozen=True, slots=True)
class RecordFault:
    """Reason why a record of a COCO file cannot be used."""

    code: str
    """A key of `FAULT_REMEDIES`."""
    what: str
    part: Literal["images", "annotations", "categories"]
    position: int | None = None
    """Index in that list; None: the whole list."""
    image: int | str | None = None
    annotation: int | str | None = None
    image_name: str = ""
    """`file_name` of the image, if it is known."""

    @property
    def message(self) -> str:
        """The record, what is wrong, and what to do."""
        image = f"image {self.image}"
        if self.annotation is not None:
            named = f", {self.image_name}" if self.image_name else ""
            record = f"annotation {self.annotation} ({image}{named}): "
        elif self.image is not None:
            record = f"{image} ({self.image_name}): " if self.image_name else f"{image}: "
        else:
            record = ""
        return f"{record}{self.what}; {FAULT_REMEDIES[self.code]}"


class Faults:
    """Collects the faults of a file; `check` raises `DataError` if there are any."""

    def __init__(self, file: Path):
        self.file = file
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        """Add one sentence: the record, what is wrong, and what to do."""
        self.messages.append(message)

    def check(self) -> None:
        """Raise `DataError` with the file and the first faults."""
        if not self.messages:
            return
        count = len(self.messages)
        if count == 1:
            raise DataError(f"{self.file}: {self.messages[0]}")
        more = f"\n  ... and {count - FAULTS_SHOWN} more" if count > FAULTS_SHOWN else ""
        lines = "".join(f"\n  {message}" for message in self.messages[:FAULTS_SHOWN])
        raise DataError(f"{self.file} has {count} faults:{lines}{more}")
