"""From an image to the network input: one `Placement` transforms image, boxes, masks and semantic map together.

A placement is drawn once and then applied to each of them, so that they stay aligned. Coordinates are continuous, pixel
centers at + 0.5.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, final

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from htc.config import Augmentation, Input
from htc.data import instance_masks
from htc.data.semantic_maps import IGNORE
from htc.types import GroundTruth, MaskCrops


@dataclass(frozen=True)
class Placement:
    """Resize, then flips, then a crop window. Sizes are (height, width) in pixels."""

    original: tuple[int, int]
    resized: tuple[int, int]
    flip_horizontal: bool = False
    flip_vertical: bool = False
    corner: tuple[int, int] = (0, 0)
    """(top, left) of the window in the resized and flipped image."""
    window: tuple[int, int] | None = None
    """(height, width) of the window, inside the resized image; None: the whole image."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network input."""
        return self.resized if self.window is None else self.window


def resized_size(
    size: tuple[int, int], short_edge: int, long_edge: int, max_scale: float | None = None
) -> tuple[int, int]:
    """The largest (height, width) with the same aspect ratio whose edges fit both bounds, rounded as in mmdetection.

    At most `max_scale` times as large as `size`, if given.
    """
    height, width = size
    scale = min(
        long_edge / max(height, width),
        short_edge / min(height, width),
        float("inf") if max_scale is None else max_scale,
    )
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def plain_placement(size: tuple[int, int], settings: Input) -> Placement:
    """Placement for prediction and evaluation: the image resized, nothing else."""
    return Placement(size, resized_size(size, settings.short_edge, settings.long_edge, settings.max_scale))


def draw_placement(
    size: tuple[int, int], settings: Input, augmentation: Augmentation, generator: torch.Generator
) -> Placement:
    """Draw a training view of an image of `size` (height, width), with random numbers from `generator`."""
    # Always the same number of draws, so that one setting does not change the draws of another.
    edge, horizontal, vertical, down, across = torch.rand(5, generator=generator, dtype=torch.double).tolist()
    resized, crop = _drawn_size(size, edge, settings, augmentation)
    corner, window = (0, 0), None
    if crop is not None:
        window = (min(crop[0], resized[0]), min(crop[1], resized[1]))
        corner = (int(down * (resized[0] - window[0] + 1)), int(across * (resized[1] - window[1] + 1)))
    flips = horizontal < augmentation.horizontal_flip, vertical < augmentation.vertical_flip
    return Placement(size, resized, *flips, corner, window)


def _drawn_size(
    size: tuple[int, int], draw: float, settings: Input, augmentation: Augmentation
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """Resized (height, width) and the size of the crop window, or None; `draw` is a random number in [0, 1)."""
    jitter = augmentation.jitter
    if jitter is not None:
        low, high = jitter.scales
        fit = min(jitter.size[0] / size[0], jitter.size[1] / size[1])
        # The limit applies before the factor: otherwise small images would hardly ever change their size.
        scale = (fit if settings.max_scale is None else min(fit, settings.max_scale)) * (low + draw * (high - low))
        return (max(int(size[0] * scale + 0.5), 1), max(int(size[1] * scale + 0.5), 1)), jitter.size
    if not augmentation.resize:
        return size, augmentation.crop
    if augmentation.short_edge_choices is not None:
        short_edge = augmentation.short_edge_choices[int(draw * len(augmentation.short_edge_choices))]
    else:
        low, high = augmentation.short_edges or (settings.short_edge, settings.short_edge)
        short_edge = low + int(draw * (high - low + 1))
    # The limit scales with the edge: otherwise images below it would never change their size.
    most = None if settings.max_scale is None else settings.max_scale * short_edge / settings.short_edge
    return resized_size(size, short_edge, augmentation.long_edge or settings.long_edge, most), augmentation.crop


def place_image(image: UInt8[np.ndarray, "H W 3"], placement: Placement) -> UInt8[np.ndarray, "h w 3"]:
    """Resize with OpenCV, bilinear without antialiasing, as in mmdetection; flip and crop."""
    if placement.resized != placement.original:
        image = cv2.resize(image, placement.resized[::-1], interpolation=cv2.INTER_LINEAR)
    image = image[:: -1 if placement.flip_vertical else 1, :: -1 if placement.flip_horizontal else 1]
    (top, left), (height, width) = placement.corner, placement.size
    return np.ascontiguousarray(image[top : top + height, left : left + width])


def place_semantic(semantic: UInt8[np.ndarray, "H W"], placement: Placement) -> UInt8[np.ndarray, "h w"]:
    """Resample a semantic map: each pixel takes the class at its center."""
    rows, columns = (_nearest(placement, axis) for axis in (0, 1))
    return semantic[rows].take(columns, axis=1)


def _nearest(placement: Placement, axis: int) -> np.ndarray:
    """Annotated row (axis 0) or column (1) at each row or column center of the network input."""
    seen = placement.corner[axis] + np.arange(placement.size[axis])
    if (placement.flip_vertical, placement.flip_horizontal)[axis]:
        seen = placement.resized[axis] - 1 - seen
    return ((2 * seen + 1) * placement.original[axis]) // (2 * placement.resized[axis])


def place_masks(masks: MaskCrops, placement: Placement) -> MaskCrops:
    """Transform the masks to the network input; their pixels are copied only if the window cuts them."""
    height, width = placement.resized
    masks = instance_masks.resized(masks, width / placement.original[1], height / placement.original[0])
    if placement.flip_horizontal:
        masks = instance_masks.flipped_horizontally(masks, width)
    if placement.flip_vertical:
        masks = instance_masks.flipped_vertically(masks, height)
    if placement.size == placement.resized:
        return masks
    (top, left), (window_height, window_width) = placement.corner, placement.size
    return instance_masks.cropped(masks, left, top, window_width, window_height)


def place_boxes(boxes: Float[Tensor, "M 4"], placement: Placement) -> Float[Tensor, "M 4"]:
    """Transform xyxy boxes to pixels of the network input, without clipping to the window."""
    (height, width), (top, left) = placement.resized, placement.corner
    x = boxes[:, 0::2].double() * (width / placement.original[1])
    y = boxes[:, 1::2].double() * (height / placement.original[0])
    if placement.flip_horizontal:
        x = (width - x).flip(1)
    if placement.flip_vertical:
        y = (height - y).flip(1)
    x, y = x - left, y - top
    return torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1).to(boxes.dtype)


def clip_boxes(boxes: Float[Tensor, "M 4"], size: tuple[int, int]) -> Float[Tensor, "M 4"]:
    """Clip xyxy boxes to an image of `size` (height, width)."""
    high = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    return boxes.clamp(min=0).minimum(high)


def place_ground_truth(ground_truth: GroundTruth, placement: Placement) -> GroundTruth:
    """Transform the instances to the network input. If the window cuts an instance, its box becomes that of the
    remaining mask.

    An instance with less than one pixel left is dropped.
    """
    boxes = place_boxes(ground_truth.boxes, placement)
    clipped = clip_boxes(boxes, placement.size)
    cut = (boxes - clipped).abs().amax(1) > 1e-3
    masks = None if ground_truth.masks is None else place_masks(ground_truth.masks, placement)
    if masks is not None:
        remaining = clip_boxes(instance_masks.boxes_from_masks(masks), placement.size)
        clipped = torch.where(cut[:, None], remaining, clipped)
    keep = ~cut | ((clipped[:, 2:] - clipped[:, :2]) >= 1).all(1)
    if masks is not None:
        keep &= masks.sizes.prod(1) > 0
        masks = masks if bool(keep.all()) else instance_masks.select_crops(masks, keep)
    crowds = clip_boxes(place_boxes(ground_truth.crowd_boxes, placement), placement.size)
    visible = (crowds[:, 2:] > crowds[:, :2]).all(1)
    return replace(
        ground_truth, boxes=clipped[keep], labels=ground_truth.labels[keep], masks=masks, crowd_boxes=crowds[visible]
    )


def normalize(image: UInt8[np.ndarray, "H W 3"], settings: Input) -> Float[np.ndarray, "H W 3"]:
    """(value - mean) / std of each channel, with a lookup table: a channel has only 256 values."""
    values = np.arange(256, dtype=np.float32)[:, None]
    table = (values - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
    return cv2.LUT(image, table[None])


def pad_images(views: list[UInt8[np.ndarray, "_ _ 3"]], settings: Input) -> Float[Tensor, "B 3 H W"]:
    """Normalize views and pad them on the right and bottom, as set in `settings`, to one size that is a multiple of the
    divisor; channels_last.
    """
    height, width = padded_size([view.shape[:2] for view in views], settings.divisor)
    images = np.zeros((len(views), height, width, 3), np.float32)
    for image, view in zip(images, views, strict=True):
        rows, columns = view.shape[:2]
        image[:rows, :columns] = normalize(view, settings)
        if settings.padding == "edge":
            image[:rows, columns:] = image[:rows, columns - 1 : columns]
            image[rows:] = image[rows - 1 : rows]
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def pad_semantic(maps: list[UInt8[np.ndarray, "_ _"]], size: tuple[int, int]) -> UInt8[Tensor, "B H W"]:
    """Pad semantic maps with 255 (ignore) to `size`, so that padding has no loss."""
    padded = np.full((len(maps), *size), IGNORE, np.uint8)
    for canvas, semantic in zip(padded, maps, strict=True):
        canvas[: semantic.shape[0], : semantic.shape[1]] = semantic
    return torch.from_numpy(padded)


def padded_size(sizes: list[tuple[int, int]], divisor: int) -> tuple[int, int]:
    """The smallest (height, width) that contains all sizes and is a multiple of `divisor`."""
    height, width = (-(-max(size[axis] for size in sizes) // divisor) * divisor for axis in (0, 1))
    return height, width


@dataclass(frozen=True)
class NetworkInput:
    """Input of a detector."""

    images: Float[Tensor, "B 3 H W"] | UInt8[Tensor, "B 3 H W"]
    """RGB, normalized, padded on the right and bottom; bytes for a detector that prepares its images itself."""
    sizes: Int[Tensor, "B 2"]
    """(height, width) of each image, without padding."""


Prepared = TypeVar("Prepared")
"""Input of a predictor: `NetworkInput`, or the original pixels of the images."""


class Preparation(ABC, Generic[Prepared]):
    """Preparation of images for a predictor: each image separately, then a batch. Picklable for worker processes."""

    @abstractmethod
    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image of size `original` after preparation, without padding."""

    @abstractmethod
    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a batch of images of this size; images with an equal value can share a batch."""

    @abstractmethod
    def image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Resize one RGB image."""

    @abstractmethod
    def batch(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> Prepared:
        """Combine images returned by `image` into a batch."""


@final
@dataclass(frozen=True)
class ResizedInput(Preparation[NetworkInput]):
    """For a single detector: images resized, normalized and padded as configured."""

    settings: Input

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return plain_placement(original, self.settings).size

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return padded_size([size], self.settings.divisor)

    def image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """See `Preparation`."""
        return place_image(pixels, plain_placement((pixels.shape[0], pixels.shape[1]), self.settings))

    def batch(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> NetworkInput:
        """See `Preparation`."""
        sizes = torch.tensor([image.shape[:2] for image in images])
        return NetworkInput(pad_images(images, self.settings), sizes)


@final
@dataclass(frozen=True)
class OriginalPixels(Preparation[tuple[UInt8[np.ndarray, "_ _ 3"], ...]]):
    """For a predictor that prepares several views of each image: the image is not changed."""

    def size(self, original: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return original

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See `Preparation`."""
        return size

    def image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """See `Preparation`."""
        return pixels

    def batch(self, images: list[UInt8[np.ndarray, "_ _ 3"]]) -> tuple[UInt8[np.ndarray, "_ _ 3"], ...]:
        """See `Preparation`."""
        return tuple(images)
