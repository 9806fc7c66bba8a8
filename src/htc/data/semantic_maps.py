"""Semantic maps that come with a data set: a folder of PNGs, COCO's panoptic annotations, or both, and the instances
over them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from htc.data.dataset import Dataset, ImageRecord, SemanticMaps
from htc.data.map_sources import MapSources
from htc.data.panoptic import read_panoptic_map, read_panoptic_maps
from htc.data.semantic_targets import IGNORE, MOST_CLASSES, map_path, read_map
from htc.errors import DataError


def with_semantic_maps(dataset: Dataset, sources: MapSources, classes: Sequence[str] | None = None) -> Dataset:
    """`dataset` with the maps of `sources`, checked for every picture.

    Every picture needs its map; of two sources at least one must have it, and each must have some. `classes`: names in
    the order that numbers the instances, the data set's own by default; instances of other classes are drawn as 255
    (ignore). Raises `DataError` that names what is missing, or what is called differently in the panoptic annotations.
    """
    folder, panoptic, absent = sources.folder, None, frozenset[int | str]()
    if folder is not None and sources.panoptic_json is None:
        check_maps(dataset, folder)
    elif folder is not None:
        absent = frozenset(record.id for record in _without_map(dataset, folder))
        if len(absent) == len(dataset):
            raise DataError(
                f"{folder} has no semantic map of any of the {len(dataset)} pictures; give the right folder, or the "
                f"panoptic maps alone"
            )
    if sources.panoptic_json is not None and sources.panoptic_folder is not None:
        enough = frozenset(record.id for record in dataset.images) - absent if folder is not None else frozenset()
        panoptic = read_panoptic_maps(
            sources.panoptic_json, sources.panoptic_folder, dataset, by_id=sources.by_id, may_lack=enough
        )
    maps = SemanticMaps(folder, absent, panoptic, _instance_values(dataset, sources, classes or dataset.classes))
    _check_instances(dataset, maps)
    return replace(dataset, semantic_maps=maps)


def _instance_values(dataset: Dataset, sources: MapSources, classes: Sequence[str]) -> tuple[int, ...] | None:
    first = sources.instances
    if first is None:
        return None
    if first == "ids":
        return tuple(id - 1 for id in dataset.category_ids)
    return tuple(first + classes.index(name) if name in classes else IGNORE for name in dataset.classes)


def _check_instances(dataset: Dataset, maps: SemanticMaps) -> None:
    """Values that a map can hold, and that mean the same in the panoptic annotations."""
    names = {} if maps.panoptic is None else maps.panoptic.names
    values = {name: value for value, name in names.items()}
    for name, value in zip(dataset.classes, maps.instance_values or (), strict=False):
        if value == IGNORE:
            continue
        if not 0 <= value <= MOST_CLASSES:
            raise DataError(f"instances of {name!r} would be drawn with the value {value}, a map has 0..{MOST_CLASSES}")
        if names.get(value, name) != name:
            raise DataError(
                f"instances of {name!r} would be drawn with the value {value}, which is {names[value]!r} in the "
                f"panoptic annotations"
            )
        if values.get(name, value) != value:
            raise DataError(
                f"instances of {name!r} would be drawn with the value {value}, but are {values[name]} in the panoptic "
                f"annotations"
            )


def check_maps(dataset: Dataset, folder: Path) -> None:
    """Raises `DataError` if the folder or one picture's map is missing: before the first step, not at the end of an
    epoch.
    """
    missing = _without_map(dataset, folder)
    if missing:
        raise DataError(
            f"{folder} has no semantic map for {len(missing)} of {len(dataset)} pictures, the first is "
            f"{missing[0].path.name}; add them or use --semantic auto"
        )


def _without_map(dataset: Dataset, folder: Path) -> list[ImageRecord]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder of semantic maps; give the right one, or --semantic auto to derive them from "
            f"the instances"
        )
    return [record for record in dataset.images if not map_path(folder, record.path).is_file()]


def least_classes(dataset: Dataset) -> int:
    """Values 0 .. that the data set's semantic maps are known to need; a folder's own are not counted, their maps
    are checked when read.
    """
    maps = dataset.semantic_maps
    if maps is None:
        return len(dataset.classes) + 1
    named = [] if maps.panoptic is None else list(maps.panoptic.names)
    drawn = [value for value in maps.instance_values or () if value != IGNORE]
    return max([*named, *drawn], default=-1) + 1


def class_names(dataset: Dataset) -> dict[int, str]:
    """Names of the classes of the data set's semantic maps by their value, as far as they are known."""
    maps = dataset.semantic_maps
    if maps is None:
        return {0: "background", **dict(enumerate(dataset.classes, start=1))}
    drawn = dict(zip(maps.instance_values or (), dataset.classes, strict=False))
    return drawn | ({} if maps.panoptic is None else maps.panoptic.names)


def read_semantic(record: ImageRecord, maps: SemanticMaps, classes: int) -> UInt8[np.ndarray, "H W"]:
    """The map of one picture, an array of its own: the panoptic class of a pixel, or where that is 255 the folder's."""
    own = None if maps.folder is None or record.id in maps.absent else map_path(maps.folder, record.path)
    below = None if own is None else read_map(own, (record.height, record.width), classes)
    if maps.panoptic is None or record.id not in maps.panoptic.files:
        assert below is not None
        return below
    above = read_panoptic_map(record, maps.panoptic)
    return above if below is None else np.where(above == IGNORE, below, above)
