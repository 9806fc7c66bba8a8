"""Views of an image: what they are called, and the way from their pixels to the image's and back."""

import math

import pytest
import torch

from htc.config import Input
from htc.errors import ConfigError
from htc.inference.augmentation import boxes_in_original, boxes_in_view, masks_in_original
from htc.inference.views import PAPER_SCALES, View, parse_views


@pytest.mark.parametrize(
    ("text", "views"),
    [
        ("1", [View()]),
        ("1,1", [View()]),
        ("0.75,1.5", [View(0.75), View(1.5)]),
        ("1:flip", [View(), View(flip_horizontal=True)]),
        (
            "600x900,1:flip",
            [View((600, 900)), View((600, 900), flip_horizontal=True), View(), View(flip_horizontal=True)],
        ),
        ("1:vflip", [View(), View(flip_vertical=True)]),
        (
            "1:flip,vflip",
            [
                View(),
                View(flip_horizontal=True),
                View(flip_vertical=True),
                View(1.0, flip_horizontal=True, flip_vertical=True),
            ],
        ),
    ],
)
def test_a_specification_names_scales_and_flips(text: str, views: list[View]) -> None:
    assert list(parse_views(text)) == views


def test_the_paper_test_has_ten_views() -> None:
    views = parse_views("paper")
    assert len(views) == 10
    assert {view.scale for view in views} == set(PAPER_SCALES)
    assert parse_views("600x900,800x1200,1000x1500,1200x1800,1400x2100:flip") == views


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "nan", "inf", "big", "1,", "900x600", "0x10", "1:", "1:flop", "1:flip:vflip", "flip"]
)
def test_what_is_no_specification_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="views"):
        parse_views(text)


def test_a_factor_multiplies_what_the_model_sees_even_where_it_never_enlarges() -> None:
    settings = Input(short_edge=400, long_edge=600, max_scale=1.0)
    assert View().placement((100, 120), settings).resized == (100, 120)
    assert View(1.5).placement((100, 120), settings).resized == (150, 180)
    assert View(0.5).placement((1000, 1000), settings).resized == (200, 200)
    assert View((600, 900)).placement((100, 120), settings).resized == (600, 720)
    assert View(0.001).placement((10, 10), settings).resized == (1, 1)


VIEWS = [
    View(),
    View(0.75),
    View(flip_horizontal=True),
    View(1.25, flip_vertical=True),
    View(1.75, flip_horizontal=True, flip_vertical=True),
]


@pytest.mark.parametrize("view", VIEWS)
def test_boxes_go_there_and_back_to_the_same_float32(view: View) -> None:
    placement = view.placement((97, 131), Input(short_edge=64, long_edge=96))
    height, width = placement.resized
    corners = torch.rand(200, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([width, height])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    there = boxes_in_original(boxes, placement)
    assert (there[:, 2:] >= there[:, :2]).all()
    assert there.min() >= 0
    assert (there <= torch.tensor([131, 97, 131, 97])).all()
    assert torch.equal(boxes_in_view(there, placement), boxes)
    torch.testing.assert_close(
        boxes_in_original(boxes[:, None].expand(-1, 3, -1), placement)[:, 1], there, rtol=0, atol=0
    )


@pytest.mark.parametrize("view", VIEWS)
def test_masks_turn_with_their_boxes(view: View) -> None:
    """The cell of the grid that holds a point of the view holds, after turning, the same point of the image."""
    placement = view.placement((100, 100), Input(short_edge=100, long_edge=100))
    side = placement.resized[0]
    box = torch.tensor([[0.2, 0.4, 0.6, 0.8]]) * side
    grid = torch.zeros(1, 4, 4)
    grid[0, 0, 1] = 1.0  # center at (0.35, 0.45) of the view
    turned = masks_in_original(grid, placement)
    row, column = divmod(int(turned.flatten().argmax()), 4)
    (x1, y1, x2, y2), seen = boxes_in_original(box, placement)[0].tolist(), (0.35, 0.45)
    x, y = x1 + (column + 0.5) / 4 * (x2 - x1), y1 + (row + 0.5) / 4 * (y2 - y1)
    expected = (1 - seen[0] if view.flip_horizontal else seen[0], 1 - seen[1] if view.flip_vertical else seen[1])
    assert math.dist((x, y), (100 * expected[0], 100 * expected[1])) < 1e-4
    assert masks_in_original(torch.zeros(0, 4, 4), placement).shape == (0, 4, 4)
