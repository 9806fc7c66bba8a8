"""COCO run-length encoding of mask crops, identical to `pycocotools.mask.encode` of the dense masks.

COCO counts runs of 0 and 1 alternately down the columns of the whole image. The transitions inside a crop are enough to
compute them: the rows above and below the crop only lengthen the runs of 0.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from htc.ops.masks import WEIGHT_TABLES, WORK_ELEMENTS, MaskCrop, MaskGrid, Piece, pieces

CHARACTER_BITS = 5
LONGEST = 13
"""Maximum number of characters for a 64-bit count."""


def rle(grid: MaskGrid) -> list[dict[str, object]]:
    """Encode the mask of each instance as COCO RLE: `{"size": [height, width], "counts": str}`."""
    encoded: list[dict[str, object]] = []
    for group in _groups(grid):
        owners, edges = _edges(grid, group)
        encoded += _encode(owners, edges, len(group), grid.size)
    return encoded


def rle_of_crops(crops: list[MaskCrop], size: tuple[int, int]) -> list[dict[str, object]]:
    """Encode masks that are already cropped bitmaps as COCO RLE; `size` is the image's (height, width)."""
    encoded: list[dict[str, object]] = []
    for crop in crops:
        height, width = crop.bitmap.shape
        padded = np.zeros((width, height + 1), bool)
        padded[:, :height] = crop.bitmap.T
        columns, rows = _transitions(padded)
        edges = (crop.x + columns) * size[0] + crop.y + rows
        encoded += _encode(np.zeros(len(edges), np.int64), edges, 1, size)
    return encoded


def _groups(grid: MaskGrid) -> Iterator[range]:
    """Consecutive instances whose crops fit the working memory together; a larger instance forms a group of one."""
    extent = grid.stop - grid.start
    cost = extent[:, 0] * (extent[:, 1] + 1) + WEIGHT_TABLES * extent.sum(1)
    first, total = 0, 0
    for index, elements in enumerate(cost.tolist()):
        if index > first and total + elements > WORK_ELEMENTS:
            yield range(first, index)
            first, total = index, 0
        total += elements
    if len(cost):
        yield range(first, len(cost))


def _edges(grid: MaskGrid, group: range) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Positions where runs begin and end, in order, as (instance in the group, position down the image's columns)."""
    owners, edges = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    work = [piece for index in group for piece in pieces(grid, index)]
    single = len({piece.owner for piece in work}) < len(work)
    for batch in [[piece] for piece in work] if single else [work]:
        owner, edge = _batch_edges(grid, batch)
        owners.append(owner - group.start)
        edges.append(edge)
    return np.concatenate(owners), np.concatenate(edges)


def _batch_edges(grid: MaskGrid, batch: list[Piece]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Find the edges of several pieces in one search through all their pixels.

    Every column is followed by one background cell, so that runs do not continue into the next column or instance.
    """
    index = np.array([piece.owner for piece in batch], np.int64)
    width = np.array([piece.right - piece.left for piece in batch], np.int64)
    left = np.array([piece.left for piece in batch], np.int64)
    height = grid.stop[index, 1] - grid.start[index, 1]
    begin = np.concatenate(([0], np.cumsum(width * (height + 1))))
    bits = np.zeros(begin[-1], bool)
    for number, columns in enumerate(grid.sample(batch)):
        window = bits[begin[number] : begin[number + 1]].reshape(len(columns), -1)
        np.greater_equal(columns, np.float32(grid.threshold), out=window[:, :-1])
    flat = _changes(bits)
    number = np.searchsorted(begin, flat, side="right") - 1
    column, row = np.divmod(flat - begin[number], height[number] + 1)
    edge = (left[number] + column) * grid.size[0] + grid.start[index[number], 1] + row
    return index[number], edge


def _changes(bits: Bool[np.ndarray, " P"]) -> Int[np.ndarray, " E"]:
    """Positions whose bit differs from the one before (background before the first); the last bit is background."""
    if not len(bits):
        return np.empty(0, np.int64)
    changes = np.flatnonzero(bits[1:] != bits[:-1]) + 1
    return np.concatenate(([0], changes)) if bits[0] else changes


def _transitions(padded: Bool[np.ndarray, "w h"]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """(column, row) of every change in a bitmap stored by columns, each with one background cell at its end."""
    return np.divmod(_changes(padded.reshape(-1)), padded.shape[1])


def _encode(
    owners: Int[np.ndarray, " E"], edges: Int[np.ndarray, " E"], instances: int, size: tuple[int, int]
) -> list[dict[str, object]]:
    """COCO RLE of `objects` masks from their edges, which alternate begin, end, begin, ..."""
    # If a column fills the image's height, a run that ends there and one that begins the next column are one run.
    joined = np.flatnonzero((edges[1:] == edges[:-1]) & (owners[1:] == owners[:-1]))
    keep = np.ones(len(edges), bool)
    keep[joined] = keep[joined + 1] = False
    owners, edges = owners[keep], edges[keep]
    # Counts: the first edge, the differences, and the rest of the image unless it is empty.
    total = size[0] * size[1]
    amount = np.bincount(owners, minlength=instances)
    last = np.concatenate((np.cumsum(amount) - 1, [-1]))[:instances]
    rest = np.where(amount > 0, total - edges[last] if len(edges) else total, total)
    counts = np.insert(np.diff(edges, prepend=0), last + 1, rest)
    first = np.cumsum(amount + 1) - amount - 1
    occupied = amount > 0
    counts[first[occupied]] = edges[(np.cumsum(amount) - amount)[occupied]]
    written = np.ones(len(counts), bool)
    written[(first + amount)[occupied & (rest == 0)]] = False
    lengths = amount + written[first + amount]
    return [{"size": [size[0], size[1]], "counts": text} for text in _strings(counts[written], lengths)]


def _strings(counts: Int[np.ndarray, " C"], lengths: Int[np.ndarray, " N"]) -> list[str]:
    """COCO's text of the counts: each minus the one two before it (from the fourth on), in signed groups of 5 bits,
    lowest bits first.
    """
    position = np.arange(len(counts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    value = counts.copy()
    value[2:] -= np.where(position[2:] > 2, counts[:-2], 0)
    characters = np.zeros((len(counts), LONGEST), np.uint8)
    used = np.zeros((len(counts), LONGEST), bool)
    active = np.ones(len(counts), bool)
    for position_in_text in range(LONGEST):
        digit = value & 31
        value = value >> CHARACTER_BITS
        more = np.where(digit & 16 != 0, value != -1, value != 0)
        characters[:, position_in_text] = digit + np.where(more, 32, 0) + 48
        used[:, position_in_text] = active
        active = active & more
        if not active.any():
            break
    return _split(characters, used, lengths)


def _split(
    characters: UInt8[np.ndarray, "C L"], used: Bool[np.ndarray, "C L"], lengths: Shaped[np.ndarray, " N"]
) -> list[str]:
    text = characters[used].tobytes().decode("ascii")
    ends = np.concatenate(([0], np.cumsum(used.sum(1))))[np.concatenate(([0], np.cumsum(lengths)))].tolist()
    return [text[begin:end] for begin, end in pairwise(ends)]
