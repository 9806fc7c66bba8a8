"""FishNet against its published sizes, and its channel-wise reduction against the definition."""

import pytest
import torch
from torch import nn

from htc.config import FishNet
from htc.model.backbone import build_backbone, channels
from htc.model.backbones.fishnet import Block, FishFeatures
from htc.model.norms import FixedBatchNorm2d

PUBLISHED = {99: 16_628_904, 150: 24_959_400}
"""With the 1000-class classifier: 16.62M and 24.96M in the authors' repository, to the digit in osmr/imgclsmob's
conversion of its weights.
"""


def classifier() -> nn.Module:
    """What follows the head in the paper: halve the channels, average, 1000 classes."""
    return nn.Sequential(
        nn.BatchNorm2d(2112), nn.Conv2d(2112, 1056, 1, bias=False), nn.BatchNorm2d(1056), nn.Conv2d(1056, 1000, 1)
    )


@pytest.mark.parametrize("depth", PUBLISHED)
def test_parameters_are_as_many_as_published(depth) -> None:
    with torch.device("meta"):
        found = sum(
            p.numel() for module in (FishFeatures(FishNet(depth=depth)), classifier()) for p in module.parameters()
        )
    assert found == PUBLISHED[depth]


def test_maps_of_four_strides() -> None:
    backbone = build_backbone(FishNet(depth=99)).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, 320, 16, 24), (1, 832, 8, 12), (1, 1600, 4, 6), (1, 2112, 2, 3)]
    assert list(channels(backbone)) == [m.shape[1] for m in maps]
    assert all(isinstance(m, FixedBatchNorm2d) for m in backbone.modules() if isinstance(m, nn.BatchNorm2d))


def test_every_resolution_keeps_what_came_before() -> None:
    """The stem's feature reaches C2 as the last 64 channels, through the blocks of its transfer alone."""
    torch.manual_seed(0)
    backbone = FishFeatures(FishNet(depth=99)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stem = nn.functional.max_pool2d(backbone.stem(x), 3, 2, padding=1)
        torch.testing.assert_close(backbone(x)[0][:, -64:], backbone.transfers[2](stem))


@pytest.mark.parametrize("reduce", [1, 2, 3])
def test_going_up_neighbouring_channels_are_added(reduce: int) -> None:
    block = Block(8 * reduce, 8, "batch", reduce=reduce).eval()
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 8 * reduce, 3, 5)
    expected = torch.stack([sum(x[:, reduce * c + k] for k in range(reduce)) for c in range(8)], 1)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), expected)


def test_odd_maps_are_joined() -> None:
    backbone = FishFeatures(FishNet(depth=99)).eval()
    with torch.no_grad():
        assert [tuple(m.shape[2:]) for m in backbone(torch.randn(1, 3, 72, 72))] == [(18, 18), (9, 9), (4, 4), (2, 2)]
