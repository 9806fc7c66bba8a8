import pytest
import torch

from htc.config import Augmentation, Input
from htc.data.transforms import draw_placement, plain_placement, resized_size


@pytest.mark.parametrize(
    ("size", "max_scale", "expected"),
    [
        ((100, 150), 1.0, (100, 150)),
        ((100, 150), 1.5, (150, 225)),
        ((100, 150), None, (200, 300)),
        ((800, 400), 1.0, (400, 200)),
        ((1, 1), 1.0, (1, 1)),
    ],
)
def test_small_images_are_enlarged_no_further(size, max_scale, expected):
    assert resized_size(size, 200, 400, max_scale) == expected
    settings = Input(short_edge=200, long_edge=400, max_scale=max_scale)
    assert plain_placement(size, settings).size == expected
    assert draw_placement(size, settings, Augmentation(), torch.Generator()).resized == expected


def test_the_limit_moves_with_the_drawn_edge():
    """Else small images would never change their size in multi-scale training."""
    settings = Input(short_edge=200, long_edge=400, max_scale=1.0)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        draw_placement((100, 100), settings, Augmentation(short_edges=(100, 350), long_edge=400), generator).resized[0]
        for _ in range(300)
    }
    assert 50 <= min(drawn) < 53
    assert 172 < max(drawn) <= 175
