"""The values passed between the parts of the model, with their shapes and units.

B images, R RoIs per image, D detections per image, K classes. Boxes are xyxy float pixels of the network input unless
stated otherwise; sizes are (height, width).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from htc.ops.roi_pool import Pyramid


@dataclass(frozen=True)
class RoiTargets:
    """Training targets of the sampled RoIs."""

    objects: Int[Tensor, "B R"]
    """Index of the matched ground-truth instance in its image; undefined unless `positive`."""
    labels: Int[Tensor, "B R"]
    """0 .. K-1, or K for background."""
    positive: Bool[Tensor, "B R"]
    appended: Bool[Tensor, "B R"]
    """True for ground-truth boxes added to the sample: they train this stage, but are not RoIs of the next."""


@dataclass(frozen=True)
class Rois:
    """Regions of interest, the same number of slots for every image; `valid` marks the filled slots."""

    boxes: Float[Tensor, "B R 4"]
    valid: Bool[Tensor, "B R"]
    sizes: Int[Tensor, "B 2"]
    """(height, width) of each image in the network input, without padding: boxes are clipped to it."""
    packed: bool = False
    """True if only valid slots are pooled and go through the heads: in training, since norms must not see empty slots,
    and for the masks of eager inference, since an empty slot costs as much as a detection. False if all slots do, for
    static shapes.
    """

    targets: RoiTargets | None = None
    """Set by the training sampler and kept by `with_boxes`; None at test time."""

    @cached_property
    def rows(self) -> Int[Tensor, " N"] | None:
        """Indices, among all B R slots, of those that go through the heads; None: all of them.

        The length depends on `valid`, so the first use synchronizes with the device; later ones do not.
        """
        return self.valid.flatten().nonzero().squeeze(1) if self.packed else None

    def pack(self, values: Tensor) -> Tensor:
        """Select the values (B R, ...) of the slots that go through the heads; empty if no slot is valid."""
        return values if self.rows is None else values[self.rows]

    def unpack(self, values: Tensor) -> Tensor:
        """Put the outputs of the heads into their slots (B, R, ...); the other slots are zero."""
        if self.rows is None:
            return values.unflatten(0, self.valid.shape)
        slots = values.new_zeros((self.valid.numel(), *values.shape[1:]))
        slots[self.rows] = values
        return slots.unflatten(0, self.valid.shape)

    def with_boxes(self, boxes: Tensor) -> "Rois":
        """Copy with `boxes` (B, R, 4) as the new boxes."""
        return replace(self, boxes=boxes)


@dataclass(frozen=True)
class BoxStage:
    """Input and output of one stage of the box cascade."""

    rois: Rois
    """r_{t-1}: the RoIs that this stage classifies."""
    class_logits: Float[Tensor, "B R classes_and_background"]
    """K + 1 logits, background last."""
    deltas: Float[Tensor, "B R deltas"]
    """4 values, or 4 K if boxes are class-specific."""
    refined: Rois
    """r_t, without gradient, clipped to the image."""


@dataclass(frozen=True)
class Features:
    """Output of the trunk, input of the RoI heads."""

    pyramid: tuple[Float[Tensor, "B C _ _"], ...]
    """P2-P6, strides 4-64."""
    semantic: Float[Tensor, "B C _ _"] | None
    """S(x): the semantic embedding at stride 8; None without semantic fusion."""
    semantic_logits: Float[Tensor, "B classes _ _"] | None
    """Semantic prediction; only if requested, for training and semantic output."""

    @cached_property
    def pooled(self) -> tuple[Pyramid, Pyramid | None]:
        """x (P2-P5) and s (stride 8) for RoI pooling; their pixel tables are built once."""
        s = None if self.semantic is None else Pyramid((self.semantic,), (8,))
        return Pyramid(self.pyramid[:4], (4, 8, 16, 32)), s


@dataclass(frozen=True)
class RawDetections:
    """Detections in a fixed number of slots, best first, in pixels of the network input."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]
    """0 .. K-1."""
    valid: Bool[Tensor, "B D"]
    masks: Float[Tensor, "B D S S"]
    """Probability of the detected class on a grid over the box (S is 28; 56 with fine mask heads), averaged over the
    mask stages.
    """


torch.export.register_dataclass(RawDetections)  # for exported graphs, which return it


@dataclass(frozen=True)
class MaskCrops:
    """Instance masks of one image as bitmaps cropped to their boxes, in one buffer instead of a dense (N, H, W) array.

    Flips, resizes and crops do not change the pixels: they change `scale` and `shift`, which map a coordinate of the
    network input to the annotated image: source = scale * input + shift (x and y; a negative scale is a flip).
    """

    pixels: UInt8[Tensor, " P"]
    """0 or 1, row by row, instance by instance."""
    sizes: Int[Tensor, "M 2"]
    """(height, width) of each crop; (0, 0) for an instance without a mask."""
    offsets: Int[Tensor, "M 2"]
    """(x, y) of each crop's top-left pixel in the annotated image."""
    canvas: tuple[int, int]
    """(height, width) of the annotated image."""
    scale: tuple[float, float] = (1.0, 1.0)
    """(x, y)."""
    shift: tuple[float, float] = (0.0, 0.0)
    """(x, y), pixels of the annotated image."""

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class GroundTruth:
    """The instances of one training image; crowd regions are separate, since they are never matched."""

    boxes: Float[Tensor, "M 4"]
    labels: Int[Tensor, " M"]
    """0 .. K-1."""
    masks: MaskCrops | None
    """None: this image has boxes only, and its mask losses are disabled."""
    crowd_boxes: Float[Tensor, "C 4"]


@dataclass(frozen=True)
class Batch:
    """Input of one training step."""

    images: Float[Tensor, "B 3 H W"]
    """RGB, normalized, then padded with zeros on the right and bottom."""
    sizes: Int[Tensor, "B 2"]
    """(height, width) of each image, without padding."""
    truths: tuple[GroundTruth, ...]
    semantic: UInt8[Tensor, "B H W"] | None
    """Class of every pixel; 255: ignored pixels and padding."""
    image_ids: tuple[int | str, ...]
    seeds: tuple[int, ...]
    """One per image: a pure function of (seed, epoch, position, image id), the only source of randomness in RoI
    sampling.
    """

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the batch to another device."""

        def move(m: MaskCrops | None) -> MaskCrops | None:
            if m is None:
                return None
            return replace(m, pixels=m.pixels.to(device), sizes=m.sizes.to(device), offsets=m.offsets.to(device))

        truths = tuple(
            replace(
                t,
                boxes=t.boxes.to(device),
                labels=t.labels.to(device),
                masks=move(t.masks),
                crowd_boxes=t.crowd_boxes.to(device),
            )
            for t in self.truths
        )
        semantic = None if self.semantic is None else self.semantic.to(device)
        return replace(
            self, images=self.images.to(device), sizes=self.sizes.to(device), truths=truths, semantic=semantic
        )
