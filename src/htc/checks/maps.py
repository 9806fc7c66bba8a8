"""Checks of semantic maps: one PNG for every image, of its size, with one channel of class numbers."""

from collections.abc import Iterator
from glob import escape
from pathlib import Path

import numpy as np
from PIL import Image

from htc.checks.findings import Finding
from htc.data.annotation_file import AnnotationFile
from htc.data.coco_records import ImageEntry
from htc.data.image_pages import BROKEN
from htc.data.semantic_maps import IGNORE, map_path
from htc.errors import DataError

CHANNEL = ("L", "P")
"""Pillow's modes with one 8-bit channel: gray, palette."""


def map_files(part: AnnotationFile, folder: Path) -> Iterator[Finding]:
    """Check the headers of the maps: missing, unreadable, of another mode or size. Raises `DataError` if the folder is
    missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of semantic maps; correct --semantic, or remove it")
    of_map: dict[Path, ImageEntry] = {}
    for image in part.images:
        if image.location.missing:
            continue  # the image has its own finding
        path = map_path(folder, image.path)
        other = of_map.setdefault(path, image)
        if path.is_file() and other.path != image.path:
            what = f"{path.name} is also the map of {other.name}"
            yield Finding("semantic-shared", what, path, image.id, image.path)
            continue
        if not path.is_file():
            other = next((one for one in sorted(folder.glob(f"{escape(image.path.stem)}.*"))), None)
            hint = f", but {other.name} is: a map must be a PNG" if other is not None else ""
            yield Finding("semantic-missing", f"{path.name} is not in {folder}{hint}", path, image.id, image.path)
            continue
        try:
            with Image.open(path) as opened:
                mode, size = opened.mode, (opened.height, opened.width)
        except BROKEN as error:
            yield Finding("semantic-unreadable", str(error), path, image.id, image.path)
            continue
        if mode not in CHANNEL:
            yield Finding("semantic-mode", f"it has mode {mode}", path, image.id, image.path)
        elif image.size is not None and size != image.size:
            what = f"it is {size[1]}x{size[0]}, its image is {image.size[1]}x{image.size[0]}"
            yield Finding("semantic-size", what, path, image.id, image.path)


def map_values(part: AnnotationFile, folder: Path, classes: int) -> Iterator[Finding]:
    """Check the pixels of maps with valid headers: values that are neither 0 .. classes-1 nor 255, or all 255."""
    for image in part.images:
        yield from _values(map_path(folder, image.path), image, classes)


def _values(path: Path, image: ImageEntry, classes: int) -> Iterator[Finding]:
    try:
        with Image.open(path) as opened:
            if opened.mode not in CHANNEL:
                return
            values = np.array(opened)
    except FileNotFoundError:
        return
    except BROKEN as error:
        if _has_header(path):
            yield Finding("semantic-unreadable", str(error), path, image.id, image.path)
        return
    wrong = np.unique(values[(values >= classes) & (values != IGNORE)])
    if len(wrong):
        shown = ", ".join(map(str, wrong[:5].tolist())) + (", ..." if len(wrong) > 5 else "")
        yield Finding(
            "semantic-range",
            f"it contains {shown}; classes are 0 to {classes - 1}, and {IGNORE} is ignored",
            path,
            image.id,
            image.path,
        )
    elif (values == IGNORE).all():
        yield Finding("semantic-unlabelled", f"all its pixels are {IGNORE}", path, image.id, image.path)


def _has_header(path: Path) -> bool:
    """Return whether the header is readable: then only the pixels are damaged, which `map_files` has not reported."""
    try:
        with Image.open(path):
            return True
    except BROKEN:
        return False
