"""Statistics of label maps: their values, what lies along the border, and traces of smoothing and compression."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Int

from htc.data.formats.map_values import regions
from htc.errors import DataError

BRIGHTEST = 65535
"""Brightest gray value of a binary mask."""
LEVELS_APART = 64
"""Smallest difference of the two levels of a smoothed binary mask."""
REACH = 9
"""Pixels on either side of an edge that smoothing or JPEG's blocks change."""
FLAT_SHARE = 0.5
"""A smoothed mask has at most this share of its intermediate pixels in squares of 2 x 2 equal pixels."""
SEVERAL = 0.1
"""A region counts as separate if it has at least this share of the largest region's pixels."""
MOST_VALUES = 20_000
"""More values than this in one map are smoothed colors, not instances."""


@dataclass(frozen=True, eq=False)
class MapStatistics:
    """What `decide` needs of one page of a map."""

    file: Path
    kind: Literal["levels", "smooth", "values"]
    """`levels`: at most two values; `smooth`: two levels with values between them along the edges; `values`: others."""
    low: int
    high: int
    """The lower and upper level; of `values` the smallest and the largest value."""
    pixels: Counter[int] = field(repr=False)
    border: Counter[int] = field(repr=False)
    """Pixels of each value, in the whole map and along its border."""
    thin: frozenset[int] = field(repr=False)
    """Values most of whose pixels are outside of squares of 2 x 2 equal pixels."""
    split: frozenset[int] = field(repr=False)
    """Values of several regions of comparable size."""


def statistics_of(file: Path, values: Int[np.ndarray, "H W"]) -> MapStatistics:
    """Statistics of one page. Raises `DataError` if it has too many values."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > MOST_VALUES:
        raise DataError(
            f"{file} contains {len(distinct)} values; a label map has one per instance: save it without smoothing, in "
            f"a lossless format"
        )
    edges = np.concatenate((values[0], values[-1], values[1:-1, 0], values[1:-1, -1]))
    square = _square_pixels(values)
    inside = dict(zip(*(one.tolist() for one in np.unique(values[square], return_counts=True)), strict=True))
    pixels = Counter(dict(zip(distinct.tolist(), counts.tolist(), strict=True)))
    thin = frozenset(value for value, count in pixels.items() if inside.get(value, 0) < FLAT_SHARE * count)
    low, high = int(distinct[0]), int(distinct[-1])
    kind = "levels" if len(distinct) <= 2 else "values"
    split: frozenset[int] = frozenset()
    if kind == "values":
        levels = _levels(values, square, pixels)
        if levels is not None:
            kind, (low, high) = "smooth", levels
        else:
            split = frozenset(value for value, _, found in regions(values, ()) if _several(found))
    return MapStatistics(file, kind, low, high, pixels, Counter(edges.tolist()), thin, split)


def _square_pixels(values: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels in squares of 2 x 2 equal pixels."""
    equal = (
        (values[1:, 1:] == values[:-1, :-1])
        & (values[1:, :-1] == values[:-1, :-1])
        & (values[:-1, 1:] == values[:-1, :-1])
    )
    square = np.zeros(values.shape, bool)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            square[rows, columns] |= equal
    return square


def _levels(
    values: Int[np.ndarray, "H W"], square: Bool[np.ndarray, "H W"], pixels: Counter[int]
) -> tuple[int, int] | None:
    """The two levels of a binary mask with values between them along its edges; None for other maps."""
    middle = (min(pixels) + max(pixels)) / 2
    low = max((value for value in pixels if value <= middle), key=lambda value: pixels[value])
    high = max((value for value in pixels if value > middle), key=lambda value: pixels[value])
    between = (values != low) & (values != high)
    if high - low < LEVELS_APART or not 0 <= low < high <= BRIGHTEST:
        return None
    if np.count_nonzero(between & square) > FLAT_SHARE * np.count_nonzero(between):
        return None
    bright = (values > middle).astype(np.uint8)
    kernel = np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8)
    near = cv2.dilate(bright, kernel) != cv2.erode(bright, kernel)
    return (low, high) if np.count_nonzero(between & ~near) <= 0.1 * np.count_nonzero(between) else None


def _several(numbers: Int[np.ndarray, "h w"]) -> bool:
    sizes = np.sort(np.bincount(numbers.reshape(-1))[1:])
    return len(sizes) > 1 and bool(sizes[-2] >= SEVERAL * sizes[-1])
