"""Fully-connected fusion (PANet, Liu et al. 2018, section 3.4): a mask head with a second, fully connected branch that
reads the whole RoI.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from htc.config import Cascade
from htc.model.heads import MASK_BINS, FirstLayer, MaskHead, plain_layer
from htc.model.layers import ConvBlock, initialize, initialize_output

FUSION_SIDE = 2 * MASK_BINS


class FusionMaskHead(MaskHead):
    """M_t with a fully connected branch that predicts foreground for any class; its logits are added to those of the
    class.

    The branch starts before the last convolution (conv3 of four): two 3x3 convolutions, the second with half the
    channels, then one fully connected layer to 28 x 28. The mask feature here has two parts: the output of the last
    convolution, which alone flows to the next stage, and the output of the one before it.

    Differs from the authors' code by: their branch ends in a ReLU, and its fully connected layer is initialized with a
    standard deviation of 0.01. This one has no ReLU, so that it can lower a logit as well as raise it, and starts with
    0.001.
    """

    def __init__(self, channels_in: int, num_classes: int, config: Cascade, first: FirstLayer = plain_layer) -> None:
        super().__init__(channels_in, num_classes, config, first)
        width = config.mask_channels
        half = max(1, width // 2)
        self.fc_convs = nn.Sequential(
            ConvBlock(width, width, 3, norm_kind=config.mask_norm),
            ConvBlock(width, half, 3, norm_kind=config.mask_norm),
        )
        self.fc = nn.Linear(half * MASK_BINS**2, FUSION_SIDE**2)
        initialize(self.fc_convs)
        initialize_output(self.fc, 0.001)

    def features(self, x: Float[Tensor, "N _ 14 14"]) -> Float[Tensor, "N _ 14 14"]:
        """-> (N, 2 width, 14, 14): M_t^-, and the input of the fully connected branch."""
        for conv in self.convs[:-1]:  # type: ignore[index]
            x = conv(x)
        return torch.cat([self.convs[-1](x), x], 1)  # type: ignore[operator]

    def forward(self, features: Float[Tensor, "N _ 14 14"], labels: Int[Tensor, " N"]) -> Float[Tensor, "N 28 28"]:
        """Mask logits of each RoI's class, float32."""
        last, before = features.chunk(2, 1)
        foreground = self.fc(self.fc_convs(before).permute(0, 2, 3, 1).flatten(1))
        return super().forward(last, labels) + foreground.float().view(features.shape[0], FUSION_SIDE, FUSION_SIDE)
