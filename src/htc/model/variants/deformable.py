"""Deformable convolution (Dai et al. 2017, arXiv 1703.06211) and modulated deformable convolution (Zhu et al. 2019,
arXiv 1811.11168).
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DeformableConv2d(nn.Conv2d):
    """A 3x3 convolution with the sampling offsets of `conv_offset` (Dai et al. 2017; modulated: Zhu et al. 2019).

    `conv_offset` has 18 channels, (dy, dx) of the nine taps; modulated: 27, the last nine are the logits of the taps'
    weights. One offset group.
    """

    def __init__(self, plain: nn.Conv2d, *, modulated: bool) -> None:
        geometry: Any = (plain.stride, plain.padding, plain.dilation)
        super().__init__(plain.in_channels, plain.out_channels, 3, *geometry, groups=plain.groups, bias=False)
        self.conv_offset = nn.Conv2d(plain.in_channels, 27 if modulated else 18, 3, *geometry)
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')."""
        prediction = self.conv_offset(x)
        offset, logits = prediction[:, :18], prediction[:, 18:]
        weight = logits.sigmoid() if logits.shape[1] else None
        dtype = torch.float32 if x.dtype == torch.bfloat16 else x.dtype  # torchvision has no kernel for bfloat16
        parts = [None if part is None else part.to(dtype) for part in (x, offset, self.weight, self.bias)]
        arguments: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return deform_conv2d(*parts, **arguments, mask=None if weight is None else weight.to(dtype)).to(x.dtype)  # type: ignore[arg-type]


def make_deformable(block: nn.Module, kind: Literal["v1", "v2"], *, keep_weights: bool) -> int:
    """Replace the 3x3 convolutions without bias directly in `block` with deformable ones. -> the number of replaced
    layers
    """
    replaced = 0
    for name, plain in list(block.named_children()):
        if isinstance(plain, nn.Conv2d) and plain.kernel_size == (3, 3) and plain.bias is None:
            deformable = DeformableConv2d(plain, modulated=kind == "v2")
            if keep_weights:
                deformable.weight = plain.weight
            setattr(block, name, deformable)
            replaced += 1
    return replaced
