"""Semantic maps for HTC's semantic branch (paper, section 3.3): one class, or 255 (ignore), per pixel.

They are derived from the instances, or read: from a folder of PNGs, from COCO's panoptic annotations (whose crowd
segments and unlabeled pixels become 255), or from both, optionally with the instances drawn over them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from htc.data.dataset import Dataset, ImageRecord, PanopticMaps, SemanticMaps
from htc.data.faults import Faults
from htc.data.image_pages import page_parts
from htc.data.map_files import check_size, read_pixels, read_segment_ids
from htc.data.mask_encodings import Crop
from htc.data.panoptic import PanopticFile, read_panoptic, valued
from htc.errors import ConfigError, DataError

IGNORE = 255
MAX_SEMANTIC_CLASSES = 254
"""Classes 1..254, besides background 0 and ignore 255."""


def derived_map(
    crops: list[Crop], labels: list[int], crowds: list[Crop], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Derive a semantic map from the instances: background 0, class k (0 .. K-1) as k + 1, crowd regions 255. Therefore
    any instance dataset can train the semantic branch.

    Small instances are drawn over large ones and all instances over crowds. With one class, this is foreground. `size`
    is (height, width) of the image. At most `MAX_SEMANTIC_CLASSES` classes.
    """
    canvas = np.zeros(size, np.uint8)
    for crowd in crowds:
        _draw(canvas, crowd, IGNORE)
    draw_instances(canvas, crops, [label + 1 for label in labels])
    return canvas


def draw_instances(canvas: UInt8[np.ndarray, "H W"], crops: list[Crop], values: list[int]) -> None:
    """Draw the instances into a map, each with its value, small ones over large ones."""
    areas = [int(crop.bitmap.sum()) for crop in crops]
    for i in sorted(range(len(crops)), key=lambda i: -areas[i]):
        _draw(canvas, crops[i], values[i])


def _draw(canvas: UInt8[np.ndarray, "H W"], crop: Crop, value: int) -> None:
    height, width = crop.bitmap.shape
    canvas[crop.y : crop.y + height, crop.x : crop.x + width][crop.bitmap > 0] = value


def read_map(path: Path, size: tuple[int, int], classes: int) -> UInt8[np.ndarray, "H W"]:
    """Read a PNG whose values are classes 0 .. classes-1 or 255 (ignore): COCO-Stuff's `stuffthingmaps`, or custom
    maps.

    Raises `DataError` if it is missing, not 8-bit single-channel, not of `size` (height, width), or has other values.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such semantic map; every image needs one with the same name and the suffix .png")
    mode, values = read_pixels(path)
    if mode not in ("L", "P"):
        raise DataError(
            f"{path} has mode {mode}; a semantic map has one 8-bit channel (gray or palette) of class indices, not "
            f"colors"
        )
    check_size(path, values, size)
    wrong = values[(values >= classes) & (values != IGNORE)]
    if len(wrong):
        raise DataError(
            f"{path} contains the value {int(wrong.max())}, but the model has classes 0..{classes - 1} (255: ignore); "
            f"set semantic.classes or correct the map"
        )
    return values


def map_path(folder: Path, image: Path) -> Path:
    """Path of the semantic map of an image: in the same folders below `folder` as the image, or directly in it; that of
    the page `stack.tif#2` is `stack#2.png`.
    """
    parts = page_parts(image.name)
    name = f"{image.stem}.png" if parts is None else f"{Path(parts[0]).stem}#{parts[1]}.png"
    below = (folder.joinpath(*image.parent.parts[-depth:], name) for depth in (2, 1))
    return next((path for path in below if path.is_file()), folder / name)


@dataclass(frozen=True)
class MapSources:
    """Files of semantic maps, up to three sources that are merged: each overrides the one before, except where it is
    255.

    Raises `ConfigError` if there are no maps, or if only the JSON or only the PNGs of panoptic annotations are given.
    """

    folder: Path | None = None
    """PNGs of class indices, named like the images."""
    panoptic_json: Path | None = None
    """COCO panoptic annotations, which override the folder's maps."""
    panoptic_folder: Path | None = None
    """Their PNGs."""
    instances: int | Literal["ids"] | None = None
    """The instances, drawn over all maps: class k (from 0) as this value + k, or each as its category id - 1, as in
    COCO-Stuff.
    """

    def __post_init__(self) -> None:
        if (self.panoptic_json is None) != (self.panoptic_folder is None):
            raise ConfigError("panoptic annotations are a JSON file and a folder of PNGs; pass both")
        if self.folder is None and self.panoptic_json is None:
            raise ConfigError(
                "semantic maps need a folder of PNGs, panoptic annotations, or both; without them targets are derived "
                "from the instances"
            )

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        panoptic_json: Path | None = None,
        panoptic_folder: Path | None = None,
        instances: int | Literal["ids"] | None = None,
    ) -> "MapSources":
        """The sources that a folder of PNGs means: maps of class indices; with `panoptic_json` only, its panoptic PNGs;
        with `panoptic_folder` too, maps of class indices that the panoptic PNGs of the second folder override.

        Raises `ConfigError` for `panoptic_folder` without `panoptic_json`.
        """
        if panoptic_json is None:
            if panoptic_folder is not None:
                raise ConfigError(
                    "--semantic-panoptic is the folder of the PNGs of --semantic-json FILE, which is missing"
                )
            return cls(folder, instances=instances)
        if panoptic_folder is None:
            return cls(None, panoptic_json, folder, instances)
        return cls(folder, panoptic_json, panoptic_folder, instances)

    @property
    def by_id(self) -> bool:
        """Whether the class of a panoptic category is its id - 1, as in COCO-Stuff's maps, and not its position in the
        file.
        """
        return self.folder is not None or self.instances == "ids"

    def of_part(self, name: str) -> "MapSources":
        """Paths for another split: `maps/train2017` becomes `maps/<name>`, `panoptic_train2017.json`
        `panoptic_<name>.json`.
        """
        paths = {key: None if path is None else _beside(path, name) for key, path in self._paths().items()}
        return replace(self, **paths)

    def _paths(self) -> dict[str, Path | None]:
        return {"folder": self.folder, "panoptic_json": self.panoptic_json, "panoptic_folder": self.panoptic_folder}

    @property
    def merged(self) -> tuple[str, ...]:
        """Names of the merged sources, lowest first, for display."""
        files = [str(path) for path in (self.folder, self.panoptic_json) if path is not None]
        return (*files, *([] if self.instances is None else ["instances"]))


def _beside(path: Path, name: str) -> Path:
    prefix, joint, _ = path.stem.rpartition("_")
    named = path.with_name(f"{prefix}{joint}{name}{path.suffix}")
    return named if named.exists() else path.with_name(f"{name}{path.suffix}")


def read_panoptic_maps(
    annotations: Path, folder: Path, dataset: Dataset, *, by_id: bool = False, may_lack: Collection[int | str] = ()
) -> PanopticMaps:
    """Read a panoptic annotation file. Classes are its categories in their order, from 0, or `by_id` their category ids
    - 1.

    Every image of `dataset` must have an annotation (by image id) with a PNG in `folder`, except for the images in
    `may_lack`. Raises `DataError` with the file, what is wrong and what to do.
    """
    panoptic = read_panoptic(annotations, folder, dataset, may_lack)
    values = _values(panoptic, by_id)
    files = {id: name for id, (name, _) in panoptic.maps.items()}
    segments = {
        id: {segment.id: IGNORE if segment.crowd else values[segment.category_id] for segment in image_segments}
        for id, (_, image_segments) in panoptic.maps.items()
    }
    return PanopticMaps(
        {values[id]: category.name for id, category in panoptic.categories.items()}, folder, files, segments
    )


def _values(panoptic: PanopticFile, by_id: bool) -> dict[int, int]:
    """Class index by category id: the position in the file, or the id - 1."""
    faults = Faults(panoptic.file)
    if not by_id and len(panoptic.categories) > MAX_SEMANTIC_CLASSES + 1:
        faults.add(
            f"{len(panoptic.categories)} categories do not fit into a semantic map (at most {MAX_SEMANTIC_CLASSES + 1})"
        )
    for id, category in panoptic.categories.items() if by_id else ():
        if not 1 <= id <= MAX_SEMANTIC_CLASSES + 1:
            faults.add(
                f"category {category.name!r} has the id {id}; classes are category ids - 1 here, so ids must be in "
                f"1..{MAX_SEMANTIC_CLASSES + 1}"
            )
    faults.check()
    return {id: id - 1 if by_id else index for index, id in enumerate(panoptic.categories)}


def read_panoptic_map(record: ImageRecord, panoptic: PanopticMaps) -> UInt8[np.ndarray, "H W"]:
    """Read the class of every pixel of an image; raises `DataError` for an unusable PNG or unlisted segments."""
    path = panoptic.folder / panoptic.files[record.id]
    ids = read_segment_ids(path, (record.height, record.width))
    return valued(path, ids, panoptic.segments[record.id], IGNORE, np.uint8)


def with_semantic_maps(dataset: Dataset, sources: MapSources, classes: Sequence[str] | None = None) -> Dataset:
    """Add the maps of `sources` to `dataset`, checked for every image.

    Every image needs a map; of two sources, at least one must have it, and each source must have some. `classes`: class
    names in the order that sets the instances' values, by default the dataset's; instances of other classes are drawn
    as 255 (ignore). Raises `DataError` with what is missing, or which class has another name in the panoptic
    annotations.
    """
    folder, panoptic, absent = sources.folder, None, frozenset[int | str]()
    if folder is not None and sources.panoptic_json is None:
        check_maps(dataset, folder)
    elif folder is not None:
        absent = frozenset(record.id for record in _without_map(dataset, folder))
        if len(absent) == len(dataset):
            raise DataError(
                f"{folder} has no semantic map for any of the {len(dataset)} images; correct the path, or pass only "
                f"the panoptic maps"
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
    """Check that the values fit into a map and have the same meaning in the panoptic annotations."""
    names = {} if maps.panoptic is None else maps.panoptic.names
    values = {name: value for value, name in names.items()}
    for name, value in zip(dataset.classes, maps.instance_values or (), strict=False):
        if value == IGNORE:
            continue
        if not 0 <= value <= MAX_SEMANTIC_CLASSES:
            raise DataError(
                f"instances of {name!r} would be drawn with the value {value}, but a map has 0..{MAX_SEMANTIC_CLASSES}"
            )
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
    """Raise `DataError` if the folder or an image's map is missing, before the first training step."""
    missing = _without_map(dataset, folder)
    if missing:
        raise DataError(
            f"{folder} has no semantic map for {len(missing)} of {len(dataset)} images, the first is "
            f"{missing[0].path.name}; add them or use --semantic auto"
        )


def _without_map(dataset: Dataset, folder: Path) -> list[ImageRecord]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder of semantic maps; correct the path, or use --semantic auto to derive them from "
            f"the instances"
        )
    of_map: dict[Path, Path] = {}
    missing = []
    for record in dataset.images:
        path = map_path(folder, record.path)
        other = of_map.setdefault(path, record.path)
        if not path.is_file():
            missing.append(record)
        elif other != record.path:
            raise DataError(
                f"{path} would be the semantic map of two images, {other} and {record.path}; put the maps into the "
                f"same folders below {folder} as the images, or give the images different names"
            )
    return missing


def least_classes(dataset: Dataset) -> int:
    """Minimum number of classes for the dataset's semantic maps; the maps of a folder are not counted, since they are
    checked when they are read.
    """
    maps = dataset.semantic_maps
    if maps is None:
        return len(dataset.classes) + 1
    named = [] if maps.panoptic is None else list(maps.panoptic.names)
    drawn = [value for value in maps.instance_values or () if value != IGNORE]
    return max([*named, *drawn], default=-1) + 1


def semantic_class_names(dataset: Dataset) -> dict[int, str]:
    """Known names of the semantic classes by their value in the maps."""
    maps = dataset.semantic_maps
    if maps is None:
        return {0: "background", **dict(enumerate(dataset.classes, start=1))}
    drawn = dict(zip(maps.instance_values or (), dataset.classes, strict=False))
    return drawn | ({} if maps.panoptic is None else maps.panoptic.names)


def read_semantic(record: ImageRecord, maps: SemanticMaps, classes: int) -> UInt8[np.ndarray, "H W"]:
    """Read the map of an image as a new array: the panoptic class of each pixel, or the folder's where that is 255."""
    map_file = None if maps.folder is None or record.id in maps.absent else map_path(maps.folder, record.path)
    below = None if map_file is None else read_map(map_file, (record.height, record.width), classes)
    if maps.panoptic is None or record.id not in maps.panoptic.files:
        assert below is not None
        return below
    above = read_panoptic_map(record, maps.panoptic)
    return above if below is None else np.where(above == IGNORE, below, above)


def semantic_sources(
    semantic: str | Path | MapSources | None,
    panoptic_json: str | Path | None = None,
    panoptic_folder: str | Path | None = None,
    instances: int | Literal["ids"] | None = None,
    words: Sequence[str] = ("auto",),
) -> Any:
    """Interpret the option `semantic` and the three options that refine it: returns one of `words`, None, or the
    sources of the maps.

    Raises `ConfigError` for a missing folder and for options that need one.
    """
    refinements = (panoptic_json, panoptic_folder, instances)
    if semantic is None or isinstance(semantic, MapSources) or semantic in words:
        if refinements != (None, None, None):
            raise ConfigError(
                "semantic_json, semantic_panoptic and semantic_instances need a folder of maps: pass it as semantic "
                "(--semantic DIR)"
            )
        return semantic
    if not str(semantic) or not Path(semantic).is_dir():
        raise ConfigError(
            f"semantic {semantic}: no such folder; pass {', '.join(words)}, or a folder of PNG maps named like the "
            f"images"
        )
    json, folder = (None if path is None else Path(path) for path in (panoptic_json, panoptic_folder))
    return MapSources.from_folder(Path(semantic), json, folder, instances)
