"""YOLO folders: data.yaml, images in `images`, a text file per image in `labels`.

A line is `class x1 y1 x2 y2 x3 y3 ...`, a polygon, or `class center_x center_y width height`, a box; all as fractions
of the image's size. The format is described at https://docs.ultralytics.com/datasets/segment/.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from htc.data.faults import Faults
from htc.data.formats.converted import SPLIT_NAMES, Converted, ConvertedImage, ConvertedInstance, Notes, images_in
from htc.data.image_headers import image_size
from htc.errors import DataError

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
OUTSIDE_SHARE = 0.01
"""Coordinates may exceed 0..1 by this much (rounding in other tools); they are clipped."""


def description(folder: Path) -> Path | None:
    """The YAML file that describes a YOLO dataset, or None."""
    return next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)


def read_yolo(folder: Path) -> Converted:
    """Read all parts in data.yaml. Raises `DataError` with the file and line, what is wrong and what to do."""
    file = description(folder)
    assert file is not None
    content = _load(file)
    classes = _classes(content, file)
    root = _root(content, file)
    faults, notes = Faults(folder), Notes()
    parts: dict[str, tuple[ConvertedImage, ...]] = {}
    for key, part in SPLIT_NAMES.items():
        if content.get(key):
            images = [image for source in _sources(content[key], root, file, key) for image in _images(source)]
            parts[part] = tuple(_image(path, folder, len(classes), faults, notes) for path in images)
            if not images:
                raise DataError(
                    f"{file}: {key} is {content[key]!r}, which contains no images; correct the path or remove the line"
                )
    faults.check()
    if "train" not in parts:
        raise DataError(f"{file} has no train images; add a line such as `train: images/train`")
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
        raise DataError(f"{file} must contain names, train and val; export the dataset again")
    return content


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
    given = content.get("path")
    candidates = [] if not given else [file.parent / str(given), file.parent.parent / str(given)]
    return next((candidate for candidate in candidates if candidate.is_dir()), file.parent)


def _sources(value: Any, root: Path, file: Path, key: str) -> list[Path]:
    """Folders of images, or text files that list them."""
    sources = []
    for entry in value if isinstance(value, list) else [value]:
        # Roboflow writes ../train/images for a folder next to data.yaml.
        candidates = [
            root / str(entry),
            root / str(entry).removeprefix("../"),
            root / str(entry).removeprefix("../") / "images",
        ]
        source = next(
            (
                candidate
                for candidate in candidates
                if candidate.is_file() or (candidate.is_dir() and _has_images(candidate))
            ),
            None,
        )
        if source is None:
            raise DataError(
                f"{file}: {key} is {entry!r}, but {candidates[0]} is neither a folder of images nor a list of them; "
                f"correct the path or remove the line"
            )
        sources.append(source)
    return sources


def _has_images(folder: Path) -> bool:
    return any(True for _ in _images(folder))


def _images(source: Path) -> Iterator[Path]:
    """The images in a folder and its subfolders, or those listed in a text file."""
    if source.is_dir():
        yield from images_in(source)
        for folder in sorted(path for path in source.iterdir() if path.is_dir() and path.name != "labels"):
            yield from _images(folder)
        return
    for line in source.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield source.parent / line.strip().removeprefix("./")


def label_file(image: Path) -> Path:
    """Label file of an image: the last folder `images` of its path becomes `labels`; else next to the image."""
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
        notes.add("image without label file: used as an image without instances")
        return ConvertedImage(name, height, width, ())
    objects = []
    for number, line in enumerate(labels.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if line.strip():
            instance = _object(line.split(), classes, width, height)
            if isinstance(instance, str):
                faults.add(f"{labels}:{number}: {instance}")
            else:
                objects.append(instance)
    return ConvertedImage(name, height, width, tuple(objects))


def _object(fields: list[str], classes: int, width: int, height: int) -> ConvertedInstance | str:
    """The instance on one line, or what is wrong with the line and what to do."""
    try:
        label, *values = (float(field) for field in fields)
    except ValueError:
        return f"{' '.join(fields)[:40]!r} is not a class index followed by coordinates; correct the line"
    if label != int(label) or not 0 <= label < classes:
        return (
            f"class {fields[0]} is not among the {classes} classes 0..{classes - 1} of the YAML file; correct it or "
            f"add the name"
        )
    if len(values) < 4 or len(values) % 2:
        return (
            f"{len(values)} coordinates; a box has four (center and size), a polygon x and y of at least three points"
        )
    wrong = next((value for value in values if not -OUTSIDE_SHARE <= value <= 1 + OUTSIDE_SHARE), None)
    if wrong is not None:
        return f"coordinate {wrong:g} is not in 0..1; YOLO uses fractions of the image's width and height, not pixels"
    if len(values) == 4:
        return _box(int(label), values, width, height)
    inside = [min(max(value, 0.0), 1.0) for value in values]
    ring = [round(value * (height if index % 2 else width), 3) for index, value in enumerate(inside)]
    return ConvertedInstance(int(label), [ring])


def _box(label: int, values: list[float], width: int, height: int) -> ConvertedInstance:
    x, y, w, h = values
    left, top = max((x - w / 2) * width, 0.0), max((y - h / 2) * height, 0.0)
    right, bottom = min((x + w / 2) * width, float(width)), min((y + h / 2) * height, float(height))
    return ConvertedInstance(label, None, (left, top, max(right - left, 0.0), max(bottom - top, 0.0)))


def _check_labels(file: Path, images: tuple[ConvertedImage, ...], notes: Notes) -> None:
    """Raise `DataError` if no image has labels: they are then in another folder."""
    if not any(image.objects for image in images):
        raise DataError(
            f"{file}: none of its {len(images)} train images has a label file with instances; images/a.jpg needs "
            f"labels/a.txt, in a folder next to images/"
        )
    boxes = sum(instance.segmentation is None for image in images for instance in image.objects)
    total = sum(len(image.objects) for image in images)
    if boxes:
        summary = (
            "no instance has a mask, so only boxes are used for training"
            if boxes == total
            else f"{boxes} of {total} instances are boxes without a mask"
        )
        notes.add(f"{summary}; images with such instances do not train masks")
