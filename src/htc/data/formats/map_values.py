"""Values of label maps: the integers of every page, and the pixels of each value as run lengths.

A map is a gray image of 8, 16 or 32 bits, a palette image, a color image, a floating-point image of whole numbers, or a
NumPy array. Colors become R + 256 G + 65536 B; a color image with three equal channels is gray.
"""

from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image, ImageSequence
from pycocotools import mask as coco_masks

from htc.data.formats.converted import text_of
from htc.data.image_pages import BROKEN
from htc.errors import DataError

LOSSY = frozenset((".jpg", ".jpeg", ".jpe", ".jfif"))
ARRAYS = frozenset((".npy",))
MAP_ENDINGS = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")) | LOSSY | ARRAYS
Place = tuple[slice, slice]
"""Rows and columns of a crop."""
HALF = 0.5
"""Probabilities from this one on are foreground."""


def read_pages(file: Path) -> list[Int[np.ndarray, "H W"]]:
    """Read every page of a label map. Raises `DataError` with the file and the remedy."""
    if file.suffix.lower() in ARRAYS:
        return _array_pages(file)
    try:
        with Image.open(file) as image:
            return [_values(page, file) for page in ImageSequence.Iterator(image)]
    except BROKEN as error:
        raise DataError(f"{file} is not a readable image ({error}); export it again") from error


def _values(image: Image.Image, file: Path) -> Int[np.ndarray, "H W"]:
    mode, values = image.mode, np.array(image)
    if mode == "P":
        return _palette_values(image, values)
    if mode in ("1", "L") or mode.startswith("I"):
        return values.astype(np.int64)
    if mode == "F":
        return _whole(values, file)
    if mode in ("LA", "RGB", "RGBA"):
        alpha = values[:, :, -1]
        colors = packed(values[:, :, : 1 if mode == "LA" else 3])
        # A mask that is drawn with transparency alone has one color.
        return alpha.astype(np.int64) if mode != "RGB" and np.ptp(colors) == 0 and np.ptp(alpha) else colors
    raise DataError(
        f"{file} has mode {mode}; save label maps as PNG with integers (8 or 16 bits gray, palette, or colors)"
    )


def packed(channels: Shaped[np.ndarray, "H W C"]) -> Int[np.ndarray, "H W"]:
    """Values of gray or color channels: R + 256 G + 65536 B, or the gray value if the channels are equal."""
    red = channels[:, :, 0].astype(np.int64)
    if channels.shape[2] == 1:
        return red
    green, blue = channels[:, :, 1].astype(np.int64), channels[:, :, 2].astype(np.int64)
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return red
    return red + 256 * green + 65536 * blue


def _palette_values(image: Image.Image, indices: Shaped[np.ndarray, "H W"]) -> Int[np.ndarray, "H W"]:
    """The indices; the brightness if black and white alone are used, whose order programs choose as they like."""
    palette = np.array(image.getpalette("RGB") or (), np.int64).reshape(-1, 3)
    used = np.unique(indices)
    if len(palette) and used.max() < len(palette):
        colors = {tuple(palette[index].tolist()) for index in used}
        if len(used) == 2 and colors == {(0, 0, 0), (255, 255, 255)}:
            return palette[indices, 0]
    return indices.astype(np.int64)


def _whole(values: Shaped[np.ndarray, "..."], file: Path) -> Int[np.ndarray, "..."]:
    """Whole numbers of a floating-point map; probabilities become 0 and 255, and what is not a number 0."""
    numbers = np.nan_to_num(values, nan=0.0)
    if np.array_equal(numbers, np.rint(numbers)):
        return numbers.astype(np.int64)
    if numbers.min() >= 0 and numbers.max() <= 1:
        return np.where(numbers >= HALF, 255, 0)
    raise DataError(
        f"{file} has floating-point values from {numbers.min():.3g} to {numbers.max():.3g}; save the labels as integers"
    )


def _array_pages(file: Path) -> list[Int[np.ndarray, "H W"]]:
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file} is not a NumPy array of numbers (arrays of Python objects are not read, since they can run code); "
            f"save the label map alone with numpy.save, or as a PNG or TIFF"
        ) from error
    if array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8:
        return [packed(array)]
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif" or not array.size:
        raise DataError(f"{file} has shape {array.shape} and type {array.dtype}; a label map is (height, width)")
    pages = array[None] if array.ndim == 2 else array
    return [_whole(page, file) if page.dtype.kind == "f" else page.astype(np.int64) for page in pages]


def runs_by_value(values: Int[np.ndarray, "H W"]) -> dict[int, Int[np.ndarray, " R"]]:
    """COCO's runs (down the columns, background first) of every value, in one pass without dense masks."""
    flat = values.flatten(order="F")
    starts = np.concatenate(([0], np.flatnonzero(np.diff(flat)) + 1))
    ends = np.append(starts[1:], len(flat))
    held = flat[starts]
    order = np.argsort(held, kind="stable")
    distinct, first = np.unique(held[order], return_index=True)
    runs = {}
    for value, indices in zip(distinct.tolist(), np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[indices], ends[indices]], axis=1).reshape(-1)
        runs[value] = np.diff(np.concatenate(([0], edges, [len(flat)])))
    return runs


def rle(counts: Int[np.ndarray, " R"], size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed RLE of runs."""
    runs: Any = {"size": [*size], "counts": counts.tolist()}
    return {"size": [*size], "counts": text_of(coco_masks.frPyObjects(runs, *size))}


def regions(values: Int[np.ndarray, "H W"], without: Container[int]) -> Iterator[tuple[int, Place, np.ndarray]]:
    """Each value, the rows and columns of its box, and its connected regions (8 neighbors) there, numbered from 1;
    values in `without` are skipped.
    """
    width = values.shape[1]
    flat = values.reshape(-1)
    order = np.argsort(flat, kind="stable")
    distinct, first = np.unique(flat[order], return_index=True)
    for value, pixels in zip(distinct.tolist(), np.split(order, first[1:]), strict=True):
        if value in without:
            continue
        rows, columns = pixels // width, pixels % width
        top, left = int(rows.min()), int(columns.min())
        crop = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.uint8)
        crop[rows - top, columns - left] = 1
        place = slice(top, top + crop.shape[0]), slice(left, left + crop.shape[1])
        yield value, place, cv2.connectedComponents(crop, connectivity=8)[1]


def numbered_regions(
    values: Int[np.ndarray, "H W"], without: Container[int]
) -> tuple[Int[np.ndarray, "H W"], list[int]]:
    """A map of all connected regions, numbered from 1 (0: none), and the value of each in order."""
    numbers = np.zeros(values.shape, np.int64)
    held: list[int] = []
    for value, place, found in regions(values, without):
        numbers[place][found > 0] = found[found > 0] + len(held)
        held += [value] * int(found.max())
    return numbers, held
