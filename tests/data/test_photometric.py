"""Colors: torchvision's operators, driven by one generator."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from htc.config import Photometric
from htc.data.photometric import Distortion, distorted, draw_distortion

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def test_no_change() -> None:
    assert np.array_equal(distorted(IMAGE, Distortion(None, None, None, None, False)), IMAGE)
    drawn = draw_distortion(Photometric(probability=0), torch.Generator())
    assert drawn[:4] == (None, None, None, None)


def of_torchvision(pixels: np.ndarray, distortion: Distortion) -> np.ndarray:
    """The same changes in the same order by torchvision's operators."""
    functional = v2.functional
    contrast = (functional.adjust_contrast, distortion.contrast)
    steps = [
        (functional.adjust_brightness, distortion.brightness),
        (functional.adjust_saturation, distortion.saturation),
        (functional.adjust_hue, distortion.hue),
    ]
    steps.insert(3 if distortion.contrast_last else 1, contrast)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for change, factor in steps:
        image = image if factor is None else change(image, factor)
    return image.permute(1, 2, 0).numpy()


def most_apart(image: np.ndarray, distortion: Distortion) -> int:
    found = distorted(image, distortion)
    assert found.flags.c_contiguous
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    return int(np.abs(found.astype(int) - of_torchvision(image, distortion)).max())


COLORS = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 52, 3)
"""All mixtures of 52 levels of red, green and blue: grays, black, white and pure colors among them."""


@pytest.mark.parametrize(
    "image", [COLORS, IMAGE, np.full((3, 4, 3), 7, np.uint8)], ids=["all colors", "noise", "one gray"]
)
@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation", "hue"])
def test_each_operator_is_torchvisions_to_one_level(image: np.ndarray, part: str) -> None:
    for value in (-0.5, -0.05, -1e-3, 0.0, 0.013, 0.05, 0.5) if part == "hue" else (0.0, 0.5, 0.9, 1.0, 1.3, 1.5):
        assert most_apart(image, Distortion(None, None, None, None, False)._replace(**{part: value})) <= 1, value
    unchanged = distorted(
        image, Distortion(None, None, None, None, False)._replace(**{part: 0.0 if part == "hue" else 1.0})
    )
    assert np.abs(unchanged.astype(int) - image).max() <= (1 if part == "saturation" else 0)


@pytest.mark.parametrize("last", [True, False])
def test_order_and_operators(last: bool) -> None:
    """Four steps, each one level apart at most; a following one can stretch it by 1.5, hue by more. Another order is
    far away.
    """
    distortion = Distortion(1.1, 0.7, 1.4, 0.04, last)
    assert most_apart(IMAGE, distortion) <= 4
    assert np.abs(distorted(IMAGE, distortion).astype(int) - of_torchvision(IMAGE, distortion)).mean() < 0.5
    assert (
        np.abs(
            distorted(IMAGE, distortion).astype(int)
            - of_torchvision(IMAGE, distortion._replace(contrast_last=not last))
        ).max()
        > 8
    )


def test_draws_cover_their_ranges() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_distortion(Photometric(), generator) for _ in range(400)]
    for place, (low, high) in enumerate(((0.875, 1.125), (0.5, 1.5), (0.5, 1.5), (-0.05, 0.05))):
        values = [each[place] for each in drawn if each[place] is not None]
        assert 150 < len(values) < 250
        assert low <= min(values) < low + (high - low) / 20
        assert high - (high - low) / 20 < max(values) <= high
    assert 150 < sum(each.contrast_last for each in drawn) < 250
