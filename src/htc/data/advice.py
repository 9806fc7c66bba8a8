"""What a data set asks of a configuration: input size, anchor scale, detections an image, rare classes; each with its
rule.

Pure functions of the annotations, so that `htc doctor` and `htc train` say and do the same.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float, Int

from htc.config import PYRAMID_STRIDES, Input
from htc.data.dataset import Dataset
from htc.data.transforms import resized_size

SMALL_SHARE = 0.1
"""The input size serves all but this share of the objects, the smallest."""
LEAST_SIDE, AMPLE_SIDE = 24.0, 64.0
"""Pixels (square root of the box's area): what nine in ten objects of COCO have at the original's 800 px; and where
nothing is gained by more.
"""
MOST_ENLARGED = 2.0
"""Beyond this, enlarging adds work and no information."""
ENOUGH_SHORT, MOST_LONG = 800, 1600
"""The original's short edge; the longest long edge it was trained with."""
ANCHOR_SCALES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
ANCHOR_IOU = 0.5
ANCHOR_GAIN = 0.05
"""Share of the objects that another anchor scale must serve in addition to be worth a change."""
RARE = 10
"""A class is rare in fewer than this part of the images in which the median class is."""


@dataclass(frozen=True)
class Statistics:
    """Sizes and numbers of images and objects; crowd regions are left out."""

    classes: tuple[str, ...]
    sizes: Int[np.ndarray, "P 2"]
    """(height, width) of each image."""
    boxes: Float[np.ndarray, "N 4"]
    """xyxy, pixels of the image."""
    labels: Int[np.ndarray, " N"]
    images: Int[np.ndarray, " N"]
    """Which image each object is on."""

    @property
    def counts(self) -> Int[np.ndarray, " P"]:
        """Objects of each image."""
        return np.bincount(self.images, minlength=len(self.sizes))

    @property
    def sides(self) -> Float[np.ndarray, " N"]:
        """Square root of each box's area."""
        extent = (self.boxes[:, 2:] - self.boxes[:, :2]).clip(0)
        return np.sqrt(extent.prod(1))

    @property
    def class_shares(self) -> Float[np.ndarray, " K"]:
        """The share of the images that show each class, 0..1."""
        seen = np.unique(np.stack((self.labels, self.images), 1), axis=0)
        return np.bincount(seen[:, 0], minlength=len(self.classes)) / max(1, len(self.sizes))


@dataclass(frozen=True)
class Advice:
    """Values for fields of the configuration (dotted names), and how they came about."""

    settings: dict[str, int | float]
    reason: str
    """What was measured and the rule that was applied, for the user."""


def statistics_of(dataset: Dataset) -> Statistics:
    """What the rules look at."""
    found = [(number, one) for number, record in enumerate(dataset.images) for one in record.instances if not one.crowd]
    return Statistics(
        classes=dataset.classes,
        sizes=np.array([(record.height, record.width) for record in dataset.images], np.int64).reshape(-1, 2),
        boxes=np.array([one.box for _, one in found], np.float64).reshape(-1, 4),
        labels=np.array([one.label for _, one in found], np.int64),
        images=np.array([number for number, _ in found], np.int64),
    )


def input_size(data: Statistics) -> Advice:
    """The size at which the network should see the images.

    Images are enlarged, at most twofold, until nine in ten objects are at least 24 px large (as COCO's at the
    original's 800 px), and reduced, down to the original's short edge of 800, as long as nine in ten stay above 64 px.
    The edges are those of all but the largest tenth of the images; `max_scale` keeps small images of a mixed set
    from being blown up. The long edge is at least 5/3 of the short one, as the original's, and at most 1600.
    """
    if not len(data.sizes) or not len(data.boxes):
        return Advice({}, "without objects the input size stays the preset's")
    side = float(np.quantile(data.sides, SMALL_SHARE))
    short, long = (float(np.quantile(edges, 1 - SMALL_SHARE)) for edges in (data.sizes.min(1), data.sizes.max(1)))
    scale = 1.0
    if side < LEAST_SIDE:
        scale = min(LEAST_SIDE / max(side, 1.0), MOST_ENLARGED)
    elif side > AMPLE_SIDE and short > ENOUGH_SHORT:
        scale = max(AMPLE_SIDE / side, ENOUGH_SHORT / short)
    fitting = min(scale, MOST_LONG / long)
    short_edge = _multiple(short * fitting)
    long_edge = max(short_edge, min(MOST_LONG, max(_multiple(long * fitting), _multiple(short_edge * 5 / 3))))
    measured = (
        f"nine in ten objects are at least {side:.0f} px large in their images and {side * fitting:.0f} "
        f"px in the "
        f"network's input"
    )
    cut = (
        ""
        if fitting == scale
        else f"; larger inputs than {MOST_LONG} px are too much at a time: train on crops (training.augmentation.crop)"
    )
    rule = f"enlarged (at most {MOST_ENLARGED:g} times) to {LEAST_SIDE:.0f} px, reduced only above {AMPLE_SIDE:.0f} px"
    return Advice(
        {"input.short_edge": short_edge, "input.long_edge": long_edge, "input.max_scale": round(fitting, 2)},
        f"{measured}; {rule}{cut}",
    )


def anchor_coverage(
    data: Statistics,
    size: Input,
    scale: float,
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
    least_iou: float = ANCHOR_IOU,
) -> float:
    """The share of the objects, 0..1, that overlap some anchor of the RPN with at least `least_iou` in the network's
    input; 1 without objects.
    """
    if not len(data.boxes):
        return 1.0
    return float((best_anchor_iou(data, size, scale, ratios) >= least_iou).mean())


def best_anchor_iou(data: Statistics, size: Input, scale: float, ratios: tuple[float, ...]) -> Float[np.ndarray, " N"]:
    """Intersection over union of each object with its best anchor.

    An anchor's center is (column, row) * stride. For one shape the overlap falls with the distance of the centers along
    each axis, so the nearest cell's anchor is the best one, and no grid of anchors is needed.
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
    """The side of the anchors in units of their stride.

    The scale whose anchors overlap most objects with IoU 0.5 or more; the `present` one stays if another serves less
    than 5 % of the objects in addition, and of equally good ones (within 0.5 %) the nearest to the present one is
    taken.
    """
    if not len(data.boxes):
        return Advice({}, "without objects the anchors stay the preset's")
    served = {scale: anchor_coverage(data, size, scale, ratios) for scale in sorted({*ANCHOR_SCALES, present})}
    most = max(served.values())
    best = min(
        (scale for scale in served if served[scale] >= most - ANCHOR_GAIN / 10),
        key=lambda scale: abs(np.log(scale / present)),
    )
    if served[best] < served[present] + ANCHOR_GAIN:
        best = present
    listed = ", ".join(f"scale {scale:g}: {share:.0%}" for scale, share in served.items())
    return Advice(
        {"rpn.anchor_scale": best},
        f"objects with an anchor of IoU >= {ANCHOR_IOU} at short edge {size.short_edge}: {listed}",
    )


def max_detections(data: Statistics) -> Advice:
    """Detections an image: the next hundred above the number of objects of the densest image."""
    densest = int(data.counts.max(initial=0))
    return Advice(
        {"inference.max_detections": (densest // 100 + 1) * 100},
        f"the densest image has {densest} objects; the next hundred above that",
    )


def repeat_threshold(data: Statistics) -> float | None:
    """The share of images below which a class should be shown more often; None where no class is rare.

    A tenth of the median class's share (of the classes that occur at all).
    """
    shares = data.class_shares[data.class_shares > 0]
    if not len(shares):
        return None
    threshold = float(np.median(shares)) / RARE
    return threshold if (shares < threshold).any() else None


def class_repeats(data: Statistics, threshold: float) -> Float[np.ndarray, " K"]:
    """How often images with each class should be shown: max(1, sqrt(threshold / share)) (Gupta et al. 2019, LVIS);
    1 for absent classes.
    """
    shares = data.class_shares
    return np.where(shares > 0, np.maximum(1.0, np.sqrt(threshold / np.maximum(shares, 1e-12))), 1.0)


def sampling(data: Statistics) -> Advice:
    """Repeat-factor sampling where a class is rare."""
    threshold = repeat_threshold(data)
    if threshold is None:
        return Advice(
            {}, f"no class is in less than 1/{RARE} of the images that the median class is in: every image once"
        )
    threshold = float(f"{threshold:.3g}")
    rare = int((class_repeats(data, threshold) > 1).sum())
    reason = (
        f"{rare} classes are in less than {threshold:.2%} of the images, 1/{RARE} of the median class's share; "
        f"theirs are shown more often"
    )
    return Advice({"training.sampling.repeat_threshold": threshold}, reason)


def _multiple(pixels: float, of: int = 32) -> int:
    return max(of, ceil(pixels / of - 1e-6) * of)
