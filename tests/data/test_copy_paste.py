"""Pasted objects: pixels, masks, boxes and semantic map against a dense, pixel by pixel definition."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.blobs import box_of, placements, seen_bitmaps, view_of_blobs
from htc.data.copy_paste import corner_of, draw_paste, pasted
from htc.data.ground_truth import AnnotatedView
from htc.data.instance_masks import boxes_from_masks, mask_crops
from htc.data.mask_encodings import Crop
from htc.data.transforms import Placement
from htc.types import GroundTruth


def shown(view: AnnotatedView) -> np.ndarray:
    """(M, h, w) dense masks of a view's objects."""
    assert view.ground_truth.masks is not None
    return seen_bitmaps(view.ground_truth.masks, view.size)


def laid_over(below: np.ndarray, above: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """`above` in the frame of `below`; zeros beside it."""
    (height, width), margin = below.shape[:2], 100
    table = np.zeros((height + 2 * margin, width + 2 * margin, *below.shape[2:]), below.dtype)
    table[margin + corner[0] :, margin + corner[1] :][: above.shape[0], : above.shape[1]] = above
    return table[margin : margin + height, margin : margin + width]


@settings(max_examples=60, deadline=None)
@given(placements(), placements(), st.integers(0, 2**31), st.data())
def test_by_its_definition(first: Placement, second: Placement, seed: int, data: st.DataObject) -> None:
    """Pasted objects show their own pixels and classes; the others keep what is not covered, and vanish where that
    is nothing.
    """
    view, other = view_of_blobs(seed, first), view_of_blobs(seed + 1, second)
    chosen = torch.tensor([data.draw(st.booleans()) for _ in range(len(other.ground_truth.boxes))], dtype=torch.bool)
    corner = corner_of(view.size, other.size, data.draw(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99))))
    result = pasted(view, other, chosen, corner)
    above = [
        laid_over(view.image[:, :, 0] > 255, mask, corner)
        for mask, taken in zip(shown(other), chosen.tolist(), strict=True)
        if taken
    ]
    above = [mask for mask in above if mask.any()]
    cover = np.logical_or.reduce([np.zeros(view.size, bool), *above])
    if not cover.any():
        assert result is view
        return
    left = [mask & ~cover for mask in shown(view)]
    expected = [*(mask for mask in left if mask.any()), *above]
    assert np.array_equal(shown(result), np.array(expected).reshape(-1, *view.size))
    assert len(result.ground_truth.boxes) == len(result.ground_truth.labels) == len(expected)
    assert np.array_equal(
        result.image, np.where(cover[:, :, None], laid_over(view.image, other.image, corner), view.image)
    )
    assert view.semantic is not None
    assert other.semantic is not None
    assert result.semantic is not None
    assert np.array_equal(
        result.semantic, np.where(cover, laid_over(view.semantic, other.semantic, corner), view.semantic)
    )
    boxes = np.array([box_of(mask) for mask in expected])
    # An untouched object keeps its exact box; a view that is smaller than the annotated image need not show its
    # outermost pixels.
    touched = [bool((before & cover).any()) for before, after in zip(shown(view), left, strict=True) if after.any()]
    same_size = first.resized == first.original and second.resized == second.original
    for box, exact, cut in zip(
        result.ground_truth.boxes.numpy(), boxes, [*touched, *[False] * len(above)], strict=True
    ):
        if cut or same_size:
            assert box.tolist() == exact.tolist()
        assert (box[:2] <= exact[:2] + 0.501).all()
        assert (box[2:] >= exact[2:] - 0.501).all()


def box_view(
    boxes: list[tuple[int, int, int, int]], size: tuple[int, int], value: int, *, masks: bool = True
) -> AnnotatedView:
    """Rectangles on an image of one value."""
    crops = [Crop(x1, y1, np.ones((y2 - y1, x2 - x1), np.uint8)) for x1, y1, x2, y2 in boxes]
    packed = mask_crops(crops, size)
    ground_truth = GroundTruth(
        boxes_from_masks(packed),
        torch.arange(len(boxes)),
        packed if masks else None,
        torch.tensor([[0.0, 0.0, 2.0, 2.0]]),
    )
    return AnnotatedView(np.full((*size, 3), value, np.uint8), ground_truth, np.full(size, value, np.uint8))


def test_a_covered_object_goes_and_a_half_covered_one_shrinks() -> None:
    below = box_view([(4, 4, 8, 8), (6, 4, 14, 8), (15, 15, 19, 19)], (20, 20), 1)
    above = box_view([(2, 2, 10, 10)], (20, 20), 9)
    found = pasted(below, above, torch.tensor([True]), (0, 0))
    assert found.ground_truth.boxes.tolist() == [[10, 4, 14, 8], [15, 15, 19, 19], [2, 2, 10, 10]]
    assert found.ground_truth.labels.tolist() == [1, 2, 0]
    assert found.ground_truth.crowd_boxes.tolist() == [[0, 0, 2, 2]]
    assert found.semantic is not None
    assert found.semantic[5, 5] == found.image[5, 5, 0] == 9
    assert found.semantic[12, 12] == 1
    assert below.image.max() == 1, "the view pasted into is not changed"


def test_what_lies_beyond_the_edge_is_cut() -> None:
    found = pasted(
        box_view([], (10, 10), 1),
        box_view([(0, 0, 6, 6), (8, 8, 20, 20)], (20, 20), 9),
        torch.tensor([True, True]),
        (-5, -4),
    )
    assert found.ground_truth.boxes.tolist() == [[0, 0, 2, 1], [4, 3, 10, 10]]


@pytest.mark.parametrize(("below", "above"), [(False, True), (True, False), (False, False)])
def test_boxes_without_masks_neither_give_nor_take(below: bool, above: bool) -> None:
    view = box_view([(1, 1, 3, 3)], (9, 9), 1, masks=below)
    assert pasted(view, box_view([(1, 1, 3, 3)], (9, 9), 2, masks=above), torch.tensor([True]), (0, 0)) is view


def test_nothing_to_paste() -> None:
    view = box_view([(1, 1, 3, 3)], (9, 9), 1)
    assert pasted(view, box_view([], (9, 9), 2), torch.zeros(0, dtype=torch.bool), (0, 0)) is view
    assert pasted(view, view, torch.tensor([False]), (0, 0)) is view
    without = pasted(replace(view, semantic=None), view, torch.tensor([True]), (2, 2))
    assert without.semantic is None
    assert len(without.ground_truth.boxes) == 2


def test_the_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [draw_paste(0.25, 3, generator) for _ in range(400)]
    assert 60 < sum(draw.happens for draw in draws) < 140
    assert {draw.other for draw in draws} == {0, 1, 2}
    corners = [corner_of((5, 9), (3, 12), draw.corner) for draw in draws]
    assert {top for top, _ in corners} == {0, 1, 2}
    assert {left for _, left in corners} == {0, -1, -2, -3}
