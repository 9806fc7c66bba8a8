"""Folders of label maps: `images/` and `masks/` (or `labels/`) with a PNG or TIFF per image, where each value above 0
is one instance.

Values may have 8, 16 or 32 bits, or be colors. If all maps of the dataset contain one and the same value, they are
binary masks, and each connected component (8 neighbors) is an instance. Folders inside `masks/` are classes:
`masks/cat/a.png` contains the cats of `images/a.jpg`.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int
from pycocotools import mask as coco_masks

from htc.data.faults import Faults
from htc.data.formats.converted import (
    SPLIT_NAMES,
    Converted,
    ConvertedImage,
    ConvertedInstance,
    Notes,
    images_in,
    text_of,
)
from htc.data.image_headers import image_size
from htc.data.map_files import read_pixels
from htc.errors import DataError

IMAGE_FOLDERS = ("images", "image", "imgs")
MAP_FOLDERS = ("masks", "labels", "mask", "label_maps", "instances")
LOSSLESS = frozenset((".png", ".tif", ".tiff", ".bmp", ".gif"))
MOST_OBJECTS = 20_000
"""More values than this in one map are smoothed colors, not instances."""


def map_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """(images, maps) of each part: DIR/train/images + masks, DIR/images/train + masks/train, or DIR/images + masks;
    empty for other layouts.
    """
    parts = {part: pair for name, part in SPLIT_NAMES.items() if (pair := _pair(folder / name))}
    if parts:
        return parts
    pair = _pair(folder)
    if pair is None:
        return {}
    by_split = {
        part: (pair[0] / name, pair[1] / name)
        for name, part in SPLIT_NAMES.items()
        if (pair[0] / name).is_dir() and (pair[1] / name).is_dir()
    }
    return by_split or {"train": pair}


def _pair(folder: Path) -> tuple[Path, Path] | None:
    images = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    maps = next(
        (folder / name for name in MAP_FOLDERS if (folder / name).is_dir() and _holds_maps(folder / name)), None
    )
    return None if images is None or maps is None else (images, maps)


def _holds_maps(folder: Path) -> bool:
    return any(path.suffix.lower() in LOSSLESS for path in folder.rglob("*"))


def read_label_maps(folder: Path) -> Converted:
    """Read all parts of the folder. Raises `DataError` with the file, the fault and the remedy."""
    parts = map_parts(folder)
    faults, notes = Faults(folder), Notes()
    classes = _classes(parts)
    binary = _all_binary(parts, classes)
    if binary:
        notes.add("the maps are binary, so each connected region is one instance: touching instances are merged")
    read = {
        part: tuple(_image(path, maps, folder, classes, binary, faults, notes) for path in images_in(images))
        for part, (images, maps) in parts.items()
    }
    faults.check()
    if not any(image.objects for image in read.get("train", ())):
        raise DataError(
            f"{folder}: no label map of a train image contains an instance; masks/a.png (or masks/CLASS/a.png) must "
            f"belong to images/a.jpg, and 0 is background"
        )
    return Converted("label-map", folder, tuple(classes), read, notes.lines())


def _classes(parts: dict[str, tuple[Path, Path]]) -> list[str]:
    """Names of the folders inside the map folders; without any, one class named object."""
    names = {
        folder.name
        for _, maps in parts.values()
        for folder in maps.iterdir()
        if folder.is_dir() and _holds_maps(folder)
    }
    return sorted(names) or ["object"]


def _map_files(maps: Path, stem: str, classes: list[str]) -> list[tuple[int, Path]]:
    """(class index, file) of the maps of one image."""
    folders = (
        [(label, maps / name) for label, name in enumerate(classes)]
        if any((maps / name).is_dir() for name in classes)
        else [(0, maps)]
    )
    files = (
        (label, next((p for ending in sorted(LOSSLESS) if (p := folder / f"{stem}{ending}").is_file()), None))
        for label, folder in folders
    )
    return [(label, path) for label, path in files if path is not None]


def _all_binary(parts: dict[str, tuple[Path, Path]], classes: list[str]) -> bool:
    """Test whether all maps have at most one value, the same in all; stops reading at the first that does not."""
    seen: set[int] = set()
    for images, maps in parts.values():
        for image in images_in(images):
            for _, path in _map_files(maps, image.stem, classes):
                try:
                    seen |= set(np.unique(read_values(path)).tolist()) - {0}
                except DataError:
                    continue  # reported when its instances are read
                if len(seen) > 1:
                    return False
    return True


def _image(
    path: Path, maps: Path, folder: Path, classes: list[str], binary: bool, faults: Faults, notes: Notes
) -> ConvertedImage:
    name = path.relative_to(folder).as_posix()
    try:
        size = image_size(path)
        files = _map_files(maps, path.stem, classes)
        if not files:
            notes.add("image without label map: used as an image without instances")
        return ConvertedImage(
            name, *size, tuple(instance for label, file in files for instance in _objects(file, label, size, binary))
        )
    except DataError as error:
        faults.add(str(error))
        return ConvertedImage(name, 1, 1, ())


def _objects(file: Path, label: int, size: tuple[int, int], binary: bool) -> list[ConvertedInstance]:
    values = read_values(file)
    if values.shape != size:
        raise DataError(
            f"{file} is {values.shape[1]}x{values.shape[0]}, but its image {size[1]}x{size[0]}; a label map must have "
            f"the size of its image"
        )
    if binary:
        values = cv2.connectedComponents((values > 0).astype(np.uint8), connectivity=8)[1]
    runs = runs_by_value(values)
    if len(runs) > MOST_OBJECTS:
        raise DataError(
            f"{file} contains {len(runs)} values; a label map has one per instance: save it without smoothing, in a "
            f"lossless format"
        )
    return [
        ConvertedInstance(label, {"size": [*size], "counts": _text(counts, size)})
        for value, counts in runs.items()
        if value
    ]


def read_values(file: Path) -> Int[np.ndarray, "H W"]:
    """Read the values of a label map; for a color map, R + 256 G + 65536 B. Transparency is ignored. Raises
    `DataError`.
    """
    mode, values = read_pixels(file)
    if mode in ("1", "L", "P") or mode.startswith("I"):
        return values.astype(np.int64)
    if mode in ("RGB", "RGBA"):
        red, green, blue = (values[:, :, channel].astype(np.int64) for channel in range(3))
        return red if np.array_equal(red, green) and np.array_equal(red, blue) else red + 256 * green + 65536 * blue
    if mode == "LA":
        return values[:, :, 0].astype(np.int64)
    raise DataError(
        f"{file} has mode {mode}; save label maps as PNG with integers (8 or 16 bits gray, palette, or colors)"
    )


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


def _text(counts: Int[np.ndarray, " R"], size: tuple[int, int]) -> str:
    runs: Any = {"size": [*size], "counts": counts.tolist()}
    return text_of(coco_masks.frPyObjects(runs, *size))
