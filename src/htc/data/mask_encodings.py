"""Decoding of COCO's mask encodings to bitmaps cropped to their boxes.

RLE is decoded directly to the crop; polygons are rasterized by pycocotools to RLE, in memory proportional to their
outline, so no array of the image's size is created. Needs no torch: annotation files are read and checked before torch
is imported.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from pycocotools import mask as coco_masks

from htc.data.dataset import Polygons, RunLengths
from htc.data.record_values import whole

CHARACTERS = 13
"""Maximum number of characters per run in COCO's text: 64 bits in groups of 5."""
TEXTS = 500
"""Compressed masks that are decoded together."""
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


def valid_counts(texts: Sequence[bytes], pixels: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """Which of COCO's compressed texts are valid and cover that number of pixels; all are decoded together."""
    valid = np.ones(len(texts), bool)
    for first in range(0, len(texts), TEXTS):
        part = slice(first, first + TEXTS)
        valid[part] = _valid_counts(texts[part], pixels[part])
    return valid


def _valid_counts(texts: Sequence[bytes], pixels: Int[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    lengths = np.array([len(text) for text in texts])
    valid = np.where(lengths > 0, True, pixels == 0)
    full = np.flatnonzero(lengths)
    if not len(full):
        return valid
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    starts = np.concatenate(([0], np.cumsum(lengths[full])[:-1]))
    last = starts + lengths[full] - 1
    good = (np.minimum.reduceat(codes, starts) >= 0) & (np.maximum.reduceat(codes, starts) <= 63)
    good &= codes[last] & 32 == 0
    codes[last] &= ~32  # so that every text ends a run
    ends = np.flatnonzero(codes & 32 == 0)
    begins = np.concatenate(([0], ends[:-1] + 1))
    owner = np.repeat(np.arange(len(full)), lengths[full])
    place = np.arange(len(codes)) - np.repeat(begins, ends - begins + 1)
    good &= np.maximum.reduceat(place, starts) < CHARACTERS
    shift = 5 * np.minimum(place, CHARACTERS - 1)
    runs = np.add.reduceat((codes & 31) << shift, begins)
    runs -= np.where(codes[ends] & 16, np.int64(1) << np.minimum(shift[ends] + 5, 62), 0)
    owner = owner[ends]
    firsts = np.searchsorted(owner, np.arange(len(full)))
    index = np.arange(len(runs)) - firsts[owner]
    # Two chains of differences in each text: the odd runs, and the even ones without the first, which stands alone.
    chain = np.where(index == 0, 0, 1 + index % 2) + 3 * owner
    order = np.argsort(chain, kind="stable")
    total = np.cumsum(runs[order])
    heads = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.concatenate(([0], total))[heads]
    counts = total - np.repeat(before, np.diff(np.append(heads, len(order))))
    owners = owner[order]
    limit = pixels[full][owners]
    good &= np.bincount(owners, (counts < 0) | (counts > limit), len(full)) == 0
    sums = np.bincount(owners, np.clip(counts, 0, limit), len(full))
    valid[full] = good & (sums == pixels[full])
    return valid


def plain_counts(counts: Any, pixels: int) -> tuple[Any, str]:
    """Run lengths as COCO writes them, and how they were written if that is something else with a certain meaning."""
    if isinstance(counts, list):
        numbers = [whole(run) for run in counts]
        if None not in numbers and sum(filter(None, numbers)) == pixels:
            return numbers, "" if numbers == counts and set(map(type, counts)) <= {int} else "its runs are no integers"
        if counts and all(type(code) is int and 0 < code < 128 for code in counts):
            text = bytes(counts).decode("ascii")
            if _covers(text, pixels):
                return text, "its run-length text is a list of character codes"
        return counts, ""
    if not isinstance(counts, str):
        return counts, ""
    if re.match(r"b['\"]", counts):
        try:
            literal = ast.literal_eval(counts)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return counts, ""
        text = literal.decode("latin-1") if isinstance(literal, bytes) else counts
        return (text, "its run-length text is that of Python's bytes, b'...'") if literal != counts else (counts, "")
    if re.fullmatch(r"[\s,\[\]0-9]*[\s,\[][\s,\[\]0-9]*", counts):
        runs = [int(run) for run in re.findall(r"[0-9]{1,18}", counts)]
        if sum(runs) == pixels:
            return runs, "its runs are written as a text"
    return counts, ""


def _covers(text: str, pixels: int) -> bool:
    try:
        return int(read_counts(text.encode("ascii")).sum()) == pixels
    except ValueError:
        return False


def polygon_runs(rings: Rings, height: int, width: int) -> Any:
    """Encode each ring with pycocotools, whose type stubs are inaccurate."""
    outlines: Any = rings
    return coco_masks.frPyObjects(outlines, height, width)


def encode_mask(segmentation: Polygons | RunLengths, height: int, width: int) -> Any:
    """COCO's compressed RLE, `{"size": [height, width], "counts": bytes}`, of a mask of any encoding."""
    if not isinstance(segmentation, RunLengths):
        return coco_masks.merge(polygon_runs([ring.tolist() for ring in segmentation.rings], height, width))
    if isinstance(segmentation.counts, bytes):
        return {"size": [height, width], "counts": segmentation.counts}
    runs: Any = {"size": [height, width], "counts": segmentation.counts.tolist()}
    return coco_masks.frPyObjects(runs, height, width)


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
