"""Colours: torchvision's operators, driven by one generator."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from htc.config import Photometric
from htc.data.photometric import Distortion, distorted, draw_distortion

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_no_change() -> None:
    assert np.array_equal(distorted(PICTURE, Distortion(None, None, None, None, False)), PICTURE)
    drawn = draw_distortion(Photometric(probability=0), torch.Generator())
    assert drawn[:4] == (None, None, None, None)


@pytest.mark.parametrize("last", [True, False])
def test_order_and_operators(last: bool) -> None:
    found = distorted(PICTURE, Distortion(1.1, 0.7, 1.4, 0.04, last))
    image = torch.from_numpy(PICTURE).permute(2, 0, 1)
    image = v2.functional.adjust_brightness(image, 1.1)
    image = image if last else v2.functional.adjust_contrast(image, 0.7)
    image = v2.functional.adjust_hue(v2.functional.adjust_saturation(image, 1.4), 0.04)
    image = v2.functional.adjust_contrast(image, 0.7) if last else image
    assert np.array_equal(found, image.permute(1, 2, 0).numpy())
    assert found.flags.c_contiguous


def test_draws_cover_their_ranges() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_distortion(Photometric(), generator) for _ in range(400)]
    for place, (low, high) in enumerate(((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05))):
        values = [each[place] for each in drawn if each[place] is not None]
        assert 150 < len(values) < 250
        assert low <= min(values) < low + (high - low) / 20
        assert high - (high - low) / 20 < max(values) <= high
    assert 150 < sum(each.contrast_last for each in drawn) < 250
