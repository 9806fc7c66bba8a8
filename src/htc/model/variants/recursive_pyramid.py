"""Recursive feature pyramid (Qiao et al. 2020, DetectoRS, arXiv 2006.02334, section 3), unrolled to two steps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import ResNet
from htc.model.backbone import build_resnet, channels
from htc.model.layers import initialize
from htc.types import Features

RATES = (3, 6)
FEEDBACK_STAGES = ("layer2", "layer3", "layer4")
"""Stages of the second backbone that receive the level of the first pyramid with their stride."""


class FeedbackContext(nn.Module):
    """ASPP of section 3.3: four parallel branches (a 1x1 convolution, two dilated 3x3 ones and the image's mean); no
    projection.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        quarter = max(1, width // 4)
        self.channels = 4 * quarter
        self.point = nn.Conv2d(width, quarter, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(width, quarter, 3, padding=rate, dilation=rate) for rate in RATES)
        self.mean = nn.Conv2d(width, quarter, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, about C, H, W)."""
        branches = [self.point(x), *(conv(x) for conv in self.dilated)]
        mean = self.mean(x.mean((2, 3), keepdim=True))
        return torch.cat([*branches, mean.expand_as(branches[0])], 1).relu()


class RecursivePyramid(nn.Module):
    """A second backbone that reads the first pyramid as feedback; the output is a per-pixel weighted mean of both
    pyramids.

    Feedback is a 1x1 convolution, initialized to zero and added in the first block of C3-C5 before its last activation.
    The same neck computes the second pyramid; its weight is the sigmoid of a 1x1 convolution of it, initialized to one
    half (section 3.4).
    """

    def __init__(self, config: ResNet, width: int) -> None:
        super().__init__()
        self.backbone = build_resnet(config)
        self.context = FeedbackContext(width)
        self.feedback = nn.ModuleList(nn.Conv2d(self.context.channels, c, 1) for c in channels(self.backbone)[1:])
        self.weight = nn.Conv2d(width, 1, 1)
        for layer in (*self.feedback, self.weight):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor, features: Features, neck: nn.Module) -> Features:
        """Images and the features of the first step -> features of both steps."""
        pyramid = features.pyramid
        feedback = {
            stage: conv(self.context(level))
            for stage, conv, level in zip(FEEDBACK_STAGES, self.feedback, pyramid[1:4], strict=True)
        }
        second = neck(list(self._features(images, feedback)))
        weights = (self.weight(level).sigmoid() for level in second)
        both = tuple(w * new + (1 - w) * old for w, new, old in zip(weights, second, pyramid, strict=True))
        return replace(features, pyramid=both)

    def _features(self, x: Tensor, feedback: Mapping[str, Tensor]) -> Iterator[Tensor]:
        for name, part in self.backbone.named_children():
            if name in feedback:
                first, *rest = part.children()
                x = with_feedback(first, x, feedback[name])
                for block in rest:
                    x = block(x)
            else:
                x = part(x)
            if name.startswith("layer"):
                yield x


def with_feedback(block: nn.Module, x: Tensor, feedback: Tensor) -> Tensor:
    """Run a residual block of timm's ResNet (basic or bottleneck) with `feedback` added before its last activation."""
    parts = dict(block.named_children())
    shortcut = parts["downsample"](x) if "downsample" in parts else x
    y = parts["bn1"](parts["conv1"](x)).relu()
    y = parts["bn2"](parts["conv2"](y))
    if "conv3" in parts:
        y = parts["bn3"](parts["conv3"](y.relu()))
    return F.relu(y + shortcut + feedback)
