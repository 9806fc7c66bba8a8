"""RoI pooling, P(x, r) in the paper: RoIAlign (aligned, adaptive sampling) over a pyramid, with two backends that agree
to 1e-4.

`gather` reads all levels of all images from one channels-last pixel table. RoIAlign's bilinear samples are separable,
so the samples of a bin reduce to a few taps per axis, and a bin is a weighted sum of table rows: `embedding_bag`. On a
CPU it is ten times as fast as torchvision's scalar kernel. `torchvision` is the reference, and the backend for exported
graphs and accelerators. Its shapes are static: each box is pooled from every level, with zero extent (in exported
graphs, from outside of the map) on the levels that it is not assigned to, which adds nothing.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from htc.ops.boxes import has_extent
from htc.ops.pixel_gather import PixelGather, bags

Backend = Literal["auto", "gather", "torchvision"]
FINEST_SCALE = 56
"""Boxes whose side (square root of the area) is less than twice this many pixels are pooled from the finest level."""


OUTSIDE = (-8.0, -8.0, -7.0, -7.0)
"""A box outside every map, in pixels of the map, where RoIAlign samples only zeros."""


@dataclass(frozen=True)
class Pyramid:
    """Feature maps (B, C, H, W) of a network, finest first, and their strides in pixels of the network input."""

    maps: tuple[Tensor, ...]
    strides: tuple[int, ...]

    @cached_property
    def table(self) -> Float[Tensor, "P C"]:
        """All pixels of all maps, channels last: level by level, image by image, row by row."""
        return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[1]) for m in self.maps])

    @cached_property
    def single(self) -> tuple["Pyramid", ...]:
        """Each level as a separate pyramid, from which boxes of any size are pooled."""
        return tuple(Pyramid((level,), (stride,)) for level, stride in zip(self.maps, self.strides, strict=True))

    def float(self) -> "Pyramid":
        """Convert the maps to float32."""
        return replace(self, maps=tuple(m.float() for m in self.maps))


def pyramid_level(boxes: Float[Tensor, "*N 4"], levels: int) -> Int[Tensor, "*N"]:
    """Level that each box is pooled from: floor(log2(sqrt(w h) / 56 + 1e-6)), clipped to 0 .. levels - 1."""
    side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).clamp(min=0).sqrt()
    return torch.log2(side / FINEST_SCALE + 1e-6).floor().clamp(0, levels - 1).long()


def roi_pool(
    pyramid: Pyramid,
    boxes: Float[Tensor, "B R 4"],
    bins: int,
    subdivide: int = 1,
    backend: Backend = "auto",
    rows: Int[Tensor, " N"] | None = None,
) -> Float[Tensor, "N C bins bins"]:
    """RoIAlign each box on its level. -> (N, C, bins, bins), channels last: for all B R boxes, or for those at `rows`.

    `subdivide` = 2 computes 2 bins x 2 bins and averages each 2 x 2 block (the semantic feature of the box branch),
    without storing the larger grid where the backend can avoid it.
    """
    if backend == "auto":
        backend = "gather" if boxes.device.type == "cpu" and not torch.compiler.is_exporting() else "torchvision"
    # a diverging network may predict NaN: such a box is pooled to zeros instead of failing inside a kernel
    boxes = boxes.detach().float().nan_to_num(0, 0, 0)
    if backend == "torchvision":
        return _by_torchvision(pyramid, boxes, bins, subdivide, rows)
    if rows is not None and pyramid.maps[0].requires_grad:
        # The order in which a pixel's gradients are summed depends on all boxes: without some of them, the sums would
        # change.
        return roi_pool(pyramid, boxes, bins, subdivide, backend)[rows]
    on_maps = on_levels(pyramid, boxes, rows)
    count = len(on_maps[0])
    if count == 0:
        return pyramid.maps[0].new_zeros((0, pyramid.maps[0].shape[1], bins, bins))
    pooled = PixelGather.apply(pyramid.table, bags(*on_maps, bins, subdivide))
    return pooled.view(count, bins, bins, -1).permute(0, 3, 1, 2)


def selected_boxes(
    boxes: Float[Tensor, "B R 4"], rows: Int[Tensor, " N"] | None
) -> tuple[Float[Tensor, "N 4"], Int[Tensor, " N"]]:
    """All B R boxes, or those at `rows`, and the image index of each."""
    image = torch.arange(boxes.shape[0], device=boxes.device).repeat_interleave(boxes.shape[1])
    flat = boxes.flatten(0, 1)
    return (flat, image) if rows is None else (flat[rows], image[rows])


def on_levels(
    pyramid: Pyramid, boxes: Float[Tensor, "B R 4"], rows: Int[Tensor, " N"] | None = None
) -> tuple[Float[Tensor, "N 4"], Int[Tensor, "N 2"], Int[Tensor, " N"]]:
    """Each box in pixels of its map, that map's (height, width), and the map's first row in the pixel table."""
    images = boxes.shape[0]
    boxes, image = selected_boxes(boxes, rows)
    level = pyramid_level(boxes.detach(), len(pyramid.maps))
    sizes = torch.tensor([m.shape[-2:] for m in pyramid.maps], device=boxes.device)
    pixels = sizes.prod(1)
    first = (pixels * images).cumsum(0) - pixels * images
    stride = torch.tensor(pyramid.strides, dtype=boxes.dtype, device=boxes.device)[level]
    return boxes / stride[:, None], sizes[level], first[level] + image * pixels[level]


def _by_torchvision(pyramid: Pyramid, boxes: Tensor, bins: int, subdivide: int, rows: Tensor | None) -> Tensor:
    boxes, image = selected_boxes(boxes, rows)
    level = pyramid_level(boxes, len(pyramid.maps))
    total: Tensor | None = None
    for index, (features, stride) in enumerate(zip(pyramid.maps, pyramid.strides, strict=True)):
        here = boxes if len(pyramid.maps) == 1 else torch.where((level == index)[..., None], boxes, 0.0)
        if torch.compiler.is_exporting():  # of a box without extent, OpenVINO computes 0 / 0
            here = torch.where(has_extent(here)[..., None], here, stride * boxes.new_tensor(OUTSIDE))
        rois = torch.cat([image[:, None].to(here.dtype), here], 1)
        pooled = roi_align(features.float(), rois, bins * subdivide, 1 / stride, -1, aligned=True)
        total = pooled if total is None else total + pooled
    assert total is not None
    pooled = F.avg_pool2d(total, subdivide) if subdivide > 1 else total
    return pooled.to(pyramid.maps[0].dtype).contiguous(memory_format=torch.channels_last)
