"""Comparisons of two implementations on equal work: whole models, RoI pooling, and the encoding of masks as RLE.

The two run alternately; a comparison reports the median of the ratios of their times.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from htc.benchmark.components import (
    detector_path,
    encode_dense,
    ready_detector,
    setting_work,
    torchvision_mask_rcnn,
    torchvision_path,
)
from htc.benchmark.measuring import Conditions, in_turn, median_ratio
from htc.benchmark.work import Work, mask_rcnn_of
from htc.config import Config
from htc.model.heads import BOX_BINS
from htc.model.semantic import SEMANTIC_STRIDE
from htc.ops.masks import mask_grid, paste
from htc.ops.onednn import exact_onednn_matmul
from htc.ops.roi_pool import Pyramid, pyramid_level, roi_pool
from htc.ops.run_lengths import rle

POOLED_STRIDES = (4, 8, 16, 32)
SUBDIVIDE = 2
"""The semantic feature is pooled 14x14 and averaged to 7x7."""


@dataclass
class Pooling(ABC):
    """Feature maps and boxes, and an implementation of RoI pooling."""

    maps: list[Tensor]
    """P2-P5 and the semantic map, (1, C, H, W)."""
    boxes: Float[Tensor, "1 R 4"]

    @abstractmethod
    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """Return the sum of the pyramid's and the semantic features of every box."""

    def run(self, *, backward: bool) -> Tensor:
        """Pool; with `backward`, also compute the gradient of the sum of squares, in the maps' `grad`."""
        if not backward:
            with torch.inference_mode():
                return self.pooled()
        for features in self.maps:
            features.grad = None
        with torch.enable_grad():
            out = self.pooled()
            out.backward(2 * out.detach())  # type: ignore[no-untyped-call]
        return out


class Gather(Pooling):
    """Our implementation."""

    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """See `Pooling`."""
        *levels, semantic = self.maps
        x, s = Pyramid(tuple(levels), POOLED_STRIDES), Pyramid((semantic,), (SEMANTIC_STRIDE,))
        return roi_pool(x, self.boxes, BOX_BINS, backend="gather") + roi_pool(
            s, self.boxes, BOX_BINS, SUBDIVIDE, backend="gather"
        )


class Reference(Pooling):
    """Torchvision's kernel, called as in mmdetection: level by level, with the boxes of the level."""

    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """See `Pooling`."""
        *levels, semantic = self.maps
        rois = torch.cat([self.boxes.new_zeros(self.boxes.shape[1], 1), self.boxes[0]], 1)
        level = pyramid_level(self.boxes[0], len(levels))
        fine = roi_align(semantic, rois, BOX_BINS * SUBDIVIDE, 1 / SEMANTIC_STRIDE, -1, aligned=True)
        out = F.avg_pool2d(fine, SUBDIVIDE)
        pieces = torch.zeros_like(out)
        for index, (features, stride) in enumerate(zip(levels, POOLED_STRIDES, strict=True)):
            here = (level == index).nonzero().squeeze(1)
            pieces = pieces.index_copy(0, here, roi_align(features, rois[here], BOX_BINS, 1 / stride, -1, aligned=True))
        return out + pieces


@dataclass(frozen=True)
class PoolingCase:
    """The same random maps for both implementations: in float32 for torchvision, channels last in any precision for
    ours.
    """

    reference: Reference
    gather: Gather

    @classmethod
    def make(cls, channels: int, work: Work, dtype: torch.dtype) -> Self:
        """Create maps with strides 4-32 and a semantic map for the image of `work`, with its proposals."""
        numbers = torch.Generator().manual_seed(0)
        shapes = [
            (1, channels, -(-work.size[0] // stride), -(-work.size[1] // stride))
            for stride in (*POOLED_STRIDES, SEMANTIC_STRIDE)
        ]
        plain = [torch.randn(shape, generator=numbers) for shape in shapes]
        ours = [features.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for features in plain]
        boxes = work.proposals.boxes.cpu()
        return cls(Reference([features.requires_grad_() for features in plain], boxes), Gather(ours, boxes))

    def error(self, *, gradients: bool) -> float:
        """Return the largest difference of the results (or the maps' gradients), relative to the largest value or 1."""
        results = self.reference.run(backward=gradients), self.gather.run(backward=gradients)
        pairs = [results]
        if gradients:
            pairs = [
                (a.grad, b.grad)
                for a, b in zip(self.reference.maps, self.gather.maps, strict=True)
                if a.grad is not None and b.grad is not None
            ]
        return max(
            float((a.detach() - b.detach().float()).abs().max() / a.detach().abs().max().clamp(min=1)) for a, b in pairs
        )


Task = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    """A comparison: `ratio` is the time of `first` over the time of `second`, the median over pairs of runs; the
    seconds are medians too.
    """

    name: str
    setting: Conditions
    first: str
    second: str
    first_seconds: float
    second_seconds: float
    ratio: float
    checks: dict[str, float] = field(default_factory=dict)
    """Agreement of the two results, by name of the check."""


def _pair(name: str, setting: Conditions, tasks: dict[str, Task], checks: dict[str, float] | None = None) -> Pair:
    first, second = tasks
    seconds = in_turn(list(tasks.values()), setting.repeats)
    return Pair(
        name, setting, first, second, median(seconds[0]), median(seconds[1]), median_ratio(*seconds), checks or {}
    )


@torch.inference_mode()
def against_mask_rcnn(config: Config, setting: Conditions, detections: int) -> Pair:
    """Compare the model of `config` with our own Mask R-CNN with the same backbone, from image to RLE."""
    clock, work = setting.clock, setting_work(config, setting, detections)
    ours, plain = ready_detector(config, setting), ready_detector(mask_rcnn_of(config), setting)
    tasks: dict[str, Task] = {
        config.preset: lambda: clock.total(lambda: list(detector_path(ours, work))),
        "our Mask R-CNN": lambda: clock.total(lambda: list(detector_path(plain, work))),
    }
    with exact_onednn_matmul():
        return _pair(f"prediction, {detections} detections, RLE included", setting, tasks)


@torch.inference_mode()
def against_torchvision(config: Config, setting: Conditions, detections: int) -> Pair:
    """Compare torchvision's Mask R-CNN R-50 in float32 with ours in the setting's precision, from image to RLE.
    `config` is a Mask R-CNN R-50.
    """
    clock, work = setting.clock, setting_work(config, setting, detections)
    theirs = torchvision_mask_rcnn(config.num_classes, config.rpn.proposals, detections).to(setting.torch_device)
    ours = ready_detector(config, setting)

    def run_ours() -> float:
        with exact_onednn_matmul():
            return clock.total(lambda: list(detector_path(ours, work)))

    tasks: dict[str, Task] = {
        "torchvision's Mask R-CNN, fp32": lambda: clock.total(lambda: list(torchvision_path(theirs, work))),
        "our Mask R-CNN": run_ours,
    }
    return _pair(f"Mask R-CNN R-50, {detections} detections, RLE included", setting, tasks)


def pooling(config: Config, setting: Conditions) -> list[Pair]:
    """Compare RoIAlign (7x7) of all proposals from four levels and the semantic map: torchvision's kernel in float32
    with our gather implementation.
    """
    case, clock = PoolingCase.make(config.neck.channels, setting_work(config, setting, 1), setting.dtype), setting.clock
    name = f"RoI pooling, {config.rpn.proposals} boxes, 7x7, four levels + semantic map"
    names = "torchvision, fp32", "gather"
    pairs = []
    for what, backward in (("forward", False), ("forward + backward", True)):
        tasks = {
            label: lambda c=c, b=backward: clock.total(lambda: c.run(backward=b))
            for label, c in zip(names, (case.reference, case.gather), strict=True)
        }
        pairs.append(_pair(f"{name}, {what}", setting, tasks, {"max error": case.error(gradients=backward)}))
    return pairs


def run_lengths(config: Config, setting: Conditions, detections: int) -> Pair:
    """Compare RLE of masks pasted into the image and encoded by pycocotools with RLE computed directly from crops."""
    clock, work = setting.clock, setting_work(config, setting, detections)
    boxes = work.detections.boxes[0].cpu()

    def dense() -> list[dict[str, object]]:
        return encode_dense(paste(work.probabilities, boxes, work.size).numpy())

    def straight() -> list[dict[str, object]]:
        return rle(mask_grid(work.probabilities, boxes, work.size))

    identical = sum(a == b for a, b in zip(dense(), straight(), strict=True))
    tasks: dict[str, Task] = {
        "paste + pycocotools": lambda: clock.total(dense),
        "from the crop": lambda: clock.total(straight),
    }
    return _pair(f"RLE of {detections} masks", setting, tasks, {"identical strings": identical / detections})
