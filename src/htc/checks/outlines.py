"""Masks: what each segmentation suffers from, crowds, and objects without a mask."""

from collections.abc import Iterator
from typing import Any

from htc.checks.findings import Edit, Finding, annotation_finding
from htc.data.annotation_file import AnnotationEntry, AnnotationFile, crowd_fault
from htc.data.segmentation import SegmentationFault, is_number, read_outline

CONFIRMED = 1.0
"""Pixels by which the box of a repaired outline may miss the stated box, for the repair to be safe."""


def segmentations(part: AnnotationFile) -> Iterator[Finding]:
    """Every fault of every segmentation, with the safe repair."""
    for one in part.annotations:
        for fault in one.outline.faults:
            yield _finding(part, one, fault)


def _finding(part: AnnotationFile, one: AnnotationEntry, fault: SegmentationFault) -> Finding:
    kept, said = fault.kept, fault.fixed_by
    if fault.code == "polygon-odd" and kept is None:
        kept, said = _without_last(one), "the lone last number left out, as the stated box confirms"
    edits: tuple[Edit, ...] = ()
    if kept:
        edits = (Edit("annotations", one.position, {"segmentation": kept}),)
    elif kept is not None:
        edits, said = without_mask(one)
    return annotation_finding(part, one, fault.code, fault.what, edits, said)


def without_mask(one: AnnotationEntry) -> tuple[tuple[Edit, ...], str]:
    """What remains of an object whose outline covers nothing: its box, if that is one; else nothing."""
    box = one.box
    if box is not None and box[2] >= 1 and box[3] >= 1:
        return (Edit("annotations", one.position, {"segmentation": []}),), "the outline left out, the box kept"
    return (Edit("annotations", one.position, None),), "the annotation removed"


def _without_last(one: AnnotationEntry) -> list[Any] | None:
    """The polygons without the last number of odd ones, if their box is the stated one."""
    box, size = one.box, one.image.size
    rings = one.record["segmentation"]
    if (
        box is None
        or size is None
        or not all(isinstance(ring, list) and all(is_number(value) for value in ring) for ring in rings)
    ):
        return None
    even = [ring[: len(ring) // 2 * 2] for ring in rings]
    outline = read_outline(even, *size)
    if outline.faults or outline.box is None:
        return None
    stated = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return even if max(abs(a - b) for a, b in zip(outline.box, stated, strict=True)) <= CONFIRMED else None


def missing_masks(part: AnnotationFile) -> Iterator[Finding]:
    """Objects with a box only, told once."""
    bare = [
        one for one in part.annotations if not one.record.get("segmentation") and one.box is not None and not one.crowd
    ]
    if bare:
        images = len({one.image.position for one in bare})
        objects = sum(not one.crowd for one in part.annotations)
        what = f"{len(bare)} of {objects} objects have a box only, on {images} of {len(part.images)} images"
        first = bare[0]
        yield Finding("mask-missing", what, part.file, first.image.id, first.image.path, first.id, first.where)


def crowds(part: AnnotationFile) -> Iterator[Finding]:
    """`iscrowd` that is no 0 or 1, that is not said, or that stands beside polygons."""
    outlined = any(
        isinstance(one.record.get("segmentation"), list) and one.record["segmentation"] for one in part.annotations
    )
    for one in part.annotations:
        said, segmentation = one.record.get("iscrowd"), one.record.get("segmentation")
        found = None
        fault = crowd_fault(one)
        if fault is not None:
            found = (fault.code, fault.what)
        elif said == 1 and isinstance(segmentation, list) and segmentation:
            found = (
                "crowd-polygon",
                f"it is a crowd of {len(segmentation)} polygon{'s' if len(segmentation) > 1 else ''}",
            )
        elif said is None and isinstance(segmentation, dict) and outlined:
            found = ("crowd-unsaid", "it has run lengths, where other objects have polygons, and no iscrowd")
        if found is not None:
            yield annotation_finding(part, one, *found)


OUTLINE_CHECKS = (segmentations, missing_masks, crowds)
