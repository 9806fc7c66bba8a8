"""Polygons of mask crops in image coordinates: pixel (column, row) covers [column, column + 1) x [row, row + 1)."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8

from htc.ops.masks import MaskCrop


@dataclass(frozen=True)
class Polygon:
    """One connected part of a mask: the area inside `exterior` and outside all `holes`."""

    exterior: Float32[np.ndarray, "V 2"]
    """(x, y) vertices in image pixels; the last one is joined to the first."""
    holes: tuple[Float32[np.ndarray, "_ 2"], ...] = ()
    """Rings of the same form; an island inside a hole is a separate polygon."""


def polygons(crop: MaskCrop, tolerance: float = 0.0) -> list[Polygon]:
    """Extract the connected parts of one instance, largest exterior first, with their holes.

    With `tolerance` 0, a ring follows the pixel edges exactly; with a larger value, vertices are removed as long as the
    ring moves by at most `tolerance` pixels. Every ring has at least four vertices (three after simplification).
    """
    if not crop.bitmap.any():
        return []
    raw_contours, hierarchy = cv2.findContours(_corner_grid(crop.bitmap), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    contours = [_with_corners(contour.reshape(-1, 2)) for contour in raw_contours]
    parents: list[int] = hierarchy[0, :, 3].tolist()
    outer = [index for index, parent in enumerate(parents) if parent < 0]
    outer.sort(key=lambda index: cv2.contourArea(contours[index]), reverse=True)
    offset = np.array([crop.x, crop.y], np.float32)

    def ring(index: int) -> Float[np.ndarray, "V 2"]:
        contour = contours[index]
        if tolerance > 0:
            contour = _simplified(contour, 2 * tolerance)
        return contour.reshape(-1, 2).astype(np.float32) / 2 - 0.5 + offset

    return [
        Polygon(ring(index), tuple(ring(hole) for hole, parent in enumerate(parents) if parent == index))
        for index in outer
    ]


def _corner_grid(bitmap: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
    """Upsample the bitmap to twice its resolution, so that pixel corners are points: corner (x, y) is point (2x + 1, 2y
    + 1).

    OpenCV follows the centers of border points. Each pixel becomes the 3x3 points from corner to corner, so the contour
    runs along the pixel's edges; pixels that touch only at a corner share that point, and pixels with a gap of one stay
    apart.
    """
    height, width = bitmap.shape
    points = np.zeros((2 * height + 3, 2 * width + 3), np.uint8)
    points[2:-1:2, 2:-1:2] = bitmap
    return cv2.dilate(points, np.ones((3, 3), np.uint8))


def _with_corners(contour: Int32[np.ndarray, "V 2"]) -> Int32[np.ndarray, "C 2"]:
    """Pixel corners of a contour: OpenCV cuts each inward corner with one diagonal step between two points that are not
    corners.
    """
    following = np.roll(contour, -1, axis=0)
    diagonal = (np.abs(following - contour) == 1).all(axis=1)
    # Corners are odd in both axes; of the two ways around a diagonal step, exactly one passes through such a point.
    turn = np.stack((contour[:, 0], following[:, 1]), axis=1)
    turn = np.where((turn % 2 == 1).all(axis=1)[:, None], turn, np.stack((following[:, 0], contour[:, 1]), axis=1))
    points = np.stack((contour, np.where(diagonal[:, None], turn, 0)), axis=1).reshape(-1, 2)
    return points[(points % 2 == 1).all(axis=1)].astype(np.int32)


def _simplified(contour: Int32[np.ndarray, "C 2"], tolerance: float) -> Int32[np.ndarray, "S 2"]:
    simple = cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2)
    return simple if len(simple) >= 3 else contour
