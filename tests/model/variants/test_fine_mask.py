"""The 56 x 56 mask head: what it reads, and that the cascade carries it through."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from htc.config import Cascade, FineMask
from htc.model.fusion import FusedPool
from htc.model.heads import MaskHead
from htc.model.variants.adaptive_pool import PackedFlow
from htc.model.variants.fine_mask import (
    DetailedPyramid,
    DetailPool,
    FineMaskHead,
    detail_pyramid,
    from_channels,
    to_channels,
)
from htc.ops.mask_targets import mask_targets
from htc.ops.roi_pool import pyramid_level, roi_pool
from htc.types import Rois
from small_detector import seeded_detector, small_batch, small_config, truth

WIDTH, DETAIL, C, K = 8, 3, 5, 3


def head() -> FineMaskHead:
    torch.manual_seed(0)
    return FineMaskHead(C, K, Cascade(mask_channels=WIDTH, mask_convs=2), FineMask(detail_channels=DETAIL))


def rois() -> Rois:
    boxes = torch.tensor([[3.0, 5, 40, 60], [10, 20, 150, 90], [0, 0, 191, 127], [100, 100, 106, 104]]).expand(2, 4, 4)
    return Rois(boxes, torch.ones(2, 4, dtype=torch.bool), torch.tensor([[128, 192]] * 2))


def test_details_as_channels_come_back() -> None:
    fine = torch.randn(3, DETAIL, 56, 56)
    packed = to_channels(fine)
    assert packed.shape == (3, 16 * DETAIL, 14, 14)
    assert torch.equal(from_channels(packed), fine)
    for row, column in ((0, 0), (1, 3), (3, 2)):
        where = (4 * row + column) * DETAIL
        assert torch.equal(packed[:, where : where + DETAIL, 6, 9], fine[:, :, 24 + row, 36 + column])


def test_details_are_pooled_from_the_averaged_image_feature() -> None:
    """Each region from the level where it is small, by torchvision's RoIAlign; the pyramid's own features come
    first.
    """
    feature = torch.randn(2, DETAIL, 128, 192)
    levels = tuple(torch.randn(2, C, 128 // s, 192 // s) for s in (4, 8, 16, 32))
    x = DetailedPyramid(levels, (4, 8, 16, 32), detail_pyramid(feature))
    pooled = DetailPool(FusedPool(14, fuse=False))(x, None, rois())
    torch.testing.assert_close(pooled[:, :C], roi_pool(x, rois().boxes, 14))
    details = from_channels(pooled[:, C:]).view(2, 4, DETAIL, 56, 56)
    for image in range(2):
        for r, box in enumerate(rois().boxes[image]):
            stride = 2 ** int(pyramid_level(box, 4))
            expected = roi_align(
                F.avg_pool2d(feature[image : image + 1], stride), [box[None]], 56, 1 / stride, -1, aligned=True
            )
            torch.testing.assert_close(details[image, r], expected[0], atol=2e-4, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_logits_are_those_of_each_regions_class(count: int) -> None:
    net = head()
    torch.nn.init.normal_(net.logits.bias)  # type: ignore[arg-type]
    x, labels = torch.randn(count, C + 16 * DETAIL, 14, 14), torch.arange(count) % K
    features = net.features(x)
    assert features.shape == (count, WIDTH + 16 * DETAIL, 14, 14)
    coarse = net.upsample_again(net.upsample(features[:, :WIDTH]).relu()).relu()
    fine = F.pixel_shuffle(x[:, C:].unflatten(1, (16, DETAIL)).transpose(1, 2).flatten(1, 2), 4)
    expected = net.logits(net.join(torch.cat([coarse, fine], 1)))[torch.arange(count), labels]
    found = net(features, labels)
    assert found.shape == (count, 56, 56)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_mask_feature_that_flows_is_that_of_a_plain_head() -> None:
    net = head()
    plain = MaskHead(C, K, Cascade(mask_channels=WIDTH, mask_convs=2))
    plain.convs.load_state_dict(net.convs.state_dict())
    x = torch.randn(2, C + 16 * DETAIL, 14, 14)
    torch.testing.assert_close(net.features(x)[:, :WIDTH], plain.features(x[:, :C]))
    flow = torch.nn.Conv2d(WIDTH, C, 1)
    flowed = PackedFlow(flow, WIDTH, 1, 16 * DETAIL)(net.features(x))
    torch.testing.assert_close(flowed[:, :C], flow(net.features(x)[:, :WIDTH]))
    assert not flowed[:, C:].any()
    assert flowed.shape == x.shape


def test_later_stages_see_the_details_unchanged() -> None:
    detector = seeded_detector(small_config(3, semantic={}, cascade={"mask_head": {"kind": "fine"}})).eval()
    images = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        features = detector.features(images)
        pooled = detector.roi.mask_pool(*features.pooled, rois())
        stages = detector.roi.mask_features(*features.pooled, rois(), 3)
    for stage in stages:
        assert torch.equal(stage[:, 16:], pooled[:, 16:])


def test_targets_have_the_heads_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from htc.training import objective

    asked = []
    monkeypatch.setattr(
        objective,
        "mask_targets",
        lambda masks, index, boxes, size: asked.append(size) or mask_targets(masks, index, boxes, size),
    )
    for kind, size in (("plain", 28), ("fine", 56)):
        config = small_config(1, cascade={"mask_head": {"kind": kind}})
        objective.TrainingObjective(seeded_detector(config), config)(
            small_batch(config, (truth([(4, 4, 36, 40)], [0]),), seeds=(1,))
        )
        assert set(asked) == {size}
        asked.clear()
