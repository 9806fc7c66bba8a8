"""Switchable atrous convolution against plain convolutions, and against its definition pixel by pixel."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import ResNet
from htc.model.backbone import build_resnet
from htc.model.variants.switchable import SwitchableConv2d, mean_around

CASES = [(1, 1, False), (2, 1, False), (2, 2, False), (1, 1, True), (2, 1, True)]


def image() -> Tensor:
    return torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(0))


def layer(stride: int, groups: int, deformable: bool) -> tuple[nn.Conv2d, SwitchableConv2d]:
    """A plain convolution and the switchable one made of it."""
    torch.manual_seed(1)
    plain = nn.Conv2d(4, 6, 3, stride, padding=1, groups=groups, bias=False)
    return plain, SwitchableConv2d(plain, deformable=deformable)


@pytest.mark.parametrize(("stride", "groups", "deformable"), CASES)
@torch.no_grad()
def test_it_starts_as_the_convolution_it_replaces(stride: int, groups: int, deformable: bool) -> None:
    plain, ours = layer(stride, groups, deformable)
    torch.testing.assert_close(ours(image()), plain(image()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("stride", "groups", "deformable"), CASES)
@torch.no_grad()
def test_switched_off_it_is_the_wide_convolution_of_the_other_weights(
    stride: int, groups: int, deformable: bool
) -> None:
    plain, ours = layer(stride, groups, deformable)
    nn.init.zeros_(ours.switch.bias)
    nn.init.normal_(ours.difference)
    wide = F.conv2d(image(), plain.weight + ours.difference, stride=stride, padding=3, dilation=3, groups=groups)
    torch.testing.assert_close(ours(image()), wide, atol=1e-4, rtol=1e-4)


def mirrored(place: int, size: int) -> int:
    """Of a place beyond the map's edges: the one as far inside."""
    return -place if place < 0 else 2 * (size - 1) - place if place >= size else place


@torch.no_grad()
def test_a_map_too_small_to_be_mirrored_has_the_mean_of_what_is_there() -> None:
    x = torch.arange(4.0).view(1, 1, 2, 2)
    assert torch.equal(mean_around(x), torch.full((1, 1, 2, 2), 1.5))


@torch.no_grad()
def test_between_by_its_definition() -> None:
    """Everything but offsets at random: contexts, switch, both views, written out for each pixel."""
    plain, ours = layer(1, 1, deformable=False)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = image()
    x = x + F.conv2d(x.mean((2, 3), keepdim=True), ours.before.weight, ours.before.bias)
    near = F.conv2d(x, plain.weight, padding=1)
    far = F.conv2d(x, plain.weight + ours.difference, padding=3, dilation=3)
    mixed = torch.zeros_like(near)
    for row in range(9):
        for column in range(12):
            around = (
                sum(x[:, :, mirrored(row + i, 9), mirrored(column + j, 12)] for i in range(-2, 3) for j in range(-2, 3))
                / 25
            )
            switch = around @ ours.switch.weight[0, :, 0, 0] + ours.switch.bias
            mixed[:, :, row, column] = (
                switch[:, None] * near[:, :, row, column] + (1 - switch[:, None]) * far[:, :, row, column]
            )
    expected = mixed + F.conv2d(mixed.mean((2, 3), keepdim=True), ours.after.weight, ours.after.bias)
    torch.testing.assert_close(ours(image()), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_each_view_has_offsets_of_its_own() -> None:
    """A shift of one pixel to the right in the near view alone."""
    plain, ours = layer(1, 1, deformable=True)
    bias = ours.offsets[0].bias
    assert isinstance(bias, Tensor)
    bias.copy_(torch.tensor([0.0, 1.0] * 9))
    shifted = F.conv2d(F.pad(image(), (0, 1))[..., 1:], plain.weight, padding=1)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -2))
    torch.testing.assert_close(ours(image())[inside], shifted[inside], atol=1e-5, rtol=1e-5)
    nn.init.zeros_(ours.switch.bias)
    torch.testing.assert_close(
        ours(image()), F.conv2d(image(), plain.weight, padding=3, dilation=3), atol=1e-5, rtol=1e-5
    )


def test_every_parameter_learns() -> None:
    _, ours = layer(2, 1, deformable=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.1)
    ours(image()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ours.parameters())


@pytest.mark.parametrize(("depth", "each"), [(18, 4), (50, 3)])
def test_in_the_stages_that_are_named(depth: int, each: int) -> None:
    backbone = build_resnet(ResNet(depth=depth, switchable="plain", switchable_stages=(5,)))  # type: ignore[arg-type]
    names = [name for name, module in backbone.named_modules() if isinstance(module, SwitchableConv2d)]
    assert len(names) == each
    assert all(name.startswith("layer4.") for name in names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"switchable": "plain"},
        {"switchable_stages": (5,)},
        {"switchable": "plain", "switchable_stages": (5,), "deformable": "v1", "deformable_stages": (5,)},
    ],
)
def test_settings_that_contradict_each_other(wrong: dict) -> None:
    with pytest.raises(ValueError, match="switchable"):
        ResNet.model_validate(wrong)
