"""P(x, r) as torchvision's detectors compute it: RoIAlign as published (He et al. 2017), two samples an axis in
every bin, not shifted by half a pixel.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import roi_align

from htc.ops.roi_pool import Pyramid, pyramid_level

SAMPLES = 2
"""Per bin and axis."""
NOWHERE = -1e6
"""Coordinate of a box that samples no pixel of any map."""


def sampled_roi_pool(
    pyramid: Pyramid, boxes: Float[Tensor, "B R 4"], bins: int, subdivide: int = 1
) -> Float[Tensor, "N C bins bins"]:
    """As `roi_pool`, with torchvision's samples; a box is at least one pixel of its map wide and high.

    Shapes are static: on the levels a box does not belong to it lies outside the map, where the kernel adds nothing.
    """
    boxes = boxes.detach().float().nan_to_num(NOWHERE, NOWHERE, NOWHERE)
    images, regions = boxes.shape[:2]
    image = torch.arange(images, device=boxes.device, dtype=torch.float32)[:, None, None].expand(images, regions, 1)
    level = pyramid_level(boxes, len(pyramid.maps))
    features = pyramid.maps[0]
    total = features.new_zeros(
        (images * regions, features.shape[1], bins * subdivide, bins * subdivide), dtype=torch.float32
    )
    for index, (features, stride) in enumerate(zip(pyramid.maps, pyramid.strides, strict=True)):
        here = torch.where((level == index)[..., None], boxes, NOWHERE)
        rois = torch.cat([image, here], -1).reshape(-1, 5)
        total = total + roi_align(features.float(), rois, bins * subdivide, 1 / stride, SAMPLES, aligned=False)
    pooled = F.avg_pool2d(total, subdivide) if subdivide > 1 else total
    return pooled.to(features.dtype).contiguous(memory_format=torch.channels_last)
