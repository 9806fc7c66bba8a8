"""Configuration values derived from a dataset, each with its rule: input size, anchor scale, detections per image,
sampling.

Pure functions of the annotations, so that `htc doctor` and `htc train` report and use the same values.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float, Int

from htc.config import PYRAMID_STRIDES, Input
from htc.data.columns import table_of
from htc.data.dataset import Dataset
from htc.data.transforms import resized_size

SMALL_SHARE = 0.1
"""Fraction of the instances, the smallest ones, that the input size may leave too small."""
LEAST_SIDE, AMPLE_SIDE = 24.0, 64.0
"""Pixels (square root of the box's area): a size that nine in ten instances of COCO exceed at mmdetection's 800 px; and
one above which enlarging gains nothing.
"""
MOST_ENLARGED = 2.0
"""Maximum enlargement: beyond it, enlarging adds computation and no information."""
ENOUGH_SHORT, MOST_LONG = 800, 1600
"""mmdetection's short edge, and the largest long edge of its training."""
ANCHOR_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
ANCHOR_IOU = 0.5
ANCHOR_GAIN = 0.05
"""Minimum gain in recall of another anchor scale that justifies a change."""
RARE = 10
"""A class is rare if its fraction of images is below 1/RARE of the median class's."""


@dataclass(frozen=True)
class Statistics:
    """Sizes and numbers of images and instances, without crowd regions."""

    classes: tuple[str, ...]
    sizes: Int[np.ndarray, "P 2"]
    """(height, width) of each image."""
    boxes: Float[np.ndarray, "N 4"]
    """xyxy, pixels of the image."""
    labels: Int[np.ndarray, " N"]
    images: Int[np.ndarray, " N"]
    """Index of each instance's image."""

    @property
    def counts(self) -> Int[np.ndarray, " P"]:
        """Number of instances per image."""
        return np.bincount(self.images, minlength=len(self.sizes))

    @property
    def sides(self) -> Float[np.ndarray, " N"]:
        """Square root of each box's area."""
        extent = (self.boxes[:, 2:] - self.boxes[:, :2]).clip(0)
        return np.sqrt(extent.prod(1))

    @property
    def class_shares(self) -> Float[np.ndarray, " K"]:
        """Fraction of the images that contain each class, 0..1."""
        seen = np.unique(np.stack((self.labels, self.images), 1), axis=0)
        return np.bincount(seen[:, 0], minlength=len(self.classes)) / max(1, len(self.sizes))


@dataclass(frozen=True)
class Advice:
    """Values for configuration fields (dotted names), and the reason for them."""

    settings: dict[str, int | float]
    reason: str
    """The statistics and the rule, for the user."""


def statistics_of(dataset: Dataset) -> Statistics:
    """Collect the statistics that the rules use."""
    table = table_of(dataset.images).without_crowds()
    return Statistics(
        classes=dataset.classes, sizes=table.sizes, boxes=table.boxes, labels=table.labels, images=table.owners
    )


def input_size(data: Statistics, shrink: float = 1.0) -> Advice:
    """Choose the size of the network input; `shrink` (up to 1) makes it smaller, for a time limit.

    Images are enlarged, at most twofold, until nine in ten instances are at least 24 px large (as in COCO at
    mmdetection's 800 px), and reduced, down to mmdetection's short edge of 800, as long as nine in ten stay above 64
    px. The edges fit all but the largest tenth of the images; `max_scale` keeps small images of a mixed dataset from
    being enlarged further. The long edge is at least 5/3 of the short one, as in mmdetection, and at most 1600.
    """
    if not len(data.sizes) or not len(data.boxes):
        return Advice({}, "there are no instances: the preset's input size is kept")
    side = float(np.quantile(data.sides, SMALL_SHARE))
    short, long = (float(np.quantile(edges, 1 - SMALL_SHARE)) for edges in (data.sizes.min(1), data.sizes.max(1)))
    scale = 1.0
    if side < LEAST_SIDE:
        scale = min(LEAST_SIDE / max(side, 1.0), MOST_ENLARGED)
    elif side > AMPLE_SIDE and short > ENOUGH_SHORT:
        scale = max(AMPLE_SIDE / side, ENOUGH_SHORT / short)
    fitting = min(scale, MOST_LONG / long) * shrink
    short_edge = _multiple(short * fitting)
    long_edge = max(short_edge, min(MOST_LONG, max(_multiple(long * fitting), _multiple(short_edge * 5 / 3))))
    measured = (
        f"90% of the instances are at least {side:.0f} px large in their images and {side * fitting:.0f} px at the "
        f"input size"
    )
    cut = (
        ""
        if fitting == scale * shrink
        else f"; the input size is limited to {MOST_LONG} px: for larger inputs, train on crops "
        f"(training.augmentation.crop)"
    )
    limited = "" if shrink == 1 else f"; {shrink:.0%} of that size, so that a whole schedule fits the time limit"
    rule = f"enlarged (at most {MOST_ENLARGED:g}x) up to {LEAST_SIDE:.0f} px, reduced only above {AMPLE_SIDE:.0f} px"
    return Advice(
        {"input.short_edge": short_edge, "input.long_edge": long_edge, "input.max_scale": round(fitting, 2)},
        f"{measured}; {rule}{cut}{limited}",
    )


def anchor_coverage(
    data: Statistics,
    size: Input,
    scale: float,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    least_iou: float = ANCHOR_IOU,
) -> float:
    """Recall of the anchors: fraction of the instances, 0..1, with an anchor of IoU at least `least_iou` at the input
    size; 1 if there are no instances.
    """
    if not len(data.boxes):
        return 1.0
    return float((best_anchor_iou(data, size, scale, ratios) >= least_iou).mean())


def best_anchor_iou(data: Statistics, size: Input, scale: float, ratios: tuple[float, ...]) -> Float[np.ndarray, " N"]:
    """IoU of each instance with its best anchor.

    An anchor's center is (column, row) * stride. For one shape, the overlap falls with the distance of the centers
    along each axis, so the nearest cell's anchor is the best one, and no grid of anchors is needed.
    """
    shown = np.array(
        [
            resized_size((int(height), int(width)), size.short_edge, size.long_edge, size.max_scale)
            for height, width in data.sizes
        ],
        np.float64,
    ).reshape(-1, 2)
    factor = (shown / data.sizes)[data.images][:, ::-1]
    limit = shown[data.images][:, ::-1]
    low, high = data.boxes[:, :2] * factor, data.boxes[:, 2:] * factor
    center, extent = (low + high) / 2, high - low
    best = np.zeros(len(low))
    for stride in PYRAMID_STRIDES:
        last = np.ceil(limit / stride) - 1
        nearest = np.clip(np.round(center / stride), 0, last) * stride
        for ratio in ratios:
            half = scale * stride / 2 * np.array([ratio**-0.5, ratio**0.5])
            shared = (np.minimum(high, nearest + half) - np.maximum(low, nearest - half)).clip(0).prod(1)
            best = np.maximum(best, shared / np.maximum(extent.prod(1) + 4 * half.prod() - shared, 1e-9))
    return best


def anchor_scale(
    data: Statistics, size: Input, present: float = 8.0, ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
) -> Advice:
    """Choose the side of the anchors in units of their stride.

    The scale whose anchors reach IoU 0.5 with the most instances; the `present` one is kept if another gains less than
    5 % recall, and of equally good ones (within 0.5 %) the nearest to the present one is chosen.
    """
    if not len(data.boxes):
        return Advice({}, "there are no instances: the preset's anchors are kept")
    recalls = {scale: anchor_coverage(data, size, scale, ratios) for scale in sorted({*ANCHOR_SCALES, present})}
    most = max(recalls.values())
    best = min(
        (scale for scale in recalls if recalls[scale] >= most - ANCHOR_GAIN / 10),
        key=lambda scale: abs(np.log(scale / present)),
    )
    if recalls[best] < recalls[present] + ANCHOR_GAIN:
        best = present
    listed = ", ".join(f"scale {scale:g}: {recall:.0%}" for scale, recall in recalls.items())
    return Advice(
        {"rpn.anchor_scale": best},
        f"recall of the anchors at IoU {ANCHOR_IOU} (short edge {size.short_edge}): {listed}",
    )


def max_detections(data: Statistics) -> Advice:
    """Choose the detections per image: the next multiple of 100 above the most instances in one image."""
    densest = int(data.counts.max(initial=0))
    return Advice(
        {"inference.max_detections": (densest // 100 + 1) * 100},
        f"the densest image has {densest} instances; the next multiple of 100 above that",
    )


def repeat_threshold(data: Statistics) -> float | None:
    """Fraction of images below which a class's images are repeated; None if no class is rare.

    A tenth of the median class's fraction (of the classes that occur at all).
    """
    shares = data.class_shares[data.class_shares > 0]
    if not len(shares):
        return None
    threshold = float(np.median(shares)) / RARE
    return threshold if (shares < threshold).any() else None


def class_repeats(data: Statistics, threshold: float) -> Float[np.ndarray, " K"]:
    """Repeat factor of images with each class: max(1, sqrt(threshold / share)) (Gupta et al. 2019, LVIS); 1 for absent
    classes.
    """
    shares = data.class_shares
    return np.where(shares > 0, np.maximum(1.0, np.sqrt(threshold / np.maximum(shares, 1e-12))), 1.0)


def sampling(data: Statistics) -> Advice:
    """Choose repeat-factor sampling if a class is rare."""
    threshold = repeat_threshold(data)
    if threshold is None:
        return Advice(
            {}, f"every class is in at least 1/{RARE} of the number of images of the median class: every image once"
        )
    threshold = float(f"{threshold:.3g}")
    rare = int((class_repeats(data, threshold) > 1).sum())
    reason = (
        f"{rare} classes are in less than {threshold:.2%} of the images, 1/{RARE} of the median class's share: their "
        f"images are repeated"
    )
    return Advice({"training.sampling.repeat_threshold": threshold}, reason)


def _multiple(pixels: float, of: int = 32) -> int:
    return max(of, ceil(pixels / of - 1e-6) * of)
