"""Mask targets against torchvision's RoIAlign of the whole-image bitmaps."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import roi_align

from htc.ops.mask_targets import mask_targets
from htc.types import MaskCrops


def random_bitmaps(seed: int, count: int, height: int, width: int) -> Tensor:
    """Blobs with holes and ragged edges, (count, height, width) of 0 and 1; some touch the border."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    bitmaps = []
    for _ in range(count):
        y, x = random.uniform(0, height), random.uniform(0, width)
        r = 1 + random.uniform(0, max(height, width) / 2)
        blob = ((rows - y) ** 2 + (columns - x) ** 2 <= r**2) & (random.uniform(size=(height, width)) < 0.85)
        blob[int(y) % height, int(x) % width] = True
        bitmaps.append(blob)
    return torch.from_numpy(np.stack(bitmaps)).to(torch.uint8)


def crops_of(bitmaps: Tensor, **fields: tuple[float, float]) -> MaskCrops:
    """`MaskCrops` of dense bitmaps (M, H, W)."""
    pixels, sizes, offsets = [], [], []
    for bitmap in bitmaps:
        rows, columns = bitmap.any(1).nonzero().flatten(), bitmap.any(0).nonzero().flatten()
        crop = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pixels.append(crop.flatten())
        sizes.append(tuple(crop.shape))
        offsets.append((int(columns[0]), int(rows[0])))
    return MaskCrops(
        torch.cat(pixels), torch.tensor(sizes), torch.tensor(offsets), (bitmaps.shape[1], bitmaps.shape[2]), **fields
    )


def random_boxes(seed: int, count: int, height: int, width: int) -> Tensor:
    """Boxes of every size, some across the border of the image."""
    random = np.random.default_rng(seed)
    corners = random.uniform(-3, [width + 3, height + 3], size=(count, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    return torch.from_numpy(boxes).float()


def averages(bitmaps: Tensor, index: Tensor, boxes: Tensor, size: int) -> Tensor:
    """The reference: RoIAlign on dense bitmaps, before the threshold."""
    rois = torch.cat([index[:, None].float(), boxes], dim=1)
    return roi_align(bitmaps[:, None].float(), rois, size, aligned=True, sampling_ratio=-1)[:, 0]


def assert_equal_but_for_ties(targets: Tensor, reference: Tensor) -> None:
    clear = (reference - 0.5).abs() > 1e-6
    assert clear.float().mean() > 0.9
    assert torch.equal(targets[clear], (reference >= 0.5).float()[clear])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31), height=st.integers(1, 90), width=st.integers(1, 120), size=st.sampled_from([7, 14, 28])
)
def test_equals_roi_align_of_the_bitmap(seed: int, height: int, width: int, size: int) -> None:
    bitmaps = random_bitmaps(seed, 3, height, width)
    boxes = random_boxes(seed, 12, height, width)
    index = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(seed))
    assert_equal_but_for_ties(
        mask_targets(crops_of(bitmaps), index, boxes, size), averages(bitmaps, index, boxes, size)
    )


@pytest.mark.parametrize(("horizontal", "vertical"), [(True, False), (False, True), (True, True)])
def test_a_negative_scale_equals_the_flipped_bitmap(horizontal: bool, vertical: bool) -> None:
    height, width = 60, 83
    bitmaps = random_bitmaps(5, 4, height, width)
    masks = crops_of(
        bitmaps,
        scale=(-1.0 if horizontal else 1.0, -1.0 if vertical else 1.0),
        shift=(width if horizontal else 0.0, height if vertical else 0.0),
    )
    flipped = bitmaps.flip([axis for axis, on in ((2, horizontal), (1, vertical)) if on])
    boxes = random_boxes(6, 40, height, width)
    index = torch.arange(40) % 4
    # A box that is mirrored has its samples mirrored up to rounding: ties within 1e-4 are left out.
    reference = averages(flipped, index, boxes, 28)
    clear = (reference - 0.5).abs() > 1e-4
    assert torch.equal(mask_targets(masks, index, boxes)[clear], (reference >= 0.5).float()[clear])


def test_a_resized_rectangle_keeps_its_edges() -> None:
    """A 20 x 30 rectangle at (10, 8), seen at twice the size: a box over its left half and as much outside splits in
    the middle.
    """
    bitmap = torch.zeros(1, 64, 64, dtype=torch.uint8)
    bitmap[0, 8:28, 10:40] = 1
    masks = crops_of(bitmap, scale=(0.5, 0.5))
    target = mask_targets(masks, torch.tensor([0]), torch.tensor([[0.0, 20.0, 40.0, 50.0]]), 8)[0]
    assert torch.equal(target, torch.tensor([0.0] * 4 + [1.0] * 4).expand(8, 8))


def test_holes_stay_holes() -> None:
    bitmap = torch.ones(1, 40, 40, dtype=torch.uint8)
    bitmap[0, 10:30, 10:30] = 0
    target = mask_targets(crops_of(bitmap), torch.tensor([0]), torch.tensor([[0.0, 0.0, 40.0, 40.0]]), 4)[0]
    assert target.sum() == 12
    assert target[1:3, 1:3].sum() == 0


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count: int) -> None:
    masks = crops_of(random_bitmaps(1, 1, 20, 20))
    assert mask_targets(
        masks, torch.zeros(count, dtype=torch.long), torch.tensor([[0.0, 0.0, 20.0, 20.0]])[:count]
    ).shape == (count, 28, 28)


def test_nothing_to_learn_from_gives_zeros() -> None:
    """An object without mask, a box without extent and a box far outside."""
    empty = MaskCrops(
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(1, 2, dtype=torch.long),
        torch.zeros(1, 2, dtype=torch.long),
        (20, 20),
    )
    assert mask_targets(empty, torch.tensor([0]), torch.tensor([[0.0, 0.0, 20.0, 20.0]])).sum() == 0
    full = crops_of(torch.ones(1, 20, 20, dtype=torch.uint8))
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [100.0, 100.0, 120.0, 120.0]])
    assert mask_targets(full, torch.tensor([0, 0]), boxes).sum() == 0


def test_fast_enough_to_be_made_in_every_step() -> None:
    """128 boxes of about 100 pixels over 32 objects: measured 3 ms on one core; the bound leaves room for busy
    machines.
    """
    bitmaps = torch.zeros(32, 300, 300, dtype=torch.uint8)
    bitmaps[:, 100:200, 100:200] = 1
    masks, index = crops_of(bitmaps), torch.arange(128) % 32
    boxes = torch.tensor([95.0, 95.0, 195.0, 195.0]) + 5 * torch.rand(
        128, 4, generator=torch.Generator().manual_seed(0)
    )
    mask_targets(masks, index, boxes)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        mask_targets(masks, index, boxes)
        best = min(best, time.perf_counter() - begin)
    assert best < 0.06
