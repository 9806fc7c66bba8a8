"""Colors of drawings: Okabe and Ito's color-blind-safe set (2008), with a lighter blue for dark images."""

import numpy as np
from jaxtyping import Float, Int, UInt8

PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 178, 130), (240, 228, 66), (72, 124, 255), (235, 94, 20), (224, 130, 190)],
    np.uint8,
)
"""RGB: orange, sky blue, green, yellow, blue, vermilion, pink."""
BLACK, WHITE = np.zeros(3), np.full(3, 255.0)
DARK_TEXT = 0.27
"""Relative luminance of a background from which black text is more legible than white (WCAG contrast, with a slight
preference for white).
"""


def instance_colors(boxes: Float[np.ndarray, "N 4"], labels: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N 3"]:
    """Return a color per class if there are several classes; for one class, neighbors get different colors."""
    if len(np.unique(labels)) > 1:
        return class_colors(labels)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    chosen = np.zeros(len(boxes), np.int64)
    for index in range(len(boxes)):
        distance = np.linalg.norm(centers[:index] - centers[index], axis=1)
        nearest = np.full(len(PALETTE), np.inf)
        np.minimum.at(nearest, chosen[:index], distance)
        unused = np.flatnonzero(np.isinf(nearest))
        chosen[index] = unused[0] if len(unused) else nearest.argmax()
    return PALETTE[chosen]


def class_colors(labels: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N 3"]:
    """Return the color of each class, the same in every image: the palette, then its lighter and darker shades."""
    base = PALETTE[labels % len(PALETTE)].astype(float)
    shade = (labels // len(PALETTE) % 3)[:, None]
    mixed = np.where(shade == 1, base * 0.6 + WHITE * 0.4, np.where(shade == 2, base * 0.7, base))
    return mixed.astype(np.uint8)


def luminance(color: Float[np.ndarray, " 3"] | UInt8[np.ndarray, " 3"]) -> float:
    """Compute the relative luminance 0..1 of an sRGB color 0..255 (WCAG 2)."""
    value = np.asarray(color, float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def text_color(ground: UInt8[np.ndarray, " 3"]) -> tuple[int, int, int]:
    """Return black or white, whichever is more legible on the background `ground`."""
    return (17, 17, 17) if luminance(ground) > DARK_TEXT else (255, 255, 255)


def line_color(color: UInt8[np.ndarray, " 3"], ground: float) -> tuple[int, int, int]:
    """Return a shade of `color` for thin lines: darker on a bright `ground` (mean gray value 0..255), else lighter."""
    mixed = color * 0.72 if ground > 150 else color * 0.85 + WHITE * 0.15
    red, green, blue = (int(channel) for channel in mixed)
    return red, green, blue
