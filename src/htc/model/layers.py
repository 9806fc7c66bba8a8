"""The few layers every part is made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import BackboneNorm, LayerNorm
from htc.model.batch_norm import BatchNorm2d, SyncBatchNorm2d


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation whose affine is trained while its running statistics stay as loaded: the original's
    setting.
    """

    def train(self, mode: bool = True) -> "FixedBatchNorm2d":  # noqa: ARG002 - never in training mode, that is the point
        """Stay in evaluation mode."""
        return super().train(False)


class FrozenBatchNorm2d(FixedBatchNorm2d):
    """Batch normalisation of which nothing is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)


def freeze_norms(module: nn.Module) -> nn.Module:
    """`module` with every batch norm that would follow the batch replaced by one that stays as loaded, with the same
    values.
    """
    if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and not isinstance(module, FixedBatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features)
        frozen.eps = module.eps
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_norms(child))
    return module


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with groups of at least four channels, at most 32 groups."""
    groups = min(32, max(1, channels // 4))
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def norm(kind: BackboneNorm | LayerNorm, channels: int) -> nn.Module:
    """A normalisation layer for `channels` channels."""
    match kind:
        case "statistics_fixed":
            return FixedBatchNorm2d(channels)
        case "frozen":
            return FrozenBatchNorm2d(channels)
        case "batch":
            return BatchNorm2d(channels)
        case "sync":
            return SyncBatchNorm2d(channels)
        case "group":
            return group_norm(channels)
        case "none":
            return nn.Identity()


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that runs as a matrix product over channels-last pixels on a CPU.

    torch sends a single-threaded 1x1 convolution of one picture to a path that copies its input (measured: 14-100
    GFLOP/s a core against 200 this way). Elsewhere, and in exported graphs, it is the convolution it says.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(N, C, H, W) -> (N, C', H', W')"""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        rows, columns = self.stride
        pixels = x[:, :, ::rows, ::columns].permute(0, 2, 3, 1)
        out = F.linear(pixels.reshape(-1, self.in_channels), self.weight.flatten(1), self.bias)
        return out.view(*pixels.shape[:3], self.out_channels).permute(0, 3, 1, 2)


def use_pointwise(module: nn.Module) -> None:
    """Turn every plain 1x1 convolution inside `module` into a `PointwiseConv2d` with the same parameters."""
    for parent in list(module.modules()):
        for name, conv in list(parent.named_children()):
            if type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0):
                pointwise = PointwiseConv2d(
                    conv.in_channels, conv.out_channels, 1, conv.stride, bias=conv.bias is not None, device="meta"
                )  # type: ignore[arg-type]
                pointwise.weight, pointwise.bias = conv.weight, conv.bias
                setattr(parent, name, pointwise)


class ConvBlock(nn.Module):
    """Convolution, then norm, then ReLU, where the last two are optional; padding keeps the size at stride 1.

    With a norm the convolution has no bias.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        norm_kind: LayerNorm = "none",
        relu: bool = True,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=norm_kind == "none"
        )
        self.norm = norm(norm_kind, channels_out)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')"""
        x = self.norm(self.conv(x))
        return torch.relu_(x) if self.relu and not x.requires_grad else x.relu() if self.relu else x


def initialise(module: nn.Module) -> None:
    """Kaiming-normal weights for ReLU and zero biases in every convolution and linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_output(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Small normal weights and zero bias, so that training starts from near-uniform predictions."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
