"""The `segmentation` of a COCO annotation: parsing, faults, and the area that it covers.

`parse_segmentation` finds the faults that make it unusable, for every reader. `read_outline` adds, for `htc doctor`,
the faults of shapes that are readable but cover nothing, are outside the image, or are not in pixels.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_masks

from htc.data.dataset import Polygons, RunLengths
from htc.data.mask_encodings import Rings, counts_of, decode_mask, polygon_runs, read_counts

FAR = 10
"""A polygon further outside than this multiple of the image size does not belong to the image."""
OUTSIDE_PIXELS = 1.0
"""Pixels that a polygon may extend beyond the image; annotation tools round vertices."""
NUMBER_TYPES = frozenset((int, float))


@dataclass(frozen=True)
class SegmentationFault:
    """A fault of a segmentation."""

    code: str
    what: str
    kept: Any = None
    """The segmentation without the fault; None if it needs a human decision."""
    fixed_by: str = ""
    """How `kept` was obtained."""


class ParsedSegmentation(NamedTuple):
    """A usable segmentation (None: there is none), or the faults that make it unusable."""

    segmentation: Polygons | RunLengths | None
    faults: tuple[SegmentationFault, ...] = ()


@dataclass(frozen=True)
class Outline:
    """The area covered by a segmentation."""

    segmentation: Polygons | RunLengths | None
    """None if there is none, or it has an error."""
    faults: tuple[SegmentationFault, ...] = ()
    box: tuple[float, float, float, float] | None = None
    """xyxy of the mask within the image; None if there is no mask or it is empty."""
    area: float = 0.0
    """Square pixels: for RLE, the number of pixels; for polygons, the sum of their areas within the image."""
    drawn: Rings | None = None
    """Polygons for drawing."""


NO_OUTLINE = Outline(None)


def parse_segmentation(value: Any, height: int, width: int) -> ParsedSegmentation:
    """Parse the segmentation of an annotation on an image of that size, with all faults that make it unusable."""
    if value is None or value == []:
        return ParsedSegmentation(None)
    if isinstance(value, list):
        return _parse_polygons(value, height, width)
    if isinstance(value, dict) and "counts" in value:
        return _parse_runs(value, height, width)
    what = f"its segmentation is {short(value)}, neither a list of polygons nor a run-length encoding"
    return ParsedSegmentation(None, (SegmentationFault("outline-unknown", what),))


def read_outline(value: Any, height: int, width: int) -> Outline:
    """Parse the segmentation of an annotation on an image of that size, with all faults, including those that training
    ignores.
    """
    if isinstance(value, list) and value and not _is_flat(value):
        return _outline_of_polygons(value, height, width)
    segmentation, faults = parse_segmentation(value, height, width)
    if isinstance(segmentation, RunLengths):
        return _outline_of_runs(segmentation, height, width)
    if not faults:
        return NO_OUTLINE
    if isinstance(value, list):
        whole = _outline_of_polygons([value], height, width)
        kept = [value] if whole.segmentation is not None and not whole.faults else None
        return Outline(None, (SegmentationFault(faults[0].code, faults[0].what, kept, "put in brackets"),), whole.box)
    return Outline(None, faults)


def is_number(value: Any) -> TypeGuard[int | float]:
    """Test for a finite number that is not a boolean."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def are_numbers(values: list[Any]) -> bool:
    """`is_number` for all values, several times as fast for the long lists of polygons."""
    try:
        if set(map(type, values)) <= NUMBER_TYPES and math.isfinite(sum(values)):
            return True
    except OverflowError:
        pass
    return all(map(is_number, values))


def short(value: Any, most: int = 60) -> str:
    """Shorten a value for a message."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_flat(rings: list[Any]) -> bool:
    return all(map(is_number, rings))


def _parse_polygons(rings: list[Any], height: int, width: int) -> ParsedSegmentation:
    if _is_flat(rings):
        what = f"its segmentation is one flat list of {len(rings)} numbers, not a list of polygons"
        return ParsedSegmentation(None, (SegmentationFault("polygon-flat", what),))
    parsed = [_parse_ring(ring, height, width) for ring in rings]
    arrays = [result for result in parsed if isinstance(result, np.ndarray)]
    if len(arrays) < len(parsed):
        return ParsedSegmentation(None, tuple(_numbered(parsed)))
    return ParsedSegmentation(Polygons(tuple(arrays)))


def _numbered(parsed: Iterable[Float[np.ndarray, " _"] | SegmentationFault]) -> list[SegmentationFault]:
    """Faults of single polygons, with the polygon's number."""
    return [
        SegmentationFault(result.code, f"polygon {number} {result.what}", result.kept)
        for number, result in enumerate(parsed, start=1)
        if isinstance(result, SegmentationFault)
    ]


def _parse_ring(ring: Any, height: int, width: int) -> Float[np.ndarray, " _"] | SegmentationFault:
    """Parse x, y, x, y, ...; for a fault, `kept` is not None if the polygon can be removed without losing anything."""
    if not isinstance(ring, list) or not are_numbers(ring):
        what = f"is not a list of finite numbers x, y, x, y, ...: {short(ring, 40)}"
        return SegmentationFault("polygon-not-numbers", what)
    if len(ring) % 2:
        return SegmentationFault("polygon-odd", f"has {len(ring)} numbers: an odd number of coordinates")
    if len(ring) == 4:
        what = f"has 4 numbers, {ring}: two points, which the COCO tools read as x, y, width, height"
        return SegmentationFault("polygon-taken-for-box", what, [])
    if len(ring) < 6:
        what = f"has {len(ring)} numbers; it needs x and y of at least three points (six numbers)"
        return SegmentationFault("polygon-short", what, [])
    array = np.array(ring, np.float64)
    largest = max(map(abs, ring))
    if largest > FAR * (max(height, width) + 1):
        what = f"lies far outside the {width}x{height} image: it reaches {largest:.0f}"
        return SegmentationFault("polygon-far", what)
    return array


def _parse_runs(value: dict[str, Any], height: int, width: int) -> ParsedSegmentation:
    size, counts = value.get("size"), value["counts"]
    if size != [height, width]:
        turned = ", with width and height swapped" if size == [width, height] else ""
        what = f"its run-length size is {short(size)}{turned}; the image's [height, width] is [{height}, {width}]"
        return ParsedSegmentation(None, (SegmentationFault("rle-size", what),))
    damaged = None
    runs = text = None
    if isinstance(counts, str):
        try:
            text = counts.encode("ascii")
            runs = read_counts(text)
        except ValueError:
            damaged = f"its run-length text is damaged: {short(counts, 24)} cannot be decoded"
    elif isinstance(counts, list) and all(isinstance(run, int) and not isinstance(run, bool) for run in counts):
        try:
            runs = np.array(counts, np.int64)
        except OverflowError:
            damaged = "its run-length counts are too large"
    else:
        damaged = "its run-length counts are neither a string nor a list of integers"
    if runs is None or damaged is not None:
        return ParsedSegmentation(None, (SegmentationFault("rle-damaged", str(damaged)),))
    if (runs < 0).any() or int(runs.sum()) != height * width:
        negative = ", some of them negative" if (runs < 0).any() else ""
        what = f"its runs{negative} cover {int(runs.sum())} pixels, the image has {height * width}"
        return ParsedSegmentation(None, (SegmentationFault("rle-length", what),))
    return ParsedSegmentation(RunLengths(runs if text is None else text))


def _outline_of_runs(segmentation: RunLengths, height: int, width: int) -> Outline:
    crop = decode_mask(segmentation, height, width)
    if not crop.bitmap.size:
        what = "its run lengths cover no pixel"
        return Outline(None, (SegmentationFault("mask-empty", what, [], "the mask left out"),))
    h, w = crop.bitmap.shape
    box = (float(crop.x), float(crop.y), float(crop.x + w), float(crop.y + h))
    return Outline(segmentation, (), box, float(crop.bitmap.sum(dtype=np.int64)))


def _outline_of_polygons(rings: list[Any], height: int, width: int) -> Outline:
    parsed = [_parse_ring(ring, height, width) for ring in rings]
    checked = [
        ring if isinstance(ring, SegmentationFault) else _shape_fault(ring, height, width) or ring for ring in parsed
    ]
    good = [ring for ring in checked if isinstance(ring, np.ndarray)]
    faults = _numbered(checked)
    if faults:
        kept = None
        if all(fault.kept is not None for fault in faults):
            kept = [ring for ring, result in zip(rings, checked, strict=True) if isinstance(result, np.ndarray)]
        how = "" if kept is None else ("left out" if good else "the outline left out")
        faults = [SegmentationFault(fault.code, fault.what, kept, how) for fault in faults]
    if not good or any(fault.code != "polygon-no-area" for fault in faults):
        drawn = [ring for ring in rings if isinstance(ring, list) and len(ring) >= 4 and len(ring) % 2 == 0]
        drawn = [ring for ring in drawn if are_numbers(ring)]
        box = _box_of([np.asarray(ring, float).reshape(-1, 2) for ring in drawn], height, width)
        return Outline(None, tuple(faults), box, drawn=drawn)
    return _good_polygons(good, tuple(faults), height, width)


def _shape_fault(ring: Float[np.ndarray, " _"], height: int, width: int) -> SegmentationFault | None:
    """Fault in the shape of a readable polygon."""
    points = ring.reshape(-1, 2)
    if max(height, width) > 16 and points.min() >= 0 and points.max() <= 1.0 and (points % 1).any():
        what = "has coordinates between 0 and 1 only: fractions of the image, not pixels"
        return SegmentationFault("polygon-normalised", what)
    if abs(signed_area(points)) < 1e-6 and np.linalg.matrix_rank(points - points[0], tol=1e-6) < 2:
        return SegmentationFault("polygon-no-area", "encloses no area: its points lie on one line", [])
    return None


def _good_polygons(
    polygons: list[Float[np.ndarray, " _"]], faults: tuple[SegmentationFault, ...], height: int, width: int
) -> Outline:
    rings, arrays = [ring.tolist() for ring in polygons], [ring.reshape(-1, 2) for ring in polygons]
    points = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    low, high = points.min(0), points.max(0)
    over = float(max(-low.min(), high[0] - width, high[1] - height, 0))
    if over > OUTSIDE_PIXELS:
        cut = [ring for ring in (cut_ring(ring, height, width) for ring in rings) if len(ring) >= 6]
        what = f"its outline reaches {over:.1f} px outside the {width}x{height} image"
        if not cut:
            outside = SegmentationFault("polygon-outside", f"{what}: nothing of it is inside")
            return Outline(None, (*faults, outside), drawn=rings)
        faults = faults or (SegmentationFault("polygon-outside", what, cut, "cut at the border"),)
        arrays = [np.asarray(ring).reshape(-1, 2) for ring in cut]
    area = sum(abs(signed_area(ring)) for ring in arrays)
    box = _box_of(arrays, height, width)
    segmentation = Polygons(tuple(polygons))
    if not faults and area < 4 and not counts_of(segmentation, height, width)[1::2].any():
        what = f"its outline of {area:.2g} square pixels covers no pixel"
        return Outline(None, (SegmentationFault("mask-empty", what, [], "the outline left out"),), box, drawn=rings)
    return Outline(segmentation, faults, box, area, rings)


def signed_area(ring: Float[np.ndarray, "P 2"]) -> float:
    """Signed area of a polygon (shoelace formula)."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def cut_ring(ring: list[float], height: int, width: int) -> list[float]:
    """Clip the ring x, y, x, y, ... to the image (Sutherland and Hodgman 1974); empty if it is completely outside."""
    points = [(float(x), float(y)) for x, y in np.asarray(ring, float).reshape(-1, 2)]
    for axis, limit, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        inside: list[tuple[float, float]] = []
        for start, end in zip(points[-1:] + points[:-1], points, strict=True):
            a, b = sign * (start[axis] - limit), sign * (end[axis] - limit)
            if (a < 0) != (b < 0):
                share = a / (a - b)
                crossing = [start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])]
                crossing[axis] = float(limit)
                inside.append((crossing[0], crossing[1]))
            if b >= 0:
                inside.append(end)
        points = inside
    return [value for point in points for value in point]


def _box_of(rings: list[Float[np.ndarray, "_ 2"]], height: int, width: int) -> tuple[float, float, float, float] | None:
    if not rings:
        return None
    points = np.concatenate(rings).clip(0, (width, height))
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom


def exact_area(outline: Outline, height: int, width: int) -> float:
    """Number of pixels of a usable outline."""
    assert outline.segmentation is not None
    if isinstance(outline.segmentation, RunLengths):
        return outline.area
    rings = [ring.tolist() for ring in outline.segmentation.rings]
    return float(coco_masks.area(coco_masks.merge(polygon_runs(rings, height, width))))
