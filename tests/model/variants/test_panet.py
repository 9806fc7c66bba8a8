"""PANet's parts written out: every level read, the largest kept; the fully connected branch of the mask head."""

import pytest
import torch

from htc.config import Cascade
from htc.model.fusion import FusedPool
from htc.model.heads import BoxHead, MaskHead
from htc.model.variants.adaptive_pool import AdaptivePool, PackedFlow, over_levels
from htc.model.variants.fusion_mask import FusionMaskHead
from htc.ops.roi_pool import Pyramid, roi_pool
from htc.types import Rois

C, K, STRIDES = 5, 3, (4, 8, 16, 32)


def features(count: int = 6) -> tuple[Pyramid, Pyramid, Rois]:
    numbers = torch.Generator().manual_seed(0)
    x = Pyramid(tuple(torch.randn(2, C, 96 // s, 128 // s, generator=numbers) for s in STRIDES), STRIDES)
    corner = torch.rand(2, count, 2, generator=numbers) * 50
    boxes = torch.cat([corner, corner + torch.rand(2, count, 2, generator=numbers) * 60], -1)
    s = Pyramid((torch.randn(2, C, 12, 16, generator=numbers),), (8,))
    return x, s, Rois(boxes, torch.ones(2, count, dtype=torch.bool), torch.tensor([[96, 128]] * 2))


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("count", [6, 1, 0])
def test_every_region_is_pooled_from_every_level(count: int, fuse: bool) -> None:
    x, s, rois = features(count)
    pooled = AdaptivePool(FusedPool(7, fuse=fuse))(x, s, rois)
    assert pooled.shape == (2 * count, 4 * C, 7, 7)
    for level, part in enumerate(pooled.chunk(4, 1)):
        alone = roi_pool(Pyramid((x.maps[level],), (STRIDES[level],)), rois.boxes, 7)
        torch.testing.assert_close(part, alone + roi_pool(s, rois.boxes, 7) if fuse else alone)


@pytest.mark.parametrize("count", [6, 1, 0])
def test_the_box_head_takes_the_largest_after_its_first_layer(count: int) -> None:
    torch.manual_seed(0)
    x, head = torch.randn(count, 4 * C, 7, 7), BoxHead(C, K, Cascade(box_channels=8), (0.1,) * 4, first=over_levels)
    layers = list(head.fc[0].layers)  # type: ignore[arg-type, union-attr]
    each = [
        layer(x[:, i * C : (i + 1) * C].permute(0, 2, 3, 1).reshape(count, 49 * C)) for i, layer in enumerate(layers)
    ]
    hidden = torch.maximum(torch.maximum(each[0], each[1]), torch.maximum(each[2], each[3])).relu()
    torch.testing.assert_close(head(x)[0], head.classify(head.fc[1](hidden).relu()), atol=1e-5, rtol=1e-5)


def test_the_mask_head_fuses_between_its_first_and_second_convolution() -> None:
    x, head = torch.randn(3, 4 * C, 14, 14), MaskHead(C, K, Cascade(mask_channels=8, mask_convs=2), first=over_levels)
    layers = list(head.convs[0].layers)  # type: ignore[arg-type, union-attr]
    each = torch.stack([layer(part) for layer, part in zip(layers, x.chunk(4, 1), strict=True)])
    torch.testing.assert_close(head.features(x), head.convs[1](each.max(0).values))  # type: ignore[operator]


def test_one_level_keeps_the_plain_layers() -> None:
    assert [name for name, _ in BoxHead(C, K, Cascade(), (0.1,) * 4).named_parameters()][:2] == [
        "fc.0.weight",
        "fc.0.bias",
    ]
    assert "convs.0.conv.weight" in MaskHead(C, K, Cascade()).state_dict()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_fully_connected_branch_is_added_whatever_the_class(count: int) -> None:
    torch.manual_seed(0)
    head = FusionMaskHead(C, K, Cascade(mask_channels=8, mask_convs=3))
    torch.nn.init.normal_(head.fc.weight, std=0.1)
    x, labels = torch.randn(count, C, 14, 14), torch.arange(count) % K
    third = head.convs[1](head.convs[0](x))  # type: ignore[operator]
    last = head.convs[2](third)  # type: ignore[operator]
    of_class = head.logits(head.upsample(last).relu())[torch.arange(count), labels]
    whole = head.fc(head.fc_convs(third).permute(0, 2, 3, 1).reshape(count, 4 * 14 * 14)).view(count, 28, 28)
    found = head(head.features(x), labels)
    torch.testing.assert_close(found, of_class + whole, atol=1e-4, rtol=1e-4)
    assert head.fc_convs[1].conv.out_channels == 4  # type: ignore[union-attr]


def test_the_flow_reads_the_mask_feature_alone_and_reaches_every_level() -> None:
    flow = torch.nn.Conv2d(8, C, 1)
    features = torch.randn(2, 16, 14, 14)
    said = PackedFlow(flow, 8, 4, 3)(features)
    assert said.shape == (2, 4 * C + 3, 14, 14)
    for part in said[:, : 4 * C].chunk(4, 1):
        torch.testing.assert_close(part, flow(features[:, :8]))
    assert not said[:, 4 * C :].any()
