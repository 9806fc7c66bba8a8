"""Norms that stay as loaded, and the 1x1 convolution that runs as a product."""

import pytest
import torch
from torch import nn

from htc.model.layers import ConvBlock, PointwiseConv2d, use_pointwise
from htc.model.norms import FixedBatchNorm2d, FrozenBatchNorm2d, freeze_norms, group_norm, norm


@pytest.mark.parametrize(("kind", "trained"), [("statistics_fixed", True), ("frozen", False)])
def test_fixed_norms_ignore_the_batch(kind: str, trained: bool) -> None:
    layer = norm(kind, 8).train()  # type: ignore[arg-type]
    assert isinstance(layer, FixedBatchNorm2d)
    x = torch.randn(4, 8, 5, 5) * 3 + 2
    torch.testing.assert_close(layer(x), x, atol=1e-3, rtol=1e-3)
    assert torch.equal(layer.running_mean, torch.zeros(8))
    assert layer.weight.requires_grad is layer.bias.requires_grad is trained


def test_fixed_norms_stay_fixed_inside_a_module_in_training_mode() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), FixedBatchNorm2d(8), nn.BatchNorm2d(8)).train()
    assert [layer.training for layer in model] == [True, False, True]


def test_freeze_norms_replaces_what_follows_the_batch_and_only_that() -> None:
    fixed, group = FixedBatchNorm2d(4), nn.GroupNorm(1, 4)
    model = freeze_norms(nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(nn.SyncBatchNorm(4)), fixed, group))
    assert isinstance(model[0], FrozenBatchNorm2d)  # type: ignore[index]
    assert isinstance(model[1][0], FrozenBatchNorm2d)  # type: ignore[index]
    assert model[2] is fixed  # type: ignore[index]
    assert model[3] is group  # type: ignore[index]


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (4, 1), (16, 4), (30, 6), (256, 32), (2048, 32)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


@pytest.mark.parametrize("kind", ["none", "batch", "sync", "group"])
def test_a_norm_replaces_the_bias(kind: str) -> None:
    block = ConvBlock(3, 8, 3, norm_kind=kind).eval()  # type: ignore[arg-type]
    assert (block.conv.bias is None) == (kind != "none")
    out = block(torch.randn(2, 3, 9, 7))
    assert out.shape == (2, 8, 9, 7)
    assert out.min() >= 0


def test_in_place_activation_never_changes_the_input() -> None:
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    with torch.no_grad():
        ConvBlock(3, 3, 1)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 9, 12), (1, 1, 1)])
def test_pointwise_equals_the_convolution(stride: int, bias: bool, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 10, 1, stride, bias=bias))
    x = torch.randn(size[0], 6, *size[1:])
    expected, names = model(x), [name for name, _ in model.named_parameters()]
    use_pointwise(model)
    assert isinstance(model[0], PointwiseConv2d)
    assert [name for name, _ in model.named_parameters()] == names
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_other_convolutions_stay_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1, groups=2))
    use_pointwise(model)
    assert [type(layer) for layer in model] == [nn.Conv2d] * 3
