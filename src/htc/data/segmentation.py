"""The `segmentation` of a COCO annotation: parsing, faults, and the area that it covers.

`parse_segmentation` finds the faults that make it unusable, for every reader. `read_outline` adds, for `htc doctor`,
the faults of shapes that are readable but cover nothing, are outside the image, or are not in pixels.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_masks

from htc.data.dataset import Polygons, RunLengths
from htc.data.holes import hole_rings, nested_rings, signed_area, with_holes
from htc.data.mask_encodings import Rings, counts_of, decode_mask, plain_counts, polygon_runs, read_counts
from htc.data.record_values import are_numbers, is_number, short, whole

FAR = 10
"""A polygon further outside than this multiple of the image size does not belong to the image."""
OUTSIDE_PIXELS = 1.0
"""Pixels that a polygon may extend beyond the image; annotation tools round vertices."""
SMALL_AREA = 4.0
"""Square pixels below which polygons may cover no pixel."""
EMPTY: tuple[Any, ...] = (None, [], {}, "")
"""Values of `segmentation` without any mask."""


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
    understood: str = ""
    """How the value differs from COCO's format although its meaning is certain."""
    written: Any = None
    """The value in COCO's format, if it was `understood`."""


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
    holes: int = 0
    """Number of rings that are holes."""
    filled_area: float | None = None
    """For rings inside others: the area of the union, which COCO's tools compute."""
    even_odd_area: float | None = None
    """For rings inside others: the area if each of them is a hole, whatever its orientation."""


NO_OUTLINE = Outline(None)


def parse_segmentation(value: Any, height: int, width: int) -> ParsedSegmentation:
    """Parse the segmentation of an annotation on an image of that size, with all faults that make it unusable."""
    if value in EMPTY:
        return ParsedSegmentation(None)
    if isinstance(value, list):
        rings = [ring for ring in value if ring != []]
        if len(rings) == len(value):
            return _parse_polygons(value, height, width)
        parsed = _parse_polygons(rings, height, width) if rings else ParsedSegmentation(None)
        return parsed._replace(understood="an empty polygon is left out", written=rings)
    if isinstance(value, dict) and "counts" in value:
        return _parse_runs(value, height, width)
    what = f"its segmentation is {short(value)}, neither a list of polygons nor a run-length encoding"
    return ParsedSegmentation(None, (SegmentationFault("outline-unknown", what),))


def read_outline(value: Any, height: int, width: int, *, holes: bool = True) -> Outline:
    """Parse the segmentation of an annotation on an image of that size, with all faults, including those that training
    ignores. Without `holes`, polygons are a union.
    """
    rings = [ring for ring in value if ring != []] if isinstance(value, list) else []
    if rings and not _is_flat(rings):
        outline = _outline_of_polygons(rings, height, width)
        return _nested(outline, height, width, holes) if len(rings) > 1 else outline
    segmentation, faults, _, _ = parse_segmentation(value, height, width)
    if isinstance(segmentation, RunLengths):
        return _outline_of_runs(segmentation, height, width)
    if not faults:
        return NO_OUTLINE
    if isinstance(value, list):
        whole_ring = _outline_of_polygons([value], height, width)
        kept = [value] if whole_ring.segmentation is not None and not whole_ring.faults else None
        fault = SegmentationFault(faults[0].code, faults[0].what, kept, "put in brackets")
        return Outline(None, (fault,), whole_ring.box)
    return Outline(None, faults)


def _nested(outline: Outline, height: int, width: int, holes: bool) -> Outline:
    """Report rings inside others, and cut the holes out of the mask."""
    polygons = outline.segmentation
    if not isinstance(polygons, Polygons):
        return outline
    rings = polygons.rings
    outer = nested_rings(rings)
    if not outer:
        return outline
    cut = hole_rings(rings, outer)
    areas = [abs(signed_area(ring.reshape(-1, 2))) for ring in rings]
    even_odd = 0.0
    for index, area in enumerate(areas):
        depth, at = 0, index
        while at in outer:
            depth, at = depth + 1, outer[at]
        even_odd += area if depth % 2 == 0 else -area
    filled = exact_area(outline, height, width)
    outline = replace(outline, filled_area=filled, even_odd_area=even_odd)
    faults = list(outline.faults)
    for index in sorted(outer):
        where = f"polygon {index + 1} lies inside polygon {outer[index] + 1}"
        if index in cut:
            used = "a hole" if holes else "a hole, which is filled (--coco-holes off)"
            faults.append(SegmentationFault("polygon-hole", f"{where}, with the opposite orientation: {used}"))
        elif outer[index] not in cut:
            faults.append(SegmentationFault("polygon-inside", f"{where}, with the same orientation: it adds nothing"))
    outline = replace(outline, faults=tuple(faults), holes=len(cut))
    if not cut or not holes:
        return outline
    segmentation = with_holes(polygons, height, width)
    area = float(counts_of(segmentation, height, width)[1::2].sum())
    return replace(outline, segmentation=segmentation, area=area)


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
    stated: list[Any] = size if isinstance(size, list) else []
    sides = [whole(side) for side in stated]
    if sides != [height, width]:
        turned = ", with width and height swapped" if sides == [width, height] else ""
        what = f"its run-length size is {short(size)}{turned}; the image's [height, width] is [{height}, {width}]"
        return ParsedSegmentation(None, (SegmentationFault("rle-size", what),))
    plain, understood = plain_counts(counts, height * width)
    if not understood and not all(type(side) is int for side in stated):
        understood = "its run-length size is not written as integers"
    damaged = None
    runs = text = None
    if isinstance(plain, str):
        try:
            text = plain.encode("ascii")
            runs = read_counts(text)
        except ValueError:
            damaged = f"its run-length text is damaged: {short(plain, 24)} cannot be decoded"
    elif isinstance(plain, list) and all(type(run) is int for run in plain):
        try:
            runs = np.array(plain, np.int64)
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
    segmentation = RunLengths(runs if text is None else text)
    if not understood:
        return ParsedSegmentation(segmentation)
    return ParsedSegmentation(segmentation, (), understood, {"size": [height, width], "counts": plain})


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
    if not faults and area < SMALL_AREA and not counts_of(segmentation, height, width)[1::2].any():
        what = f"its outline of {area:.2g} square pixels covers no pixel"
        return Outline(None, (SegmentationFault("mask-empty", what, [], "the outline left out"),), box, drawn=rings)
    return Outline(segmentation, faults, box, area, rings)


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
