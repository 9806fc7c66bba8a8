"""Decoding of COCO's mask encodings to bitmaps cropped to their boxes.

RLE is decoded directly to the crop; polygons are rasterized by pycocotools to RLE, in memory proportional to their
outline, so no array of the image's size is created. Needs no torch: annotation files are read and checked before torch
is imported.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from pycocotools import mask as coco_masks

from htc.data.dataset import Polygons, RunLengths

CHARACTERS = 13
"""Maximum number of characters per run in COCO's text: 64 bits in groups of 5."""
Rings = list[list[float]]
"""Polygons as in COCO's JSON, each x, y, x, y, ..."""


class Crop(NamedTuple):
    """A mask cropped to its box; (0, 0) pixels for an empty mask."""

    x: int
    y: int
    bitmap: UInt8[np.ndarray, "h w"]


def read_counts(text: bytes) -> Int[np.ndarray, " R"]:
    """Decode COCO's compressed text to runs; raises `ValueError` for invalid text."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are not COCO's compressed run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    position = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if position.max() >= CHARACTERS:
        raise ValueError("its counts are not COCO's compressed run lengths")
    counts = np.add.reduceat((codes & 31) << (5 * position), starts)
    counts -= np.where(codes[ends] & 16, 1 << (5 * (position[ends] + 1)), 0)
    # From the fourth on, each is stored as the difference to the one two before it.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def polygon_runs(rings: Rings, height: int, width: int) -> Any:
    """Encode each ring with pycocotools, whose type stubs are inaccurate."""
    outlines: Any = rings
    return coco_masks.frPyObjects(outlines, height, width)


def counts_of(segmentation: Polygons | RunLengths, height: int, width: int) -> Int[np.ndarray, " R"]:
    """Runs of a segmentation of any encoding on an image of that size."""
    if isinstance(segmentation, RunLengths):
        return read_counts(segmentation.counts) if isinstance(segmentation.counts, bytes) else segmentation.counts
    counts = coco_masks.merge(polygon_runs([ring.tolist() for ring in segmentation.rings], height, width))["counts"]
    return read_counts(counts if isinstance(counts, bytes) else counts.encode("ascii"))


def decode_mask(segmentation: Polygons | RunLengths, height: int, width: int) -> Crop:
    """Decode the mask to a bitmap cropped to its box."""
    ends = np.cumsum(counts_of(segmentation, height, width))
    stop = ends[1::2]
    start = ends[0::2][: len(stop)]
    nonempty = stop > start
    start, stop = start[nonempty], stop[nonempty]
    if not len(start):
        return Crop(0, 0, np.zeros((0, 0), np.uint8))
    left, right = int(start[0]) // height, (int(stop[-1]) - 1) // height + 1
    steps = np.zeros((right - left) * height + 1, np.int8)
    steps[start - left * height] += 1
    steps[stop - left * height] -= 1
    columns = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return Crop(left, top, np.ascontiguousarray(columns[:, top:bottom].T))


def tight(crop: Crop) -> Crop:
    """Crop a mask to its box again."""
    rows, columns = np.flatnonzero(crop.bitmap.any(1)), np.flatnonzero(crop.bitmap.any(0))
    if not len(rows):
        return Crop(0, 0, np.zeros((0, 0), np.uint8))
    bitmap = crop.bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Crop(crop.x + int(columns[0]), crop.y + int(rows[0]), bitmap)
