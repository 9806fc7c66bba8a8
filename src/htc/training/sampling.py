"""Matches RoIs with ground-truth objects, samples them for each stage and assigns their targets.

Sampling is a pure function of each image's seed, so that a resumed run repeats it exactly.
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
    """For each of N regions the index of its object among M, or BACKGROUND, or IGNORED.

    A region whose best IoU is at least `positive` serves that object; below `negative` it is background; between,
    ignored. Then, object by object in their order, if the object's best IoU is at least `low_quality` (None: off),
    every region that reaches exactly this IoU becomes the object's, even if it fits another one better: a later object
    overwrites an earlier one. Regions that take no part carry IoU -1 with every object.
    """
    objects, regions = ious.shape
    if objects == 0:
        return torch.full((regions,), BACKGROUND, device=ious.device)
    if regions == 0:
        return torch.empty(0, dtype=torch.long, device=ious.device)
    best, index = ious.max(0)
    matched = torch.full((regions,), IGNORED, device=ious.device)
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
"""torch's CPU generator reads the last 32 bits of its seed; as a remainder of a prime, every bit of a longer seed
counts.
"""


def generator(seed: int, draw: int, stage: int = 0) -> torch.Generator:
    """The random numbers of one draw for one image."""
    return torch.Generator().manual_seed(((seed * 3 + draw) * 64 + stage) % LARGEST_PRIME_OF_32_BITS)


def draw(candidates: Int[Tensor, " N"], count: int, numbers: torch.Generator) -> Int[Tensor, " M"]:
    """At most `count` of the candidates, drawn without replacement; all of them, in order, if they are no more."""
    if len(candidates) <= count:
        return candidates
    order = torch.randperm(len(candidates), generator=numbers)[:count]
    return candidates[order.to(candidates.device)]


def balanced(
    matched: Int[Tensor, " N"], samples: int, positive_fraction: float, numbers: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of the sampled positives and negatives; what positives do not fill, negatives do."""
    positive = draw((matched >= 0).nonzero().squeeze(1), int(samples * positive_fraction), numbers)
    negative = draw((matched == BACKGROUND).nonzero().squeeze(1), samples - len(positive), numbers)
    return positive, negative


@dataclass(frozen=True)
class RoiSampler:
    """Samples the RoIs of each stage and assigns their targets (`Rois.targets`); it keeps no state between calls."""

    batch: Batch
    config: Cascade
    num_classes: int

    def for_boxes(self, rois: Rois, t: int) -> Rois:
        """The balanced sample that box head t (from 0) is trained on."""
        return self._sample(rois, t, BOX_DRAW)

    def for_masks(self, rois: Rois, t: int) -> Rois:
        """The refined boxes of stage t, matched and sampled anew."""
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
        """The sample of one image: boxes, objects, labels, positive, appended; positives first."""
        threshold = self.config.ious[t]
        objects = len(truth.boxes)
        low_quality = threshold if self.config.low_quality_matches else None
        matched = match(iou(truth.boxes, boxes), threshold, threshold, low_quality)
        # the ground-truth boxes join after the matching, each with its own label
        own = torch.arange(objects, device=boxes.device)
        boxes, matched = torch.cat([truth.boxes, boxes]), torch.cat([own, matched])
        positive, negative = balanced(matched, self.config.samples, self.config.positive_fraction, numbers)
        chosen = torch.cat([positive, negative])
        is_positive = matched[chosen] >= 0
        served = matched[chosen].clamp(min=0)
        labels = torch.full_like(served, self.num_classes)
        if objects:
            labels = torch.where(is_positive, truth.labels[served], labels)
        return boxes[chosen], served, labels, is_positive, chosen < objects


def positives(rois: Rois, batch: Batch) -> Rois:
    """Of a sample, the positives of images that have masks: what a mask head is trained on."""
    assert rois.targets is not None
    targets = rois.targets
    has_masks = torch.tensor([truth.masks is not None for truth in batch.truths], device=rois.valid.device)
    keep = targets.positive & has_masks[:, None]
    fields = (rois.boxes, targets.objects, targets.labels, targets.positive, targets.appended)
    rows = [tuple(field[i][keep[i]] for field in fields) for i in range(len(keep))]
    return _padded(rows, rois.sizes)


def _padded(rows: list[tuple[Tensor, ...]], sizes: Int[Tensor, "B 2"]) -> Rois:
    """The samples of all images at one length: one slot at least, valid or not."""
    length = max(1, *(len(row[0]) for row in rows))

    def padded(field: int) -> Tensor:
        fields = [row[field] for row in rows]
        return torch.stack([torch.cat([f, f.new_zeros((length - len(f), *f.shape[1:]))]) for f in fields])

    counts = torch.tensor([len(row[0]) for row in rows], device=sizes.device)
    valid = torch.arange(length, device=sizes.device) < counts[:, None]
    boxes, objects, labels, positive, appended = (padded(i) for i in range(5))
    return Rois(boxes, valid, sizes, packed=True, targets=RoiTargets(objects, labels, positive, appended))
