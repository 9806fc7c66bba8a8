"""The pyramid against torchvision's, and PANet's bottom-up path written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from htc.config import FPN, PAFPN
from htc.model.neck import FeaturePyramid, build_neck

CHANNELS_IN = [4, 6, 8, 10]


def features(height: int, width: int) -> list[Tensor]:
    """C2-C5 of a (height, width) image, odd sizes rounded up as a strided convolution does."""
    numbers = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), generator=numbers)
        for c, s in zip(CHANNELS_IN, (4, 8, 16, 32), strict=True)
    ]


def neck(config: FPN | PAFPN) -> FeaturePyramid:
    torch.manual_seed(0)
    return build_neck(CHANNELS_IN, config)


@pytest.mark.parametrize("size", [(64, 96), (100, 70), (32, 32)])
def test_fpn_equals_torchvisions(size: tuple[int, int]) -> None:
    ours = neck(FPN(channels=16))
    theirs = FeaturePyramidNetwork(CHANNELS_IN, 16, LastLevelMaxPool())
    for i in range(4):
        theirs.inner_blocks[i][0].load_state_dict(ours.lateral[i].conv.state_dict())  # type: ignore[index]
        theirs.layer_blocks[i][0].load_state_dict(ours.output[i].conv.state_dict())  # type: ignore[index]
    inputs = features(*size)
    for found, expected in zip(ours(inputs), theirs(dict(enumerate(inputs))).values(), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 96), (100, 70)])
def test_bottom_up_path(size: tuple[int, int]) -> None:
    """The sum goes on upwards before its convolution; P6 is taken from the new P5."""
    pa = neck(PAFPN(channels=16))
    inputs = features(*size)
    p = FeaturePyramid.forward(pa, inputs)[:4]
    sums = [p[0]]
    for i in range(3):
        down = pa.downsample[i].conv  # type: ignore[attr-defined]
        sums.append(p[i + 1] + F.conv2d(sums[i], down.weight, down.bias, stride=2, padding=1))
    expected = [sums[0]]
    for i in range(3):
        conv = pa.bottom_up[i].conv  # type: ignore[attr-defined]
        expected.append(F.conv2d(sums[i + 1], conv.weight, conv.bias, padding=1))
    expected.append(F.max_pool2d(expected[3], 1, 2))
    for found, want in zip(pa(inputs), expected, strict=True):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "config", [FPN(channels=16, norm="group"), PAFPN(channels=16, norm="group")], ids=lambda c: c.kind
)
def test_a_norm_follows_every_convolution(config: FPN | PAFPN) -> None:
    with_norm = neck(config)
    names = {name for name, _ in with_norm.named_parameters()}
    convolutions = {name.removesuffix("conv.weight") for name in names if name.endswith("conv.weight")}
    assert all(f"{name}norm.weight" in names and f"{name}conv.bias" not in names for name in convolutions)
    assert [level.shape[1] for level in with_norm(features(64, 64))] == [16] * 5
