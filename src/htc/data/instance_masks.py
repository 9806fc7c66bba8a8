"""Instance masks of every encoding as cropped bitmaps, and the geometry that moves them without touching a pixel.

Run lengths become the crop directly; polygons are rasterised by pycocotools to run lengths, in memory that grows with
their outline, so nothing as large as the picture is ever made.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as coco_masks
from torch import Tensor

from htc.data.dataset import Polygons, RunLengths
from htc.types import MaskCrops

CHARACTERS = 13
"""Most characters of one run in COCO's text: 64 bits in groups of 5."""
Rings = list[list[float]]
"""Polygons as COCO's JSON has them, each x, y, x, y, ..."""


class Crop(NamedTuple):
    """A mask cut to its box; (0, 0) pixels when there is nothing in it."""

    x: int
    y: int
    bitmap: UInt8[np.ndarray, "h w"]


def read_counts(text: bytes) -> Int[np.ndarray, " R"]:
    """The runs that COCO's compressed text stands for; `ValueError` if it is not such a text."""
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are not COCO's compressed run lengths")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if place.max() >= CHARACTERS:
        raise ValueError("its counts are not COCO's compressed run lengths")
    counts = np.add.reduceat((codes & 31) << (5 * place), starts)
    counts -= np.where(codes[ends] & 16, 1 << (5 * (place[ends] + 1)), 0)
    # From the fourth on, each is stored as its difference to the one two before it.
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def polygon_runs(rings: Rings, height: int, width: int) -> Any:
    """pycocotools' run lengths of each ring; its stubs know other types than it takes."""
    outlines: Any = rings
    return coco_masks.frPyObjects(outlines, height, width)


def counts_of(segmentation: Polygons | RunLengths, height: int, width: int) -> Int[np.ndarray, " R"]:
    """The runs of any encoding on a picture of that size."""
    if isinstance(segmentation, RunLengths):
        return read_counts(segmentation.counts) if isinstance(segmentation.counts, bytes) else segmentation.counts
    counts = coco_masks.merge(polygon_runs([ring.tolist() for ring in segmentation.rings], height, width))["counts"]
    return read_counts(counts if isinstance(counts, bytes) else counts.encode("ascii"))


def decode_mask(segmentation: Polygons | RunLengths, height: int, width: int) -> Crop:
    """The mask as a bitmap cut to its box."""
    ends = np.cumsum(counts_of(segmentation, height, width))
    stop = ends[1::2]
    start = ends[0::2][: len(stop)]
    some = stop > start
    start, stop = start[some], stop[some]
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


def mask_crops(crops: Iterable[Crop], canvas: tuple[int, int]) -> MaskCrops:
    """The crops of one picture of size `canvas` (height, width) in one buffer."""
    crops = list(crops)
    pixels = np.concatenate([np.zeros(0, np.uint8), *(crop.bitmap.reshape(-1) for crop in crops)])
    return MaskCrops(
        pixels=torch.from_numpy(pixels),
        sizes=torch.tensor([crop.bitmap.shape for crop in crops], dtype=torch.long).view(-1, 2),
        offsets=torch.tensor([(crop.x, crop.y) for crop in crops], dtype=torch.long).view(-1, 2),
        canvas=canvas,
    )


def crop_bitmaps(masks: MaskCrops) -> list[UInt8[np.ndarray, "_ _"]]:
    """Every object's crop, a view of the one buffer."""
    ends = masks.sizes.prod(1).cumsum(0).tolist()
    pixels = masks.pixels.numpy()
    return [pixels[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, masks.sizes.tolist(), strict=True)]


def select_crops(masks: MaskCrops, keep: Bool[Tensor, " M"]) -> MaskCrops:
    """Only the objects of `keep`."""
    wanted = torch.repeat_interleave(keep, masks.sizes.prod(1))
    return replace(masks, pixels=masks.pixels[wanted], sizes=masks.sizes[keep], offsets=masks.offsets[keep])


def boxes_from_masks(masks: MaskCrops) -> Float[Tensor, "M 4"]:
    """xyxy box of each mask in pixels of the network input; zeros for an object without mask."""
    low = masks.offsets.double()
    high = low + masks.sizes.flip(1)
    scale, shift = torch.tensor(masks.scale, dtype=torch.double), torch.tensor(masks.shift, dtype=torch.double)
    ends = torch.stack([(low - shift) / scale, (high - shift) / scale])
    boxes = torch.cat([ends.amin(0), ends.amax(0)], dim=1).float()
    return torch.where(masks.sizes.prod(1, keepdim=True) > 0, boxes, 0.0)


def resized(masks: MaskCrops, sx: float, sy: float) -> MaskCrops:
    """Seen in a picture that is `sx` times as wide and `sy` times as high."""
    return replace(masks, scale=(masks.scale[0] / sx, masks.scale[1] / sy))


def flipped_horizontally(masks: MaskCrops, width: int) -> MaskCrops:
    """Seen in the mirror image of a picture of that width."""
    (sx, sy), (tx, ty) = masks.scale, masks.shift
    return replace(masks, scale=(-sx, sy), shift=(tx + sx * width, ty))


def flipped_vertically(masks: MaskCrops, height: int) -> MaskCrops:
    """Seen upside down in a picture of that height."""
    (sx, sy), (tx, ty) = masks.scale, masks.shift
    return replace(masks, scale=(sx, -sy), shift=(tx, ty + sy * height))


def cropped(masks: MaskCrops, left: int, top: int, width: int, height: int) -> MaskCrops:
    """Seen through a window (network-input pixels). Crops are cut to what the window shows of them, maybe to
    nothing.
    """
    (sx, sy), (tx, ty) = masks.scale, masks.shift
    shift = (tx + sx * left, ty + sy * top)
    across = sorted((shift[0], shift[0] + sx * width))
    down = sorted((shift[1], shift[1] + sy * height))
    crops = [
        _cut(Crop(x, y, bitmap), (across[0], down[0], across[1], down[1]))
        for (x, y), bitmap in zip(masks.offsets.tolist(), crop_bitmaps(masks), strict=True)
    ]
    return replace(mask_crops(crops, masks.canvas), scale=masks.scale, shift=shift)


def _cut(crop: Crop, window: tuple[float, float, float, float]) -> Crop:
    """The part of a crop whose pixels reach into the window (xyxy, annotated pixels), cut to its box again."""
    height, width = crop.bitmap.shape
    # A window edge that misses a pixel edge by rounding alone must not let the next pixel in.
    left = max(int(np.floor(window[0] + 1e-6)) - crop.x, 0)
    top = max(int(np.floor(window[1] + 1e-6)) - crop.y, 0)
    right = min(int(np.ceil(window[2] - 1e-6)) - crop.x, width)
    bottom = min(int(np.ceil(window[3] - 1e-6)) - crop.y, height)
    if left == 0 and top == 0 and right == width and bottom == height:
        return crop
    part = crop.bitmap[top : max(bottom, top), left : max(right, left)]
    return tight(Crop(crop.x + left, crop.y + top, part))


def tight(crop: Crop) -> Crop:
    """The same mask cut to its box again."""
    rows, columns = np.flatnonzero(crop.bitmap.any(1)), np.flatnonzero(crop.bitmap.any(0))
    if not len(rows):
        return Crop(0, 0, np.zeros((0, 0), np.uint8))
    bitmap = crop.bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Crop(crop.x + int(columns[0]), crop.y + int(rows[0]), bitmap)


def crops_in_view(masks: MaskCrops, size: tuple[int, int]) -> list[Crop]:
    """Each object's pixels in the grid of a network input of `size` (height, width): those whose centre lies in its
    mask.
    """
    across, down = (
        np.floor(masks.scale[axis] * (np.arange(size[1 - axis]) + 0.5) + masks.shift[axis] + 1e-9).astype(np.int64)
        for axis in (0, 1)
    )
    found = []
    for (x, y), bitmap in zip(masks.offsets.tolist(), crop_bitmaps(masks), strict=True):
        rows = np.flatnonzero((down >= y) & (down < y + bitmap.shape[0]))
        columns = np.flatnonzero((across >= x) & (across < x + bitmap.shape[1]))
        seen = bitmap[down[rows] - y].take(across[columns] - x, axis=1)
        found.append(tight(Crop(int(columns[0]), int(rows[0]), seen)) if seen.size else Crop(0, 0, seen.reshape(0, 0)))
    return found
