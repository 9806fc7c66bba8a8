"""Weighted sums of pixel-table rows, and the taps that express RoIAlign as such sums.

Along one axis, a bin of RoIAlign averages bilinear samples; their weights fall on a short run of pixels, the taps. The
value of a bin is the sum over its taps in y and x of (weight y) (weight x) (pixel): a "bag" of table rows.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

CAPACITIES = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 20, 24, 29, 34, 52, 80, 130, 200, 400, 1000, 3000, 10000)
"""Supported numbers of taps per axis; boxes of similar size form a group, so that small boxes do not pay for large
ones.
"""
FEWEST_BOXES_A_GROUP = 24
"""A smaller group joins the next larger capacity: one more call costs more than a few zero weights."""
FEWEST_TAPS_SAVED = 50_000
"""Thin boxes get a group with its own shape if that saves at least this many zero weights, which take several times as
long as the calls of one more group (at 256 channels).
"""


class Shape(NamedTuple):
    """Boxes, by index, whose bags have `rows` x `columns` taps."""

    boxes: Tensor
    rows: int
    columns: int


@dataclass(frozen=True)
class Group:
    """Bags of equal length: the indices of their boxes, and for each bag the table rows and their weights."""

    boxes: Tensor
    index: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Bags:
    """All bags of one pooling call: `count` boxes with `bins` x `bins` bins each."""

    count: int
    bins: int
    groups: list[Group]


@torch.no_grad()
def bags(boxes: Tensor, sizes: Tensor, first: Tensor, bins: int, subdivide: int) -> Bags:
    """Express RoIAlign (aligned, adaptive) of each box as bags.

    boxes (N, 4) xyxy in pixels of the map that each is pooled from; sizes (N, 2) that map's (height, width); first (N,)
    its first row in the table.
    """
    start = boxes[:, :2] - 0.5
    extent = (boxes[:, 2:] - boxes[:, :2]) / bins
    # from the first sample to the last, each with two neighbors: the whole bin would need twice the taps
    samples = (torch.ceil(extent.clamp(min=0) / subdivide) * subdivide).clamp(min=1)
    needed = torch.ceil(extent * (samples - 1) / samples) + 2
    capacity = torch.bucketize(needed.amax(1), torch.tensor(CAPACITIES, dtype=torch.float32))
    groups = []
    pending = torch.empty(0, dtype=torch.long)
    for c, members in _by_capacity(capacity):
        members = torch.cat([pending, members]).sort().values
        pending = torch.empty(0, dtype=torch.long)
        if len(members) < FEWEST_BOXES_A_GROUP and c < int(capacity.max()) and CAPACITIES[c] <= 14:
            pending = members
            continue
        shapes = by_shape(members, needed[members], CAPACITIES[c], bins)
        groups += [_group(shape, start, extent, sizes, first, bins, subdivide) for shape in shapes]
    return Bags(len(boxes), bins, groups)


def _by_capacity(capacity: Tensor) -> list[tuple[int, Tensor]]:
    return [(c, (capacity == c).nonzero().squeeze(1)) for c in capacity.unique().tolist()]


def by_shape(members: Tensor, needed: Tensor, capacity: int, bins: int) -> list[Shape]:
    """Split boxes that fit `capacity` x `capacity` taps by shape where that saves enough taps.

    members (M,) indices of boxes; needed (M, 2) taps of each along (x, y). Boxes that need at most half the capacity
    along one axis are split off: a box of 1333 x 9 pixels would otherwise have 50 rows of zero weights in every bin.
    The others, nearly all boxes of an ordinary image, stay together.
    """
    shapes = []
    lengths = [length for length in CAPACITIES if 2 * length <= capacity]
    for axis in (0, 1):
        if len(members) * bins**2 * capacity**2 < FEWEST_TAPS_SAVED:
            break
        narrow = torch.bucketize(needed[:, axis].contiguous(), needed.new_tensor(lengths))
        split = _worthwhile(narrow.bincount(minlength=len(lengths)).tolist(), lengths, capacity, bins)
        for lower, upper in pairwise([-1, *split]):
            inside = (narrow > lower) & (narrow <= upper)
            long = (capacity, lengths[upper])
            shapes.append(Shape(members[inside], long[axis], long[1 - axis]))
        if split:
            rest = narrow > split[-1]
            members, needed = members[rest], needed[rest]
    return [*shapes, Shape(members, capacity, capacity)] if len(members) else shapes


def _worthwhile(counts: list[int], lengths: list[int], capacity: int, bins: int) -> list[int]:
    """Positions in `lengths` at which a group ends; `counts[i]` boxes need `lengths[i]` taps.

    Boxes that do not save enough taps as a group join the group of the next length.
    """
    split, pending = [], 0
    present = [position for position in range(len(lengths)) if counts[position]]
    for position, following in pairwise([*present, len(lengths)]):
        pending += counts[position]
        otherwise = [*lengths, capacity][following]
        if pending * bins**2 * capacity * (otherwise - lengths[position]) >= FEWEST_TAPS_SAVED:
            split.append(position)
            pending = 0
    return split


def _group(
    shape: Shape, start: Tensor, extent: Tensor, sizes: Tensor, first: Tensor, bins: int, subdivide: int
) -> Group:
    members, rows, columns = shape
    height, width = sizes[members, 0], sizes[members, 1]
    row, row_weight = axis_taps(start[members, 1], extent[members, 1], bins, height, rows, subdivide)
    column, column_weight = axis_taps(start[members, 0], extent[members, 0], bins, width, columns, subdivide)
    base = (first[members, None, None] + row * width[:, None, None]).int()
    index = base[:, :, None, :, None] + column.int()[:, None, :, None, :]
    weight = row_weight[:, :, None, :, None] * column_weight[:, None, :, None, :]
    return Group(members, index.view(-1, rows * columns), weight.view(-1, rows * columns))


def axis_taps(
    start: Tensor, extent: Tensor, bins: int, size: Tensor, capacity: int, subdivide: int = 1
) -> tuple[Tensor, Tensor]:
    """Pixels and weights of every bin along one axis. -> indices (N, bins, capacity) int64, weights (N, bins, capacity)

    start (N,) in pixels, pixel centers at integers; extent (N,) of a bin; size (N,) of the map. A bin of extent e takes
    subdivide * ceil(e / subdivide) equidistant samples; a sample outside [-1, size] has weight zero, one outside [0,
    size - 1] takes the border pixel.
    """
    samples = torch.ceil(extent / subdivide) * subdivide
    ordinal = torch.arange(max(int(samples.max()), 1))
    within = (ordinal + 0.5) / samples.clamp(min=1)[:, None]
    position = start[:, None, None] + (torch.arange(bins)[None, :, None] + within[:, None]) * extent[:, None, None]
    limit = size[:, None, None]
    counts = (ordinal[None] < samples[:, None])[:, None] & (position >= -1) & (position <= limit)
    weight = counts / samples.clamp(min=1)[:, None, None]
    position = torch.minimum(position.clamp(min=0), limit - 1)
    low = position.floor()
    first = torch.minimum(low[..., 0], (limit[..., 0] - capacity).clamp(min=0))
    slot = (low - first[..., None]).long().clamp(0, capacity - 1)
    fraction = (position - low) * weight
    taps = torch.zeros(len(start), bins, capacity)
    taps.scatter_add_(2, slot, weight - fraction)
    taps.scatter_add_(2, (slot + 1).clamp(max=capacity - 1), fraction)
    index = torch.minimum(first[..., None].long() + torch.arange(capacity), limit - 1)
    return index, taps


class PixelGather(torch.autograd.Function):
    """(table (P, C), bags) -> (boxes * bins * bins, C); differentiable in the table.

    The gradient is the transposed sum. The bags are sorted by table row, so that it is a gather too, without write
    conflicts.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, table: Tensor, bags: Bags) -> Tensor:
        """Sum the rows of each bag."""
        ctx.bags, ctx.rows = bags, len(table)  # type: ignore[attr-defined]
        cells = bags.bins * bags.bins
        if len(bags.groups) == 1:
            return _sums(table, bags.groups[0])
        out = table.new_empty(bags.count, cells, table.shape[1])
        for group in bags.groups:
            out[group.boxes] = _sums(table, group).view(-1, cells, table.shape[1])
        return out.view(-1, table.shape[1])

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Sum, for each table row, the gradients of the bins that it contributes to."""
        bags: Bags = ctx.bags  # type: ignore[attr-defined]
        cells = bags.bins * bags.bins
        index = torch.cat([g.index.flatten() for g in bags.groups])
        weight = torch.cat([g.weight.flatten() for g in bags.groups])
        bin_of = torch.cat([_bins_of(g, cells) for g in bags.groups])
        order = index.argsort()
        rows, counts = index[order].unique_consecutive(return_counts=True)
        offsets = counts.cumsum(0) - counts
        table_grad = grad.new_zeros(ctx.rows, grad.shape[1])  # type: ignore[attr-defined]
        sums = F.embedding_bag(
            bin_of[order], grad.contiguous(), offsets.int(), mode="sum", per_sample_weights=weight[order].to(grad.dtype)
        )
        table_grad[rows.long()] = sums
        return table_grad, None


def _sums(table: Tensor, group: Group) -> Tensor:
    return F.embedding_bag(group.index, table, mode="sum", per_sample_weights=group.weight.to(table.dtype))


def _bins_of(group: Group, cells: int) -> Tensor:
    """Output row of each entry of the group's bags."""
    bins = group.boxes.int()[:, None] * cells + torch.arange(cells, dtype=torch.int32, device=group.boxes.device)
    return bins.flatten().repeat_interleave(group.index.shape[1])
