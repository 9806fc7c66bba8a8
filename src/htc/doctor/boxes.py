"""Checks of boxes: against the image and the mask, stated areas against the mask's, and objects annotated twice."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_masks

from htc.data.dataset import RunLengths
from htc.data.formats.converted import polygon_runs
from htc.doctor.findings import Edit, Finding
from htc.doctor.outline import exact_area, is_number, short
from htc.doctor.outlines import without_mask
from htc.doctor.part import Object, Part

XYXY = tuple[float, float, float, float]
EDGE, EDGE_SHARE = 2.5, 0.05
"""A box's edge may miss the mask's by so many pixels, or this share of the mask's extent: whole-number boxes miss by
up to two.
"""
AREA_SHARE = 0.1
"""The stated area may differ by this share of the mask's, or by the pixels of half its box's outline: polygons are
counted in several ways.
"""
RELATED = 0.1
"""Intersection over union below which box and mask may be of two objects, so that only a person can tell which is
right.
"""
ROUNDING = 1.0
"""Pixels that a box may reach outside."""
SAME = 0.95
"""Intersection over union above which two masks (or boxes, where either has no mask) are one object."""


def boxes(part: Part) -> Iterator[Finding]:
    """Missing, no box at all, too small, outside, unlike the mask."""
    whole = _whole_numbers(part)
    for one in part.objects:
        if one.picture.size is None:
            continue
        found = _box_finding(part, one, *one.picture.size)
        if found is not None:
            yield found
    if whole is not None:
        yield whole


def _box_finding(part: Part, one: Object, height: int, width: int) -> Finding | None:
    stated, box, mask = (
        one.record.get("bbox"),
        one.box,
        one.outline.box if one.outline.segmentation is not None else None,
    )
    from_mask = () if mask is None else (Edit("annotations", one.position, {"bbox": _xywh(mask)}),)
    if stated is None:
        if not one.record.get("segmentation"):
            return _finding(part, one, "object-empty", "it has neither bbox nor segmentation", ())
        return (
            None
            if mask is None
            else _finding(part, one, "box-missing", "it has no bbox", from_mask, "the mask's box written")
        )
    if box is None:
        return _finding(part, one, "box-wrong", f"its bbox is {short(stated)}", from_mask, "the mask's box written")
    x, y, w, h = box
    corners = (x, y, x + w, y + h)
    if mask is not None:
        return _unlike(part, one, corners, mask, from_mask)
    if one.record.get("segmentation"):
        return None  # an outline that cannot be used has a finding of its own, and may be corrected by this box
    if w < 1 or h < 1:
        return _finding(
            part, one, "box-empty", f"its box is {w:g} x {h:g} pixels", without_mask(one)[0], "the annotation removed"
        )
    cut = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    over = max(-x, -y, x + w - width, y + h - height)
    if over <= ROUNDING:
        return None
    what = f"its box [{x:g}, {y:g}, {w:g}, {h:g}] reaches {over:.1f} px outside the {width}x{height} picture"
    if w > x and h > y and w <= width and h <= height:
        return _finding(part, one, "box-outside", f"{what}; read as corners x1, y1, x2, y2 it would fit", ())
    if cut[2] - cut[0] < 1 or cut[3] - cut[1] < 1:
        return _finding(
            part, one, "box-outside", what, (Edit("annotations", one.position, None),), "the annotation removed"
        )
    return _finding(
        part, one, "box-outside", what, (Edit("annotations", one.position, {"bbox": _xywh(cut)}),), "cut at the border"
    )


def _unlike(part: Part, one: Object, box: XYXY, mask: XYXY, from_mask: tuple[Edit, ...]) -> Finding | None:
    """The stated box (xyxy) against the mask's."""
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
            "the mask's box written",
        )
    if box[2] - box[0] < 1 or box[3] - box[1] < 1:
        what = f"its box is {box[2] - box[0]:g} x {box[3] - box[1]:g} pixels, its mask's no larger"
        return _finding(
            part, one, "box-empty", what, (Edit("annotations", one.position, None),), "the annotation removed"
        )
    if all(a <= b for a, b in zip(apart, allowed, strict=True)):
        return None
    as_corners = (box[0], box[1], box[2] - box[0], box[3] - box[1])
    hint = (
        "; it is written as corners, x1, y1, x2, y2"
        if max(abs(a - b) for a, b in zip(as_corners, mask, strict=True)) <= EDGE
        else ""
    )
    if _overlap(box, mask) < RELATED:
        from_mask = ()
    what = (
        f"its box misses the mask's by up to {max(apart):.1f} px: {_shown(box)} and {_shown(mask)} (x1, y1, x2, "
        f"y2){hint}"
    )
    return _finding(part, one, "box-unlike-mask", what, from_mask, "the mask's box written")


def _overlap(first: XYXY, second: XYXY) -> float:
    """Intersection over union."""
    w, h = min(first[2], second[2]) - max(first[0], second[0]), min(first[3], second[3]) - max(first[1], second[1])
    shared = max(w, 0.0) * max(h, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / max(areas - shared, 1e-9)


def _whole_numbers(part: Part) -> Finding | None:
    """All boxes whole numbers although the outlines are finer."""
    pairs = [
        (one.box, one.outline.box)
        for one in part.objects
        if one.box is not None and isinstance(one.record.get("segmentation"), list)
    ]
    finer = [
        (box, mask)
        for box, mask in pairs
        if mask is not None and any(value % 1 for value in mask) and _near_edges(box, mask)
    ]
    if not finer or any(value % 1 for box, _ in pairs for value in box):
        return None
    edits = []
    for one in part.objects:
        box, mask = one.box, one.outline.box
        if (
            one.outline.segmentation is not None
            and box is not None
            and mask is not None
            and any(value % 1 for value in mask)
            and _near_edges(box, mask)
        ):
            edits.append(Edit("annotations", one.position, {"bbox": _xywh(mask)}))
    apart = max(abs(a - b) for (x, y, w, h), mask in finer for a, b in zip((x, y, x + w, y + h), mask, strict=True))
    what = f"{len(finer)} boxes of finer polygons are whole numbers and miss them by up to {apart:.1f} px"
    return Finding("box-whole-numbers", what, part.file, edits=tuple(edits), fixed_by="the masks' boxes written")


def _near_edges(box: XYXY, mask: XYXY) -> bool:
    """Whether a stated box (x, y, width, height) is the mask's (xyxy) but for its cut fractions."""
    x, y, w, h = box
    return max(abs(a - b) for a, b in zip((x, y, x + w, y + h), mask, strict=True)) <= EDGE


def areas(part: Part) -> Iterator[Finding]:
    """Stated areas against the masks'; those that are missing told once."""
    without = []
    for one in part.objects:
        if one.outline.segmentation is None or one.picture.size is None or one.crowd:
            continue  # COCO's own crowds have rough areas, which nothing goes by
        stated = one.record.get("area")
        if stated is None:
            without.append(Edit("annotations", one.position, {"area": exact_area(one.outline, *one.picture.size)}))
        else:
            yield from _area_finding(part, one, stated, *one.picture.size)
    if without:
        what = f"{len(without)} of {len(part.objects)} annotations have no area"
        yield Finding("area-missing", what, part.file, edits=tuple(without), fixed_by="the masks' areas written")


def _area_finding(part: Part, one: Object, stated: Any, height: int, width: int) -> Iterator[Finding]:
    box, about = one.outline.box, one.outline.area
    if box is not None and is_number(stated) and _near(stated, about, box):
        return
    # Polygons that overlap or have holes: the sum of their areas is not the mask's.
    area = exact_area(one.outline, height, width)
    if box is not None and is_number(stated) and _near(stated, area, box):
        return
    hint = ""
    if (
        box is not None
        and is_number(stated)
        and abs(stated - (box[2] - box[0]) * (box[3] - box[1])) < max(1.0, 0.01 * stated)
    ):
        hint = "; it is that of the box"
    edits = (Edit("annotations", one.position, {"area": area}),)
    shown = f"{stated:g}" if is_number(stated) else short(stated)
    yield _finding(
        part,
        one,
        "area-unlike-mask",
        f"its area is {shown}, the mask's {area:.0f}{hint}",
        edits,
        "the mask's area written",
    )


def _near(stated: float, area: float, box: XYXY) -> bool:
    return abs(stated - area) <= max(AREA_SHARE * area, box[2] - box[0] + box[3] - box[1])


def _finding(part: Part, one: Object, code: str, what: str, edits: tuple[Edit, ...], fixed_by: str = "") -> Finding:
    """At the stated box where there is one: it is what is doubtful."""
    box = one.box
    return part.finding(
        one, code, what, edits, fixed_by, None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
    )


def _xywh(box: XYXY) -> list[float]:
    return [round(value, 3) for value in (box[0], box[1], box[2] - box[0], box[3] - box[1])]


def _shown(box: XYXY) -> str:
    return f"[{', '.join(f'{value:g}' for value in (round(value, 1) for value in box))}]"


def doubles(part: Part) -> Iterator[Finding]:
    """Pairs of one picture with nearly the same mask: one class, or two."""
    for objects in part.of_picture.values():
        candidates = [one for one in objects if not one.crowd and one.where is not None]
        if len(candidates) < 2:
            continue
        removed: set[int] = set()
        for first, second in _alike(candidates):
            if first.position in removed or second.position in removed:
                continue
            if first.record.get("category_id") != second.record.get("category_id"):
                names = [repr(part.classes.get(one.record.get("category_id", -1), "?")) for one in (first, second)]
                yield part.finding(
                    second,
                    "object-two-classes",
                    f"it is {names[1]}, and annotation {first.id} in the same place {names[0]}",
                )
                continue
            equal = _content(first) == _content(second)
            removed.add(second.position)
            edits = (Edit("annotations", second.position, None),) if equal else ()
            what = (
                f"it is annotation {first.id} again"
                if equal
                else f"it covers nearly the same pixels as annotation {first.id}"
            )
            yield part.finding(second, "object-twice", what, edits, "the second one removed")


def _alike(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    boxes = np.array([one.where for one in objects], np.float64)
    for first in range(len(objects) - 1):
        for offset in np.flatnonzero(_overlaps(boxes[first], boxes[first + 1 :]) >= SAME):
            second = first + 1 + int(offset)
            if _mask_overlap(objects[first], objects[second]) >= SAME:
                yield objects[first], objects[second]


def _overlaps(box: Float[np.ndarray, " 4"], others: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, " N"]:
    """Intersection over union of one box with others."""
    shared = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / np.maximum(union, 1e-9)


def _mask_overlap(first: Object, second: Object) -> float:
    """1 where either has no mask: then the boxes decide."""
    if first.outline.segmentation is None or second.outline.segmentation is None:
        return 1.0
    pair: Any = [_encoded(first), _encoded(second)]
    shared: Any = coco_masks.iou(pair[:1], pair[1:], [0])
    return float(shared[0, 0])


def _encoded(one: Object) -> Any:
    assert one.picture.size is not None
    segmentation = one.outline.segmentation
    assert segmentation is not None
    height, width = one.picture.size
    if not isinstance(segmentation, RunLengths):
        return coco_masks.merge(polygon_runs([ring.tolist() for ring in segmentation.rings], height, width))
    if isinstance(segmentation.counts, bytes):
        return {"size": [height, width], "counts": segmentation.counts}
    runs: Any = {"size": [height, width], "counts": segmentation.counts.tolist()}
    return coco_masks.frPyObjects(runs, height, width)


def _content(one: Object) -> tuple[Any, Any, Any]:
    return one.record.get("category_id"), one.record.get("segmentation"), one.record.get("bbox")


BOX_CHECKS = (boxes, areas, doubles)
