"""Copy-paste (Ghiasi et al. 2021, section 3): objects of one view laid over another, pixels, masks and semantic map
together.

Both views were moved by placements of their own, so their masks come into one grid first: that of the image pasted
into.
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
    """What chance decides before the second image is looked at."""

    happens: bool
    other: int
    """The second image's place in the data set."""
    corner: tuple[float, float]
    """0..1 (down, across): where the second view comes to lie, see `corner_of`."""


def draw_paste(probability: float, images: int, generator: torch.Generator) -> PasteDraw:
    """Whether an image receives objects, and of which of `images` others."""
    chance, which, down, across = torch.rand(4, generator=generator, dtype=torch.double).tolist()
    return PasteDraw(chance < probability, int(which * images), (down, across))


def corner_of(size: tuple[int, int], other: tuple[int, int], draw: tuple[float, float]) -> tuple[int, int]:
    """(top, left) of a view of size `other` in one of `size`: anywhere inside it; one that is larger covers it
    (negative corner).
    """
    top, left = (
        int(value * (abs(frame - side) + 1)) * (1 if frame >= side else -1)
        for frame, side, value in zip(size, other, draw, strict=True)
    )
    return top, left


def pasted(
    view: AnnotatedView, other: AnnotatedView, chosen: Bool[Tensor, " M"], corner: tuple[int, int]
) -> AnnotatedView:
    """`view` with the `chosen` objects of `other`, whose top left pixel lies at `corner` (top, left; may be negative).

    Objects below lose the pixels that are covered, and their boxes shrink to what is left; where nothing is left they
    are dropped. A view whose truth has boxes only neither gives nor takes objects.
    """
    if view.truth.masks is None or other.truth.masks is None or not bool(chosen.any()):
        return view
    crops = [_shifted(crop, corner, view.size) for crop in crops_in_view(other.truth.masks, other.size)]
    here = torch.tensor([crop.bitmap.size > 0 for crop in crops]) & chosen
    crops = [crop for crop, seen in zip(crops, here.tolist(), strict=True) if seen]
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
    below_boxes, below_labels, below_masks = _uncovered(view.truth, view.truth.masks, cover)
    boxes = other.truth.boxes[here] + torch.tensor([corner[1], corner[0]] * 2, dtype=torch.float32)
    above = _clipped_boxes(boxes, crops, view.size)
    masks = mask_crops([*below_masks, *crops], view.size)
    labels = torch.cat([below_labels, other.truth.labels[here]])
    return AnnotatedView(
        image, replace(view.truth, boxes=torch.cat([below_boxes, above]), labels=labels, masks=masks), semantic
    )


def _overlaid(
    below: UInt8[np.ndarray, "..."],
    above: UInt8[np.ndarray, "..."],
    cover: Bool[np.ndarray, "h w"],
    corner: tuple[int, int],
) -> np.ndarray:
    """A copy of `below` that shows `above` where `cover` says so."""
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
    """Moved by `corner` (top, left) and cut to an image of `size`."""
    top, left = crop.y + corner[0], crop.x + corner[1]
    part = crop.bitmap[max(-top, 0) : max(size[0] - top, 0), max(-left, 0) : max(size[1] - left, 0)]
    return tight(Crop(max(left, 0), max(top, 0), part))


def _window(crop: Crop) -> tuple[slice, slice]:
    return slice(crop.y, crop.y + crop.bitmap.shape[0]), slice(crop.x, crop.x + crop.bitmap.shape[1])


def _uncovered(
    truth: GroundTruth, masks: MaskCrops, cover: Bool[np.ndarray, "h w"]
) -> tuple[Tensor, Tensor, list[Crop]]:
    """Boxes, labels and masks of the objects that still show; whole ones keep their annotated box."""
    size = (cover.shape[0], cover.shape[1])
    whole = crops_in_view(masks, size)
    left = [tight(crop._replace(bitmap=crop.bitmap * ~cover[_window(crop)])) for crop in whole]
    cut = torch.tensor(
        [int(after.bitmap.sum()) < int(before.bitmap.sum()) for before, after in zip(whole, left, strict=True)],
        dtype=torch.bool,
    )
    shows = torch.tensor([crop.bitmap.size > 0 for crop in left], dtype=torch.bool)
    boxes = torch.where(cut[:, None], boxes_from_masks(mask_crops(left, size)), truth.boxes)
    return boxes[shows], truth.labels[shows], [crop for crop in left if crop.bitmap.size]


def _clipped_boxes(boxes: Float[Tensor, "M 4"], crops: list[Crop], size: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """The boxes of pasted objects; the mask's where the image's edge cuts one."""
    inside = clip_boxes(boxes, size)
    cut = (inside != boxes).any(1, keepdim=True)
    return torch.where(cut, boxes_from_masks(mask_crops(crops, size)), inside)
