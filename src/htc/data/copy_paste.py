"""Copy-paste (Ghiasi et al. 2021, section 3): instances of one view are pasted onto another, with their pixels, masks
and semantic map.

The two views have different placements, so their masks are first resampled to one grid, that of the target image.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from htc.data.ground_truth import AnnotatedView
from htc.data.instance_masks import boxes_from_masks, crops_in_view, mask_crops
from htc.data.mask_encodings import Crop, tight
from htc.data.transforms import clip_boxes
from htc.types import GroundTruth, MaskCrops


class PasteDraw(NamedTuple):
    """Random numbers of one copy-paste, drawn before the second image is read."""

    happens: bool
    other: int
    """Index of the second image in the dataset."""
    corner: tuple[float, float]
    """0..1 (down, across): position of the second view, see `corner_of`."""


def draw_paste(probability: float, images: int, generator: torch.Generator) -> PasteDraw:
    """Draw whether instances are pasted into an image, and from which of `images` images."""
    chance, which, down, across = torch.rand(4, generator=generator, dtype=torch.double).tolist()
    return PasteDraw(chance < probability, int(which * images), (down, across))


def corner_of(size: tuple[int, int], other: tuple[int, int], draw: tuple[float, float]) -> tuple[int, int]:
    """(top, left) of a view of size `other` in one of `size`: anywhere inside it; a larger one covers it (negative
    corner).
    """
    top, left = (
        int(value * (abs(frame - side) + 1)) * (1 if frame >= side else -1)
        for frame, side, value in zip(size, other, draw, strict=True)
    )
    return top, left


def pasted(
    view: AnnotatedView, other: AnnotatedView, chosen: Bool[Tensor, " M"], corner: tuple[int, int]
) -> AnnotatedView:
    """Paste the `chosen` instances of `other` onto `view`; the top left pixel of `other` is at `corner` (top, left; may
    be negative).

    Instances below lose the covered pixels, and their boxes shrink to the visible part; fully covered ones are dropped.
    A view whose ground truth has boxes only neither gives nor receives instances.
    """
    if view.ground_truth.masks is None or other.ground_truth.masks is None or not bool(chosen.any()):
        return view
    crops = [_shifted(crop, corner, view.size) for crop in crops_in_view(other.ground_truth.masks, other.size)]
    visible = torch.tensor([crop.bitmap.size > 0 for crop in crops]) & chosen
    crops = [crop for crop, keep in zip(crops, visible.tolist(), strict=True) if keep]
    if not crops:
        return view
    cover = np.zeros(view.size, bool)
    for crop in crops:
        cover[_window(crop)] |= crop.bitmap > 0
    image = _overlaid(view.image, other.image, cover, corner)
    semantic = (
        view.semantic
        if view.semantic is None or other.semantic is None
        else _overlaid(view.semantic, other.semantic, cover, corner)
    )
    below_boxes, below_labels, below_masks = _uncovered(view.ground_truth, view.ground_truth.masks, cover)
    boxes = other.ground_truth.boxes[visible] + torch.tensor([corner[1], corner[0]] * 2, dtype=torch.float32)
    above = _clipped_boxes(boxes, crops, view.size)
    masks = mask_crops([*below_masks, *crops], view.size)
    labels = torch.cat([below_labels, other.ground_truth.labels[visible]])
    return AnnotatedView(
        image, replace(view.ground_truth, boxes=torch.cat([below_boxes, above]), labels=labels, masks=masks), semantic
    )


def _overlaid(
    below: UInt8[np.ndarray, "..."],
    above: UInt8[np.ndarray, "..."],
    cover: Bool[np.ndarray, "h w"],
    corner: tuple[int, int],
) -> np.ndarray:
    """Copy `below` and replace the pixels in `cover` with those of `above`."""
    (top, left), (height, width) = corner, below.shape[:2]
    rows, columns = (
        slice(max(top, 0), min(top + above.shape[0], height)),
        slice(max(left, 0), min(left + above.shape[1], width)),
    )
    over = cover[rows, columns]
    result = below.copy()
    result[rows, columns][over] = above[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left][
        over
    ]
    return result


def _shifted(crop: Crop, corner: tuple[int, int], size: tuple[int, int]) -> Crop:
    """Move a crop by `corner` (top, left) and clip it to an image of `size`."""
    top, left = crop.y + corner[0], crop.x + corner[1]
    part = crop.bitmap[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return tight(Crop(max(left, 0), max(top, 0), part))


def _window(crop: Crop) -> tuple[slice, slice]:
    return slice(crop.y, crop.y + crop.bitmap.shape[0]), slice(crop.x, crop.x + crop.bitmap.shape[1])


def _uncovered(
    ground_truth: GroundTruth, masks: MaskCrops, cover: Bool[np.ndarray, "h w"]
) -> tuple[Tensor, Tensor, list[Crop]]:
    """Boxes, labels and masks of the instances that are still visible; uncovered ones keep their annotated box."""
    size = (cover.shape[0], cover.shape[1])
    whole = crops_in_view(masks, size)
    remaining = [tight(crop._replace(bitmap=crop.bitmap * ~cover[_window(crop)])) for crop in whole]
    cut = torch.tensor(
        [int(after.bitmap.sum()) < int(before.bitmap.sum()) for before, after in zip(whole, remaining, strict=True)],
        dtype=torch.bool,
    )
    visible = torch.tensor([crop.bitmap.size > 0 for crop in remaining], dtype=torch.bool)
    boxes = torch.where(cut[:, None], boxes_from_masks(mask_crops(remaining, size)), ground_truth.boxes)
    return boxes[visible], ground_truth.labels[visible], [crop for crop in remaining if crop.bitmap.size]


def _clipped_boxes(boxes: Float[Tensor, "M 4"], crops: list[Crop], size: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """Boxes of pasted instances; that of the mask if the image's border cuts the instance."""
    inside = clip_boxes(boxes, size)
    cut = (inside != boxes).any(1, keepdim=True)
    return torch.where(cut, boxes_from_masks(mask_crops(crops, size)), inside)
