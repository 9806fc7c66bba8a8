"""A stand-in for the network, for tests of what happens before and after it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from htc.config import Cascade, Config, Inference, Input
from htc.model.postprocess import NO_LIMITS, Limits
from htc.types import RawDetections

CLASSES = ("cat", "dog", "bird")


def config(**inference: object) -> Config:
    return Config(
        classes=CLASSES,
        category_ids=(7, 3, 11),
        semantic=None,
        cascade=Cascade(semantic_fusion="none"),
        input=Input(short_edge=64, long_edge=96),
        inference=Inference(max_detections=4, **inference),  # type: ignore[arg-type]
    )


class Corners(nn.Module):
    """Finds, in every image, the left half (score: its mean brightness) and two more, less likely, objects; one
    slot is empty.
    """

    def __init__(self, valid: tuple[bool, ...] = (True, True, True, False)) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []
        self.images: list[Tensor] = []
        self.valid = valid
        self.limits: list[Limits] = []

    def forward(self, images: Tensor, sizes: Tensor, limits: Limits = NO_LIMITS) -> RawDetections:
        self.limits.append(limits)
        self.batches.append(tuple(images.shape))
        self.images.append(images)
        count = len(images)
        height, width = sizes[:, 0].float(), sizes[:, 1].float()
        zero = torch.zeros(count)
        half = torch.stack((zero, zero, width / 2, height), 1)
        whole = torch.stack((zero, zero, width + 5, height + 5), 1)
        boxes = torch.stack((half, whole, half / 2, half), 1)
        scores = torch.tensor([0.9, 0.6, 0.3, 0.8]).expand(count, 4)
        labels = torch.tensor([1, 0, 1, 2]).expand(count, 4)
        valid = torch.tensor(self.valid).expand(count, 4)
        return limited(RawDetections(boxes, scores, labels, valid, torch.ones(count, 4, 28, 28)), limits)


def limited(raw: RawDetections, limits: Limits) -> RawDetections:
    """The detections that a call asks for."""
    valid = raw.valid
    if limits.score_threshold is not None:
        valid = valid & (raw.scores >= limits.score_threshold)
    if limits.labels is not None:
        valid = valid & torch.isin(raw.labels, torch.tensor(limits.labels, dtype=torch.long))
    if limits.max_detections is not None:
        valid = valid & (valid.cumsum(1) <= limits.max_detections)
    return replace(raw, valid=valid)
