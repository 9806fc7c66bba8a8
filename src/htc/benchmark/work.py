"""The fixed work of every benchmark, so that ratios compare equal work.

Random weights give degenerate boxes and scores, so both are fixed: proposals of log-uniform size, class logits with
which about two classes per proposal pass the score threshold, detections, and mask probabilities of round instances.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import Config
from htc.model.detector import Detector
from htc.types import Rois

SIDES = (16.0, 600.0)
"""Minimum and maximum side of a box in pixels (square root of its area), before it is clipped to the image."""
ASPECT = 2.0
BENCHMARK_SCORE_THRESHOLD = 0.001
"""Score threshold for all models: the paper's."""
MASK_SIDE = 28


@dataclass(frozen=True)
class Work:
    """The input for one image, and fixed values that replace the outputs of random weights. Boxes are in pixels of the
    network input.
    """

    images: Float[Tensor, "1 3 H W"]
    sizes: Int[Tensor, "1 2"]
    proposals: Rois
    class_logits: Float[Tensor, "1 R classes_and_background"]
    detections: Rois
    labels: Int[Tensor, "1 D"]
    """Class indices 0 .. K-1."""
    probabilities: Float[Tensor, "D 28 28"]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.images.shape[2], self.images.shape[3]


def make_work(
    size: tuple[int, int], classes: int, proposals: int, detections: int, device: torch.device | None = None
) -> Work:
    """Create the work, deterministically; `size` is (height, width), both multiples of 32."""
    numbers = torch.Generator().manual_seed(0)
    sizes = torch.tensor([size])
    images = torch.randn(1, 3, *size, generator=numbers).contiguous(memory_format=torch.channels_last)
    logits = 1.5 * torch.randn(1, proposals, classes + 1, generator=numbers)
    logits[..., -1] += 11  # background wins everywhere; of 80 classes, about two per proposal pass the threshold
    proposed, detected = (fixed_boxes(count, size, numbers) for count in (proposals, detections))
    labels = torch.randint(classes, (1, detections), generator=numbers)
    whole = [torch.ones(1, count, dtype=torch.bool) for count in (proposals, detections)]
    return Work(
        images.to(device),
        sizes.to(device),
        Rois(proposed[None].to(device), whole[0].to(device), sizes.to(device)),
        logits.to(device),
        Rois(detected[None].to(device), whole[1].to(device), sizes.to(device)),
        labels.to(device),
        round_objects(detections, numbers),
    )


def fixed_boxes(count: int, size: tuple[int, int], numbers: torch.Generator) -> Float[Tensor, "N 4"]:
    """Create boxes of log-uniform side and aspect ratio at random positions inside the image."""
    height, width = size

    def log_uniform(low: float, high: float) -> Tensor:
        return torch.exp(torch.empty(count).uniform_(math.log(low), math.log(high), generator=numbers))

    side, aspect = log_uniform(*SIDES), log_uniform(1 / ASPECT, ASPECT).sqrt()
    extent = torch.stack([(side * aspect).clamp(max=0.97 * width), (side / aspect).clamp(max=0.97 * height)], 1)
    corner = torch.rand(count, 2, generator=numbers) * (torch.tensor([width, height]) - extent)
    return torch.cat([corner, corner + extent], 1)


def round_objects(count: int, numbers: torch.Generator) -> Float[Tensor, "N 28 28"]:
    """Create mask probabilities of wavy discs that nearly fill their boxes."""
    axis = (torch.arange(MASK_SIDE) + 0.5) / MASK_SIDE * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    phase = torch.rand(count, 1, 1, generator=numbers) * 2 * math.pi
    radius = 0.8 + 0.15 * torch.sin(5 * torch.atan2(y, x) + phase)
    return ((radius - torch.hypot(x, y)) * 12).sigmoid()


def random_detector(config: Config) -> Detector:
    """Build a detector with random weights that do not move boxes: anchors are the proposals, and no stage refines
    them.
    """
    torch.manual_seed(0)
    detector = Detector(config.replace(inference={"score_threshold": BENCHMARK_SCORE_THRESHOLD}))
    for layer in (detector.rpn.deltas, *(head.regress for head in detector.roi.box_heads)):
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    return detector


def mask_rcnn_of(config: Config) -> Config:
    """Return a Mask R-CNN with the backbone, neck and head widths of `config`: one stage, class-specific boxes."""
    changed = config.model_dump()
    changed |= {"preset": "Mask R-CNN", "semantic": None}
    changed["cascade"] |= {
        "num_stages": 1,
        "interleaved": False,
        "mask_flow": False,
        "semantic_fusion": "none",
        "class_agnostic_boxes": False,
    }
    changed["cascade"] |= {"delta_stds": ((0.1, 0.1, 0.2, 0.2),), "ious": (0.5,), "loss_weights": (1.0,)}
    changed["inference"] |= {"box_stage": None, "score_stages": None, "mask_stages": None}
    return Config.model_validate(changed)
