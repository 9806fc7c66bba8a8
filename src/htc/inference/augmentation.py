"""Test-time augmentation: coordinates in a view and in the original image (paper, section 4.4)."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from htc.data.transforms import Placement, place_boxes


def boxes_in_view(boxes: Float64[Tensor, "N 4"], placement: Placement) -> Float[Tensor, "N 4"]:
    """Map boxes from original pixels to pixels of the view (float32)."""
    return place_boxes(boxes, placement).float()


def boxes_in_original(boxes: Float[Tensor, "*N 4"], placement: Placement) -> Float64[Tensor, "*N 4"]:
    """Map boxes from pixels of the view to original pixels; float64, so that a round trip is exact in float32."""
    height, width = placement.resized
    x, y = boxes[..., 0::2].double(), boxes[..., 1::2].double()
    if placement.flip_horizontal:
        x = (width - x).flip(-1)
    if placement.flip_vertical:
        y = (height - y).flip(-1)
    x, y = x * (placement.original[1] / width), y * (placement.original[0] / height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def masks_in_original(masks: Float[Tensor, "*N h w"], placement: Placement) -> Float[Tensor, "*N h w"]:
    """Undo the flips of a view on mask grids."""
    axes = [axis for axis, flipped in ((-1, placement.flip_horizontal), (-2, placement.flip_vertical)) if flipped]
    return masks.flip(axes) if axes else masks
