"""Images whose pixels are indices: class maps, label maps, COCO's panoptic maps."""

from pathlib import Path

import numpy as np
from jaxtyping import Int32
from PIL import Image

from htc.data.image_pages import BROKEN
from htc.errors import DataError


def read_pixels(path: Path) -> tuple[str, np.ndarray]:
    """Read Pillow's mode and the stored values, (H, W) or (H, W, C); raises `DataError` if Pillow cannot read the
    file.
    """
    try:
        with Image.open(path) as image:
            return image.mode, np.array(image)
    except BROKEN as error:
        raise DataError(f"{path} is not a readable image ({error}); export it again") from error


def read_segment_ids(path: Path, size: tuple[int, int]) -> Int32[np.ndarray, "H W"]:
    """Segment id of each pixel of a panoptic PNG, R + 256 G + 65536 B; transparency is ignored.

    Raises `DataError` if it is damaged, not a color image, or not of `size` (height, width).
    """
    mode, colors = read_pixels(path)
    if mode not in ("RGB", "RGBA"):
        raise DataError(
            f"{path} has mode {mode}; a panoptic PNG has segment ids as colors, R + 256 G + 65536 B: for class "
            f"indices, do not pass a JSON"
        )
    check_size(path, colors, size)
    return colors[:, :, 0] + 256 * colors[:, :, 1].astype(np.int32) + 65536 * colors[:, :, 2].astype(np.int32)


def check_size(path: Path, values: np.ndarray, size: tuple[int, int]) -> None:
    """Raise `DataError` if a map does not have the size of its image, (height, width)."""
    if values.shape[:2] != size:
        raise DataError(
            f"{path} is {values.shape[1]}x{values.shape[0]}, but its image {size[1]}x{size[0]}; a map must have the "
            f"size of its image"
        )
