"""Two alternatives to `roi_pool`, for `cascade.pooling precise` and `torchvision`.

`precise_roi_pool` (Jiang et al., "Acquisition of Localization Confidence", ECCV 2018, section 3.2) replaces the average
of samples in a bin with the exact average. The feature map is treated as a continuous surface: bilinear between pixel
centers, falling to zero within one pixel outside the map. A bin is the integral of that surface over the bin, divided
by its area (Eq. 4 there). The surface is a sum of products of hat functions, so a bin is weights_y^T F weights_x, where
a weight is the integral of one pixel's hat over the bin's side: piecewise quadratic in the ends of the side. Pooled
features are therefore differentiable in the boxes too, while RoIAlign's gradient is undefined where its number of
samples jumps. Differs from the authors' code by: pixel centers are shifted by half a pixel, as in aligned RoIAlign, so
that both pool the same region.

`sampled_roi_pool` is the pooling of torchvision's detectors: RoIAlign as first published (He et al. 2017), with two
samples along each axis of a bin and coordinates that are not shifted by half a pixel. Weights trained in torchvision
need it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from htc.errors import ConfigError
from htc.ops.pixel_gather import CAPACITIES, Bags, Group, PixelGather, by_shape
from htc.ops.roi_pool import Pyramid, on_levels, pyramid_level, selected_boxes

SMALLEST_EXTENT = 1e-6
"""A bin narrower than this many pixels has no area to average over and is pooled to zero, as in the authors' code."""
SAMPLES = 2
"""Samples per bin and axis of torchvision's pooling."""
OUTSIDE = -1e6
"""Coordinate of a box outside every map, which samples no pixel."""


def precise_roi_pool(
    pyramid: Pyramid,
    boxes: Float[Tensor, "B R 4"],
    bins: int,
    subdivide: int = 1,
    rows: Int[Tensor, " N"] | None = None,
) -> Float[Tensor, "N C bins bins"]:
    """Exact mean of each bin of each box on its level. -> (N, C, bins, bins), channels last: for all B R boxes, or for
    those at `rows`.

    Differentiable in the features, and in the boxes if they require it. A box of zero area or with NaN coordinates is
    pooled to zeros. `subdivide` has no effect, since the mean of the exact means of a bin's parts is the exact mean of
    the bin. Raises `ConfigError` in a `torch.export`: its shapes are not static.
    """
    if torch.compiler.is_exporting():
        raise ConfigError(
            "a model with cascade.pooling precise cannot be exported: the number of pixels in a bin is not a static "
            "shape; export a model with cascade.pooling align"
        )
    if rows is not None and pyramid.maps[0].requires_grad:
        return precise_roi_pool(pyramid, boxes, bins, subdivide)[rows]  # as in `roi_pool`
    on_maps = on_levels(pyramid, boxes.double().nan_to_num(0, 0, 0), rows)
    count = len(on_maps[0])
    if count == 0:
        return pyramid.maps[0].new_zeros((0, pyramid.maps[0].shape[1], bins, bins))
    exact = torch.promote_types(pyramid.maps[0].dtype, torch.float32)
    groups = _groups(*on_maps, bins, exact)
    if boxes.requires_grad:
        pooled = _differentiable_in_weights(pyramid.table, groups, count)
    else:
        pooled = PixelGather.apply(pyramid.table, Bags(count, bins, groups))
    return pooled.view(count, bins, bins, -1).permute(0, 3, 1, 2)


def _groups(
    boxes: Float[Tensor, "N 4"], sizes: Int[Tensor, "N 2"], first: Int[Tensor, " N"], bins: int, exact: torch.dtype
) -> list[Group]:
    """Bags of every bin, grouped by box size: the number of pixels that a bin touches sets the length of its bags.

    Weights are computed in float64, where small differences of integrals do not cancel, and stored in `exact`.
    """
    start = boxes[:, :2] - 0.5
    extent = (boxes[:, 2:] - boxes[:, :2]) / bins
    # a hat reaches one pixel to either side of a bin, whose ends lie anywhere between pixels
    touched = torch.ceil(extent.detach().clamp(min=0)) + 2
    limits = torch.tensor(CAPACITIES, dtype=touched.dtype, device=boxes.device)
    capacity = torch.bucketize(torch.minimum(touched.amax(1), sizes.amax(1) + 2), limits)
    needed = torch.minimum(touched, sizes.flip(1) + 2)
    groups = []
    for number in capacity.unique().tolist():
        alike = (capacity == number).nonzero().squeeze(1)
        for members, rows, columns in by_shape(alike, needed[alike], CAPACITIES[number], bins):
            height, width = sizes[members].unbind(1)
            row, down = axis_integrals(start[members, 1], extent[members, 1], bins, height, rows)
            column, across = axis_integrals(start[members, 0], extent[members, 0], bins, width, columns)
            base = first[members, None, None] + row * width[:, None, None]
            index = (base[:, :, None, :, None] + column[:, None, :, None, :]).int()
            weight = (down[:, :, None, :, None] * across[:, None, :, None, :]).to(exact)
            groups.append(Group(members, index.view(-1, rows * columns), weight.view(-1, rows * columns)))
    return groups


def axis_integrals(
    start: Float[Tensor, " N"], extent: Float[Tensor, " N"], bins: int, size: Int[Tensor, " N"], capacity: int
) -> tuple[Int[Tensor, "N bins capacity"], Float[Tensor, "N bins capacity"]]:
    """Pixels and weights of every bin along one axis, where a weight is the share of one pixel's hat in the mean of the
    bin.

    start (N,) in pixels, pixel centers at integers; extent (N,) of a bin; size (N,) of the map.
    """
    low = start[:, None] + torch.arange(bins, device=start.device) * extent[:, None]
    leftmost = torch.minimum((low.detach().floor()).clamp(min=0), (size[:, None] - capacity).clamp(min=0).to(low.dtype))
    pixel = leftmost[..., None] + torch.arange(capacity, device=start.device)
    to_low = low[..., None] - pixel
    integral = hat_integral(to_low + extent[:, None, None]) - hat_integral(to_low)
    narrow = (extent <= SMALLEST_EXTENT)[:, None, None]
    weight = integral / torch.where(narrow, 1.0, extent[:, None, None])
    outside = (pixel >= size[:, None, None]) | narrow
    return torch.minimum(pixel.long(), size[:, None, None] - 1), torch.where(outside, 0.0, weight)


def hat_integral(end: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """Integral of max(0, 1 - |t|) from minus infinity to `end`."""
    within = end.clamp(-1, 1)
    return 0.5 + within - within.abs() * within / 2


def _differentiable_in_weights(table: Float[Tensor, "P C"], groups: list[Group], count: int) -> Float[Tensor, "M C"]:
    """Weighted sums as in `PixelGather`, with torch's gradient for both the table and the weights."""
    order = torch.cat([group.boxes for group in groups]).argsort()
    sums = [
        F.embedding_bag(g.index, table, mode="sum", per_sample_weights=g.weight.to(table.dtype)).view(
            len(g.boxes), -1, table.shape[1]
        )
        for g in groups
    ]
    return torch.cat(sums)[order].view(count * sums[0].shape[1], table.shape[1])


def sampled_roi_pool(
    pyramid: Pyramid,
    boxes: Float[Tensor, "B R 4"],
    bins: int,
    subdivide: int = 1,
    rows: Int[Tensor, " N"] | None = None,
) -> Float[Tensor, "N C bins bins"]:
    """RoIAlign with torchvision's fixed samples; a box is at least one pixel of its map wide and high.

    Shapes are static: on the levels that a box is not assigned to, it lies outside the map, where the kernel adds
    nothing.
    """
    boxes, image = selected_boxes(boxes.detach().float().nan_to_num(OUTSIDE, OUTSIDE, OUTSIDE), rows)
    level = pyramid_level(boxes, len(pyramid.maps))
    features = pyramid.maps[0]
    side = bins * subdivide
    total = features.new_zeros((boxes.shape[0], features.shape[1], side, side), dtype=torch.float32)
    for index, (features, stride) in enumerate(zip(pyramid.maps, pyramid.strides, strict=True)):
        here = torch.where((level == index)[..., None], boxes, OUTSIDE)
        rois = torch.cat([image[:, None].to(here.dtype), here], 1)
        total = total + roi_align(features.float(), rois, side, 1 / stride, SAMPLES, aligned=False)
    pooled = F.avg_pool2d(total, subdivide) if subdivide > 1 else total
    return pooled.to(features.dtype).contiguous(memory_format=torch.channels_last)
