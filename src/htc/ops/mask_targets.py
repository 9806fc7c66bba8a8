"""Training targets of the mask heads, computed from cropped bitmaps.

Coordinates are continuous: pixel (row i, column j) covers [j, j + 1) x [i, i + 1) and its center is (j + 0.5, i + 0.5).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@runtime_checkable
class CroppedBitmaps(Protocol):
    """The fields of `htc.types.MaskCrops` that the targets are computed from; they are documented there."""

    @property
    def pixels(self) -> UInt8[Tensor, " P"]: ...
    @property
    def sizes(self) -> Int[Tensor, "M 2"]: ...
    @property
    def offsets(self) -> Int[Tensor, "M 2"]: ...
    @property
    def canvas(self) -> tuple[int, int]: ...
    @property
    def scale(self) -> tuple[float, float]: ...
    @property
    def shift(self) -> tuple[float, float]: ...


def mask_targets(
    masks: CroppedBitmaps, index: Int[Tensor, " N"], boxes: Float[Tensor, "N 4"], size: int = 28
) -> Float[Tensor, "N {size} {size}"]:
    """Binary mask targets: RoIAlign of the bitmap of instance `index[i]` over box i, thresholded at 0.5.

    Equal to `torchvision.ops.roi_align(bitmap, aligned=True, sampling_ratio=-1) >= 0.5` on the bitmap of the whole
    image (He et al., Mask R-CNN, 2017), which is never created: RoIAlign is separable, target = Wy @ crop @ Wx^T, and
    everything outside the crop is 0. Boxes are xyxy pixels of the network input; the sample positions are computed
    there and mapped by `masks.scale` and `masks.shift` to the annotated image, so that flips, resizes and crops cost
    nothing. The target of an instance without a mask is all zeros.
    """
    count = len(index)
    targets = torch.zeros(count, size, size, device=boxes.device)
    if count == 0:
        return targets
    order = torch.argsort(index, stable=True)
    sizes, offsets = masks.sizes[index[order]], masks.offsets[index[order]]
    boxes = boxes[order].float()
    height, width = masks.canvas
    rows = _bin_weights(
        boxes[:, 1], boxes[:, 3], masks.scale[1], masks.shift[1], height, offsets[:, 1], sizes[:, 0], size
    )
    columns = _bin_weights(
        boxes[:, 0], boxes[:, 2], masks.scale[0], masks.shift[0], width, offsets[:, 0], sizes[:, 1], size
    )

    starts = (masks.sizes.prod(1).cumsum(0) - masks.sizes.prod(1)).tolist()
    extents = masks.sizes.tolist()
    instances, repeats = torch.unique_consecutive(index[order], return_counts=True)
    averages = []
    row_start = column_start = 0
    for j, n in zip(instances.tolist(), repeats.tolist(), strict=True):
        # The boxes of one instance share its crop: one product with all their row weights, then one per box with its
        # column weights.
        h, w = extents[j]
        crop = masks.pixels[starts[j] : starts[j] + h * w].view(h, w).float()
        down = rows[row_start : row_start + n * size * h].view(n * size, h)
        across = columns[column_start : column_start + n * size * w].view(n, size, w)
        averages.append(torch.bmm((down @ crop).view(n, size, w), across.transpose(1, 2)))
        row_start += n * size * h
        column_start += n * size * w
    targets[order] = (torch.cat(averages) >= 0.5).float()
    return targets


def _bin_weights(
    start: Float[Tensor, " N"],
    end: Float[Tensor, " N"],
    scale: float,
    shift: float,
    canvas: int,
    offset: Int[Tensor, " N"],
    length: Int[Tensor, " N"],
    size: int,
) -> Float[Tensor, " weights"]:
    """Weights of every pixel of the crop in every bin along one axis: N matrices (size, length_i) in one flat tensor.

    The arithmetic follows torchvision's kernel operation by operation, so that samples fall on the same side of every
    edge.
    """
    device = start.device
    start, end = start - 0.5, end - 0.5
    bins = (end - start) / size
    samples = torch.ceil(bins)
    most = max(int(samples.max()), 1)
    k = torch.arange(most, device=device)
    steps = torch.arange(size, device=device)
    within = (k + 0.5) * bins[:, None] / samples[:, None].clamp(min=1)
    position = (start[:, None] + steps * bins[:, None])[:, :, None] + within[:, None, :]
    position = position * scale + (0.5 * scale + shift - 0.5)

    counts = (k < samples[:, None])[:, None, :] & (position >= -1) & (position <= canvas)
    share = counts / samples.clamp(min=1)[:, None, None]
    position = position.clamp(0, canvas - 1)
    low = position.long()
    upper = position - low
    low = low - offset[:, None, None]

    # Row i of box n starts at first[n] + i * length[n]; weights outside the crop are added to a spare cell at the end.
    ends = (length * size).cumsum(0)
    total = int(ends[-1])
    row = (ends - length * size)[:, None] + steps * length[:, None]
    weights = torch.zeros(total + 1, device=device)
    for cell, weight in ((low, share * (1 - upper)), (low + 1, share * upper)):
        inside = (cell >= 0) & (cell < length[:, None, None])
        weights.index_add_(0, torch.where(inside, row[:, :, None] + cell, total).flatten(), weight.flatten())
    return weights[:total]
