"""Draw instances on images: translucent masks with sharp outlines, captions, and two images side by side.

Masks are painted as crops, so that only one array of the size of the image is allocated.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw

from htc.ops.masks import MaskCrop
from htc.types import MaskCrops
from htc.visual.labels import font_size, load_font, paint_labels
from htc.visual.palette import instance_colors, line_color

FILL = 0.42
"""Opacity of the inside of a mask."""
LEGIBLE_SIDE = 640
"""Long side below which images are enlarged by an integer factor before they are drawn to a file."""
Crops = Callable[[Int[np.ndarray, " N"]], Iterable[MaskCrop]]
"""Yields the mask crops of the instances with these indices, one at a time."""


def draw_objects(
    image: np.ndarray,
    boxes: Float[np.ndarray, "N 4"],
    labels: Int[np.ndarray, " N"],
    crops: Crops | None,
    captions: Sequence[str] | None = None,
    *,
    outline_boxes: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draw instances (xyxy pixels, class indices, masks) on a copy of `image` (H, W), (H, W, 3) or (H, W, 4) uint8.

    Captions of the first instances are placed first. Small instances are painted over large ones.
    """
    canvas = rgb(image).copy()
    colors = instance_colors(boxes, labels)
    thickness = max(1, round(2 * (max(canvas.shape[:2]) / LEGIBLE_SIDE) ** 0.9))
    order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable")
    if crops is not None:
        for index, crop in zip(order, crops(order), strict=True):
            paint_mask(canvas, crop, colors[index], thickness)
    if outline_boxes:
        for index in order:
            paint_box(canvas, boxes[index], colors[index], thickness)
    if captions is not None:
        paint_labels(canvas, boxes, captions, colors)
    return canvas


def rgb(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """Convert a gray (H, W) or RGBA (H, W, 4) uint8 array to RGB; RGB is returned as it is."""
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return image[:, :, :3]


def paint_mask(
    canvas: UInt8[np.ndarray, "H W 3"], crop: MaskCrop, color: UInt8[np.ndarray, " 3"], thickness: int
) -> None:
    """Paint the mask of one instance: tint its inside and draw its outline (also of holes) `thickness` pixels wide, or
    thinner for a small instance.
    """
    height, width = crop.bitmap.shape
    if not crop.bitmap.any():
        return
    window = canvas[crop.y : crop.y + height, crop.x : crop.x + width]
    ground = float(window[crop.bitmap].mean())
    tinted = cv2.addWeighted(window, 1 - FILL, np.broadcast_to(color, window.shape).copy(), FILL, 0)
    np.copyto(window, tinted, where=crop.bitmap[:, :, None])
    thin = max(1, min(thickness, round(min(height, width) / 8)))
    room = thin + 1
    top, left = max(crop.y - room, 0), max(crop.x - room, 0)
    around = canvas[top : crop.y + height + room, left : crop.x + width + room]
    contours, _ = cv2.findContours(
        crop.bitmap.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(crop.x - left, crop.y - top)
    )
    lines = np.ascontiguousarray(around)
    cv2.drawContours(lines, contours, -1, line_color(color, ground), thin, cv2.LINE_AA)
    around[:] = lines


def paint_box(
    canvas: UInt8[np.ndarray, "H W 3"], box: Float[np.ndarray, " 4"], color: UInt8[np.ndarray, " 3"], thickness: int
) -> None:
    """Draw the outline of one box (xyxy pixels)."""
    x0, y0, x1, y1 = box.round().astype(int).tolist()
    cv2.rectangle(canvas, (x0, y0), (max(x1 - 1, x0), max(y1 - 1, y0)), line_color(color, 0), thickness)


def enlargement(size: tuple[int, int]) -> int:
    """Return the integer factor by which an image of `size` (height, width) is enlarged for a legible drawing."""
    return -(-LEGIBLE_SIDE // max(size)) if max(size) < LEGIBLE_SIDE * 0.8 else 1


def enlarge(image: np.ndarray, factor: int) -> UInt8[np.ndarray, "H W 3"]:
    """Resize the image by an integer factor."""
    height, width = image.shape[:2]
    return (
        rgb(image)
        if factor == 1
        else cv2.resize(rgb(image), (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    )


def crops_of(masks: MaskCrops, factor: int = 1) -> Crops:
    """Return the crops of annotated instances, for `draw_objects` on the annotated image enlarged by `factor`.

    Raises `ValueError` if the masks were resized, flipped or cropped after reading.
    """
    if (masks.scale, masks.shift) != ((1.0, 1.0), (0.0, 0.0)):
        raise ValueError("these masks belong to a transformed image: pass the masks of the annotated image")
    ends = np.cumsum([0, *masks.sizes.prod(1).tolist()])

    def crops(order: Int[np.ndarray, " N"]) -> Iterator[MaskCrop]:
        for index in order.tolist():
            bitmap = (
                masks.pixels[ends[index] : ends[index + 1]]
                .reshape(tuple(masks.sizes[index].tolist()))
                .numpy()
                .astype(bool)
            )
            x, y = masks.offsets[index].tolist()
            yield enlarge_crop(MaskCrop(x, y, bitmap), factor)

    return crops


def enlarge_crop(crop: MaskCrop, factor: int) -> MaskCrop:
    """Enlarge a mask with a smooth outline, for an enlarged image."""
    height, width = crop.bitmap.shape
    if factor == 1 or not crop.bitmap.size:
        return crop
    smooth = cv2.resize(
        np.pad(crop.bitmap, 1).astype(np.float32),
        ((width + 2) * factor, (height + 2) * factor),
        interpolation=cv2.INTER_LINEAR,
    )
    return MaskCrop(crop.x * factor, crop.y * factor, smooth[factor:-factor, factor:-factor] >= 0.5)


def side_by_side(left: np.ndarray, right: np.ndarray, titles: tuple[str, str]) -> UInt8[np.ndarray, "H W 3"]:
    """Put two images side by side on a white sheet, aligned at the top, each under its title."""
    images = [rgb(left), rgb(right)]
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    size = max(12, round(font_size((height, width)) * 1.25))
    gap, font = size, load_font(size)
    head = 2 * size
    sheet = Image.new("RGB", (2 * width + 3 * gap, height + head + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        x = gap + number * (width + gap)
        sheet.paste(Image.fromarray(np.ascontiguousarray(image)), (x, head))
        pen.text((x, head // 2), title, fill=(34, 34, 34), font=font, anchor="lm")
    return np.asarray(sheet)
