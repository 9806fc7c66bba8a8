"""Semantic maps that come with a data set: a folder of PNGs or COCO's panoptic annotations, alone or with the instances over them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from htc.data.panoptic import read_panoptic, read_panoptic_map
from htc.data.records import Dataset, ImageRecord, SemanticMaps
from htc.data.semantic_targets import MOST_CLASSES, map_path, read_map
from htc.errors import DataError


def with_semantic_maps(dataset: Dataset, folder: Path, panoptic_json: Path | None = None, instances_from: int | None = None) -> Dataset:
    """`dataset` with the maps of `folder`, which are COCO panoptic PNGs where `panoptic_json` is given.

    `instances_from`: the instances are drawn over the maps, class k (0 .. K-1) as `instances_from` + k. Every picture needs its map.
    Raises `DataError` if one is missing, or if those values have other names in the panoptic annotations.
    """
    if panoptic_json is None:
        check_maps(dataset, folder)
        maps = SemanticMaps(folder, None, instances_from)
    else:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of panoptic PNGs; give the right one")
        maps = SemanticMaps(folder, read_panoptic(panoptic_json, folder, dataset), instances_from)
    _check_instances(dataset, maps)
    return replace(dataset, semantic_maps=maps)


def _check_instances(dataset: Dataset, maps: SemanticMaps) -> None:
    first = maps.instances_from
    if first is None:
        return
    if first + len(dataset.classes) > MOST_CLASSES + 1:
        raise DataError(f"instances drawn from {first} on need values up to {first + len(dataset.classes) - 1}, a map has 0..{MOST_CLASSES}")
    named = maps.panoptic.classes[first:] if maps.panoptic is not None else ()
    for k, (name, other) in enumerate(zip(dataset.classes, named, strict=False)):
        if name != other:
            raise DataError(f"instances of {name!r} would be drawn with the value {first + k}, which is {other!r} in the panoptic annotations")


def check_maps(dataset: Dataset, folder: Path) -> None:
    """Raises `DataError` if the folder or one picture's map is missing: before the first step, not at the end of an epoch."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of semantic maps; give the right one, or --semantic auto to derive them from the instances")
    missing = [record.path.name for record in dataset.images if not map_path(folder, record.path).is_file()]
    if missing:
        raise DataError(
            f"{folder} has no semantic map for {len(missing)} of {len(dataset)} pictures, the first is {missing[0]}; add them or use --semantic auto"
        )


def least_classes(dataset: Dataset) -> int:
    """Values 0 .. that the data set's semantic maps are known to need; a folder's own are not counted, their maps are checked when read."""
    maps, count = dataset.semantic_maps, len(dataset.classes)
    if maps is None:
        return count + 1
    own = 0 if maps.panoptic is None else len(maps.panoptic.classes)
    return own if maps.instances_from is None else max(own, maps.instances_from + count)


def read_semantic(record: ImageRecord, maps: SemanticMaps, classes: int) -> UInt8[np.ndarray, "H W"]:
    """The map of one picture as it lies in the folder, an array of its own."""
    if maps.panoptic is not None:
        return read_panoptic_map(record, maps.folder, maps.panoptic)
    return read_map(map_path(maps.folder, record.path), (record.height, record.width), classes)
