"""What a check reports: where a dataset is faulty, what is wrong there, and the safe correction if there is one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from htc.data.annotation_file import AnnotationEntry, AnnotationFile
from htc.data.faults import RecordFault

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Edit:
    """One change to one record of an annotation file."""

    part: Literal["images", "annotations", "categories"]
    position: int
    """In that list."""
    change: Mapping[str, Any] | None
    """New values of fields; None removes the record."""


@dataclass(frozen=True)
class Finding:
    """One fault at one place; why it matters and what to do stands in `htc.checks.kinds.FINDING_KINDS[code]`."""

    code: str
    what: str
    """What is wrong here, with its numbers; begins in lower case."""
    file: Path
    """The annotation file, image or map that has the fault."""
    image: int | str | None = None
    image_path: Path | None = None
    """The image to look at."""
    annotation: int | str | None = None
    box: Box | None = None
    """xyxy in pixels of the image: where to look."""
    rings: tuple[tuple[float, ...], ...] = ()
    """Outlines x, y, x, y, ... to draw."""
    edits: tuple[Edit, ...] = ()
    """What corrects it; empty where only a person can decide."""
    fixed_by: str = field(default="")
    """What the edits do."""

    @property
    def place(self) -> str:
        """Annotation and image, as a message names them."""
        if self.annotation is not None:
            return f"annotation {self.annotation} (image {self.image})"
        return f"image {self.image}" if self.image is not None else self.file.name


def annotation_finding(
    part: AnnotationFile,
    one: AnnotationEntry,
    code: str,
    what: str,
    edits: tuple[Edit, ...] = (),
    fixed_by: str = "",
    where: Box | None = None,
) -> Finding:
    """A finding about one annotation, to be seen at `where` (or else where the annotation is)."""
    rings = tuple(tuple(ring) for ring in one.outline.drawn or ())
    box = where or one.where
    return Finding(code, what, part.file, one.image.id, one.image.path, one.id, box, rings, edits, fixed_by)


def record_finding(
    part: AnnotationFile, fault: RecordFault, edits: tuple[Edit, ...] = (), fixed_by: str = ""
) -> Finding:
    """A fault of the reader as a finding."""
    image = None if fault.image is None else part.by_id.get(fault.image)
    path = None if image is None else image.path
    return Finding(
        fault.code, fault.what, part.file, fault.image, path, fault.annotation, edits=edits, fixed_by=fixed_by
    )
