"""Shapes that annotation tools draw, as rings of COCO's polygons."""

import math
from collections.abc import Iterable, Sequence

ROUND_POINTS = 64
"""Points of the polygon of a circle or ellipse."""
Box = tuple[float, float, float, float]


def ring_of(points: Iterable[Sequence[float]]) -> list[float]:
    """x, y, x, y, ... of points (x, y), rounded to a thousandth of a pixel."""
    return [round(float(value), 3) for point in points for value in point]


def rectangle_ring(x: float, y: float, width: float, height: float) -> list[float]:
    """The corners of a rectangle, clockwise from (x, y)."""
    return ring_of([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def ellipse_ring(x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> list[float]:
    """A polygon around the center (x, y); `angle` in radians turns the x axis to the y axis."""
    cosine, sine = math.cos(angle), math.sin(angle)
    steps = [2 * math.pi * step / ROUND_POINTS for step in range(ROUND_POINTS)]
    own = [(radius_x * math.cos(step), radius_y * math.sin(step)) for step in steps]
    return ring_of((x + a * cosine - b * sine, y + a * sine + b * cosine) for a, b in own)


def box_of(rings: Sequence[Sequence[float]], height: int, width: int) -> Box:
    """x, y, width, height of the box of rings, clipped to the image."""
    xs = [min(max(value, 0.0), float(width)) for ring in rings for value in ring[0::2]]
    ys = [min(max(value, 0.0), float(height)) for ring in rings for value in ring[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
