"""Small pictures of what was found: the object outlined, with enough around it to recognise the place."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from htc.data.images import read_picture
from htc.doctor.finding import Box, Finding
from htc.errors import DataError

WIDTH, HEIGHT = 440, 330
AROUND = 1.2
"""Of the object's extent on each side of it."""
LEAST = 48
"""Pixels of the picture that a thumbnail shows at least: less would be unrecognisable."""
GROUND = (128, 128, 128)
BOX, OUTLINE, HALO = (255, 176, 0), (0, 190, 255), (20, 20, 20)
"""RGB of the box, the polygons, and the dark line below both that keeps them visible on any ground."""


def thumbnail(finding: Finding) -> UInt8[np.ndarray, "H W 3"] | None:
    """The picture of a finding, cut to its object; None where there is no picture, or none that can be read."""
    if finding.picture is None or not finding.picture.is_file():
        return None
    try:
        image = read_picture(finding.picture)
    except DataError:
        return None
    window = _window(_extent(finding), image.shape[0], image.shape[1])
    canvas, scale = _cut(image, window)
    move = np.array(window[:2], np.float64)
    for ring in finding.rings:
        _draw((np.array(ring[: len(ring) // 2 * 2]).reshape(-1, 2) - move) * scale, canvas, OUTLINE)
    if finding.box is not None:
        left, top, right, bottom = finding.box
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        _draw((corners - move) * scale, canvas, BOX)
    return canvas


def _extent(finding: Finding) -> Box | None:
    """What must be seen: box and outlines."""
    points = [np.array(ring[: len(ring) // 2 * 2]).reshape(-1, 2) for ring in finding.rings if len(ring) >= 2]
    if finding.box is not None:
        points.append(np.array(finding.box).reshape(-1, 2))
    if not points:
        return None
    both = np.concatenate(points)
    (left, top), (right, bottom) = both.min(0).tolist(), both.max(0).tolist()
    return left, top, right, bottom


def _window(extent: Box | None, height: int, width: int) -> Box:
    """The part of the picture (xyxy) that is shown; a little beyond its border where the object is."""
    if extent is None:
        return 0.0, 0.0, float(width), float(height)
    # An outline far outside would leave nothing of the picture to see.
    left, right = max(extent[0], -0.2 * width), min(extent[2], 1.2 * width)
    top, bottom = max(extent[1], -0.2 * height), min(extent[3], 1.2 * height)
    if right <= left or bottom <= top:
        return 0.0, 0.0, float(width), float(height)
    w = max(LEAST, right - left, min((right - left) * (1 + AROUND), width))
    h = max(LEAST, bottom - top, min((bottom - top) * (1 + AROUND), height))
    w, h = max(w, h * WIDTH / HEIGHT), max(h, w * HEIGHT / WIDTH)
    x, y = (left + right - w) / 2, (top + bottom - h) / 2
    return _slid(x, y, w, h, height, width)


def _slid(x: float, y: float, w: float, h: float, height: int, width: int) -> Box:
    """The window moved into the picture as far as it fits."""
    x = min(max(x, 0.0), width - w) if w < width else (width - w) / 2
    y = min(max(y, 0.0), height - h) if h < height else (height - h) / 2
    return x, y, x + w, y + h


def _cut(image: UInt8[np.ndarray, "H W 3"], window: Box) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """The window as a picture (grey where nothing of the picture is), and its scale."""
    left, top, right, bottom = window
    scale = min(WIDTH / (right - left), HEIGHT / (bottom - top))
    # `warpAffine` does not average: a large picture is reduced before.
    reduced = min(1.0, scale)
    if reduced < 1:
        image = cv2.resize(image, None, fx=reduced, fy=reduced, interpolation=cv2.INTER_AREA)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    place = np.array([[scale / reduced, 0, -left * scale], [0, scale / reduced, -top * scale]])
    return cv2.warpAffine(
        image, place, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GROUND
    ), scale


def _draw(points: Float[np.ndarray, "P 2"], canvas: UInt8[np.ndarray, "H W 3"], colour: tuple[int, int, int]) -> None:
    """A closed line of two pixels with a dark rim."""
    line = [(points.clip(-10_000, 10_000) * 16).round().astype(np.int32)]
    cv2.polylines(canvas, line, True, HALO, 4, cv2.LINE_AA, 4)
    cv2.polylines(canvas, line, True, colour, 2, cv2.LINE_AA, 4)
