"""The file that describes a YOLO dataset, and the images that it names.

data.yaml of Ultralytics and Roboflow, obj.data of Darknet and CVAT, or a list of class names beside `images` and
`labels`, as Label Studio exports them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from htc.data.formats.converted import SPLIT_NAMES, images_below
from htc.errors import DataError
from htc.files import is_file, is_folder, read_text, visible_entries

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
DARKNET = "obj.data"
"""Lines `train = train.txt` and `names = obj.names`, as Darknet and CVAT's YOLO 1.1 have them."""
CLASSES = ("classes.txt", "obj.names")
"""A class name per line; beside `images` and `labels` without a YAML file, as Label Studio exports them."""


@dataclass(frozen=True)
class Described:
    """What the file says of a dataset."""

    classes: tuple[str, ...]
    images: dict[str, list[Path]]
    """The images of each part."""
    keypoints: int | None
    """Number of values of an instance's keypoints, for a dataset of poses."""


def description(folder: Path) -> Path | None:
    """The file that describes a YOLO dataset, or None."""
    named = next((folder / name for name in (*DESCRIPTIONS, DARKNET) if (folder / name).is_file()), None)
    if named is not None or not folder.is_dir():
        return named
    others = [path for path in visible_entries(folder) if path.suffix.lower() in (".yaml", ".yml") and _describes(path)]
    if others:
        return others[0] if len(others) == 1 else None
    listed = next((folder / name for name in CLASSES if (folder / name).is_file()), None)
    texts = (folder / "labels").rglob("*.txt") if (folder / "images").is_dir() else ()
    return listed if next(iter(texts), None) is not None else None


def _describes(file: Path) -> bool:
    try:
        content = yaml.safe_load(read_text(file))
    except (DataError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "names" in content and "train" in content


def read_description(file: Path) -> Described:
    """Read the file. Raises `DataError` with what is wrong and what to do."""
    content = _load(file)
    classes = _classes(content, file)
    root = _root(content, file)
    images: dict[str, list[Path]] = {}
    for key, part in SPLIT_NAMES.items():
        if content.get(key):
            images[part] = [image for source in _sources(content[key], root, file, key) for image in _images(source)]
            if not images[part]:
                raise DataError(
                    f"{file}: {key} is {content[key]!r}, which contains no images; correct the path or remove the line"
                )
    return Described(classes, images, _keypoints(content, file))


def _load(file: Path) -> dict[str, Any]:
    if file.name in CLASSES:
        return {"names": _lines(file), "train": "images"}
    if file.name == DARKNET:
        content = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in _lines(file))}
        names = next((path for path in _places(content.get("names", ""), file.parent) if is_file(path)), None)
        if names is None:
            raise DataError(f"{file}: names is {content.get('names')!r}, which is not a file; correct the path")
        return {key: content.get(key) for key in ("train", "valid", "test")} | {"names": _lines(names)}
    try:
        content = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise DataError(
            f"{file} is not valid YAML ({' '.join(str(error).split())}); correct or export it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must contain names, train and val; export the dataset again")
    return content


def _lines(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _keypoints(content: dict[str, Any], file: Path) -> int | None:
    """Number of values of the keypoints of an instance in a dataset for poses, from `kpt_shape`."""
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(one, int) and one > 0 for one in shape):
        raise DataError(f"{file}: kpt_shape is {shape!r}; it must be [keypoints, 2 or 3], or absent without keypoints")
    return shape[0] * shape[1]


def _classes(content: dict[str, Any], file: Path) -> tuple[str, ...]:
    """Class names by index 0, 1, ..., from a list or a mapping."""
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(
                f"{file}: names must number the classes 0, 1, 2, ... without gaps; it has {sorted(names, key=str)}"
            )
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{file} has no names; add the class names, as in `names: [cat, dog]`")
    texts = tuple(str(name) for name in names)
    if len(set(texts)) != len(texts):
        raise DataError(
            f"{file}: names contains {next(name for name in texts if texts.count(name) > 1)!r} twice; give every "
            f"class its own name"
        )
    if content.get("nc") not in (None, len(texts)):
        raise DataError(f"{file}: nc is {content['nc']!r}, but there are {len(texts)} names; correct one of them")
    return texts


def _root(content: dict[str, Any], file: Path) -> Path:
    """`path` if it is a folder (from another machine it often is not), else the folder of the YAML file."""
    given = str(content.get("path") or "").replace("\\", "/")
    candidates = [] if not given else [file.parent / given, file.parent.parent / given]
    return next((candidate for candidate in candidates if candidate.is_dir()), file.parent)


def _sources(value: Any, root: Path, file: Path, key: str) -> list[Path]:
    """Folders of images, or text files that list them."""
    sources = []
    for entry in value if isinstance(value, list) else [value]:
        candidates = list(_places(str(entry), root))
        source = next((path for path in candidates if is_file(path) or (is_folder(path) and _has_images(path))), None)
        if source is None:
            raise DataError(
                f"{file}: {key} is {entry!r}, but {candidates[0]} is neither a folder of images nor a list of them; "
                f"correct the path or remove the line"
            )
        sources.append(source)
    return sources


def _places(entry: str, root: Path) -> Iterator[Path]:
    """Where a path of the YAML file or of a list may be, the most certain first.

    Roboflow writes ../train/images for a folder beside data.yaml. Of an absolute path of another machine, also Windows,
    the longest end that exists here is used.
    """
    path = PurePosixPath(entry.strip().replace("\\", "/"))
    yield root / path
    parts = [part for part in path.parts if part not in ("/", "..", ".") and not part.endswith(":")]
    for start in range(len(parts)):
        yield root.joinpath(*parts[start:])
        yield root.joinpath(*parts[start:], "images")


def _has_images(folder: Path) -> bool:
    return next(images_below(folder, ("labels",)), None) is not None


def _images(source: Path) -> Iterator[Path]:
    """The images in a folder and its subfolders, or those listed in a text file."""
    if source.is_dir():
        yield from images_below(source, ("labels",))
        return
    for line in read_text(source).splitlines():
        if line.strip():
            places = list(_places(line, source.parent))
            yield next((path for path in places if is_file(path)), places[0])


def labels_folders(images: Path) -> list[Path]:
    """Where the label files of a folder of images may be: where the last `images` of its path is `labels`, in a folder
    `labels` inside or beside it, and beside the images.
    """
    parts = list(images.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    folders = (Path(*parts), images / "labels", images.parent / "labels" / images.name, images)
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
