"""A detector of the smallest size that has every part, and a training batch for it."""

import torch
from torch import Tensor

from htc.config import FPN, RPN, Cascade, Config, Inference, Input, ResNet, Semantic
from htc.model.detector import Detector
from htc.types import Batch, GroundTruth, MaskCrops

CHANNELS = 16
ALL_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


def small_config(
    stages: int = 3,
    *,
    cascade: dict | None = None,
    semantic: dict | None = None,
    rpn: dict | None = None,
    inference: dict | None = None,
    **parts: object,
) -> Config:
    """Three classes, sixteen channels; `semantic` None is a model without the branch, {} one with it."""
    fusion = "none" if semantic is None else "both"
    heads = {
        "ious": (0.5, 0.6, 0.7)[:stages],
        "loss_weights": (1.0, 0.5, 0.25)[:stages],
        "delta_stds": ALL_STDS[:stages],
    }
    sizes = {"samples": 16, "box_channels": 24, "mask_channels": CHANNELS, "mask_convs": 1}
    branch = {"classes": 5, "channels": CHANNELS, "convs": 1}
    fields: dict = {
        "classes": ("cat", "dog", "bird"),
        "category_ids": (1, 2, 3),
        "backbone": ResNet(depth=18),
        "neck": FPN(channels=CHANNELS),
        "rpn": RPN(
            anchor_scale=4.0,
            candidates_per_level=30,
            training_candidates_per_level=30,
            proposals=40,
            training_proposals=40,
            samples=64,
            **(rpn or {}),
        ),
        "cascade": Cascade(num_stages=stages, **({"semantic_fusion": fusion} | heads | sizes | (cascade or {}))),
        "semantic": None if semantic is None else Semantic(**(branch | semantic)),
        "inference": Inference(**({"max_detections": 10, "score_threshold": 0.05} | (inference or {}))),
        "input": Input(short_edge=64, long_edge=96),
    }
    return Config(**(fields | parts))


def seeded_detector(config: Config, seed: int = 0, *, spread: float = 0.05) -> Detector:
    """The detector with weights of that seed; its outputs are spread, so that scores differ and boxes move."""
    torch.manual_seed(seed)
    detector = Detector(config)
    for name, parameter in detector.named_parameters():
        if name.endswith("weight") and any(part in name for part in ("classify", "regress", "objectness", "deltas")):
            torch.nn.init.normal_(parameter, std=spread)
    return detector


def random_images(count: int = 2, height: int = 64, width: int = 96, seed: int = 0) -> Tensor:
    """(count, 3, height, width), as after normalization."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def truth(
    boxes: list[tuple[int, int, int, int]], labels: list[int], *, masks: bool = True, height: int = 64, width: int = 96
) -> GroundTruth:
    """Objects whose masks are their boxes with the upper left quarter cut out."""
    sizes = [(y2 - y1, x2 - x1) for x1, y1, x2, y2 in boxes]
    pixels = [torch.ones(size, dtype=torch.uint8) for size in sizes]
    for bitmap in pixels:
        bitmap[: bitmap.shape[0] // 2, : bitmap.shape[1] // 2] = 0
    crops = MaskCrops(
        torch.cat([torch.zeros(0, dtype=torch.uint8), *(bitmap.flatten() for bitmap in pixels)]),
        torch.tensor(sizes, dtype=torch.long).view(-1, 2),
        torch.tensor([box[:2] for box in boxes], dtype=torch.long).view(-1, 2),
        (height, width),
    )
    corners = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return GroundTruth(corners, torch.tensor(labels, dtype=torch.long), crops if masks else None, torch.zeros(0, 4))


def small_batch(
    config: Config, truths: tuple[GroundTruth, ...] | None = None, *, seeds: tuple[int, ...] = (11, 12)
) -> Batch:
    """Two images, the second smaller than the batch; three objects in one, one in the other."""
    truths = truths or (
        truth([(4, 4, 36, 40), (40, 10, 80, 50), (60, 30, 90, 60)], [0, 1, 2]),
        truth([(10, 8, 50, 44)], [1]),
    )
    images = random_images(len(truths))
    sizes = torch.tensor([[64, 96], [56, 80]])[: len(truths)]
    maps = (
        torch.randint(0, config.semantic.classes, (len(truths), 64, 96), generator=torch.Generator().manual_seed(1))
        if config.semantic
        else None
    )
    if maps is not None:
        maps[-1, sizes[-1, 0] :] = 255
        maps[-1, :, sizes[-1, 1] :] = 255
    return Batch(
        images,
        sizes,
        truths,
        None if maps is None else maps.to(torch.uint8),
        tuple(range(len(truths))),
        seeds[: len(truths)],
    )
