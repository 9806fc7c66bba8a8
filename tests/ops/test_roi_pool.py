"""RoI pooling: the gather backend against torchvision's RoIAlign, and both against what they must ignore."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from htc.ops.roi_pool import Backend, Pyramid, pyramid_level, roi_pool
from htc.ops.roi_pool_variants import precise_roi_pool, sampled_roi_pool

STRIDES = (4, 8, 16, 32)
BACKENDS: tuple[Backend, ...] = ("gather", "torchvision")


def pyramid(
    images: int, height: int = 96, width: int = 128, channels: int = 3, seed: int = 0, levels: int = 4
) -> Pyramid:
    numbers = torch.Generator().manual_seed(seed)
    return Pyramid(
        tuple(
            torch.randn(images, channels, -(-height // s), -(-width // s), generator=numbers) for s in STRIDES[:levels]
        ),
        STRIDES[:levels],
    )


def random_boxes(images: int, count: int, seed: int, height: int = 96, width: int = 128) -> Tensor:
    """Boxes from a pixel to larger than the image; some partly or wholly outside, some long and thin."""
    numbers = torch.Generator().manual_seed(seed)
    center = torch.rand(images, count, 2, generator=numbers) * torch.tensor([width * 1.2, height * 1.2]) - 0.1 * width
    half = torch.exp(torch.rand(images, count, 2, generator=numbers) * 5)
    return torch.cat([center - half, center + half], -1)


def reference(maps: Pyramid, boxes: Tensor, bins: int) -> Tensor:
    """Box by box, torchvision on its level."""
    level = pyramid_level(boxes, len(maps.maps))
    rows = []
    for i, j in torch.cartesian_prod(torch.arange(boxes.shape[0]), torch.arange(boxes.shape[1])):
        at = int(level[i, j])
        rows.append(
            roi_align(maps.maps[at][i : i + 1], [boxes[i, j][None]], bins, 1 / maps.strides[at], -1, aligned=True)
        )
    return torch.cat(rows)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 3),
    count=st.sampled_from([1, 7, 40]),
    bins=st.sampled_from([7, 14]),
)
def test_gather_equals_roi_align(seed: int, images: int, count: int, bins: int) -> None:
    maps, boxes = pyramid(images, seed=seed), random_boxes(images, count, seed)
    torch.testing.assert_close(
        roi_pool(maps, boxes, bins, backend="gather"), reference(maps, boxes, bins), atol=2e-4, rtol=0
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), subdivide=st.sampled_from([1, 2]))
def test_backends_agree(seed: int, subdivide: int) -> None:
    maps, boxes = pyramid(3, seed=seed), random_boxes(3, 30, seed)
    ours, theirs = (roi_pool(maps, boxes, 7, subdivide, backend) for backend in BACKENDS)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_subdivided_bins_are_the_average_of_a_finer_grid(backend: Backend) -> None:
    maps, boxes = pyramid(2, levels=1), random_boxes(2, 20, 3)
    fine = roi_pool(maps, boxes, 14, backend=backend)
    torch.testing.assert_close(roi_pool(maps, boxes, 7, 2, backend), F.avg_pool2d(fine, 2), atol=2e-4, rtol=0)


ODD_BOXES = {
    "without extent": [30.0, 40.0, 30.0, 40.0],
    "a line": [30.0, 10.0, 30.0, 60.0],
    "a line across": [10.0, 30.0, 120.0, 30.0],
    "partly outside": [-40.0, -20.0, 30.0, 25.0],
    "at the far border": [120.0, 90.0, 140.0, 110.0],
    "wholly outside": [300.0, 300.0, 340.0, 380.0],
    "huge": [-3000.0, -2000.0, 4000.0, 3000.0],
    "long and thin": [-500.0, 40.0, 900.0, 42.0],
    "inverted": [60.0, 60.0, 20.0, 30.0],
}


@pytest.mark.parametrize("subdivide", [1, 2])
@pytest.mark.parametrize("name", ODD_BOXES)
def test_odd_boxes(name: str, subdivide: int) -> None:
    maps, boxes = pyramid(1), torch.tensor(ODD_BOXES[name]).view(1, 1, 4)
    expected = F.avg_pool2d(reference(maps, boxes, 7 * subdivide), subdivide)
    for backend in BACKENDS:
        torch.testing.assert_close(
            roi_pool(maps, boxes, 7, subdivide, backend),
            expected,
            atol=2e-4,
            rtol=0,
            msg=lambda text, b=backend: f"{b}: {text}",
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_boxes_that_are_no_numbers_leave_the_others_alone(backend: Backend, value: float) -> None:
    maps, boxes = pyramid(1), random_boxes(1, 6, 2)
    broken = boxes.clone()
    broken[0, 2] = value
    pooled, expected = roi_pool(maps, broken, 7, backend=backend), roi_pool(maps, boxes, 7, backend=backend)
    assert pooled.isfinite().all()
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(pooled[others], expected[others])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("images", [1, 3])
def test_no_boxes(backend: Backend, images: int) -> None:
    maps = pyramid(images)
    for level in maps.maps:
        level.requires_grad_()
    pooled = roi_pool(maps, torch.zeros(images, 0, 4), 14, backend=backend)
    assert pooled.shape == (0, 3, 14, 14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_are_ordered_image_by_image(backend: Backend) -> None:
    """Constant maps of value image + 10 level say where each row came from."""
    maps = Pyramid(
        tuple(
            torch.arange(3.0).view(3, 1, 1, 1).expand(3, 2, m.shape[2], m.shape[3]) + 10 * i
            for i, m in enumerate(pyramid(3).maps)
        ),
        STRIDES,
    )
    boxes = torch.tensor([[10.0, 10, 30, 30], [5, 5, 120, 90], [0, 0, 128, 1.5]]).expand(3, 3, 4)
    level = pyramid_level(boxes, 4)
    expected = (torch.arange(3.0)[:, None] + 10 * level).flatten()
    torch.testing.assert_close(roi_pool(maps, boxes, 1, backend=backend)[:, 0, 0, 0], expected)


@pytest.mark.parametrize("subdivide", [1, 2])
def test_gradients_agree(subdivide: int) -> None:
    boxes = random_boxes(2, 80, 5)
    gradients = []
    for backend in BACKENDS:
        maps = pyramid(2)
        for level in maps.maps:
            level.requires_grad_()
        pooled = roi_pool(maps, boxes, 7, subdivide, backend)
        (pooled * torch.linspace(-1, 1, pooled.numel()).view_as(pooled)).sum().backward()
        gradients.append([level.grad for level in maps.maps])
    assert all(level.abs().sum() > 0 for level in gradients[0][:3])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-4, rtol=1e-3)


@pytest.mark.parametrize("subdivide", [1, 2])
def test_gather_gradient_is_the_derivative(subdivide: int) -> None:
    boxes = random_boxes(2, 4, 6, 16, 24)
    levels = tuple(level.double().requires_grad_() for level in pyramid(2, 16, 24, 1, levels=2).maps)
    assert torch.autograd.gradcheck(
        lambda *maps: roi_pool(Pyramid(maps, STRIDES[:2]), boxes, 3, subdivide, "gather"), levels
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient_flows_into_the_boxes(backend: Backend) -> None:
    maps, boxes = pyramid(1), random_boxes(1, 5, 1).requires_grad_()
    for level in maps.maps:
        level.requires_grad_()
    roi_pool(maps, boxes, 7, backend=backend).sum().backward()
    assert boxes.grad is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_maps_give_bfloat16(backend: Backend) -> None:
    maps, boxes = pyramid(1), random_boxes(1, 20, 8)
    low = Pyramid(tuple(level.bfloat16() for level in maps.maps), STRIDES)
    pooled = roi_pool(low, boxes, 7, backend=backend)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), roi_pool(maps, boxes, 7, backend=backend), atol=0.05, rtol=0.02)


@pytest.mark.parametrize(
    ("side", "level"),
    [
        (0, 0),
        (10, 0),
        (111.9, 0),
        (112, 1),
        (112.1, 1),
        (223.9, 1),
        (224, 2),
        (447.9, 2),
        (448, 3),
        (896, 3),
        (5000, 3),
    ],
)
def test_level_of_a_box(side: float, level: int) -> None:
    """Twice the side, one level up; 112 x 112 is the first of the second level."""
    boxes = torch.tensor([[3.0, 5.0, 3 + side, 5 + side], [0.0, 0.0, side * 2, side / 2]])
    assert pyramid_level(boxes, 4).tolist() == [level, level]
    assert pyramid_level(boxes, 1).tolist() == [0, 0]


def test_level_of_broken_boxes_exists() -> None:
    boxes = torch.tensor([[10.0, 0, 0, 10], [5.0, 5, 5, 5]])
    assert pyramid_level(boxes, 4).tolist() == [0, 0]


POOLINGS = {
    "gather": partial(roi_pool, backend="gather"),
    "torchvision": partial(roi_pool, backend="torchvision"),
    "precise": precise_roi_pool,
    "sampled": sampled_roi_pool,
}


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("rows", [[], [0], [3, 29, 30, 31, 58], list(range(60))])
def test_some_rows_are_pooled_as_all_are(pooling: str, rows: list[int]) -> None:
    pool, maps, boxes = POOLINGS[pooling], pyramid(2), random_boxes(2, 30, 4)
    chosen = torch.tensor(rows, dtype=torch.long)
    torch.testing.assert_close(pool(maps, boxes, 7, rows=chosen), pool(maps, boxes, 7)[chosen], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("rows", [[], [3, 29, 30, 31, 58]])
def test_the_gradient_of_some_rows_is_bit_for_bit_that_of_all(pooling: str, rows: list[int]) -> None:
    pool, boxes, chosen = POOLINGS[pooling], random_boxes(2, 30, 4), torch.tensor(rows, dtype=torch.long)
    gradients = []
    for pooled in (lambda maps: pool(maps, boxes, 7, rows=chosen), lambda maps: pool(maps, boxes, 7)[chosen]):
        levels = tuple(level.requires_grad_() for level in pyramid(2).maps)
        pooled(Pyramid(levels, STRIDES)).square().sum().backward()
        gradients.append([level.grad for level in levels])
    for some, whole in zip(*gradients, strict=True):
        assert some is not None
        assert torch.equal(some, whole)
