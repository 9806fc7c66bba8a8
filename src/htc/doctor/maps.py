"""A folder of semantic maps: one for every picture, of its size, of one channel, with classes as values."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from htc.data.checks.finding import Finding
from htc.data.checks.part import Part, Picture
from htc.data.pictures import BROKEN
from htc.data.semantic_targets import IGNORE, map_path
from htc.errors import DataError


def semantic_maps(part: Part, folder: Path, classes: int) -> Iterator[Finding]:
    """Faults of every picture's map; values must be 0 .. classes-1 or 255. Raises `DataError` if the folder is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of semantic maps; give the right one, or leave out --semantic")
    for picture in part.pictures:
        path = map_path(folder, picture.path)
        if not path.is_file():
            other = next((one for one in sorted(folder.glob(f"{picture.path.stem}.*"))), None)
            hint = f", but {other.name}: a map must be a PNG" if other is not None else ""
            yield Finding("semantic-missing", f"{path.name} is not in {folder}{hint}", path, picture.id, picture.path)
        else:
            yield from _map(path, picture, classes)


def _map(path: Path, picture: Picture, classes: int) -> Iterator[Finding]:
    place = (path, picture.id, picture.path)
    try:
        with Image.open(path) as image:
            mode, values = image.mode, np.array(image)
    except BROKEN as error:
        yield Finding("semantic-unreadable", str(error), *place)
        return
    if mode not in ("L", "P"):
        yield Finding("semantic-mode", f"it has mode {mode}", *place)
        return
    if picture.size is not None and values.shape != picture.size:
        what = f"it is {values.shape[1]}x{values.shape[0]}, its picture {picture.size[1]}x{picture.size[0]}"
        yield Finding("semantic-size", what, *place)
    wrong = np.unique(values[(values >= classes) & (values != IGNORE)])
    if len(wrong):
        shown = ", ".join(map(str, wrong[:5].tolist())) + (", ..." if len(wrong) > 5 else "")
        yield Finding("semantic-range", f"it holds {shown}; classes are 0 to {classes - 1}, and 255 is ignored", *place)
    elif (values == IGNORE).all():
        yield Finding("semantic-unlabelled", "all its pixels are 255", *place)
