"""Standardized weights against their definition in NumPy, and what standardization promises whatever the formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from htc.config import ResNet
from htc.model.backbone import build_resnet
from htc.model.optimize import bake
from htc.model.variants.switchable import StandardizedConv2d, SwitchableConv2d, WeightStandardization


def image() -> Tensor:
    return torch.randn(2, 4, 9, 12, generator=torch.Generator().manual_seed(0))


def layer(**options: int) -> tuple[nn.Conv2d, StandardizedConv2d]:
    """A plain convolution, and the standardised one made of a copy of it."""
    torch.manual_seed(1)
    plain, twin = (nn.Conv2d(4, 6, 3, padding=1, bias=False, **options) for _ in range(2))  # type: ignore[arg-type]
    twin.load_state_dict(plain.state_dict())
    return plain, StandardizedConv2d(twin)


def moved(ours: StandardizedConv2d | SwitchableConv2d) -> Tensor:
    """A weight as after some training: no longer the one that gamma and beta are of."""
    with torch.no_grad():
        ours.weight.add_(torch.randn(ours.weight.shape, generator=torch.Generator().manual_seed(2)))
    return ours.weight.detach()


def definition(weight: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Filter by filter, in float64."""
    filters = []
    for one, scale, shift in zip(
        weight.double().numpy(), gamma.flatten().tolist(), beta.flatten().tolist(), strict=True
    ):
        filters.append(scale * (one - one.mean()) / np.sqrt(one.var(ddof=1) + 1e-5) + shift)
    return torch.from_numpy(np.stack(filters)).float()


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}])
@torch.no_grad()
def test_it_starts_as_the_convolution_it_replaces(options: dict[str, int]) -> None:
    plain, ours = layer(**options)
    torch.testing.assert_close(ours(image()), plain(image()), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_after_training_by_its_definition() -> None:
    _, ours = layer()
    gamma, beta = ours.standard.gamma.clone(), ours.standard.beta.clone()
    weight = definition(moved(ours), gamma, beta)
    torch.testing.assert_close(ours(image()), F.conv2d(image(), weight, padding=1), atol=1e-5, rtol=1e-5)


def test_shift_and_scale_of_a_filter_are_not_learnt() -> None:
    """The gradient of each filter sums to zero and is perpendicular to what the filter differs by from its mean."""
    torch.manual_seed(3)
    weight = torch.randn(5, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    standard = WeightStandardization(torch.randn(5, 4, 3, 3, dtype=torch.float64))
    (standard(weight) * torch.randn(5, 4, 3, 3, dtype=torch.float64)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() > 0.01
    assert weight.grad.sum((1, 2, 3)).abs().max() < 1e-12
    assert (weight.grad * weight.detach()).sum((1, 2, 3)).abs().max() < 1e-4  # but for the epsilon
    assert not list(standard.parameters())


@torch.no_grad()
def test_a_switchable_convolution_standardizes_its_weight_and_not_its_difference() -> None:
    ours = SwitchableConv2d(layer()[1], deformable=False)
    nn.init.normal_(ours.difference, generator=torch.Generator().manual_seed(4))
    weight = definition(moved(ours), ours.standard.gamma, ours.standard.beta)  # type: ignore[arg-type]
    torch.testing.assert_close(ours(image()), F.conv2d(image(), weight, padding=1), atol=1e-5, rtol=1e-5)
    nn.init.zeros_(ours.switch.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(
        ours(image()), F.conv2d(image(), weight + ours.difference, padding=3, dilation=3), atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_baked_it_is_the_same_without_standardizing() -> None:
    backbone = build_resnet(ResNet(depth=50, standardized=True, switchable="deformable", switchable_stages=(5,))).eval()
    for module in backbone.modules():
        if isinstance(module, StandardizedConv2d | SwitchableConv2d):
            module.weight.add_(0.1 * module.weight.std() * torch.randn_like(module.weight) + 0.01)
    x = torch.randn(1, 3, 96, 128)
    before = backbone(x)
    bake(backbone)
    assert not [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, StandardizedConv2d | WeightStandardization)
    ]
    for found, expected in zip(backbone(x), before, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4 * float(expected.std()), rtol=1e-4)


def test_every_convolution_of_the_backbone_but_the_small_ones_inside_a_switchable_one() -> None:
    backbone = build_resnet(ResNet(depth=50, standardized=True, switchable="plain", switchable_stages=(3, 4, 5)))
    standardised = {
        name.removesuffix(".standard")
        for name, module in backbone.named_modules()
        if isinstance(module, WeightStandardization)
    }
    assert len(standardised) == 53
    rest = {name for name, module in backbone.named_modules() if type(module) is nn.Conv2d}
    assert {name.rsplit(".", 1)[1] for name in rest} == {"switch", "before", "after"}
