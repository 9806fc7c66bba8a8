"""Captions of instances: sized for the image, and placed so that they do not overlap and cover few other instances."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from htc.visual.palette import text_color

FONT = Path(__file__).parent / "fonts" / "DejaVuSans-Bold.ttf"
SMALLEST_FONT, USUAL, REFERENCE_SIDE = 10, 13, 640
"""Font sizes in pixels: the smallest legible one, and the usual one on an image with a long side of 640."""
CROWDED = 0.13
"""Maximum share of the image that captions may cover in total. Beyond it, only the last word (the score) of each is
drawn, in the middle of instances that have room for it, so that the instances stay visible.
"""
WORTHWHILE = 1 / 3
"""Minimum share of the instances of a crowded image with room for a score; below, no scores are drawn."""


def font_size(size: tuple[int, int]) -> int:
    """Return the font size in pixels for an image of `size` (height, width); it grows more slowly than the image."""
    return max(SMALLEST_FONT, round(USUAL * (max(size) / REFERENCE_SIDE) ** 0.8))


def paint_labels(
    canvas: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "N 4"],
    captions: Sequence[str],
    colors: UInt8[np.ndarray, "N 3"],
) -> None:
    """Draw captions into `canvas` in order; captions that would cover an earlier one are left out."""
    size = canvas.shape[:2]
    font = load_font(font_size(size))
    crowded = sum(font.getlength(caption) for caption in captions) * font.size * 1.4 > CROWDED * size[0] * size[1]
    if crowded:
        font = load_font(max(SMALLEST_FONT - 1, round(font.size * 0.8)))
    placed, patches, plates = np.empty((0, 4), np.int64), [], []
    for caption, box, color in zip(captions, boxes, colors, strict=True):
        patch = _patch(caption.rsplit(" ", 1)[-1] if crowded else caption, font)
        spot = _free_spot(
            _spots_within(box, patch.shape[:2]) if crowded else _spots_around(box, patch.shape[:2]),
            patch.shape[:2],
            size,
            placed,
        )
        if spot is not None:
            placed = np.concatenate((placed, spot[None]))
            patches.append(patch)
            plates.append(color)
    if crowded and len(placed) < len(captions) * WORTHWHILE:
        return
    for patch, spot, color in zip(patches, placed, plates, strict=True):
        _blend(canvas, patch, spot, color)


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans Bold, bundled, which has Latin, Greek and Cyrillic letters."""
    return ImageFont.truetype(str(FONT), size)


def _patch(text: str, font: ImageFont.FreeTypeFont) -> UInt8[np.ndarray, "h w 2"]:
    """Render a caption as two coverage maps 0..255: of its rounded background, and of its letters."""
    margin = max(2, round(font.size * 0.28))
    ascent, descent = font.getmetrics()
    width, height = round(font.getlength(text)) + 2 * margin, ascent + descent + margin // 2
    # Drawn four times as large and reduced, since PIL draws rounded corners without antialiasing.
    plate = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(plate).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), radius=4 * margin, fill=255)
    letters = Image.new("L", (width, height))
    ImageDraw.Draw(letters).text((margin, margin // 4), text, fill=255, font=font)
    return np.stack((np.asarray(plate.resize((width, height), Image.Resampling.BOX)), np.asarray(letters)), axis=-1)


def _spots_around(box: Float[np.ndarray, " 4"], patch: tuple[int, int]) -> list[tuple[int, int]]:
    """Return candidate corners (x, y) for a patch (height, width): above the box, in it if it is tall, below it, at its
    right end, beside it.
    """
    (height, width), (x0, y0, x1, y1) = patch, box.round().astype(np.int64).tolist()
    inside = [(x0, y0), (x0, y1 - height)] if y1 - y0 > 1.8 * height else []
    return [
        (x0, y0 - height),
        *inside,
        (x0, y1),
        (x1 - width, y0 - height),
        (x1 - width, y1),
        (x1, y0),
        (x0 - width, y0),
    ]


def _spots_within(box: Float[np.ndarray, " 4"], patch: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the middle of the box if a patch (height, width) leaves most of the box free."""
    (height, width), (x0, y0, x1, y1) = patch, box.round().astype(np.int64).tolist()
    if width > 0.9 * (x1 - x0) or 2.2 * height * width > (x1 - x0) * (y1 - y0):
        return []
    return [((x0 + x1 - width) // 2, (y0 + y1 - height) // 2)]


def _free_spot(
    corners: list[tuple[int, int]], patch: tuple[int, int], size: tuple[int, int], placed: Int[np.ndarray, "M 4"]
) -> Int[np.ndarray, " 4"] | None:
    """Return the first position (xyxy) inside the image, moved a little if needed, that covers no earlier caption, or
    None.
    """
    height, width = patch
    for x, y in corners:
        left, top = min(max(x, 0), size[1] - width), min(max(y, 0), size[0] - height)
        spot = np.array([left, top, left + width, top + height])
        moved = abs(left - x) + abs(top - y)
        if min(left, top) >= 0 and moved <= width and not _overlaps(spot, placed):
            return spot
    return None


def _overlaps(spot: Int[np.ndarray, " 4"], placed: Int[np.ndarray, "M 4"]) -> bool:
    return bool(((spot[:2] < placed[:, 2:]) & (placed[:, :2] < spot[2:])).all(axis=1).any())


def _blend(
    canvas: UInt8[np.ndarray, "H W 3"],
    patch: UInt8[np.ndarray, "h w 2"],
    spot: Int[np.ndarray, " 4"],
    color: UInt8[np.ndarray, " 3"],
) -> None:
    x0, y0, x1, y1 = spot.tolist()
    window = canvas[y0:y1, x0:x1]
    plate, letters = patch[..., :1] / 255 * 0.92, patch[..., 1:] / 255
    under = window * (1 - plate) + color * plate
    window[:] = (under * (1 - letters) + np.array(text_color(color)) * letters).round().astype(np.uint8)
