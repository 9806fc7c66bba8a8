"""Checks of boxes against image and mask, of areas against the mask's area, and of instances annotated twice."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from pycocotools import mask as coco_masks

from htc.checks.findings import Edit, Finding, annotation_finding, chosen
from htc.checks.outlines import without_mask
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import AnnotationEntry, box_fault
from htc.data.columns import EMPTY_LIST, POLYGONS
from htc.data.mask_encodings import encode_mask
from htc.data.record_values import is_number, short
from htc.data.segmentation import exact_area

XYXY = tuple[float, float, float, float]
EDGE, EDGE_SHARE = 2.5, 0.05
"""Tolerance of a box edge against the mask's box, in pixels and as a fraction of the mask's extent: boxes of whole
numbers are off by up to two pixels.
"""
AREA_SHARE = 0.1
"""Tolerance of the annotated area, as a fraction of the mask's area; half the perimeter of its box is tolerated too,
since tools compute the area of polygons differently.
"""
RELATED = 0.1
"""IoU below which box and mask may belong to two instances, so that only a person can decide which is correct."""
ROUNDING = 1.0
"""Pixels by which a box may extend outside the image."""
NEARLY = 1 - 1e-9
"""Factor of thresholds for choosing what is examined one by one, so that rounding leaves nothing out."""
SAME = 0.95
"""IoU from which two masks (boxes, if either has no mask) count as one instance."""


def boxes(part: AnnotationFile) -> Iterator[Finding]:
    """Report boxes that are missing, invalid, empty, outside the image or different from the mask's box."""
    whole = _whole_numbers(part)
    for one in chosen(part, _doubtful_boxes(part)):
        if one.image.size is None:
            continue
        finding = _box_finding(part, one, *one.image.size)
        if finding is not None:
            yield finding
    if whole is not None:
        yield whole


def _doubtful_boxes(part: AnnotationFile) -> Bool[np.ndarray, " N"]:
    """Return which annotations may have a finding of their box: in columns, those that `_box_finding` would report."""
    table, columns = part.table, part.columns
    if columns is None:
        return table.doubtful
    (x, y, w, h), sizes = columns.boxes.T, columns.sizes[columns.owners]
    over = np.max((-x, -y, x + w - sizes[:, 1], y + h - sizes[:, 0]), axis=0)
    corners = np.stack((x, y, x + w, y + h), axis=1)
    extent = np.tile(table.where[:, 2:] - table.where[:, :2], 2)
    apart = (np.abs(corners - table.where) > np.maximum(EDGE, EDGE_SHARE * extent) * NEARLY).any(1)
    return table.doubtful | (w < 1) | (h < 1) | np.where(table.segmented, apart, over > ROUNDING * NEARLY)


def _box_finding(part: AnnotationFile, one: AnnotationEntry, height: int, width: int) -> Finding | None:
    box, mask = one.box, one.outline.box if one.outline.segmentation is not None else None
    from_mask = () if mask is None else (Edit("annotations", one.position, {"bbox": _xywh(mask)}),)
    fault = box_fault(one)
    if fault is not None:
        return _finding(
            part, one, fault.code, fault.what, from_mask, "the box of the mask written" if from_mask else ""
        )
    if box is None:
        return (
            None
            if mask is None
            else _finding(part, one, "box-missing", "it has no bbox", from_mask, "the box of the mask written")
        )
    x, y, w, h = box
    corners = (x, y, x + w, y + h)
    if mask is not None:
        return _unlike(part, one, corners, mask, from_mask)
    if one.segmented:
        return None  # an unusable outline has its own finding, which this box may help to correct
    if w < 1 or h < 1:
        return _finding(
            part, one, "box-empty", f"its box is {w:g} x {h:g} pixels", without_mask(one)[0], "the annotation removed"
        )
    cut = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    over = max(-x, -y, x + w - width, y + h - height)
    if over <= ROUNDING:
        return None
    what = f"its box [{x:g}, {y:g}, {w:g}, {h:g}] extends {over:.1f} px outside the {width}x{height} image"
    if w > x and h > y and w <= width and h <= height:
        return _finding(part, one, "box-outside", f"{what}; it would fit if it were x1, y1, x2, y2", ())
    if cut[2] - cut[0] < 1 or cut[3] - cut[1] < 1:
        return _finding(
            part, one, "box-outside", what, (Edit("annotations", one.position, None),), "the annotation removed"
        )
    return _finding(
        part,
        one,
        "box-outside",
        what,
        (Edit("annotations", one.position, {"bbox": _xywh(cut)}),),
        "the box clipped to the image",
    )


def _unlike(
    part: AnnotationFile, one: AnnotationEntry, box: XYXY, mask: XYXY, from_mask: tuple[Edit, ...]
) -> Finding | None:
    """Compare the annotated box (xyxy) with the mask's box."""
    extent = (mask[2] - mask[0], mask[3] - mask[1])
    apart = [abs(a - b) for a, b in zip(box, mask, strict=True)]
    allowed = [max(EDGE, EDGE_SHARE * extent[axis % 2]) for axis in range(4)]
    if (box[2] - box[0] < 1 or box[3] - box[1] < 1) and min(extent) >= 1:
        return _finding(
            part,
            one,
            "box-empty",
            f"its box is {box[2] - box[0]:g} x {box[3] - box[1]:g} pixels",
            from_mask,
            "the box of the mask written",
        )
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        what = f"its box is {box[2] - box[0]:g} x {box[3] - box[1]:g} pixels, and so is its mask"
        return _finding(
            part, one, "box-empty", what, (Edit("annotations", one.position, None),), "the annotation removed"
        )
    if all(a <= b for a, b in zip(apart, allowed, strict=True)):
        return None
    as_corners = (box[0], box[1], box[2] - box[0], box[3] - box[1])
    hint = (
        "; it appears to be x1, y1, x2, y2 instead of x, y, width, height"
        if max(abs(a - b) for a, b in zip(as_corners, mask, strict=True)) <= EDGE
        else ""
    )
    if _overlap(box, mask) < RELATED:
        from_mask = ()
    what = (
        f"its box differs from the mask's by up to {max(apart):.1f} px: {_shown(box)} and {_shown(mask)} (x1, y1, "
        f"x2, y2){hint}"
    )
    return _finding(part, one, "box-unlike-mask", what, from_mask, "the box of the mask written")


def _overlap(first: XYXY, second: XYXY) -> float:
    """Compute the IoU of two boxes."""
    w, h = min(first[2], second[2]) - max(first[0], second[0]), min(first[3], second[3]) - max(first[1], second[1])
    shared = max(w, 0.0) * max(h, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / max(areas - shared, 1e-9)


def _whole_numbers(part: AnnotationFile) -> Finding | None:
    """Report, once, boxes of whole numbers for polygons with fractions."""
    near: Iterable[AnnotationEntry] = part.annotations
    if part.columns is not None:
        listed, boxes, where = part.columns.flags & (POLYGONS | EMPTY_LIST) != 0, part.columns.boxes, part.table.where
        if (boxes[listed] % 1).any():
            return None
        near = chosen(part, listed & (part.table.doubtful | (where % 1 != 0).any(1)))
    pairs = [
        (one.box, one.outline.box)
        for one in near
        if one.box is not None and isinstance(one.record.get("segmentation"), list)
    ]
    finer = [
        (box, mask)
        for box, mask in pairs
        if mask is not None and any(value % 1 for value in mask) and _near_edges(box, mask)
    ]
    if not finer or any(value % 1 for box, _ in pairs for value in box):
        return None
    apart = max(abs(a - b) for (x, y, w, h), mask in finer for a, b in zip((x, y, x + w, y + h), mask, strict=True))
    what = f"{len(finer)} boxes are rounded to whole numbers, up to {apart:.1f} px off their polygons"
    return Finding("box-whole-numbers", what, part.file)


def _near_edges(box: XYXY, mask: XYXY) -> bool:
    """Return whether an annotated box (x, y, width, height) equals the mask's (xyxy) up to rounding."""
    x, y, w, h = box
    return max(abs(a - b) for a, b in zip((x, y, x + w, y + h), mask, strict=True)) <= EDGE


def areas(part: AnnotationFile) -> Iterator[Finding]:
    """Report areas that differ from the mask's area; missing ones are reported once."""
    without = []
    for one in chosen(part, _doubtful_areas(part)):
        if one.outline.segmentation is None or one.image.size is None or one.crowd:
            continue  # COCO's own crowds have inexact areas, which no metric uses
        annotated = one.record.get("area")
        if annotated is None:
            without.append(Edit("annotations", one.position, {"area": exact_area(one.outline, *one.image.size)}))
        else:
            yield from _area_finding(part, one, annotated, *one.image.size)
    if without:
        what = f"{len(without)} of {len(part.annotations)} annotations have no area"
        yield Finding("area-missing", what, part.file, edits=tuple(without), fixed_by="the areas of the masks written")


def _doubtful_areas(part: AnnotationFile) -> Bool[np.ndarray, " N"]:
    """Return which annotations may have a finding of their area."""
    table, columns = part.table, part.columns
    if columns is None:
        return table.doubtful
    extents = (table.where[:, 2:] - table.where[:, :2]).sum(1)
    allowed = np.maximum(AREA_SHARE * table.areas, extents) * NEARLY
    apart = ~(np.abs(columns.areas - table.areas) <= allowed)  # also without an area, which is NaN
    return ~table.crowd & table.segmented & (table.doubtful | apart)


def _area_finding(
    part: AnnotationFile, one: AnnotationEntry, annotated: Any, height: int, width: int
) -> Iterator[Finding]:
    box, about = one.outline.box, one.outline.area
    if box is not None and is_number(annotated) and _near(annotated, about, box):
        return
    # If polygons overlap or have holes, the sum of their areas is not the mask's area.
    area = exact_area(one.outline, height, width)
    if box is not None and is_number(annotated) and _near(annotated, area, box):
        return
    # For rings inside others, the annotated area shows how they are meant.
    meant = [value for value in (one.outline.filled_area, one.outline.even_odd_area) if value is not None]
    if box is not None and is_number(annotated) and any(_near(annotated, value, box) for value in meant):
        return
    hint = ""
    if (
        box is not None
        and is_number(annotated)
        and abs(annotated - (box[2] - box[0]) * (box[3] - box[1])) < max(1.0, 0.01 * annotated)
    ):
        hint = "; it is the area of the box"
    edits = () if meant else (Edit("annotations", one.position, {"area": area}),)
    shown = f"{annotated:g}" if is_number(annotated) else short(annotated)
    yield _finding(
        part,
        one,
        "area-unlike-mask",
        f"its area is {shown}, the mask's {area:.0f}{hint}",
        edits,
        "the area of the mask written",
    )


def _near(annotated: float, area: float, box: XYXY) -> bool:
    return abs(annotated - area) <= max(AREA_SHARE * area, box[2] - box[0] + box[3] - box[1])


def _finding(
    part: AnnotationFile, one: AnnotationEntry, code: str, what: str, edits: tuple[Edit, ...], fixed_by: str = ""
) -> Finding:
    """Return a finding that shows the annotated box, if there is one, since that is in doubt."""
    box = one.box
    where = None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return annotation_finding(part, one, code, what, edits, fixed_by, where)


def _xywh(box: XYXY) -> list[float]:
    return [round(value, 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def _shown(box: XYXY) -> str:
    return f"[{', '.join(f'{value:g}' for value in (round(value, 1) for value in box))}]"


def doubles(part: AnnotationFile) -> Iterator[Finding]:
    """Report pairs of instances in an image with nearly the same mask, of the same class or of two classes."""
    for position in _images_with_doubles(part):
        candidates = [one for one in part.of_image(position) if not one.crowd and one.where is not None]
        removed: set[int] = set()
        for first, second in _alike(candidates):
            if first.position in removed or second.position in removed:
                continue
            if first.category != second.category:
                names = [repr(part.classes.get(one.category or 0, "?")) for one in (first, second)]
                yield annotation_finding(
                    part,
                    second,
                    "object-two-classes",
                    f"its class is {names[1]}, but annotation {first.id} with nearly the same pixels is {names[0]}",
                )
                continue
            equal = _content(first) == _content(second)
            removed.add(second.position)
            edits = (Edit("annotations", second.position, None),) if equal else ()
            what = (
                f"it equals annotation {first.id}"
                if equal
                else f"it covers nearly the same pixels as annotation {first.id}"
            )
            yield annotation_finding(part, second, "object-twice", what, edits, "the second annotation removed")


def _images_with_doubles(part: AnnotationFile) -> list[int]:
    """Return the positions of the images with two boxes of nearly the same place, in the order of their annotations."""
    table = part.table
    kept = np.flatnonzero(~table.crowd & ~np.isnan(table.where[:, 0]))
    kept = kept[np.argsort(table.images[kept], kind="stable")]
    images, boxes = table.images[kept], table.where[kept]
    first, step, found = np.arange(len(kept)), 0, [np.zeros(0, np.int64)]
    while len(first):  # each instance with the next one of its image, the one after that ...
        step += 1
        first = first[first + step < len(kept)]
        first = first[images[first] == images[first + step]]
        ious = _overlaps(boxes[first], boxes[first + step])
        found.append(images[first[ious >= SAME * NEARLY]])
    wanted = np.isin(table.images, np.concatenate(found))
    positions, earliest = np.unique(table.images[wanted], return_index=True)
    return positions[np.argsort(earliest)].tolist()


def _alike(objects: list[AnnotationEntry]) -> Iterator[tuple[AnnotationEntry, AnnotationEntry]]:
    boxes = np.array([one.where for one in objects], np.float64)
    for first in range(len(objects) - 1):
        for offset in np.flatnonzero(_overlaps(boxes[first : first + 1], boxes[first + 1 :]) >= SAME):
            second = first + 1 + int(offset)
            if _mask_overlap(objects[first], objects[second]) >= SAME:
                yield objects[first], objects[second]


def _overlaps(boxes: Float[np.ndarray, "#N 4"], others: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Compute the IoU of boxes with others, or of one box with all."""
    shared = (np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])).clip(0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.maximum(union, 1e-9)


def _mask_overlap(first: AnnotationEntry, second: AnnotationEntry) -> float:
    """Compute the IoU of two masks; 1 if either has no mask, since then only the boxes are compared."""
    if first.outline.segmentation is None or second.outline.segmentation is None:
        return 1.0
    pair: Any = [_encoded(first), _encoded(second)]
    shared: Any = coco_masks.iou(pair[:1], pair[1:], [0])
    return float(shared[0, 0])


def _encoded(one: AnnotationEntry) -> Any:
    assert one.image.size is not None
    assert one.outline.segmentation is not None
    return encode_mask(one.outline.segmentation, *one.image.size)


def _content(one: AnnotationEntry) -> tuple[Any, Any, Any]:
    return one.category, one.record.get("segmentation"), one.record.get("bbox")


BOX_CHECKS = (boxes, areas, doubles)
