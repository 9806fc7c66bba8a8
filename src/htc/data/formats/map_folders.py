"""Layouts of label maps: which files hold the instances of which image.

`images/` with `masks/` (or another of `MAP_FOLDERS`), in one of the splits or above them; the same folders for each
image (`a1b2/images/a.png` with `a1b2/masks/*.png`); or maps beside the images (`a.png` and `a_mask.png`). Folders
inside `masks/` repeat those inside `images/`, are named like an image (one file per instance), or are classes.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from htc.data.formats.converted import SPLIT_NAMES, images_below, images_in
from htc.data.formats.map_values import MAP_ENDINGS
from htc.data.formats.partners import LABEL_WORDS, WORDS, decoded, pair_files
from htc.files import visible_entries

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw", "rgb", "inputs")
MAP_FOLDERS = (
    *("masks", "mask", "labels", "label", "label_maps", "labelmaps", "instances", "instance_masks", "instance_maps"),
    *("segmentations", "segmentation", "annotations", "gt", "ground_truth", "groundtruth", "targets"),
)
Folder = tuple[str, ...]
"""Names of the folders between `images` or `masks` and a file."""


class MapFile(NamedTuple):
    """A file that holds instances of one image."""

    file: Path
    label: str = ""
    """The class, if folders or names tell classes apart."""
    single: bool = False
    """Whether the whole file is one instance."""


@dataclass
class MapPart:
    """The images of one split and the maps of each."""

    images: list[Path] = field(default_factory=list)
    maps: dict[Path, list[MapFile]] = field(default_factory=lambda: defaultdict(list))
    alone: list[Path] = field(default_factory=list)
    """Maps that belong to no image."""
    shared: dict[Path, list[Path]] = field(default_factory=dict)
    """Maps that belong to several images."""

    def add(self, images: list[Path], files: list[Path], label: str = "") -> None:
        """Pair files with images by their names."""
        pairs = pair_files(images, files, trim=True)
        several = any(sum(bool(one.number) for one in partners) > 1 for partners in pairs.of.values())
        names = {one.label for partners in pairs.of.values() for one in partners}
        for image, partners in pairs.of.items():
            for one in partners:
                own = label or (one.label if len(names) > 1 else "")
                self.maps[image].append(MapFile(one.file, own, several and bool(one.number)))
        self.alone += pairs.files_alone
        self.shared |= pairs.shared


def map_parts(folder: Path) -> dict[str, MapPart]:
    """The images and maps of each part; empty for other layouts."""
    if not folder.is_dir():
        return {}
    entries = {path.name.lower(): path for path in visible_entries(folder) if path.is_dir()}
    splits = {part: entries[name] for name, part in reversed(SPLIT_NAMES.items()) if name in entries}
    parts = {part: found for part, path in splits.items() if (found := _part(path))}
    if parts:
        return {part: parts[part] for part in ("train", "val", "test") if part in parts}
    pair = _pair(folder)
    if pair is not None:
        by_split = {
            part: _paired(pair[0] / name, pair[1] / name)
            for name, part in SPLIT_NAMES.items()
            if (pair[0] / name).is_dir() and (pair[1] / name).is_dir()
        }
        return by_split or {"train": _paired(*pair)}
    beside = {
        part: _paired(path, maps)
        for part, path in splits.items()
        for name in MAP_FOLDERS
        if (maps := folder / f"{path.name}_{name}").is_dir() and _holds_maps(maps)
    }
    if beside:
        return beside
    found = _part(folder)
    return {"train": found} if found else {}


def _part(folder: Path) -> MapPart | None:
    """The images and maps in one folder, in any of the layouts without splits."""
    pair = _pair(folder)
    if pair is not None:
        return _paired(*pair)
    return _folder_per_image(folder) or _beside(folder)


def _pair(folder: Path) -> tuple[Path, Path] | None:
    entries = {path.name.lower(): path for path in visible_entries(folder) if path.is_dir()}
    images = next((entries[name] for name in IMAGE_FOLDERS if name in entries), None)
    maps = next((entries[name] for name in MAP_FOLDERS if name in entries and _holds_maps(entries[name])), None)
    return None if images is None or maps is None else (images, maps)


def _holds_maps(folder: Path) -> bool:
    return next(_maps_below(folder), None) is not None


def _maps_below(folder: Path) -> Iterator[Path]:
    entries = visible_entries(folder)
    yield from (path for path in entries if path.suffix.lower() in MAP_ENDINGS and path.is_file())
    for path in entries:
        if path.is_dir():
            yield from _maps_below(path)


def _paired(images: Path, maps: Path) -> MapPart:
    part = MapPart(list(images_below(images)))
    of_folder: dict[Folder, list[Path]] = defaultdict(list)
    for image in part.images:
        of_folder[image.parent.relative_to(images).parts].append(image)
    groups: dict[tuple[Folder | None, str], list[Path]] = defaultdict(list)
    for file in _maps_below(maps):
        where = file.parent.relative_to(maps).parts
        image = _image_of_folder(where, of_folder)
        if image is not None:
            part.maps[image].append(MapFile(file, single=True))
        elif where in of_folder:
            groups[where, ""].append(file)
        elif where and where[1:] in of_folder:
            groups[where[1:], where[0]].append(file)
        elif where and where[:-1] in of_folder:
            groups[where[:-1], where[-1]].append(file)
        else:
            groups[None, ""].append(file)
    for (where, label), files in groups.items():
        part.add(part.images if where is None else of_folder[where], files, label)
    return part


def _image_of_folder(where: Folder, of_folder: dict[Folder, list[Path]]) -> Path | None:
    """The image that a folder of maps is named like."""
    if not where or where in of_folder:
        return None
    named = [
        image
        for image in of_folder.get(where[:-1], ())
        if decoded(where[-1]) in (decoded(image.stem), decoded(image.name))
    ]
    return named[0] if len(named) == 1 else None


def _folder_per_image(folder: Path) -> MapPart | None:
    """Folders with `images` and `masks` for each image."""
    part = MapPart()
    for path in visible_entries(folder):
        pair = _pair(path) if path.is_dir() else None
        images = [] if pair is None else images_in(pair[0])
        if pair is None or len(images) != 1:
            continue
        part.images += images
        part.maps[images[0]] = [MapFile(file) for file in _maps_below(pair[1])]
    several = any(len(files) > 1 for files in part.maps.values())
    for image, files in part.maps.items():
        part.maps[image] = [file._replace(single=several) for file in files]
    return part if part.images else None


def _beside(folder: Path) -> MapPart | None:
    """Maps beside their images, named with one of `LABEL_WORDS`."""
    files = [path for path in visible_entries(folder) if path.suffix.lower() in MAP_ENDINGS and path.is_file()]
    maps = [path for path in files if _is_map(path)]
    images = [path for path in images_in(folder) if path not in set(maps)]
    if not maps or not images:
        return None
    part = MapPart(images)
    part.add(images, maps)
    return part if len(part.maps) * 2 >= len(images) else None


def _is_map(path: Path) -> bool:
    words = WORDS.findall(decoded(path.stem))
    return len(words) > 1 and any(word in LABEL_WORDS for word in (words[0], words[-1], words[-2]))
