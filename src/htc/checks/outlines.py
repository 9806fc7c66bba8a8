"""Checks of masks: faults of segmentations, crowds, and instances without a mask."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from htc.checks.findings import Edit, Finding, annotation_finding, chosen
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import AnnotationEntry, crowd_fault
from htc.data.columns import ISCROWD, LISTED_RUNS, POLYGONS, STATED_ISCROWD, TEXT_RUNS
from htc.data.record_values import flag, is_number
from htc.data.segmentation import SegmentationFault, read_outline

CONFIRMED = 1.0
"""Maximum difference in pixels between the box of a repaired outline and the annotated box for a safe repair."""


def segmentations(part: AnnotationFile) -> Iterator[Finding]:
    """Report every fault of every segmentation, with its safe repair."""
    for one in chosen(part, part.table.doubtful):
        for fault in one.outline.faults:
            yield _finding(part, one, fault)


def _finding(part: AnnotationFile, one: AnnotationEntry, fault: SegmentationFault) -> Finding:
    kept, fixed_by = fault.kept, fault.fixed_by
    if fault.code == "polygon-odd" and kept is None:
        kept, fixed_by = _without_last(one), "the single last number removed, which agrees with the annotated box"
    edits: tuple[Edit, ...] = ()
    if kept:
        edits = (Edit("annotations", one.position, {"segmentation": kept}),)
    elif kept is not None:
        edits, fixed_by = without_mask(one)
    return annotation_finding(part, one, fault.code, fault.what, edits, fixed_by)


def without_mask(one: AnnotationEntry) -> tuple[tuple[Edit, ...], str]:
    """Return the correction of an instance with an empty outline: keep its box if it is valid, else remove it."""
    box = one.box
    if box is not None and box[2] >= 1 and box[3] >= 1:
        return (Edit("annotations", one.position, {"segmentation": []}),), "the outline removed, the box kept"
    return (Edit("annotations", one.position, None),), "the annotation removed"


def _without_last(one: AnnotationEntry) -> list[Any] | None:
    """Return the polygons without the last number of odd ones, if their box is then the annotated one."""
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
    annotated = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return even if max(abs(a - b) for a, b in zip(outline.box, annotated, strict=True)) <= CONFIRMED else None


def missing_masks(part: AnnotationFile) -> Iterator[Finding]:
    """Report, once, instances that have only a box, and a training set none of whose images trains masks."""
    table = part.table
    objects = ~table.crowd
    bare = ~table.segmented & table.boxed & objects
    if not bare.any():
        return
    unmasked = np.unique(table.images[bare])
    what = f"{bare.sum()} of {objects.sum()} instances have only a box, on {len(unmasked)} of {len(part.images)} images"
    first = part.annotations[int(np.argmax(bare))]
    yield Finding("mask-missing", what, part.file, first.image.id, first.image.path, first.id, first.where)
    masked = table.segmented & objects
    if part.name != "val" and masked.any() and np.isin(table.images[masked], unmasked).all():
        what = (
            f"{masked.sum()} instances have a mask, but each of their images also has an instance without one: no "
            f"mask is learned"
        )
        yield Finding("mask-unlearned", what, part.file, first.image.id, first.image.path, first.id, first.where)


def crowds(part: AnnotationFile) -> Iterator[Finding]:
    """Report `iscrowd` that is not 0 or 1, that is missing for an RLE mask, or that is 1 for polygons."""
    if part.columns is None:
        outlined = any(
            isinstance(one.record.get("segmentation"), list) and one.record["segmentation"] for one in part.annotations
        )
        suspects = part.annotations
    else:
        flags = part.columns.flags
        outlined = bool((flags & POLYGONS).any())
        unsaid = (flags & STATED_ISCROWD == 0) & (flags & (TEXT_RUNS | LISTED_RUNS) != 0) & outlined
        suspects = chosen(part, ((flags & ISCROWD != 0) & (flags & POLYGONS != 0)) | unsaid)
    for one in suspects:
        iscrowd, segmentation = flag(one.record.get("iscrowd")), one.record.get("segmentation")
        finding = None
        fault = crowd_fault(one)
        if fault is not None:
            finding = (fault.code, fault.what)
        elif iscrowd and isinstance(segmentation, list) and segmentation:
            finding = (
                "crowd-polygon",
                f"it is a crowd of {len(segmentation)} polygon{'s' if len(segmentation) > 1 else ''}",
            )
        elif iscrowd is None and isinstance(segmentation, dict) and outlined:
            finding = ("crowd-unsaid", "it has an RLE mask, other instances have polygons, and iscrowd is missing")
        if finding is not None:
            yield annotation_finding(part, one, *finding)


OUTLINE_CHECKS = (segmentations, missing_masks, crowds)
