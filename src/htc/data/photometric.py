"""Random colours; all chance comes from one generator.

The operators are torchvision's `adjust_...` to within one grey level, computed by OpenCV and lookup tables: about ten
times as fast.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Float32, UInt8

from htc.config import Photometric

VALUES = np.arange(256, dtype=np.float32)
ROUNDED = 0.5
"""How much more rounding to the nearest gives than cutting off, in the mean."""


class Distortion(NamedTuple):
    """Factors as torchvision's `adjust_...` take them; None: that change is not made."""

    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    contrast_last: bool


def draw_distortion(settings: Photometric, generator: torch.Generator) -> Distortion:
    """Which changes are made, and how strong; always the same number of draws."""
    numbers = torch.rand(9, generator=generator, dtype=torch.double).tolist()
    widths = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
    middles = (1.0, 1.0, 1.0, 0.0)
    factors = [
        middle + width * (2 * value - 1) if chance < settings.probability else None
        for middle, width, chance, value in zip(middles, widths, numbers[0:4], numbers[4:8], strict=True)
    ]
    return Distortion(*factors, contrast_last=numbers[8] < 0.5)


def distorted(picture: UInt8[np.ndarray, "H W 3"], distortion: Distortion) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with its colours changed: brightness, contrast, saturation, hue, or with the contrast last."""
    if distortion.brightness is not None:
        picture = _looked_up(picture, VALUES * np.float32(distortion.brightness))
    if distortion.contrast is not None and not distortion.contrast_last:
        picture = _with_contrast(picture, distortion.contrast)
    if distortion.saturation is not None:
        picture = _with_saturation(picture, distortion.saturation)
    if distortion.hue is not None:
        picture = _with_hue(picture, distortion.hue)
    if distortion.contrast is not None and distortion.contrast_last:
        picture = _with_contrast(picture, distortion.contrast)
    return picture


def _looked_up(picture: UInt8[np.ndarray, "H W 3"], table: Float32[np.ndarray, "256"]) -> UInt8[np.ndarray, "H W 3"]:
    """A byte has 256 values only: each is computed once. Fractions are cut off."""
    return np.asarray(cv2.LUT(picture, table.clip(0, 255).astype(np.uint8)))


def _with_contrast(picture: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Away from the picture's mean grey, or towards it."""
    # Torchvision's grey is rounded down, OpenCV's to the nearest: half a level less, on average.
    mean = cv2.mean(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))[0] - ROUNDED
    return _looked_up(picture, VALUES * np.float32(factor) + np.float32((1 - factor) * mean))


def _with_saturation(picture: UInt8[np.ndarray, "H W 3"], factor: float) -> UInt8[np.ndarray, "H W 3"]:
    """Away from each pixel's own grey, or towards it."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.addWeighted(picture, factor, cv2.merge([grey, grey, grey]), 1 - factor, -ROUNDED))


def _with_hue(picture: UInt8[np.ndarray, "H W 3"], turn: float) -> UInt8[np.ndarray, "H W 3"]:
    """Hues moved around their circle by `turn` of it; lightness and saturation stay."""
    colours = cv2.cvtColor(picture.astype(np.float32), cv2.COLOR_RGB2HSV)
    degrees = colours[:, :, 0]
    degrees += np.float32(360 * (turn % 1))
    np.subtract(degrees, np.float32(360), out=degrees, where=degrees >= 360)
    return np.asarray(cv2.convertScaleAbs(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB)))
