"""Holes in COCO polygons.

COCO's polygons are a union, so a hole cannot be written. Many tools write one all the same: as a ring wholly inside
another, of the opposite orientation. Here such a ring is a hole, and a ring inside a hole, again of the opposite
orientation, an island. The official evaluation, as pycocotools, fills both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_masks

from htc.data.dataset import Polygons, RunLengths
from htc.data.mask_encodings import polygon_runs, read_counts

TOUCH = 1e-6
"""Pixels within which a point is on an edge; a hole may touch the outline."""
PAIRS = 1_000_000
"""Pairs of edges that are compared at a time."""


def signed_area(ring: Float[np.ndarray, "P 2"]) -> float:
    """Signed area of a polygon (shoelace formula)."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def nested_rings(rings: Sequence[Float[np.ndarray, " _"]]) -> dict[int, int]:
    """Index of the smallest ring around each ring (x, y, x, y, ...) that is wholly inside another one."""
    if len(rings) < 2:
        return {}
    points = [ring.reshape(-1, 2) for ring in rings]
    low, high = np.array([ring.min(0) for ring in points]), np.array([ring.max(0) for ring in points])
    inside: Bool[np.ndarray, "R R"] = np.all((low[:, None] >= low[None]) & (high[:, None] <= high[None]), axis=2)
    np.fill_diagonal(inside, val=False)
    if not inside.any():
        return {}
    areas = np.abs([signed_area(ring) for ring in points])
    outer: dict[int, int] = {}
    for index in np.flatnonzero(inside.any(1)):
        around = [other for other in np.flatnonzero(inside[index]) if areas[other] > areas[index] > 0]
        for other in sorted(around, key=lambda other: areas[other]):
            if _is_inside(points[index], points[other]):
                outer[int(index)] = int(other)
                break
    return outer


def hole_rings(rings: Sequence[Float[np.ndarray, " _"]], outer: dict[int, int] | None = None) -> frozenset[int]:
    """Indices of the rings that are holes; `outer` is the result of `nested_rings`, if it is known."""
    outer = nested_rings(rings) if outer is None else outer
    if not outer:
        return frozenset()
    areas = [signed_area(ring.reshape(-1, 2)) for ring in rings]
    holes: set[int] = set()
    for index in sorted(outer, key=lambda index: -abs(areas[index])):  # the rings around it come first
        turned = (areas[index] > 0) != (areas[outer[index]] > 0)
        if turned != (outer[index] in holes):
            holes.add(index)
    return frozenset(holes)


def with_holes(polygons: Polygons, height: int, width: int) -> Polygons | RunLengths:
    """The mask with its holes, as RLE; `polygons` itself if it has none."""
    outer = nested_rings(polygons.rings)
    holes = hole_rings(polygons.rings, outer)
    if not holes:
        return polygons
    runs = polygon_runs([ring.tolist() for ring in polygons.rings], height, width)
    areas = [abs(signed_area(ring.reshape(-1, 2))) for ring in polygons.rings]
    trees: dict[int, Any] = {index: runs[index] for index in range(len(runs)) if index not in outer}
    for index in sorted(outer, key=lambda index: -areas[index]):
        root = index
        while root in outer:
            root = outer[root]
        if index in holes:
            trees[root] = coco_masks.merge([trees[root], _inverted(runs[index])], intersect=True)
        else:
            trees[root] = coco_masks.merge([trees[root], runs[index]])
    merged: Any = coco_masks.merge(list(trees.values()))
    return RunLengths(merged["counts"])


def _inverted(runs: Any) -> Any:
    counts: Int[np.ndarray, " R"] = read_counts(runs["counts"])
    inverted = counts[1:] if counts[0] == 0 else np.concatenate(([0], counts))
    return coco_masks.frPyObjects({"size": runs["size"], "counts": inverted.tolist()}, *runs["size"])


def _is_inside(ring: Float[np.ndarray, "P 2"], other: Float[np.ndarray, "Q 2"]) -> bool:
    """Whether all of `ring` is in `other`; they may touch, but not cross."""
    step = max(1, PAIRS // len(other))
    ends = np.roll(ring, -1, axis=0)
    return all(
        _has_points(other, ring[start : start + step]).all()
        and not _cross(ring[start : start + step], ends[start : start + step], other)
        for start in range(0, len(ring), step)
    )


def _has_points(ring: Float[np.ndarray, "Q 2"], points: Float[np.ndarray, "P 2"]) -> Bool[np.ndarray, " P"]:
    """Which points are inside the ring, by the parity of crossings to their right, or on it."""
    start, end = ring[None], np.roll(ring, -1, axis=0)[None]
    x, y = points[:, :1], points[:, 1:]
    along = end - start
    length = np.maximum((along**2).sum(2), 1e-12)
    share = np.clip(((x - start[..., 0]) * along[..., 0] + (y - start[..., 1]) * along[..., 1]) / length, 0, 1)
    distance = (start[..., 0] + share * along[..., 0] - x) ** 2 + (start[..., 1] + share * along[..., 1] - y) ** 2
    straddles = (start[..., 1] > y) != (end[..., 1] > y)
    rise = np.where(along[..., 1] == 0, 1.0, along[..., 1])
    right = x < start[..., 0] + (y - start[..., 1]) * along[..., 0] / rise
    odd = (straddles & right).sum(1) % 2 == 1
    return odd | (distance <= TOUCH**2).any(1)


def _cross(start: Float[np.ndarray, "P 2"], end: Float[np.ndarray, "P 2"], ring: Float[np.ndarray, "Q 2"]) -> bool:
    """Whether any edge crosses an edge of the ring; edges that only touch do not."""
    other_start, other_end = ring[None], np.roll(ring, -1, axis=0)[None]
    a, b = start[:, None], end[:, None]

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])

    first = side(a, b, other_start) * side(a, b, other_end)
    second = side(other_start, other_end, a) * side(other_start, other_end, b)
    return bool(((first < -TOUCH) & (second < -TOUCH)).any())
