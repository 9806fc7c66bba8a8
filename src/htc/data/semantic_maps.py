"""Semantic maps for HTC's semantic branch (paper, section 3.3): one class, or 255 (ignore), for every pixel.

They are derived from the instances, or read: from a folder of PNGs, from COCO's panoptic annotations (whose crowd
segments and unlabeled pixels become 255), or from both, with the instances drawn over them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from htc.data.dataset import Dataset, ImageRecord, PanopticMaps, SemanticMaps
from htc.data.faults import Faults
from htc.data.map_files import check_size, read_pixels, read_segment_ids
from htc.data.mask_encodings import Crop
from htc.data.panoptic import PanopticFile, read_panoptic, valued
from htc.errors import ConfigError, DataError

IGNORE = 255
MAX_SEMANTIC_CLASSES = 254
"""Classes 1..254 beside background 0 and ignore 255."""


def derived_map(
    crops: list[Crop], labels: list[int], crowds: list[Crop], size: tuple[int, int]
) -> UInt8[np.ndarray, "H W"]:
    """Background 0, class k (0 .. K-1) as k + 1, crowd regions 255: so every instance data set trains the semantic
    branch.

    Small objects lie over large ones and all objects over crowds. With one class this is "any object". `size` is
    (height, width) of the image. At most `MAX_SEMANTIC_CLASSES` classes.
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
        raise DataError(f"{path}: no such semantic map; every image needs one with its own name and the ending .png")
    mode, values = read_pixels(path)
    if mode not in ("L", "P"):
        raise DataError(
            f"{path} has mode {mode}; a semantic map has one 8-bit channel (gray or palette) that holds class "
            f"numbers, not colors"
        )
    check_size(path, values, size)
    wrong = values[(values >= classes) & (values != IGNORE)]
    if len(wrong):
        raise DataError(
            f"{path} holds the value {int(wrong.max())}, the model has classes 0..{classes - 1} (and 255 to ignore); "
            f"set semantic.classes or correct the map"
        )
    return values


def map_path(folder: Path, image: Path) -> Path:
    """Where the semantic map of an image lies."""
    return folder / f"{image.stem}.png"


@dataclass(frozen=True)
class MapSources:
    """Semantic maps on the disk, up to three that are merged: each lies over the one before, and what it leaves 255
    shows that.

    Raises `ConfigError` if there is no map at all, or only one half of panoptic annotations.
    """

    folder: Path | None = None
    """PNGs of class numbers, named like the images."""
    panoptic_json: Path | None = None
    """COCO panoptic annotations, over the folder's maps."""
    panoptic_folder: Path | None = None
    """Their PNGs."""
    instances: int | Literal["ids"] | None = None
    """Over all: the instances, class k (from 0) as this value + k, or each as its category id - 1, as COCO-Stuff
    numbers them.
    """

    def __post_init__(self) -> None:
        if (self.panoptic_json is None) != (self.panoptic_folder is None):
            raise ConfigError("panoptic annotations are a JSON file and a folder of PNGs; give both")
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
        """The sources that a folder of PNGs stands for: maps of class numbers; with `panoptic_json` alone its panoptic
        PNGs; with `panoptic_folder` too, class numbers below the panoptic PNGs of that second folder.

        Raises `ConfigError` for `panoptic_folder` without `panoptic_json`.
        """
        if panoptic_json is None:
            if panoptic_folder is not None:
                raise ConfigError("--semantic-panoptic holds the PNGs of --semantic-json FILE, which is missing")
            return cls(folder, instances=instances)
        if panoptic_folder is None:
            return cls(None, panoptic_json, folder, instances)
        return cls(folder, panoptic_json, panoptic_folder, instances)

    @property
    def by_id(self) -> bool:
        """Whether a panoptic category's class is its id - 1, as COCO-Stuff's maps have it, and not its place in the
        file.
        """
        return self.folder is not None or self.instances == "ids"

    def of_part(self, name: str) -> "MapSources":
        """The same for another part of the data: `maps/train2017` becomes `maps/<name>`, `panoptic_train2017.json`
        `panoptic_<name>.json`.
        """
        found = {key: None if path is None else _beside(path, name) for key, path in self._paths().items()}
        return replace(self, **found)

    def _paths(self) -> dict[str, Path | None]:
        return {"folder": self.folder, "panoptic_json": self.panoptic_json, "panoptic_folder": self.panoptic_folder}

    @property
    def merged(self) -> tuple[str, ...]:
        """What is merged, from below, for people to read."""
        files = [str(path) for path in (self.folder, self.panoptic_json) if path is not None]
        return (*files, *([] if self.instances is None else ["instances"]))


def _beside(path: Path, name: str) -> Path:
    prefix, joint, _ = path.stem.rpartition("_")
    named = path.with_name(f"{prefix}{joint}{name}{path.suffix}")
    return named if named.exists() else path.with_name(f"{name}{path.suffix}")


def read_panoptic_maps(
    annotations: Path, folder: Path, dataset: Dataset, *, by_id: bool = False, may_lack: Collection[int | str] = ()
) -> PanopticMaps:
    """Reads a panoptic annotation file. Classes are its categories in their order, from 0, or `by_id` their category
    ids - 1.

    Every image of `dataset` must have an annotation (by image id) whose PNG lies in `folder`, but for those that
    `may_lack` it. Raises `DataError` that names the file, what is wrong and what to do.
    """
    found = read_panoptic(annotations, folder, dataset, may_lack)
    values = _values(found, by_id)
    files = {id: name for id, (name, _) in found.maps.items()}
    segments = {
        id: {one.id: IGNORE if one.crowd else values[one.category_id] for one in own}
        for id, (_, own) in found.maps.items()
    }
    return PanopticMaps(
        {values[id]: category.name for id, category in found.categories.items()}, folder, files, segments
    )


def _values(found: PanopticFile, by_id: bool) -> dict[int, int]:
    """Class number by category id: the place in the file, or the id - 1."""
    faults = Faults(found.file)
    if not by_id and len(found.categories) > MAX_SEMANTIC_CLASSES + 1:
        faults.add(
            f"{len(found.categories)} categories do not fit into a semantic map (at most {MAX_SEMANTIC_CLASSES + 1})"
        )
    for id, category in found.categories.items() if by_id else ():
        if not 1 <= id <= MAX_SEMANTIC_CLASSES + 1:
            faults.add(
                f"category {category.name!r} has the id {id}; classes are category ids - 1 here, so ids must be "
                f"1..{MAX_SEMANTIC_CLASSES + 1}"
            )
    faults.check()
    return {id: id - 1 if by_id else place for place, id in enumerate(found.categories)}


def read_panoptic_map(record: ImageRecord, panoptic: PanopticMaps) -> UInt8[np.ndarray, "H W"]:
    """The class of every pixel of one image; raises `DataError` for a PNG that cannot be used or holds unlisted
    segments.
    """
    path = panoptic.folder / panoptic.files[record.id]
    ids = read_segment_ids(path, (record.height, record.width))
    return valued(path, ids, panoptic.segments[record.id], IGNORE, np.uint8)


def with_semantic_maps(dataset: Dataset, sources: MapSources, classes: Sequence[str] | None = None) -> Dataset:
    """`dataset` with the maps of `sources`, checked for every image.

    Every image needs its map; of two sources at least one must have it, and each must have some. `classes`: names in
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
                f"{folder} has no semantic map of any of the {len(dataset)} images; give the right folder, or the "
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
        if not 0 <= value <= MAX_SEMANTIC_CLASSES:
            raise DataError(
                f"instances of {name!r} would be drawn with the value {value}, a map has 0..{MAX_SEMANTIC_CLASSES}"
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
    """Raises `DataError` if the folder or one image's map is missing: before the first step, not at the end of an
    epoch.
    """
    missing = _without_map(dataset, folder)
    if missing:
        raise DataError(
            f"{folder} has no semantic map for {len(missing)} of {len(dataset)} images, the first is "
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


def semantic_class_names(dataset: Dataset) -> dict[int, str]:
    """Names of the classes of the data set's semantic maps by their value, as far as they are known."""
    maps = dataset.semantic_maps
    if maps is None:
        return {0: "background", **dict(enumerate(dataset.classes, start=1))}
    drawn = dict(zip(maps.instance_values or (), dataset.classes, strict=False))
    return drawn | ({} if maps.panoptic is None else maps.panoptic.names)


def read_semantic(record: ImageRecord, maps: SemanticMaps, classes: int) -> UInt8[np.ndarray, "H W"]:
    """The map of one image, an array of its own: the panoptic class of a pixel, or where that is 255 the folder's."""
    own = None if maps.folder is None or record.id in maps.absent else map_path(maps.folder, record.path)
    below = None if own is None else read_map(own, (record.height, record.width), classes)
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
    """What the option `semantic` and the three beside it stand for: one of `words`, None, or the sources of maps.

    Raises `ConfigError` for a folder that is missing and for options that need one.
    """
    beside = (panoptic_json, panoptic_folder, instances)
    if semantic is None or isinstance(semantic, MapSources) or semantic in words:
        if beside != (None, None, None):
            raise ConfigError(
                "semantic_json, semantic_panoptic and semantic_instances say how to read a folder of maps: give it as "
                "semantic (--semantic DIR)"
            )
        return semantic
    if not str(semantic) or not Path(semantic).is_dir():
        raise ConfigError(
            f"semantic {semantic}: no such folder; give {', '.join(words)}, or a folder of PNG maps named like the "
            f"images"
        )
    json, folder = (None if path is None else Path(path) for path in (panoptic_json, panoptic_folder))
    return MapSources.from_folder(Path(semantic), json, folder, instances)
