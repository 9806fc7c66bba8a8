"""Match RoIs with ground-truth instances, sample them for each stage and assign their targets.

Sampling depends only on each image's seed, so that a resumed run repeats it exactly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from htc.config import Cascade
from htc.ops.boxes import iou
from htc.types import Batch, GroundTruth, Rois, RoiTargets

BACKGROUND, IGNORED = -1, -2


def match(ious: Float[Tensor, "M N"], positive: float, negative: float, low_quality: float | None) -> Int[Tensor, " N"]:
    """Return, for each of N boxes, the index of its instance among M, or BACKGROUND, or IGNORED.

    A box whose best IoU is at least `positive` is matched to that instance; below `negative` it is background; between,
    ignored. Then, for each instance in order whose best IoU is at least `low_quality` (None: off), every box with
    exactly this IoU is matched to it, even if it fits another instance better: a later instance overwrites an earlier
    one. Boxes to leave out must have IoU -1 with every instance.
    """
    objects, boxes = ious.shape
    if objects == 0:
        return torch.full((boxes,), BACKGROUND, device=ious.device)
    if boxes == 0:
        return torch.empty(0, dtype=torch.long, device=ious.device)
    best, index = ious.max(0)
    matched = torch.full((boxes,), IGNORED, device=ious.device)
    matched[(best >= 0) & (best < negative)] = BACKGROUND
    matched = torch.where(best >= positive, index, matched)
    if low_quality is not None:
        reach = ious.amax(1, keepdim=True)
        claims = (ious == reach) & (reach >= low_quality)
        last = torch.where(claims, torch.arange(objects, device=ious.device)[:, None], -1).amax(0)
        matched = torch.where(last >= 0, last, matched)
    return matched


BOX_DRAW, MASK_DRAW, RPN_DRAW = 0, 1, 2
LARGEST_PRIME_OF_32_BITS = 2**32 - 5
"""torch's CPU generator uses only the last 32 bits of its seed; the remainder of a prime depends on every bit of a
longer seed.
"""


def generator(seed: int, draw: int, stage: int = 0) -> torch.Generator:
    """Return the random number generator of one draw for one image."""
    return torch.Generator().manual_seed(((seed * 3 + draw) * 64 + stage) % LARGEST_PRIME_OF_32_BITS)


def draw(candidates: Int[Tensor, " N"], count: int, numbers: torch.Generator) -> Int[Tensor, " M"]:
    """Draw at most `count` candidates without replacement; return all of them, in order, if there are no more."""
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), generator=numbers)[:count]
    return candidates[order.to(candidates.device)]


def balanced(
    matched: Int[Tensor, " N"], samples: int, positive_fraction: float, numbers: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the indices of the sampled positives and negatives; negatives fill the slots that positives leave."""
    positive = draw((matched >= 0).nonzero().squeeze(1), int(samples * positive_fraction), numbers)
    negative = draw((matched == BACKGROUND).nonzero().squeeze(1), samples - len(positive), numbers)
    return positive, negative


@dataclass(frozen=True)
class RoiSampler:
    """Samples RoIs for each stage and assigns their targets (`Rois.targets`); keeps no state between calls."""

    batch: Batch
    config: Cascade
    num_classes: int

    def for_boxes(self, rois: Rois, t: int) -> Rois:
        """Return the balanced sample for training box head t (from 0)."""
        return self._sample(rois, t, BOX_DRAW)

    def for_masks(self, rois: Rois, t: int) -> Rois:
        """Return the refined boxes of stage t, matched and sampled again."""
        return self._sample(rois, t, MASK_DRAW)

    def _sample(self, rois: Rois, t: int, purpose: int) -> Rois:
        kept = rois.valid if rois.targets is None else rois.valid & ~rois.targets.appended
        rows = [
            self._of_image(rois.boxes[i][kept[i]], truth, t, generator(seed, purpose, t))
            for i, (truth, seed) in enumerate(zip(self.batch.truths, self.batch.seeds, strict=True))
        ]
        return _padded(rows, rois.sizes)

    def _of_image(
        self, boxes: Float[Tensor, "R 4"], truth: GroundTruth, t: int, numbers: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Return the sample of one image: boxes, instance indices, labels, positive, appended; positives first."""
        threshold = self.config.ious[t]
        objects = len(truth.boxes)
        low_quality = threshold if self.config.low_quality_matches else None
        matched = match(iou(truth.boxes, boxes), threshold, threshold, low_quality)
        # the ground-truth boxes are added after the matching, each matched to its own instance
        own = torch.arange(objects, device=boxes.device)
        boxes, matched = torch.cat([truth.boxes, boxes]), torch.cat([own, matched])
        positive, negative = balanced(matched, self.config.samples, self.config.positive_fraction, numbers)
        chosen = torch.cat([positive, negative])
        is_positive = matched[chosen] >= 0
        instance = matched[chosen].clamp(min=0)
        labels = torch.full_like(instance, self.num_classes)
        if objects:
            labels = torch.where(is_positive, truth.labels[instance], labels)
        return boxes[chosen], instance, labels, is_positive, chosen < objects


def positives(rois: Rois, batch: Batch) -> Rois:
    """Select the positives of images with masks from a sample: the training samples of a mask head."""
    assert rois.targets is not None
    targets = rois.targets
    has_masks = torch.tensor([truth.masks is not None for truth in batch.truths], device=rois.valid.device)
    keep = targets.positive & has_masks[:, None]
    fields = (rois.boxes, targets.objects, targets.labels, targets.positive, targets.appended)
    rows = [tuple(field[i][keep[i]] for field in fields) for i in range(len(keep))]
    return _padded(rows, rois.sizes)


def _padded(rows: list[tuple[Tensor, ...]], sizes: Int[Tensor, "B 2"]) -> Rois:
    """Pad the samples of all images to the same length, at least one slot."""
    length = max(1, *(len(row[0]) for row in rows))

    def padded(field: int) -> Tensor:
        fields = [row[field] for row in rows]
        return torch.stack([torch.cat([f, f.new_zeros((length - len(f), *f.shape[1:]))]) for f in fields])

    counts = torch.tensor([len(row[0]) for row in rows], device=sizes.device)
    valid = torch.arange(length, device=sizes.device) < counts[:, None]
    boxes, objects, labels, positive, appended = (padded(i) for i in range(5))
    return Rois(boxes, valid, sizes, packed=True, targets=RoiTargets(objects, labels, positive, appended))
