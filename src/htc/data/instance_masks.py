"""The masks of an image's instances in one buffer, and geometric transforms that do not change the pixels."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from htc.data.mask_encodings import Crop, tight
from htc.types import MaskCrops


def mask_crops(crops: Iterable[Crop], canvas: tuple[int, int]) -> MaskCrops:
    """Combine the crops of an image of size `canvas` (height, width) in one buffer."""
    crops = list(crops)
    pixels = np.concatenate([np.zeros(0, np.uint8), *(crop.bitmap.reshape(-1) for crop in crops)])
    return MaskCrops(
        pixels=torch.from_numpy(pixels),
        sizes=torch.tensor([crop.bitmap.shape for crop in crops], dtype=torch.long).view(-1, 2),
        offsets=torch.tensor([(crop.x, crop.y) for crop in crops], dtype=torch.long).view(-1, 2),
        canvas=canvas,
    )


def crop_bitmaps(masks: MaskCrops) -> list[UInt8[np.ndarray, "_ _"]]:
    """Crops of all instances, as views of the buffer."""
    ends = masks.sizes.prod(1).cumsum(0).tolist()
    pixels = masks.pixels.numpy()
    return [pixels[end - h * w : end].reshape(h, w) for end, (h, w) in zip(ends, masks.sizes.tolist(), strict=True)]


def select_crops(masks: MaskCrops, keep: Bool[Tensor, " M"]) -> MaskCrops:
    """Select the instances in `keep`."""
    wanted = torch.repeat_interleave(keep, masks.sizes.prod(1))
    return replace(masks, pixels=masks.pixels[wanted], sizes=masks.sizes[keep], offsets=masks.offsets[keep])


def boxes_from_masks(masks: MaskCrops) -> Float[Tensor, "M 4"]:
    """xyxy box of each mask in pixels of the network input; zeros for an instance without a mask."""
    low = masks.offsets.double()
    high = low + masks.sizes.flip(1)
    scale, shift = torch.tensor(masks.scale, dtype=torch.double), torch.tensor(masks.shift, dtype=torch.double)
    ends = torch.stack([(low - shift) / scale, (high - shift) / scale])
    boxes = torch.cat([ends.amin(0), ends.amax(0)], dim=1).float()
    return torch.where(masks.sizes.prod(1, keepdim=True) > 0, boxes, 0.0)


def resized(masks: MaskCrops, sx: float, sy: float) -> MaskCrops:
    """Rescale the masks by (`sx`, `sy`)."""
    return replace(masks, scale=(masks.scale[0] / sx, masks.scale[1] / sy))


def flipped_horizontally(masks: MaskCrops, width: int) -> MaskCrops:
    """Flip the masks of an image of that width horizontally."""
    (sx, sy), (tx, ty) = masks.scale, masks.shift
    return replace(masks, scale=(-sx, sy), shift=(tx + sx * width, ty))


def flipped_vertically(masks: MaskCrops, height: int) -> MaskCrops:
    """Flip the masks of an image of that height vertically."""
    (sx, sy), (tx, ty) = masks.scale, masks.shift
    return replace(masks, scale=(sx, -sy), shift=(tx, ty + sy * height))


def cropped(masks: MaskCrops, left: int, top: int, width: int, height: int) -> MaskCrops:
    """Crop the masks to a window (in pixels of the network input); the bitmaps are clipped to it and may become
    empty.
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
    """Clip a crop to the pixels that overlap the window (xyxy, annotated pixels), and to its box again."""
    height, width = crop.bitmap.shape
    # A window edge that differs from a pixel edge only by rounding must not include the next pixel.
    left = max(int(np.floor(window[0] + 1e-6)) - crop.x, 0)
    top = max(int(np.floor(window[1] + 1e-6)) - crop.y, 0)
    right = min(int(np.ceil(window[2] - 1e-6)) - crop.x, width)
    bottom = min(int(np.ceil(window[3] - 1e-6)) - crop.y, height)
    if left == 0 and top == 0 and right == width and bottom == height:
        return crop
    part = crop.bitmap[top : max(bottom, top), left : max(right, left)]
    return tight(Crop(crop.x + left, crop.y + top, part))


def crops_in_view(masks: MaskCrops, size: tuple[int, int]) -> list[Crop]:
    """Resample each mask to the pixel grid of a network input of `size` (height, width): pixels whose center is in the
    mask.
    """
    across, down = (
        np.floor(masks.scale[axis] * (np.arange(size[1 - axis]) + 0.5) + masks.shift[axis] + 1e-9).astype(np.int64)
        for axis in (0, 1)
    )
    crops = []
    for (x, y), bitmap in zip(masks.offsets.tolist(), crop_bitmaps(masks), strict=True):
        rows = np.flatnonzero((down >= y) & (down < y + bitmap.shape[0]))
        columns = np.flatnonzero((across >= x) & (across < x + bitmap.shape[1]))
        seen = bitmap[down[rows] - y].take(across[columns] - x, axis=1)
        crops.append(tight(Crop(int(columns[0]), int(rows[0]), seen)) if seen.size else Crop(0, 0, seen.reshape(0, 0)))
    return crops
