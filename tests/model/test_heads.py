"""Box and mask heads: layouts, classes, and the boxes they answer."""

import pytest
import torch
from torch import Tensor, nn

from htc.config import Cascade
from htc.model.heads import BoxHead, MaskHead
from htc.model.norms import BatchNorm2d, SyncBatchNorm2d
from htc.ops.boxes import clip, decode
from htc.types import Rois

STDS = (0.1, 0.1, 0.2, 0.2)
K = 3
SIZES = torch.tensor([[64, 96], [50, 40]])


def box_head(*, class_agnostic: bool = True) -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(5, K, Cascade(box_channels=8, class_agnostic_boxes=class_agnostic), STDS)


def regions(count: int) -> tuple[Rois, Tensor, Tensor]:
    """Regions, deltas of K classes, class logits."""
    numbers = torch.Generator().manual_seed(1)
    corner = torch.rand(2, count, 2, generator=numbers) * 40
    rois = Rois(torch.cat([corner, corner + 20], -1), torch.ones(2, count, dtype=torch.bool), SIZES)
    return rois, torch.randn(2, count, 4 * K, generator=numbers) * 3, torch.randn(2, count, K + 1, generator=numbers)


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("count", [0, 1, 6])
def test_outputs(count: int, class_agnostic: bool) -> None:
    logits, deltas = box_head(class_agnostic=class_agnostic)(torch.randn(count, 5, 7, 7))
    assert logits.shape == (count, K + 1)
    assert deltas.shape == (count, 4 if class_agnostic else 4 * K)


def test_features_are_read_pixel_by_pixel() -> None:
    """Columns (7, 7, C): the original's (C, 7, 7) columns, reordered, give the same numbers."""
    head, x = box_head(), torch.randn(6, 5, 7, 7)
    first = head.fc[0]
    original = first.weight.view(8, 7, 7, 5).permute(0, 3, 1, 2).reshape(8, -1)  # type: ignore[union-attr, operator]
    hidden = torch.nn.functional.linear(x.flatten(1), original, first.bias).relu()  # type: ignore[arg-type]
    expected = head.classify(head.fc[1](hidden).relu())
    torch.testing.assert_close(head(x)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_moved_boxes(count: int) -> None:
    rois, deltas, logits = regions(count)
    expected = clip(decode(rois.boxes, deltas[..., :4], STDS), SIZES)
    torch.testing.assert_close(box_head().move(rois, deltas[..., :4], logits).boxes, expected)


def test_class_specific_boxes_move_by_their_likeliest_object_class() -> None:
    """Never by the background, which has no deltas."""
    rois, deltas, logits = regions(6)
    logits[..., -1] = 100.0
    moved = box_head(class_agnostic=False).move(rois, deltas, logits).boxes
    for b in range(2):
        for r in range(6):
            k = int(logits[b, r, :K].argmax())
            expected = clip(
                decode(rois.boxes[b, r][None], deltas[b, r, 4 * k : 4 * k + 4][None], STDS)[None], SIZES[b : b + 1]
            )[0, 0]
            torch.testing.assert_close(moved[b, r], expected)


@pytest.mark.parametrize("class_agnostic", [True, False])
@pytest.mark.parametrize("count", [0, 6])
def test_boxes_of_every_class(count: int, class_agnostic: bool) -> None:
    rois, deltas, _ = regions(count)
    head = box_head(class_agnostic=class_agnostic)
    deltas = deltas[..., :4] if class_agnostic else deltas
    boxes = head.boxes_per_class(rois, deltas)
    assert boxes.shape == (2, count, 1 if class_agnostic else K, 4)
    for k in range(boxes.shape[2]):
        torch.testing.assert_close(
            boxes[:, :, k], clip(decode(rois.boxes, deltas[..., 4 * k : 4 * k + 4], STDS), SIZES)
        )


@pytest.mark.parametrize("count", [0, 1, 6])
def test_mask_logits_are_those_of_each_regions_class(count: int) -> None:
    torch.manual_seed(0)
    head = MaskHead(5, K, Cascade(mask_channels=8, mask_convs=2))
    torch.nn.init.normal_(head.logits.bias)  # type: ignore[arg-type]
    features, labels = head.features(torch.randn(count, 5, 14, 14)), torch.arange(count) % K
    every_class = head.logits(head.upsample(features).relu())
    found = head(features, labels)
    assert found.shape == (count, 28, 28)
    torch.testing.assert_close(found, every_class[torch.arange(count), labels], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["none", "batch", "sync", "group"])
def test_a_box_head_of_four_convolutions_and_one_layer(kind: str) -> None:
    """4conv1fc: the convolutions carry the norm and keep the bins; the fully connected layer reads them pixel by
    pixel.
    """
    config = Cascade(box_convs=4, box_fcs=1, box_channels=12, box_norm=kind)  # type: ignore[arg-type]
    head = BoxHead(8, 3, config, (0.1, 0.1, 0.2, 0.2)).eval()
    types = {"none": nn.Identity, "batch": BatchNorm2d, "sync": SyncBatchNorm2d, "group": nn.GroupNorm}
    assert [type(conv.norm) for conv in head.convs] == [types[kind]] * 4  # type: ignore[union-attr]
    pooled = torch.randn(5, 8, 7, 7)
    logits, deltas = head(pooled)
    assert (logits.shape, deltas.shape) == ((5, 4), (5, 4))
    features = nn.Sequential(*head.convs)(pooled)
    expected = head.classify(head.fc[0](features.permute(0, 2, 3, 1).flatten(1)).relu())
    torch.testing.assert_close(logits, expected)


def test_a_norm_without_convolutions_is_refused() -> None:
    with pytest.raises(ValueError, match="set box_convs"):
        Cascade(box_norm="sync")
