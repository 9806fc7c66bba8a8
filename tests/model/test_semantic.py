"""The semantic branch written out (facts of the original: resize first, then convolve), and its fusion into pooled
features.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from htc.config import Semantic
from htc.model.fusion import FusedPool
from htc.model.semantic import SemanticBranch
from htc.ops.roi_pool import Pyramid, roi_pool
from htc.types import Rois


def pyramid(height: int, width: int, channels: int = 16) -> tuple[Tensor, ...]:
    numbers = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(2, channels, -(-height // s), -(-width // s), generator=numbers) for s in (4, 8, 16, 32, 64)
    )


@pytest.mark.parametrize("norm", ["none", "group"])
@pytest.mark.parametrize("size", [(64, 96), (32, 32), (96, 160)])
def test_levels_are_resized_to_stride_8_then_convolved_and_summed(size: tuple[int, int], norm: str) -> None:
    torch.manual_seed(0)
    branch = SemanticBranch(16, Semantic(classes=5, channels=16, convs=2, norm=norm))  # type: ignore[arg-type]
    for p in branch.parameters():
        torch.nn.init.normal_(p, std=0.2)
    levels = pyramid(*size)
    x = torch.zeros(())
    for level, lateral in zip(levels, branch.lateral, strict=True):
        resized = F.interpolate(level, size=levels[1].shape[2:], mode="bilinear", align_corners=True)
        x = x + lateral.norm(F.conv2d(resized, lateral.conv.weight, lateral.conv.bias)).relu()
    for conv in branch.convs:
        x = conv(x)
    found = branch(levels)
    assert found.shape[2:] == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def rois(count: int = 12) -> Rois:
    numbers = torch.Generator().manual_seed(4)
    corner = torch.rand(2, count, 2, generator=numbers) * 60
    boxes = torch.cat([corner, corner + torch.rand(2, count, 2, generator=numbers) * 120], -1)
    return Rois(boxes, torch.ones(2, count, dtype=torch.bool), torch.tensor([[96, 160]] * 2))


@pytest.mark.parametrize("count", [12, 1, 0])
def test_fused_features_are_the_sum_of_both_pools(count: int) -> None:
    """Eq. 6. The semantic feature is pooled 14 x 14 at stride 8 whatever the region's level; for boxes it is
    averaged to 7 x 7.
    """
    levels, regions = pyramid(96, 160), rois(count)
    x, s = Pyramid(levels[:4], (4, 8, 16, 32)), Pyramid((torch.randn(2, 16, 12, 20),), (8,))
    semantic = roi_pool(s, regions.boxes, 14)
    mask = FusedPool(14, fuse=True)(x, s, regions)
    box = FusedPool(7, fuse=True, semantic_subdivide=2)(x, s, regions)
    torch.testing.assert_close(mask, roi_pool(x, regions.boxes, 14) + semantic)
    torch.testing.assert_close(box, roi_pool(x, regions.boxes, 7) + F.avg_pool2d(semantic, 2), atol=2e-4, rtol=0)


@pytest.mark.parametrize(("fuse", "given"), [(False, True), (True, False), (False, False)])
def test_without_fusion_or_branch_only_the_pyramid_is_pooled(fuse: bool, given: bool) -> None:
    levels, regions = pyramid(96, 160), rois()
    x = Pyramid(levels[:4], (4, 8, 16, 32))
    s = Pyramid((levels[1],), (8,)) if given else None
    torch.testing.assert_close(FusedPool(7, fuse=fuse)(x, s, regions), roi_pool(x, regions.boxes, 7))
