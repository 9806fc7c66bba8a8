"""Bags of pixel-table rows: what a box costs follows its pixels, whatever its shape, and grouping changes no result."""

import pytest
import torch
from torch import Tensor

from htc.benchmark.work import fixed_boxes
from htc.ops import pixel_gather
from htc.ops.pixel_gather import CAPACITIES, Bags, Shape, bags, by_shape
from htc.ops.roi_pool import Pyramid, on_levels, roi_pool
from htc.ops.roi_pool_variants import precise_roi_pool

STRIDES = (4, 8, 16, 32)
SIZE = (800, 1344)


def pyramid(channels: int = 1) -> Pyramid:
    numbers = torch.Generator().manual_seed(0)
    height, width = SIZE
    return Pyramid(
        tuple(torch.randn(1, channels, height // s, width // s, generator=numbers) for s in STRIDES), STRIDES
    )


def boxes_of(width: float, height: float, count: int, seed: int = 0) -> Tensor:
    """(1, count, 4): boxes of one size at random places inside the image."""
    numbers = torch.Generator().manual_seed(seed)
    extent = torch.tensor([width, height])
    corner = torch.rand(count, 2, generator=numbers) * (torch.tensor(SIZE[::-1]) - extent)
    return torch.cat([corner, corner + extent], 1)[None]


def bags_of(boxes: Tensor, bins: int, subdivide: int = 1) -> Bags:
    return bags(*on_levels(pyramid(), boxes), bins, subdivide)


def taps(pooling: Bags) -> int:
    return sum(group.index.numel() for group in pooling.groups)


def in_square_bags(members: Tensor, needed: Tensor, capacity: int, bins: int) -> list[Shape]:
    """`by_shape` that splits nothing."""
    del needed, bins
    return [Shape(members, capacity, capacity)]


@pytest.mark.parametrize("bins", [7, 14])
@pytest.mark.parametrize(("width", "height"), [(1333, 9), (9, 799), (600, 20), (30, 700)])
def test_a_thin_box_costs_little_more_than_a_square_of_its_area(width: int, height: int, bins: int) -> None:
    side = (width * height) ** 0.5
    thin, square = (taps(bags_of(boxes_of(*extent, 64), bins)) for extent in ((width, height), (side, side)))
    assert thin <= 7 * square  # with square bags 30 to 300 times as many


@pytest.mark.parametrize("bins", [7, 14])
def test_ordinary_boxes_stay_in_square_groups(bins: int) -> None:
    numbers = torch.Generator().manual_seed(0)
    boxes = fixed_boxes(1000, SIZE, numbers)[None]
    lengths = [group.index.shape[1] for group in bags_of(boxes, bins).groups]
    assert lengths == sorted({length**2 for length in CAPACITIES} & set(lengths))


def mixed_boxes() -> Tensor:
    numbers = torch.Generator().manual_seed(1)
    sizes = ((1333, 9), (9, 799), (500, 30), (30, 500), (1300, 700), (1000, 200))
    thin = [boxes_of(*size, count=20, seed=seed) for seed, size in enumerate(sizes)]
    outside = torch.tensor([[[-900.0, 10, 2000, 16], [20.0, -4000, 25, 3000], [5, 5, 5, 5]]])
    return torch.cat([fixed_boxes(40, SIZE, numbers)[None], *thin, outside], 1)


@pytest.mark.parametrize("subdivide", [1, 2])
def test_shapes_change_no_result(subdivide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward to the bit, as only zero weights are left out; the gradient's sums may take another order."""
    boxes, results = mixed_boxes(), []
    for grouping in (by_shape, in_square_bags):
        monkeypatch.setattr(pixel_gather, "by_shape", grouping)
        maps = pyramid(2)
        for level in maps.maps:
            level.requires_grad_()
        pooled = roi_pool(maps, boxes, 7, subdivide, "gather")
        (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum().backward()
        results.append((pooled.detach(), [level.grad for level in maps.maps]))
    (ours, gradients), (square, expected) = results
    assert torch.equal(ours, square)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-6)


def test_shapes_change_no_precise_result(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = mixed_boxes()
    ours = precise_roi_pool(pyramid(2), boxes, 7)
    monkeypatch.setattr("htc.ops.roi_pool_variants.by_shape", in_square_bags)
    assert torch.equal(ours, precise_roi_pool(pyramid(2), boxes, 7))


@pytest.mark.parametrize("capacity", [2, 5, 14, 52, 400])
def test_every_box_has_one_shape_that_holds_it(capacity: int) -> None:
    numbers = torch.Generator().manual_seed(capacity)
    members = torch.randperm(300, generator=numbers)[:200]
    needed = torch.randint(2, capacity + 1, (200, 2), generator=numbers).float()
    needed[:100, 0] = 2
    shapes = by_shape(members, needed, capacity, 7)
    assert torch.cat([shape.boxes for shape in shapes]).sort().values.tolist() == members.sort().values.tolist()
    row_of = {int(box): row for row, box in enumerate(members)}
    for shape in shapes:
        most = needed[[row_of[int(box)] for box in shape.boxes]].amax(0)
        assert most[0] <= shape.columns
        assert most[1] <= shape.rows


def test_few_small_boxes_are_not_worth_groups() -> None:
    assert len(by_shape(torch.arange(10), torch.tensor([[2.0, 8.0]]).expand(10, 2), 8, 7)) == 1
    assert len(by_shape(torch.arange(500), torch.tensor([[2.0, 8.0]]).expand(500, 2), 8, 7)) == 1
    assert by_shape(torch.arange(500), torch.tensor([[2.0, 8.0]]).expand(500, 2), 8, 7)[0].columns == 2
    assert by_shape(torch.arange(0), torch.zeros(0, 2), 8, 7) == []
