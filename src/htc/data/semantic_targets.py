"""Semantic maps for HTC's semantic branch (paper, section 3.3): derived from the instances, or read from a folder of
PNGs.
"""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from htc.data.instance_masks import Crop
from htc.data.map_files import check_size, read_pixels
from htc.errors import DataError

IGNORE = 255
MOST_CLASSES = 254
"""Classes 1..254 beside background 0 and ignore 255."""


def derived_map(
    crops: list[Crop], labels: list[int], crowds: list[Crop], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Background 0, class k (0 .. K-1) as k + 1, crowd regions 255: so every instance data set trains the semantic
    branch.

    Small objects lie over large ones and all objects over crowds. With one class this is "any object". `size` is
    (height, width) of the picture. At most `MOST_CLASSES` classes.
    """
    canvas = np.zeros(size, np.uint8)
    for crowd in crowds:
        _draw(canvas, crowd, IGNORE)
    draw_instances(canvas, crops, [label + 1 for label in labels])
    return canvas


def draw_instances(canvas: UInt8[np.ndarray, "H W"], crops: list[Crop], values: list[int]) -> None:
    """Draws the objects into a map, each with its value, small ones over large ones."""
    areas = [int(crop.bitmap.sum()) for crop in crops]
    for i in sorted(range(len(crops)), key=lambda i: -areas[i]):
        _draw(canvas, crops[i], values[i])


def _draw(canvas: UInt8[np.ndarray, "H W"], crop: Crop, value: int) -> None:
    height, width = crop.bitmap.shape
    canvas[crop.y : crop.y + height, crop.x : crop.x + width][crop.bitmap > 0] = value


def read_map(path: Path, size: tuple[int, int], classes: int) -> UInt8[np.ndarray, "H W"]:
    """A PNG whose values are classes 0 .. classes-1 or 255 (ignore): COCO-Stuff's `stuffthingmaps`, or one's own.

    Raises `DataError` if it is missing, not 8-bit single-channel, not `size` (height, width), or holds other values.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such semantic map; every picture needs one with its own name and the ending .png")
    mode, values = read_pixels(path)
    if mode not in ("L", "P"):
        raise DataError(
            f"{path} has mode {mode}; a semantic map has one 8-bit channel (grey or palette) that holds class "
            f"numbers, not colours"
        )
    check_size(path, values, size)
    wrong = values[(values >= classes) & (values != IGNORE)]
    if len(wrong):
        raise DataError(
            f"{path} holds the value {int(wrong.max())}, the model has classes 0..{classes - 1} (and 255 to ignore); "
            f"set semantic.classes or correct the map"
        )
    return values


def map_path(folder: Path, picture: Path) -> Path:
    """Where the semantic map of a picture lies."""
    return folder / f"{picture.stem}.png"
