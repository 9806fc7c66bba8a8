"""Outlines of mask crops as polygons in image coordinates, where pixel (column, row) covers [column, column + 1) x
[row, row + 1).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from htc.ops.masks import MaskCrop


@dataclass(frozen=True)
class Polygon:
    """One connected part of a mask: what lies inside `exterior` and in none of the `holes`."""

    exterior: Float32[np.ndarray, "V 2"]
    """(x, y) corners in pixels of the image; the last one is joined to the first."""
    holes: tuple[Float32[np.ndarray, "_ 2"], ...] = ()
    """Likewise; an island inside a hole is a polygon of its own."""


def polygons(crop: MaskCrop, tolerance: float = 0.0) -> list[Polygon]:
    """The connected parts of one instance, largest exterior first, with their holes.

    With `tolerance` 0 an outline runs exactly along the edges of the pixels; above it, corners are left out as long as
    the outline moves by no more than `tolerance` pixels. Every outline has at least four corners (three after
    simplification).
    """
    if not crop.bitmap.any():
        return []
    found, hierarchy = cv2.findContours(_corner_grid(crop.bitmap), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = [_with_corners(contour.reshape(-1, 2)) for contour in found]
    parents: list[int] = hierarchy[0, :, 3].tolist()
    exteriors = [number for number, parent in enumerate(parents) if parent < 0]
    exteriors.sort(key=lambda number: cv2.contourArea(contours[number]), reverse=True)
    offset = np.array([crop.x, crop.y], np.float32)

    def outline(number: int) -> Float[np.ndarray, "V 2"]:
        contour = contours[number]
        if tolerance > 0:
            contour = _simplified(contour, 2 * tolerance)
        return contour.reshape(-1, 2).astype(np.float32) / 2 - 0.5 + offset

    return [
        Polygon(outline(number), tuple(outline(hole) for hole, parent in enumerate(parents) if parent == number))
        for number in exteriors
    ]


def _corner_grid(bitmap: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
    """Twice the resolution, so that the corners of pixels are points of it: corner (x, y) is point (2x + 1, 2y + 1).

    OpenCV follows the centers of border points. A pixel becomes the 3x3 points from corner to corner, hence the outline
    runs along the pixel's edges; pixels that only touch at a corner share that point, and pixels one apart stay apart.
    """
    height, width = bitmap.shape
    points = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    points[2:-1:2, 2:-1:2] = bitmap
    return cv2.dilate(points, np.ones((3, 3), np.uint8))


def _with_corners(contour: Int32[np.ndarray, "V 2"]) -> Int32[np.ndarray, "C 2"]:
    """The pixel corners of a contour: OpenCV cuts each inward corner by one diagonal step between two points that
    are no corners.
    """
    following = np.roll(contour, -1, axis=0)
    diagonal = (np.abs(following - contour) == 1).all(axis=1)
    # Corners are odd in both axes; of the two ways round a diagonal step exactly one passes such a point.
    turn = np.stack((contour[:, 0], following[:, 1]), axis=1)
    turn = np.where((turn % 2 == 1).all(axis=1)[:, None], turn, np.stack((following[:, 0], contour[:, 1]), axis=1))
    points = np.stack((contour, np.where(diagonal[:, None], turn, 0)), axis=1).reshape(-1, 2)
    return points[(points % 2 == 1).all(axis=1)].astype(np.int32)


def _simplified(contour: Int32[np.ndarray, "C 2"], tolerance: float) -> Int32[np.ndarray, "S 2"]:
    simple = cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2)
    return simple if len(simple) >= 3 else contour
