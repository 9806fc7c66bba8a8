"""Mask crops against dense pasting, run-length strings against pycocotools, and memory on very large images."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from torch.nn import functional as F

from htc.ops.masks import WORK_ELEMENTS, bitmaps, crops, mask_grid, paste
from htc.ops.run_lengths import rle, rle_of_crops

THRESHOLDS = (0.3, 0.5, 0.7)


def probabilities(kind: str, count: int) -> torch.Tensor:
    """(count, 28, 28): blobs as a network makes them, noise, or hard 0 and 1 values."""
    if kind == "noise":
        return torch.rand(count, 28, 28)
    blobs = F.interpolate(torch.randn(count, 1, 6, 6) * 4, size=(28, 28), mode="bicubic")[:, 0].sigmoid()
    return (blobs > 0.5).float() if kind == "saturated" else blobs


def boxes(count: int, size: tuple[int, int], shortest: float, longest: float) -> torch.Tensor:
    """Boxes whose centers lie in the image and somewhat around it."""
    extent = torch.tensor([size[1], size[0]])
    centers = (torch.rand(count, 2) * 1.2 - 0.1) * extent
    half = (torch.rand(count, 2) * (longest - shortest) + shortest) / 2
    return torch.cat((centers - half, centers + half), 1)


def strings_of_dense(dense: np.ndarray) -> list[str]:
    return [found["counts"].decode() for found in coco_mask.encode(np.asfortranarray(dense.transpose(1, 2, 0)))]


@pytest.mark.parametrize("kind", ["blobs", "noise", "saturated"])
@pytest.mark.parametrize(
    ("size", "shortest", "longest"),
    [((120, 160), 5, 80), ((50, 60), 0.01, 3), ((60, 90), 50, 1500), ((64, 48), 60, 200)],
    ids=["usual", "below a pixel", "far larger than the image", "as high as the image"],
)
def test_strings_are_identical_to_paste_and_encode(
    kind: str, size: tuple[int, int], shortest: float, longest: float
) -> None:
    torch.manual_seed(0)
    values, where = probabilities(kind, 100), boxes(100, size, shortest, longest)
    for threshold in THRESHOLDS:
        grid = mask_grid(values, where, size, threshold)
        dense = paste(values, where, size, threshold).numpy()
        found = rle(grid)
        assert [one["counts"] for one in found] == strings_of_dense(dense)
        assert all(one["size"] == list(size) for one in found)
        assert np.array_equal(bitmaps(grid), dense)
        assert rle_of_crops(list(crops(grid)), size) == found
    assert dense.any()


@settings(max_examples=60, deadline=None)
@given(
    corner=st.tuples(st.floats(-40, 60), st.floats(-40, 60)),
    extent=st.tuples(st.floats(0.004, 120), st.floats(0.004, 120)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 999),
)
def test_any_box_gives_the_dense_string(
    corner: tuple[float, float], extent: tuple[float, float], size: tuple[int, int], seed: int
) -> None:
    values = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(seed))
    where = torch.tensor([[*corner, corner[0] + extent[0], corner[1] + extent[1]]])
    assert rle(mask_grid(values, where, size))[0]["counts"] == strings_of_dense(paste(values, where, size).numpy())[0]


def test_whole_image_masks_join_over_columns() -> None:
    """Full columns are one run: the string has two counts, not two a column."""
    grid = mask_grid(torch.ones(1, 28, 28), torch.tensor([[0.0, 0.0, 9.0, 7.0]]), (7, 9))
    assert rle(grid) == [{"size": [7, 9], "counts": strings_of_dense(np.ones((1, 7, 9), bool))[0]}]


@pytest.mark.parametrize(
    "box",
    [
        [3.0, 3, 3, 9],
        [5, 5, 2, 9],
        [-30, -30, -1, -1],
        [50, 3, 60, 9],
        [float("nan"), 0, 5, 5],
        [0, 0, float("inf"), 5],
    ],
)
def test_boxes_without_pixels_have_empty_masks(box: list[float]) -> None:
    grid = mask_grid(torch.ones(1, 28, 28), torch.tensor([box], dtype=torch.float32), (20, 30))
    assert coco_mask.area(rle(grid)[0]) == 0
    assert not bitmaps(grid).any()


def test_no_objects() -> None:
    grid = mask_grid(torch.empty(0, 28, 28), torch.empty(0, 4), (20, 30))
    assert rle(grid) == []
    assert list(crops(grid)) == []
    assert bitmaps(grid).shape == (0, 20, 30)
    assert paste(torch.empty(0, 28, 28), torch.empty(0, 4), (20, 30)).shape == (0, 20, 30)


def test_empty_and_filled_objects_in_one_call() -> None:
    """Objects without a pixel between others keep their place in the vectorised encoder."""
    values = torch.ones(5, 28, 28)
    where = torch.tensor([[0.0, 0, 0, 0], [2, 2, 8, 9], [90, 90, 99, 99], [0, 0, 30, 20], [25, 15, 30, 20]])
    dense = paste(values, where, (20, 30)).numpy()
    assert [one["counts"] for one in rle(mask_grid(values, where, (20, 30)))] == strings_of_dense(dense)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_threshold_outside_its_range(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        mask_grid(torch.ones(1, 28, 28), torch.zeros(1, 4), (4, 4), threshold)


def test_objects_larger_than_the_working_memory_are_cut_into_pieces() -> None:
    torch.manual_seed(1)
    size = (3000, 2000)
    assert size[0] * size[1] > WORK_ELEMENTS
    values, where = probabilities("blobs", 2), torch.tensor([[-10.0, -20, 1990, 3050], [100, 2900, 160, 2990]])
    assert [one["counts"] for one in rle(mask_grid(values, where, size))] == strings_of_dense(
        paste(values, where, size).numpy()
    )


MEMORY_PROBE = """
import sys, torch, numpy as np, tracemalloc
from htc.ops.masks import mask_grid
from htc.ops.run_lengths import rle
torch.manual_seed(0)
side, count = 10_000, 1000
extent = torch.rand(count, 2) ** 4 * 3000 + 20
extent[:3] = side
corner = torch.rand(count, 2) * (side - extent)
rows = torch.linspace(-1, 1, 28)
disc = torch.sigmoid(8 * (0.8 - (rows[:, None] ** 2 + rows[None] ** 2)))
grid = mask_grid(disc.expand(count, 28, 28).contiguous(), torch.cat((corner, corner + extent), 1), (side, side))
tracemalloc.start()
found = rle(grid)
assert len(found) == count and all(len(one["counts"]) > 8 for one in found)
print(tracemalloc.get_traced_memory()[1])
"""


def test_memory_of_a_thousand_objects_on_a_hundred_megapixels() -> None:
    """Dense masks would take 100 GB, one dense float mask 400 MB; the run lengths are made within 60 MB (25
    measured).
    """
    probe = subprocess.run([sys.executable, "-c", MEMORY_PROBE], capture_output=True, text=True, check=True)
    assert int(probe.stdout) < 60e6
