"""Box arithmetic and anchors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from htc.ops.boxes import MAX_LOG_SCALE, anchors_at, area, clip, decode, encode, has_extent, iou

STDS = ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (0.033, 0.033, 0.067, 0.067))


def random_boxes(seed: int, count: int, side: float = 300.0) -> Tensor:
    """Sides from 1 pixel on; some reach beyond the origin."""
    numbers = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=numbers) * side - 20
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=numbers) * side], 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 20), stds=st.sampled_from(STDS))
def test_decode_inverts_encode(seed: int, count: int, stds: tuple[float, ...]) -> None:
    boxes, targets = random_boxes(seed, count), random_boxes(seed + 1, count)
    within = ((targets[:, 2:] - targets[:, :2]) / (boxes[:, 2:] - boxes[:, :2])).log().abs().amax(1) < MAX_LOG_SCALE
    torch.testing.assert_close(
        decode(boxes, encode(boxes, targets, stds), stds)[within], targets[within], atol=2e-2, rtol=1e-4
    )


def test_deltas_are_relative_to_the_box_and_in_units_of_the_stds() -> None:
    deltas = encode(
        torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[5.0, 0.0, 25.0, 40.0]]), (0.1, 0.1, 0.2, 0.2)
    )
    torch.testing.assert_close(deltas, torch.tensor([[10.0, 5.0, 5 * math.log(2), 5 * math.log(2)]]))


def test_a_box_grows_or_shrinks_by_at_most_62_5() -> None:
    deltas = torch.tensor([[0.0, 0.0, 50.0, -50.0]])
    moved = decode(torch.tensor([[-8.0, -8.0, 8.0, 8.0]]), deltas, (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(moved[0, 2:] - moved[0, :2], torch.tensor([1000.0, 16 / 62.5]))


def test_low_precision_deltas_are_decoded_in_float32() -> None:
    assert decode(random_boxes(0, 3), torch.zeros(3, 4, dtype=torch.bfloat16), STDS[1]).dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 5, 3, 4), (2, 0, 4)])
def test_clip_cuts_every_image_to_its_own_size(shape: tuple[int, ...]) -> None:
    boxes = torch.rand(shape) * 400 - 100
    clipped = clip(boxes, torch.tensor([[40, 60], [90, 30]]))
    for i, (height, width) in enumerate([(40, 60), (90, 30)]):
        torch.testing.assert_close(clipped[i][..., 0::2], boxes[i][..., 0::2].clamp(0, width))
        torch.testing.assert_close(clipped[i][..., 1::2], boxes[i][..., 1::2].clamp(0, height))


def test_extent_and_area() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 3], [1, 1, 1, 5], [1, 1, 5, 1], [3, 0, 1, 2], [0, 0, float("nan"), 2]])
    assert has_extent(boxes).tolist() == [True, False, False, False, False]
    assert area(boxes)[0] == 6


@pytest.mark.parametrize(("first", "second"), [(7, 5), (0, 4), (4, 0), (0, 0)])
def test_iou_equals_torchvision(first: int, second: int) -> None:
    a, b = random_boxes(1, first), random_boxes(2, second)
    torch.testing.assert_close(iou(a, b), box_iou(a, b))


def test_iou_of_boxes_without_extent_is_zero() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert iou(point, point).item() == 0


def test_anchors_have_the_originals_shape_place_and_order() -> None:
    """Scale 8 at stride 16: area 128 x 128, center (column, row) x stride without half a pixel, ratio (h / w)
    fastest.
    """
    anchors = anchors_at(torch.arange(2 * 3 * 3), width=3, stride=16, scale=8.0, ratios=(0.5, 1.0, 2.0)).view(
        2, 3, 3, 4
    )
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    extent = anchors[..., 2:] - anchors[..., :2]
    rows, columns = torch.meshgrid(torch.arange(2.0) * 16, torch.arange(3.0) * 16, indexing="ij")
    torch.testing.assert_close(
        center, torch.stack([columns, rows], -1)[:, :, None].expand(2, 3, 3, 2), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(extent[..., 1] / extent[..., 0], torch.tensor([0.5, 1.0, 2.0]).expand(2, 3, 3))
    torch.testing.assert_close(extent.prod(-1), torch.full((2, 3, 3), 128.0**2))
    # not rounded, as torchvision would
    torch.testing.assert_close(anchors[0, 0, 0], torch.tensor([-90.50967, -45.25483, 90.50967, 45.25483]))


def test_anchors_at_positions_are_rows_of_all_anchors() -> None:
    everything = anchors_at(torch.arange(4 * 5 * 2), 5, 8, 4.0, (0.5, 2.0))
    index = torch.tensor([[7, 39], [0, 12]])
    assert torch.equal(anchors_at(index, 5, 8, 4.0, (0.5, 2.0)), everything[index])
