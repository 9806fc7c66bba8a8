"""Precise RoI pooling against integrals of the surface taken point by point, against RoIAlign's limit, and its
derivatives.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from htc.ops.pixel_gather import Group, _bins_of
from htc.ops.roi_pool import Pyramid, pyramid_level
from htc.ops.roi_pool_variants import hat_integral, precise_roi_pool

STRIDES = (4, 8, 16, 32)


def pyramid(
    images: int, height: int = 96, width: int = 128, channels: int = 3, seed: int = 0, levels: int = 4
) -> Pyramid:
    numbers = torch.Generator().manual_seed(seed)
    maps = tuple(
        torch.randn(images, channels, -(-height // s), -(-width // s), generator=numbers, dtype=torch.double)
        for s in STRIDES[:levels]
    )
    return Pyramid(maps, STRIDES[:levels])


def random_boxes(images: int, count: int, seed: int) -> Tensor:
    """From a pixel to larger than the image of 96 x 128, some partly or wholly outside."""
    numbers = torch.Generator().manual_seed(seed)
    center = torch.rand(images, count, 2, generator=numbers, dtype=torch.double) * torch.tensor([150.0, 110.0]) - 10
    half = torch.exp(torch.rand(images, count, 2, generator=numbers, dtype=torch.double) * 5)
    return torch.cat([center - half, center + half], -1)


def quadrature(maps: Pyramid, box: Tensor, bins: int, points: int = 1200) -> Tensor:
    """Midpoint rule on the bilinear surface of the box's level of image 0, read by `grid_sample`; zero outside the
    map. -> (C, bins, bins)
    """
    level = int(pyramid_level(box, len(maps.maps)))
    feature, stride = maps.maps[level][:1], maps.strides[level]
    height, width = feature.shape[2:]
    across, down = (
        (torch.arange(points, dtype=torch.double) + 0.5) / points * (box[i + 2] - box[i]) / stride + box[i] / stride
        for i in (0, 1)
    )
    x, y = across * 2 / width - 1, down * 2 / height - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
    surface = F.grid_sample(feature, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(surface, points // bins)[0]


@settings(max_examples=20, deadline=None)
@example(seed=408005, bins=4)
@given(seed=st.integers(0, 2**31), bins=st.sampled_from([2, 4, 5]))
def test_bins_are_the_mean_of_the_surface(seed: int, bins: int) -> None:
    maps, boxes = pyramid(1, seed=seed), random_boxes(1, 3, seed)
    pooled = precise_roi_pool(maps, boxes, bins)
    for row, box in zip(pooled, boxes[0], strict=True):
        expected = quadrature(maps, box, bins)
        torch.testing.assert_close(row, expected, atol=2e-3, rtol=0)


ODD = {
    "partly outside": [-40.0, -20, 30, 25],
    "at the far border": [120.0, 90, 140, 110],
    "huge": [-300.0, -200, 400, 300],
    "long and thin": [-50.0, 40, 190, 42],
    "less than a pixel": [30.0, 30, 31, 30.5],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_boxes(name: str) -> None:
    maps, box = pyramid(1), torch.tensor(ODD[name], dtype=torch.double)
    pooled = precise_roi_pool(maps, box.view(1, 1, 4), 4)[0]
    torch.testing.assert_close(pooled, quadrature(maps, box, 4, 1600), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "box",
    [
        [30.0, 40, 30, 40],
        [30.0, 10, 30, 60],
        [60.0, 60, 20, 30],
        [300.0, 300, 340, 380],
        [float("nan")] * 4,
        [0, 0, float("inf"), 9],
    ],
)
def test_what_has_no_area_in_the_map_pools_zero_and_harms_no_other(box: list[float]) -> None:
    maps = pyramid(1)
    boxes = torch.tensor([box, [10, 10, 40, 50]], dtype=torch.double)[None].requires_grad_()
    pooled = precise_roi_pool(maps, boxes, 3)
    assert not pooled[0].any()
    torch.testing.assert_close(pooled[1:], precise_roi_pool(maps, boxes[:, 1:].detach(), 3))
    pooled.sum().backward()
    assert boxes.grad is not None
    assert boxes.grad[0, 1].isfinite().all()


def test_it_is_what_aligned_roi_align_tends_to() -> None:
    """Inside the map, where RoIAlign's rule for borders plays no part."""
    maps = pyramid(1, levels=1)
    boxes = torch.tensor([[10.0, 12, 60, 50], [30, 8, 34, 80], [50.3, 40.7, 90.1, 70.9]], dtype=torch.double)
    expected = roi_align(maps.maps[0], [boxes], 7, 1 / 4, 50, aligned=True)
    torch.testing.assert_close(precise_roi_pool(maps, boxes[None], 7), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_to_features_and_boxes(images: int, seed: int) -> None:
    """Off the whole numbers, where the surface has kinks and the derivative jumps in its second order only."""
    maps, boxes = pyramid(images, 24, 32, 2, seed, levels=2), (random_boxes(images, 3, seed) / 4).requires_grad_()

    def pool(boxes: Tensor, *levels: Tensor) -> Tensor:
        return precise_roi_pool(Pyramid(levels, STRIDES[:2]), boxes, 3)

    levels = tuple(level.requires_grad_() for level in maps.maps)
    assert torch.autograd.gradcheck(pool, (boxes, *levels), eps=1e-6, atol=1e-5)
    assert torch.autograd.gradcheck(lambda *levels: pool(boxes.detach(), *levels), levels, eps=1e-6, atol=1e-5)


def test_boxes_with_and_without_gradient_pool_the_same() -> None:
    maps, boxes = pyramid(2), random_boxes(2, 30, 3)
    with_gradient = precise_roi_pool(maps, boxes.clone().requires_grad_(), 7)
    torch.testing.assert_close(with_gradient, precise_roi_pool(maps, boxes, 7))


def test_a_box_climbs_to_where_the_features_are() -> None:
    """What the gradient to the boxes is for (section 3.3 there): ascent on the pooled mean."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    maps = Pyramid((torch.exp(-((x - 20) ** 2 + (y - 10) ** 2) / 20)[None, None],), (4,))
    box = torch.tensor([[[50.0, 20, 80, 50]]], requires_grad=True)
    before = float(precise_roi_pool(maps, box, 1).detach())
    for _ in range(30):
        (gradient,) = torch.autograd.grad(precise_roi_pool(maps, box, 1).sum(), box)
        box = (box.detach() + 100 * gradient).requires_grad_()
    assert float(precise_roi_pool(maps, box, 1).detach()) > 1.5 * before


@pytest.mark.parametrize("images", [1, 3])
def test_no_boxes(images: int) -> None:
    assert precise_roi_pool(pyramid(images), torch.zeros(images, 0, 4), 7).shape == (0, 3, 7, 7)


def test_lower_precision_stays_near() -> None:
    maps, boxes = pyramid(1), random_boxes(1, 20, 3)
    low = Pyramid(tuple(level.bfloat16() for level in maps.maps), STRIDES)
    pooled = precise_roi_pool(low, boxes.float(), 7)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.double(), precise_roi_pool(maps, boxes, 7), atol=0.05, rtol=0.02)


def test_the_hat_and_its_integral() -> None:
    ends = torch.linspace(-2, 2, 401, dtype=torch.double)
    hats = (1 - ends.abs()).clamp(min=0)
    summed = torch.cumulative_trapezoid(hats, ends)
    torch.testing.assert_close(hat_integral(ends)[1:], summed, atol=1e-4, rtol=0)


def test_the_bins_of_a_backward_pass_are_made_where_the_boxes_are() -> None:
    """On a GPU an index of the CPU is an error; the meta device, which mixes as little, shows it here."""
    with torch.device("meta"):
        group = Group(torch.zeros(2, dtype=torch.long), torch.zeros(2 * 4, 3, dtype=torch.long), torch.zeros(2 * 4, 3))
    found = _bins_of(group, 4)
    assert (found.device.type, found.shape) == ("meta", (2 * 4 * 3,))
