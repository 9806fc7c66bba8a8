"""Which object each region stands for.

Which regions each stage is trained on, and what was true of them.

Sampling is a pure function of each picture's seed, so that a resumed run repeats it exactly.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from htc.config import Cascade
from htc.ops.boxes import iou
from htc.types import Batch, GroundTruth, Rois

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
    """The random numbers of one draw for one picture."""
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
class RoiSample:
    """The regions of one stage with what is true of them, padded to one length."""

    rois: Rois
    objects: Int[Tensor, "B R"]
    """Index into the picture's objects; meaningless where not positive."""
    labels: Int[Tensor, "B R"]
    """0 .. K-1, or K for background."""
    positive: Bool[Tensor, "B R"]
    appended: Bool[Tensor, "B R"]
    """Rows that are the objects' own boxes: they train this stage, but are no regions of the next."""


class TruthSampler:
    """Picks each stage's regions and remembers what was true of them, in `boxes[t]` and `masks[t]`."""

    def __init__(self, batch: Batch, config: Cascade, num_classes: int) -> None:
        self.batch, self.config, self.num_classes = batch, config, num_classes
        self.boxes: dict[int, RoiSample] = {}
        self.masks: dict[int, RoiSample] = {}

    def for_boxes(self, rois: Rois, t: int) -> Rois:
        """The balanced sample that box head t learns from."""
        self.boxes[t] = self._sample(self._without_appended(rois, t - 1), t, BOX_DRAW)
        return self.boxes[t].rois

    def for_masks(self, rois: Rois, t: int) -> Rois:
        """The positives that mask head t learns from: of the box sample itself in parallel execution, matched anew
        otherwise.
        """
        sample = self.boxes[t]
        if rois is not sample.rois:
            sample = self._sample(self._without_appended(rois, t), t, MASK_DRAW)
        self.masks[t] = _positives(sample, [truth.masks is not None for truth in self.batch.truths])
        return self.masks[t].rois

    def _without_appended(self, rois: Rois, t: int) -> Rois:
        if t < 0:
            return rois
        return Rois(rois.boxes, rois.valid & ~self.boxes[t].appended, rois.sizes)

    def _sample(self, rois: Rois, t: int, draw: int) -> RoiSample:
        rows = [
            self._one(rois.boxes[i][rois.valid[i]], truth, t, generator(seed, draw, t))
            for i, (truth, seed) in enumerate(zip(self.batch.truths, self.batch.seeds, strict=True))
        ]
        return _padded(rows, rois.sizes)

    def _one(
        self, boxes: Float[Tensor, "R 4"], truth: GroundTruth, t: int, numbers: torch.Generator
    ) -> tuple[Tensor, ...]:
        """The sample of one picture: boxes, objects, labels, positive, appended; positives first."""
        threshold = self.config.ious[t]
        objects = len(truth.boxes)
        matched = match(
            iou(truth.boxes, boxes), threshold, threshold, threshold if self.config.low_quality_matches else None
        )
        # the objects' own boxes join after the matching, each with its own label
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


def _positives(sample: RoiSample, has_masks: list[bool]) -> RoiSample:
    """Only the positives, of pictures that have masks."""
    keep = sample.positive & torch.tensor(has_masks, device=sample.positive.device)[:, None]
    fields = (sample.rois.boxes, sample.objects, sample.labels, sample.positive, sample.appended)
    rows = [tuple(field[i][keep[i]] for field in fields) for i in range(len(keep))]
    return _padded(rows, sample.rois.sizes)


def _padded(rows: list[tuple[Tensor, ...]], sizes: Int[Tensor, "B 2"]) -> RoiSample:
    """One slot at least, valid or not."""
    length = max(1, *(len(row[0]) for row in rows))

    def padded(field: int) -> Tensor:
        return torch.stack(
            [
                torch.cat([row[field], row[field].new_zeros((length - len(row[field]), *row[field].shape[1:]))])
                for row in rows
            ]
        )

    counts = torch.tensor([len(row[0]) for row in rows], device=sizes.device)
    valid = torch.arange(length, device=sizes.device) < counts[:, None]
    boxes, objects, labels, positive, appended = (padded(i) for i in range(5))
    return RoiSample(Rois(boxes, valid, sizes, packed=True), objects, labels, positive, appended)
