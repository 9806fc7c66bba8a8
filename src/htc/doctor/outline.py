"""One `segmentation` value, read as far as it can be: its faults, and what of it can be kept."""

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_masks

from htc.data.annotations import FAR
from htc.data.dataset import Polygons, RunLengths
from htc.data.formats.converted import polygon_runs
from htc.data.instance_masks import counts_of, decode_mask, read_counts

OUTSIDE_PIXELS = 1.0
"""Pixels that a polygon may reach outside; annotation tools round their corners."""
Rings = list[list[float]]


@dataclass(frozen=True)
class Fault:
    """A code of `KINDS`, what is wrong, and the segmentation without it (None: only a person can tell)."""

    code: str
    what: str
    kept: Any = None
    said: str = ""


@dataclass(frozen=True)
class Outline:
    """What a segmentation holds."""

    segmentation: Polygons | RunLengths | None
    """None if there is none, or it has an error."""
    faults: tuple[Fault, ...] = ()
    box: tuple[float, float, float, float] | None = None
    """xyxy of the mask within the picture; None where there is none or it covers nothing."""
    area: float = 0.0
    """Square pixels: of run lengths counted, of polygons the sum of their areas within the picture."""
    drawn: Rings | None = None
    """Polygons to draw."""


NO_OUTLINE = Outline(None)


def read_outline(value: Any, height: int, width: int) -> Outline:
    """The outline of an object on a picture of that size."""
    if value is None or value == []:
        return NO_OUTLINE
    if isinstance(value, list):
        return _polygons(value, height, width)
    if isinstance(value, dict) and "counts" in value:
        return _runs(value, height, width)
    return Outline(None, (Fault("outline-unknown", f"its segmentation is {short(value)}"),))


def is_number(value: Any) -> TypeGuard[int | float]:
    """Finite, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(value: Any, most: int = 60) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def signed_area(ring: Float[np.ndarray, "P 2"]) -> float:
    """Shoelace formula."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def cut_ring(ring: Rings | list[float], height: int, width: int) -> list[float]:
    """The ring x, y, x, y, ... cut at the picture's border (Sutherland and Hodgman 1974); empty if nothing of it is
    inside.
    """
    points = [(float(x), float(y)) for x, y in np.asarray(ring, float).reshape(-1, 2)]
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        found: list[tuple[float, float]] = []
        for start, end in zip(points[-1:] + points[:-1], points, strict=True):
            a, b = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if (a < 0) != (b < 0):
                share = a / (a - b)
                crossing = [start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])]
                crossing[axis] = float(limit)
                found.append((crossing[0], crossing[1]))
            if b >= 0:
                found.append(end)
        points = found
    return [value for point in points for value in point]


def _polygons(rings: list[Any], height: int, width: int) -> Outline:
    if all(is_number(one) for one in rings):
        whole = _polygons([rings], height, width)
        kept = [rings] if whole.segmentation is not None and not whole.faults else None
        return Outline(
            None,
            (
                Fault(
                    "polygon-flat",
                    f"its segmentation is one flat list of {len(rings)} numbers",
                    kept,
                    "put in brackets",
                ),
            ),
            whole.box,
        )
    faults = [
        (number, fault) for number, ring in enumerate(rings) if (fault := _ring_fault(ring, height, width)) is not None
    ]
    good = [ring for number, ring in enumerate(rings) if number not in {bad for bad, _ in faults}]
    unsafe = any(fault.kept is None for _, fault in faults)
    found = []
    for number, fault in faults:
        of = f"polygon {number + 1} of {len(rings)}" if len(rings) > 1 else "its polygon"
        said = "left out" if good else "the outline left out"
        found.append(Fault(fault.code, f"{of} {fault.what}", None if unsafe else good, "" if unsafe else said))
    hard = [fault for fault in found if fault.code != "polygon-no-area"]
    drawn = [
        ring
        for ring in rings
        if isinstance(ring, list) and len(ring) >= 4 and len(ring) % 2 == 0 and all(is_number(one) for one in ring)
    ]
    if hard or not good:
        box = _box_of([np.asarray(ring, float).reshape(-1, 2) for ring in drawn], height, width) if drawn else None
        return Outline(None, tuple(found), box, drawn=drawn)
    return _good_polygons(good, tuple(found), height, width)


def _good_polygons(rings: Rings, faults: tuple[Fault, ...], height: int, width: int) -> Outline:
    arrays = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    low, high = np.min([ring.min(0) for ring in arrays], 0), np.max([ring.max(0) for ring in arrays], 0)
    over = float(max(-low.min(), high[0] - width, high[1] - height, 0))
    if over > OUTSIDE_PIXELS:
        cut = [ring for ring in (cut_ring(ring, height, width) for ring in rings) if len(ring) >= 6]
        what = f"its outline reaches {over:.1f} px outside the {width}x{height} picture"
        if not cut:
            return Outline(None, (*faults, Fault("polygon-outside", f"{what}: nothing of it is inside")), drawn=rings)
        faults = faults or (Fault("polygon-outside", what, cut, "cut at the border"),)
        arrays = [np.asarray(ring).reshape(-1, 2) for ring in cut]
    area = sum(abs(signed_area(ring)) for ring in arrays)
    box = _box_of(arrays, height, width)
    if not faults and area < 4 and not _covers(rings, height, width):
        return Outline(
            None,
            (
                Fault(
                    "mask-empty", f"its outline of {area:.2g} square pixels covers no pixel", [], "the outline left out"
                ),
            ),
            box,
            drawn=rings,
        )
    return Outline(Polygons(tuple(np.asarray(ring, np.float64) for ring in rings)), faults, box, area, rings)


def _covers(rings: Rings, height: int, width: int) -> bool:
    return bool(counts_of(Polygons(tuple(np.asarray(ring, np.float64) for ring in rings)), height, width)[1::2].sum())


def _ring_fault(ring: Any, height: int, width: int) -> Fault | None:
    """`kept` is anything but None where leaving the ring out loses nothing."""
    if not isinstance(ring, list) or not all(is_number(one) for one in ring):
        return Fault("polygon-not-numbers", f"holds something else than finite numbers: {short(ring, 40)}")
    if len(ring) % 2:
        return Fault("polygon-odd", f"has {len(ring)} coordinates, an odd number")
    if len(ring) == 4:
        return Fault(
            "polygon-taken-for-box",
            f"has the four numbers {ring}: two points, which the COCO tools read as x, y, width, height",
            [],
        )
    if len(ring) < 6:
        return Fault("polygon-short", f"has {len(ring) // 2} point{'' if len(ring) == 2 else 's'}", [])
    points = np.asarray(ring, np.float64).reshape(-1, 2)
    largest = float(np.abs(points).max())
    if largest > FAR * (max(height, width) + 1):
        return Fault("polygon-far", f"reaches {largest:.0f}, the picture is {width}x{height}")
    if max(height, width) > 16 and points.min() >= 0 and largest <= 1.0 and (points % 1).any():
        return Fault("polygon-normalised", "has coordinates between 0 and 1 only: fractions of the picture, not pixels")
    if abs(signed_area(points)) < 1e-6 and np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2:
        return Fault("polygon-no-area", "encloses no area: its points lie on one line", [])
    return None


def _box_of(rings: list[np.ndarray], height: int, width: int) -> tuple[float, float, float, float] | None:
    if not rings:
        return None
    points = np.concatenate(rings).clip(0, (width, height))
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom


def _runs(value: dict[str, Any], height: int, width: int) -> Outline:
    size, counts = value.get("size"), value["counts"]
    if size != [height, width]:
        turned = ", which is width and height exchanged" if size == [width, height] else ""
        return Outline(
            None,
            (
                Fault(
                    "rle-size",
                    f"its run-length size is {short(size)}{turned}; the picture's [height, width] is [{height}, "
                    f"{width}]",
                ),
            ),
        )
    if isinstance(counts, str):
        try:
            runs = read_counts(counts.encode("ascii"))
        except ValueError:
            return Outline(None, (Fault("rle-damaged", f"its run-length text {short(counts, 24)} cannot be decoded"),))
    elif isinstance(counts, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in counts):
        runs = np.array(counts, np.int64)
    else:
        return Outline(
            None, (Fault("rle-damaged", "its run-length counts are neither a text nor a list of whole numbers"),)
        )
    if (runs < 0).any() or int(runs.sum()) != height * width:
        return Outline(
            None, (Fault("rle-length", f"its runs cover {int(runs.sum())} pixels, the picture has {height * width}"),)
        )
    if not runs[1::2].sum():
        return Outline(None, (Fault("mask-empty", "its run lengths cover no pixel", [], "the mask left out"),))
    segmentation = RunLengths(counts.encode("ascii") if isinstance(counts, str) else runs)
    crop = decode_mask(segmentation, height, width)
    h, w = crop.bitmap.shape
    return Outline(
        segmentation, (), (float(crop.x), float(crop.y), float(crop.x + w), float(crop.y + h)), float(runs[1::2].sum())
    )


def exact_area(outline: Outline, height: int, width: int) -> float:
    """The number of pixels of a usable outline."""
    assert outline.segmentation is not None
    if isinstance(outline.segmentation, RunLengths):
        return outline.area
    return float(
        coco_masks.area(
            coco_masks.merge(polygon_runs([ring.tolist() for ring in outline.segmentation.rings], height, width))
        )
    )
