"""Image masks from mask probabilities on a grid over each box, computed without a dense (N, H, W) array.

An image pixel is foreground where the bilinear sample of the grid at the pixel's center reaches the threshold; outside
the grid the probability is zero. The sample is separable: a crop is Wx @ grid^T @ Wy^T, two small matrix products over
the pixels inside the box only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

WORK_ELEMENTS = 4_000_000
"""Pixels and weights computed at a time: bounds the working memory at a few tens of MB for any image size."""
WEIGHT_TABLES = 64
"""Memory for the weights of one column or row of a crop, in the same unit."""


class MaskCrop(NamedTuple):
    """The mask of one instance, cropped to the pixels that its box touches."""

    x: int
    """Column of the crop's left pixel in the image."""
    y: int
    """Row of the crop's top pixel in the image."""
    bitmap: Bool[np.ndarray, "h w"]


class Piece(NamedTuple):
    """A range of columns [left, right) of one instance, computed at once: the whole crop unless the instance is very
    large.
    """

    owner: int
    left: int
    right: int


@dataclass(frozen=True)
class MaskGrid:
    """Mask probabilities over boxes, and the window of image pixels, [start, stop), that each box touches."""

    probabilities: Float[np.ndarray, "N S S"]
    boxes: Float[np.ndarray, "N 4"]
    start: Int[np.ndarray, "N 2"]
    """(x, y)."""
    stop: Int[np.ndarray, "N 2"]
    """(x, y); equal to `start` in both axes if the box touches no pixel of the image."""
    size: tuple[int, int]
    """(height, width) of the image."""
    threshold: float

    def __len__(self) -> int:
        return len(self.boxes)

    def sample(self, pieces: Sequence[Piece]) -> Iterator[Float[np.ndarray, "w h"]]:
        """Yield the probabilities of each piece, column by column; each array is overwritten by the next one."""
        index = np.array([piece.owner for piece in pieces], np.int64)
        left, right = np.array([piece[1:] for piece in pieces], np.int64).reshape(-1, 2).T
        top, bottom = self.start[index, 1], self.stop[index, 1]
        across = self._weights(index, 0, left, right)
        down = self._weights(index, 1, top, bottom)
        columns, rows = _ends(right - left), _ends(bottom - top)
        buffer = np.empty(int(((right - left) * (bottom - top)).max(initial=0)), np.float32)
        for number, owner in enumerate(index.tolist()):
            x, y = across[columns[number] : columns[number + 1]], down[rows[number] : rows[number + 1]]
            out = buffer[: len(x) * len(y)].reshape(len(x), len(y))
            yield np.matmul(x @ self.probabilities[owner].T, y.T, out=out)

    def _weights(
        self, index: Int[np.ndarray, " P"], axis: int, start: Int[np.ndarray, " P"], stop: Int[np.ndarray, " P"]
    ) -> Float[np.ndarray, "L S"]:
        """Bilinear weights of the pixels start..stop-1 along `axis` (0: x, 1: y), the pieces concatenated."""
        length = stop - start
        pixels = np.arange(length.sum()) + np.repeat(start - _ends(length)[:-1], length)
        low, high = self.boxes[index, axis], self.boxes[index, axis + 2]
        return bilinear_weights(pixels, np.repeat(low, length), np.repeat(high, length), self.probabilities.shape[-1])


def _ends(lengths: Int[np.ndarray, " P"]) -> Int[np.ndarray, " Q"]:
    """Cumulative sum of `lengths` with a leading 0: the start of each item, and the end of the last."""
    return np.concatenate(([0], np.cumsum(lengths)))


def bilinear_weights(
    pixels: Int[np.ndarray, " L"], low: Float[np.ndarray, " L"], high: Float[np.ndarray, " L"], cells: int
) -> Float[np.ndarray, "L {cells}"]:
    """Bilinear weights of `cells` grid cells over [low, high) at each pixel's center, zero outside the grid.

    Computed in float32 in the same order as `grid_sample`, so that both round equally.
    """
    grid = (pixels.astype(np.float32) + np.float32(0.5) - low) / (high - low) * np.float32(2) - np.float32(1)
    position = ((grid + np.float32(1)) * np.float32(cells) - np.float32(1)) / np.float32(2)
    position = np.clip(position, -2, cells)
    cell = np.floor(position)
    fraction = position - cell
    # Two extra columns on each side take the weights that fall outside the grid, where the probability is zero.
    weights = np.zeros((len(pixels), cells + 4), np.float32)
    rows, column = np.arange(len(pixels)), cell.astype(np.int64) + 2
    weights[rows, column] = 1 - fraction
    weights[rows, column + 1] = fraction
    return weights[:, 2 : cells + 2]


def mask_grid(
    probabilities: Float[Tensor, "N S S"], boxes: Float[Tensor, "N 4"], size: tuple[int, int], threshold: float = 0.5
) -> MaskGrid:
    """Place probabilities (0..1) over boxes (xyxy, pixels) of an image of `size` (height, width).

    A box of zero area or with a non-finite coordinate has an empty mask. Raises `ValueError` for a threshold outside
    (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"mask threshold {threshold} must be above 0 and at most 1")
    corners = boxes.detach().to("cpu", torch.float32).numpy().reshape(-1, 4)
    values = probabilities.detach().to("cpu", torch.float32).numpy()
    extent = corners[:, 2:] - corners[:, :2]
    usable = np.isfinite(corners).all(axis=1) & np.all(extent > 0, axis=1)
    # The outermost half cell fades to zero outside the box, so it can reach only a threshold below 0.5.
    margin = extent / np.float32(2 * values.shape[-1]) if threshold < 0.5 else np.float32(0)
    limit = np.array([size[1], size[0]])
    with np.errstate(invalid="ignore"):
        start = np.clip(np.nan_to_num(np.floor(corners[:, :2] - margin)), 0, limit).astype(np.int64)
        stop = np.clip(np.nan_to_num(np.ceil(corners[:, 2:] + margin)), 0, limit).astype(np.int64)
    empty = ~usable | np.any(stop <= start, axis=1)
    stop = np.where(empty[:, None], start, stop)
    return MaskGrid(values, corners, start, stop, size, threshold)


def pieces(grid: MaskGrid, index: int) -> list[Piece]:
    """Split the columns of one instance into pieces that fit the working memory; an empty mask has none."""
    (left, top), (right, bottom) = grid.start[index].tolist(), grid.stop[index].tolist()
    step = max(1, WORK_ELEMENTS // (bottom - top + 1 + WEIGHT_TABLES))
    return [Piece(index, column, min(column + step, right)) for column in range(left, right, step)]


def crops(grid: MaskGrid) -> Iterator[MaskCrop]:
    """Yield the mask of each instance as a cropped bitmap; (0, 0) pixels if it touches no pixel of the image."""
    for index in range(len(grid)):
        (left, top), (right, bottom) = grid.start[index].tolist(), grid.stop[index].tolist()
        bitmap = np.zeros((bottom - top, right - left), bool)
        for piece in pieces(grid, index):
            for columns in grid.sample([piece]):
                bitmap[:, piece.left - left : piece.right - left] = np.float32(grid.threshold) <= columns.T
        yield MaskCrop(left, top, bitmap)


def bitmaps(grid: MaskGrid) -> Bool[np.ndarray, "N H W"]:
    """Dense masks, N x H x W bytes."""
    dense = np.zeros((len(grid), *grid.size), bool)
    for canvas, crop in zip(dense, crops(grid), strict=True):
        height, width = crop.bitmap.shape
        canvas[crop.y : crop.y + height, crop.x : crop.x + width] = crop.bitmap
    return dense


def paste(
    probabilities: Float[Tensor, "N S S"], boxes: Float[Tensor, "N 4"], size: tuple[int, int], threshold: float = 0.5
) -> Bool[Tensor, "N H W"]:
    """Dense reference for the rest of this module: `grid_sample` at every pixel center of the image, instance by
    instance.

    Runs on the device of `probabilities`. A box of zero area has an empty mask.
    """
    height, width = size
    dense = torch.zeros((len(boxes), height, width), dtype=torch.bool, device=probabilities.device)
    across = torch.arange(width, device=boxes.device, dtype=torch.float32) + 0.5
    down = torch.arange(height, device=boxes.device, dtype=torch.float32) + 0.5
    for mask, probability, (x0, y0, x1, y1) in zip(dense, probabilities.float(), boxes.float(), strict=True):
        if not (x1 > x0 and y1 > y0):
            continue
        x = (across - x0) / (x1 - x0) * 2 - 1
        y = (down - y0) / (y1 - y0) * 2 - 1
        grid = torch.stack((x[None, :].expand(height, width), y[:, None].expand(height, width)), dim=-1)
        sampled = F.grid_sample(
            probability[None, None],
            grid[None].to(probability.device),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        mask.copy_(sampled[0, 0] >= threshold)
    return dense
