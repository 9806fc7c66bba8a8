"""The findings of checks: where a dataset is faulty, what is wrong, and the safe correction if there is one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import AnnotationEntry
from htc.data.faults import RecordFault

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
Box = tuple[float, float, float, float]
ListName = Literal["images", "annotations", "categories"]


@dataclass(frozen=True)
class Edit:
    """One change to one record of an annotation file."""

    part: ListName
    position: int
    """Index in that list."""
    change: Mapping[str, Any] | None
    """New values of fields; None removes the record."""


@dataclass(frozen=True)
class Finding:
    """One fault of a dataset. `htc.checks.kinds.FINDING_KINDS[code]` has why it matters and what to do."""

    code: str
    what: str
    """What is wrong, with numbers; begins in lower case."""
    file: Path
    """The faulty annotation file, image or map."""
    image: int | str | None = None
    """Image id."""
    image_path: Path | None = None
    """The image to show."""
    annotation: int | str | None = None
    """Annotation id."""
    box: Box | None = None
    """Region to show, xyxy in pixels of the image."""
    rings: tuple[tuple[float, ...], ...] = ()
    """Outlines to draw: x, y, x, y, ..."""
    edits: tuple[Edit, ...] = ()
    """The correction; empty if only a person can decide."""
    fixed_by: str = field(default="")
    """What the edits do."""
    image_name: str = ""
    """`file_name` of the image."""

    @property
    def location(self) -> str:
        """Annotation and image, as named in messages; the file's name if there are none."""
        named = f", {self.image_name}" if self.image_name else ""
        if self.annotation is not None:
            return f"annotation {self.annotation} (image {self.image}{named})"
        if self.image is None:
            return self.file.name
        return f"image {self.image} ({self.image_name})" if self.image_name else f"image {self.image}"


def named(part: AnnotationFile, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Add the image's file name to findings that have its id."""
    for finding in findings:
        entry = None if finding.image is None or finding.image_name else part.by_id.get(finding.image)
        yield finding if entry is None else replace(finding, image_name=entry.name)


def annotation_finding(
    part: AnnotationFile,
    one: AnnotationEntry,
    code: str,
    what: str,
    edits: tuple[Edit, ...] = (),
    fixed_by: str = "",
    where: Box | None = None,
) -> Finding:
    """Build a finding about one annotation; the region to show is `where`, else that of the annotation."""
    rings = tuple(tuple(ring) for ring in one.outline.drawn or ())
    box = where or one.where
    return Finding(code, what, part.file, one.image.id, one.image.path, one.id, box, rings, edits, fixed_by)


def record_finding(
    part: AnnotationFile, fault: RecordFault, edits: tuple[Edit, ...] = (), fixed_by: str = ""
) -> Finding:
    """Convert a fault that the reader of annotation files reports into a finding."""
    image = None if fault.image is None else part.by_id.get(fault.image)
    path = None if image is None else image.path
    return Finding(
        fault.code, fault.what, part.file, fault.image, path, fault.annotation, edits=edits, fixed_by=fixed_by
    )


def chosen(part: AnnotationFile, which: Bool[np.ndarray, " N"]) -> Iterator[AnnotationEntry]:
    """The annotations that `which` selects; all others of a million are not built."""
    return (part.annotations[index] for index in np.flatnonzero(which).tolist())
