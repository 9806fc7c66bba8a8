"""COCO run-length strings straight from mask crops: identical to `pycocotools.mask.encode` of the dense mask.

COCO counts runs of 0 and 1 alternately down the columns of the whole image. A crop's transitions give them without
the image: the rows above and below it only lengthen the runs of 0.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from htc.ops.masks import WEIGHT_TABLES, WORK_ELEMENTS, MaskCrop, MaskGrid, Piece, pieces

CHARACTER_BITS = 5
LONGEST = 13
"""Characters of a 64-bit count."""


def rle(grid: MaskGrid) -> list[dict[str, object]]:
    """COCO run-length encoding of every object: `{"size": [height, width], "counts": str}`."""
    encoded: list[dict[str, object]] = []
    for group in _groups(grid):
        owners, edges = _edges(grid, group)
        encoded += _encode(owners, edges, len(group), grid.size)
    return encoded


def rle_of_crops(crops: list[MaskCrop], size: tuple[int, int]) -> list[dict[str, object]]:
    """The same for masks that are cropped bitmaps already."""
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
    """Consecutive objects whose crops fit the working memory together; an object larger than that is alone."""
    extent = grid.stop - grid.start
    cost = extent[:, 0] * (extent[:, 1] + 1) + WEIGHT_TABLES * extent.sum(1)
    first, total = 0, 0
    for index, own in enumerate(cost.tolist()):
        if index > first and total + own > WORK_ELEMENTS:
            yield range(first, index)
            first, total = index, 0
        total += own
    if len(cost):
        yield range(first, len(cost))


def _edges(grid: MaskGrid, group: range) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """Where runs begin and end, as (object in group, position down the columns of the image), in order."""
    owners, edges = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    work = [piece for index in group for piece in pieces(grid, index)]
    single = len({piece.owner for piece in work}) < len(work)
    for batch in [[piece] for piece in work] if single else [work]:
        owner, edge = _batch_edges(grid, batch)
        owners.append(owner - group.start)
        edges.append(edge)
    return np.concatenate(owners), np.concatenate(edges)


def _batch_edges(grid: MaskGrid, batch: list[Piece]) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """The edges of several pieces with one search through all their pixels.

    Every column is followed by one cell of background, so that columns and objects cannot run into one another.
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
    owners: Int[np.ndarray, " E"], edges: Int[np.ndarray, " E"], objects: int, size: tuple[int, int]
) -> list[dict[str, object]]:
    """COCO strings of `objects` masks from their edges, which alternate begin, end, begin, ..."""
    # Where columns fill the image's height, a run that ends a column and one that begins the next are one run.
    joined = np.flatnonzero((edges[1:] == edges[:-1]) & (owners[1:] == owners[:-1]))
    keep = np.ones(len(edges), bool)
    keep[joined] = keep[joined + 1] = False
    owners, edges = owners[keep], edges[keep]
    # Counts: first edge, differences, and what is left of the image, unless that is nothing.
    total = size[0] * size[1]
    amount = np.bincount(owners, minlength=objects)
    last = np.concatenate((np.cumsum(amount) - 1, [-1]))[:objects]
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
    """COCO's text of counts: each less the one two before it (from the fourth on), in signed groups of 5 bits, low
    first.
    """
    position = np.arange(len(counts)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    value = counts.copy()
    value[2:] -= np.where(position[2:] > 2, counts[:-2], 0)
    characters = np.zeros((len(counts), LONGEST), np.uint8)
    used = np.zeros((len(counts), LONGEST), bool)
    active = np.ones(len(counts), bool)
    for place in range(LONGEST):
        digit = value & 31
        value = value >> CHARACTER_BITS
        more = np.where(digit & 16 != 0, value != -1, value != 0)
        characters[:, place] = digit + np.where(more, 32, 0) + 48
        used[:, place] = active
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
