"""YOLO folders: data.yaml, images under `images`, a text file for each under `labels`.

A line is `class x1 y1 x2 y2 x3 y3 ...`, an outline, or `class center_x center_y width height`, a box; all in fractions
of the image. https://docs.ultralytics.com/datasets/segment/ describes the form.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from htc.data.faults import Faults
from htc.data.formats.converted import SPLIT_NAMES, Converted, ConvertedImage, ConvertedInstance, Notes, images_in
from htc.data.images import image_size
from htc.errors import DataError

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
OUTSIDE_SHARE = 0.01
"""Coordinates may miss 0..1 by this much (rounding of other tools); they are cut to it."""


def description(folder: Path) -> Path | None:
    """The YAML file that makes a folder a YOLO data set, or None."""
    return next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)


def read_yolo(folder: Path) -> Converted:
    """Every part that data.yaml names. Raises `DataError` that names file and line, what is wrong and what to do."""
    file = description(folder)
    assert file is not None
    content = _load(file)
    classes = _classes(content, file)
    root = _root(content, file)
    faults, notes = Faults(folder), Notes()
    parts: dict[str, tuple[ConvertedImage, ...]] = {}
    for key, part in SPLIT_NAMES.items():
        if content.get(key):
            images = [image for place in _places(content[key], root, file, key) for image in _images(place)]
            parts[part] = tuple(_image(path, folder, len(classes), faults, notes) for path in images)
            if not images:
                raise DataError(
                    f"{file}: {key} is {content[key]!r}, where no image is; correct the path or remove the line"
                )
    faults.check()
    if "train" not in parts:
        raise DataError(f"{file} names no train images; add a line such as `train: images/train`")
    _check_labels(file, parts["train"], notes)
    return Converted("YOLO", folder, classes, parts, notes.lines())


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} is not valid YAML ({' '.join(str(error).split())}); correct or export it again"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold names, train and val; export the data set again")
    return content


def _classes(content: dict[str, Any], file: Path) -> tuple[str, ...]:
    """Class names by their numbers 0, 1, ..., from a list or a mapping."""
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
            f"{file}: names holds {next(name for name in texts if texts.count(name) > 1)!r} twice; give every class "
            f"its own name"
        )
    if content.get("nc") not in (None, len(texts)):
        raise DataError(f"{file}: nc is {content['nc']!r}, but there are {len(texts)} names; make them agree")
    return texts


def _root(content: dict[str, Any], file: Path) -> Path:
    """`path`, where it is a folder (from another machine it often is not), else the folder of the YAML file."""
    given = content.get("path")
    places = [] if not given else [file.parent / str(given), file.parent.parent / str(given)]
    return next((place for place in places if place.is_dir()), file.parent)


def _places(value: Any, root: Path, file: Path, key: str) -> list[Path]:
    """Folders of images or text files that list them."""
    places = []
    for entry in value if isinstance(value, list) else [value]:
        # Roboflow writes ../train/images for a folder beside data.yaml.
        tried = [
            root / str(entry),
            root / str(entry).removeprefix("../"),
            root / str(entry).removeprefix("../") / "images",
        ]
        found = next((place for place in tried if place.is_file() or (place.is_dir() and _has_images(place))), None)
        if found is None:
            raise DataError(
                f"{file}: {key} is {entry!r}, but {tried[0]} is no folder of images and no list of them; correct "
                f"the path or remove the line"
            )
        places.append(found)
    return places


def _has_images(folder: Path) -> bool:
    return any(True for _ in _images(folder))


def _images(place: Path) -> Iterator[Path]:
    """The images in a folder and those below it, or those that a text file lists."""
    if place.is_dir():
        yield from images_in(place)
        for folder in sorted(path for path in place.iterdir() if path.is_dir() and path.name != "labels"):
            yield from _images(folder)
        return
    for line in place.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield place.parent / line.strip().removeprefix("./")


def label_file(image: Path) -> Path:
    """Where the objects of an image are written: the last folder `images` of its path becomes `labels`; else beside
    it.
    """
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _image(path: Path, folder: Path, classes: int, faults: Faults, notes: Notes) -> ConvertedImage:
    try:
        height, width = image_size(path)
    except DataError as error:
        faults.add(str(error))
        height = width = 1
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path.absolute())
    labels = label_file(path)
    if not labels.is_file():
        notes.add("image without label file: taken as one without objects")
        return ConvertedImage(name, height, width, ())
    objects = []
    for number, line in enumerate(labels.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if line.strip():
            found = _object(line.split(), classes, width, height)
            if isinstance(found, str):
                faults.add(f"{labels}:{number}: {found}")
            else:
                objects.append(found)
    return ConvertedImage(name, height, width, tuple(objects))


def _object(fields: list[str], classes: int, width: int, height: int) -> ConvertedInstance | str:
    """The object of one line, or what is wrong with it and what to do."""
    try:
        label, *values = (float(field) for field in fields)
    except ValueError:
        return f"{' '.join(fields)[:40]!r} is not a class number followed by coordinates; correct the line"
    if label != int(label) or not 0 <= label < classes:
        return (
            f"class {fields[0]} is not among the {classes} classes 0..{classes - 1} of the YAML file; "
            f"correct it or "
            f"add the name"
        )
    if len(values) < 4 or len(values) % 2:
        return (
            f"{len(values)} coordinates; a box has four (center and size), an outline x and y of at least three points"
        )
    wrong = next((value for value in values if not -OUTSIDE_SHARE <= value <= 1 + OUTSIDE_SHARE), None)
    if wrong is not None:
        return (
            f"coordinate {wrong:g} is not within 0..1; YOLO's are fractions of the image's width and height, not pixels"
        )
    if len(values) == 4:
        return _box(int(label), values, width, height)
    inside = [min(max(value, 0.0), 1.0) for value in values]
    ring = [round(value * (height if place % 2 else width), 3) for place, value in enumerate(inside)]
    return ConvertedInstance(int(label), [ring])


def _box(label: int, values: list[float], width: int, height: int) -> ConvertedInstance:
    x, y, w, h = values
    left, top = max((x - w / 2) * width, 0.0), max((y - h / 2) * height, 0.0)
    right, bottom = min((x + w / 2) * width, float(width)), min((y + h / 2) * height, float(height))
    return ConvertedInstance(label, None, (left, top, max(right - left, 0.0), max(bottom - top, 0.0)))


def _check_labels(file: Path, images: tuple[ConvertedImage, ...], notes: Notes) -> None:
    """A data set in which nothing is labelled has its labels elsewhere."""
    if not any(image.objects for image in images):
        raise DataError(
            f"{file}: none of its {len(images)} train images has a label file with objects; images/a.jpg needs "
            f"labels/a.txt beside images/"
        )
    boxes = sum(found.segmentation is None for image in images for found in image.objects)
    total = sum(len(image.objects) for image in images)
    if boxes:
        which = (
            "no object has an outline, so boxes alone are learned"
            if boxes == total
            else f"{boxes} of {total} objects are boxes without outline"
        )
        notes.add(f"{which}; images with such objects teach no masks")
