"""RoI pooling both ways on the same maps and boxes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from htc.benchmark.work import Work
from htc.model.heads import BOX_BINS
from htc.ops.roi_pool import Pyramid, pyramid_level, roi_pool

STRIDES = (4, 8, 16, 32)
SEMANTIC_STRIDE = 8
SUBDIVIDE = 2
"""The semantic feature is pooled 14x14 and averaged to 7x7."""


@dataclass
class Pooling(ABC):
    """Maps and boxes, pooled in some way."""

    maps: list[Tensor]
    """P2-P5 and the semantic map, (1, C, H, W)."""
    boxes: Float[Tensor, "1 R 4"]

    @abstractmethod
    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """The sum of the pyramid's and the semantic features of every box."""

    def run(self, *, backward: bool) -> Tensor:
        """Pool; with `backward` also the gradient of the sum of squares, left in the maps' `grad`."""
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
    """Ours."""

    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """See `Pooling`."""
        *levels, semantic = self.maps
        x, s = Pyramid(tuple(levels), STRIDES), Pyramid((semantic,), (SEMANTIC_STRIDE,))
        return roi_pool(x, self.boxes, BOX_BINS, backend="gather") + roi_pool(
            s, self.boxes, BOX_BINS, SUBDIVIDE, backend="gather"
        )


class Reference(Pooling):
    """Torchvision's kernel as the original calls it: level by level on the boxes that belong there."""

    def pooled(self) -> Float[Tensor, "R C 7 7"]:
        """See `Pooling`."""
        *levels, semantic = self.maps
        rois = torch.cat([self.boxes.new_zeros(self.boxes.shape[1], 1), self.boxes[0]], 1)
        level = pyramid_level(self.boxes[0], len(levels))
        fine = roi_align(semantic, rois, BOX_BINS * SUBDIVIDE, 1 / SEMANTIC_STRIDE, -1, aligned=True)
        out = F.avg_pool2d(fine, SUBDIVIDE)
        pieces = torch.zeros_like(out)
        for index, (features, stride) in enumerate(zip(levels, STRIDES, strict=True)):
            here = (level == index).nonzero().squeeze(1)
            pieces = pieces.index_copy(0, here, roi_align(features, rois[here], BOX_BINS, 1 / stride, -1, aligned=True))
        return out + pieces


@dataclass(frozen=True)
class PoolingCase:
    """The same random maps twice: as torchvision takes them (float32), and as ours lie (channels last, any
    precision).
    """

    reference: Reference
    gather: Gather

    @classmethod
    def make(cls, channels: int, work: Work, dtype: torch.dtype) -> Self:
        """Maps of strides 4-32 and the semantic map for the picture of `work`, and its proposals."""
        numbers = torch.Generator().manual_seed(0)
        shapes = [
            (1, channels, -(-work.size[0] // stride), -(-work.size[1] // stride))
            for stride in (*STRIDES, SEMANTIC_STRIDE)
        ]
        plain = [torch.randn(shape, generator=numbers) for shape in shapes]
        ours = [features.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for features in plain]
        boxes = work.proposals.boxes.cpu()
        return cls(Reference([features.requires_grad_() for features in plain], boxes), Gather(ours, boxes))

    def error(self, *, gradients: bool) -> float:
        """Largest difference of the results, or of the maps' gradients, over the largest value (or over 1, if that
        is more).
        """
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
