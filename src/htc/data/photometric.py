"""Random colours, by torchvision's operators; all chance comes from one generator."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torchvision.transforms.v2 import functional

from htc.config import Photometric


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
    image = torch.from_numpy(picture).permute(2, 0, 1)
    if distortion.brightness is not None:
        image = functional.adjust_brightness(image, distortion.brightness)
    if distortion.contrast is not None and not distortion.contrast_last:
        image = functional.adjust_contrast(image, distortion.contrast)
    if distortion.saturation is not None:
        image = functional.adjust_saturation(image, distortion.saturation)
    if distortion.hue is not None:
        image = functional.adjust_hue(image, distortion.hue)
    if distortion.contrast is not None and distortion.contrast_last:
        image = functional.adjust_contrast(image, distortion.contrast)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
