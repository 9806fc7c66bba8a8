"""YOLO folders: data.yaml, images in `images`, a text file per image in `labels` or beside the image.

A line is `class x1 y1 x2 y2 x3 y3 ...`, a polygon, or `class center_x center_y width height`, a box; all as fractions
of the image's size. In files for poses, keypoints follow the box, which alone is used. The format is described at
https://docs.ultralytics.com/datasets/segment/.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from htc.data.faults import Faults
from htc.data.formats.converted import Converted, ConvertedImage, ConvertedInstance, Notes
from htc.data.formats.partners import pair_files
from htc.data.formats.yolo_files import description, labels_folders, read_description
from htc.data.image_headers import image_size
from htc.errors import DataError
from htc.files import read_text, visible_entries

NO_LABELS = frozenset(("classes.txt", "labels.txt", "notes.txt", "train.txt", "val.txt", "test.txt"))
OUTSIDE_SHARE = 0.01
"""Coordinates may exceed 0..1 by this much (rounding in other tools); they are clipped."""


def read_yolo(folder: Path) -> Converted:
    """Read all parts in data.yaml. Raises `DataError` with the file and line, what is wrong and what to do."""
    file = description(folder)
    assert file is not None
    described = read_description(file)
    reader = _Reader(folder, len(described.classes), described.keypoints)
    parts = reader.parts(described.images)
    if "train" not in parts:
        raise DataError(f"{file} has no train images; add a line such as `train: images/train`")
    _check_labels(file, parts["train"], reader.notes)
    return Converted("YOLO", folder, described.classes, parts, reader.notes.lines())


class _Reader:
    """Reads the images of a dataset with their label files."""

    def __init__(self, folder: Path, classes: int, keypoints: int | None) -> None:
        self.folder, self.classes, self.keypoints = folder, classes, keypoints
        self.faults, self.notes = Faults(folder), Notes()
        self.lines: dict[Path, list[tuple[int, list[str]]]] = {}
        """The numbered lines of each label file that is in use."""
        self.folders: dict[Path, list[Path]] = {}
        """The label files in folders of labels."""

    def parts(self, sources: dict[str, list[Path]]) -> dict[str, tuple[ConvertedImage, ...]]:
        """The images of all parts, with their instances. Raises `DataError` with all faults."""
        files = {part: self._label_files(images) for part, images in sources.items()}
        for texts in self.folders.values():
            for file in texts:
                if file not in self.lines and file.name not in NO_LABELS:
                    self.notes.name("label file without image, which is not used", self._name(file))
        if self.keypoints is None:
            self.keypoints = keypoints_of([fields for lines in self.lines.values() for _, fields in lines])
        if self.keypoints is not None:
            self.notes.add(
                f"the labels are poses (keypoints of {self.keypoints} values follow each box): only boxes are used, "
                f"since keypoints are no outlines"
            )
        parts = {
            part: tuple(self._image(image, files[part].get(image)) for image in images)
            for part, images in sources.items()
        }
        self.faults.check()
        return parts

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def _label_files(self, images: list[Path]) -> dict[Path, Path]:
        """The label file of each image that has one: in a folder of labels, else beside the image."""
        of: dict[Path, Path] = {}
        by_folder: dict[Path, list[Path]] = defaultdict(list)
        for image in images:
            by_folder[image.parent].append(image)
        for folder, group in by_folder.items():
            for place in labels_folders(folder):
                self._pair(group, _texts(place), of)
                if place != folder:
                    self.folders[place] = _texts(place)
        for file in of.values():
            self.lines[file] = self._read(file)
        return of

    def _pair(self, images: list[Path], texts: list[Path], of: dict[Path, Path]) -> None:
        pairs = pair_files(images, texts)
        for file, owners in pairs.shared.items():
            self.lines[file] = []
            self.faults.add(
                f"{self._name(file)} is the only label file of {len(owners)} images of the same name, "
                f"{' and '.join(map(self._name, owners))}; rename one of them with its labels, or remove it"
            )
        for image, partners in pairs.of.items():
            files = [of[image]] if image in of else []
            files += [partner.file for partner in partners]
            if any(file.read_bytes() != files[0].read_bytes() for file in files[1:]):
                self.faults.add(
                    f"{self._name(image)} has different label files, {' and '.join(map(self._name, files))}; keep one"
                )
            of[image] = files[0]

    def _read(self, file: Path) -> list[tuple[int, list[str]]]:
        try:
            lines = read_text(file).splitlines()
        except DataError as error:
            self.faults.add(str(error))
            return []
        return [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]

    def _image(self, path: Path, labels: Path | None) -> ConvertedImage:
        try:
            height, width = image_size(path)
        except DataError as error:
            self.faults.add(str(error))
            height = width = 1
        if labels is None:
            self.notes.name("image without label file, used as an image without instances", self._name(path))
            return ConvertedImage(path, height, width, ())
        objects = []
        for number, fields in self.lines[labels]:
            instance = _object(fields, self.classes, width, height, self.keypoints)
            if isinstance(instance, str):
                self.faults.add(f"{labels}:{number}: {instance}")
            else:
                objects.append(instance)
        return ConvertedImage(path, height, width, tuple(objects))


def _texts(folder: Path) -> list[Path]:
    return [path for path in visible_entries(folder) if path.suffix.lower() == ".txt"]


def keypoints_of(lines: Iterable[list[str]]) -> int | None:
    """Number of values that follow the box on every line, if these are keypoints: as many everywhere, and all in the
    box; None for other files, such as polygons.
    """
    numbers = _numbers(lines)
    if numbers is None or len(numbers) < 3:
        return None
    box, rest = numbers[:, 1:5], numbers[:, 5:]
    for size in (2, 3):
        if not rest.shape[1] or rest.shape[1] % size:
            continue
        points = rest.reshape(len(rest), -1, size)
        if size == 3 and not np.isin(points[:, :, 2], (0, 1, 2)).all():
            continue
        offset = np.abs(points[:, :, :2] - box[:, None, :2])
        inside = (offset <= box[:, None, 2:] / 2 + OUTSIDE_SHARE).all(2) | (points[:, :, :2] == 0).all(2)
        if inside.all():
            return int(rest.shape[1])
    return None


def _numbers(lines: Iterable[list[str]]) -> np.ndarray | None:
    """The lines as an array (lines, values); None unless all have as many numbers, more than those of a box."""
    lines = list(lines)
    if len({len(fields) for fields in lines}) != 1 or len(lines[0]) < 6:
        return None
    try:
        return np.array(lines, np.float64)
    except ValueError:
        return None


def _object(fields: list[str], classes: int, width: int, height: int, keypoints: int | None) -> ConvertedInstance | str:
    """The instance on one line, or what is wrong with the line and what to do."""
    try:
        label, *values = (float(field) for field in fields)
    except ValueError:
        return f"{' '.join(fields)[:40]!r} is not a class index followed by coordinates; correct the line"
    if not label.is_integer() or not 0 <= label < classes:
        return (
            f"class {fields[0]} is not among the {classes} classes 0..{classes - 1} of the YAML file; correct it or "
            f"add the name"
        )
    if keypoints is not None:
        if len(values) not in (4, 4 + keypoints):
            return f"{len(values)} values; a pose has a box and {keypoints} values of keypoints (kpt_shape)"
        values = values[:4]
    if len(values) < 4 or len(values) % 2:
        hint = ": remove the confidence behind it" if len(values) == 5 else ""
        return (
            f"{len(values)} coordinates; a box has four (center and size){hint}, a polygon x and y of at least three "
            f"points"
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


def _is_rectangle(rings: object) -> bool:
    """Whether an outline has four points and diagonals of equal length, as rotated boxes (OBB) have."""
    if not isinstance(rings, list) or len(rings[0]) != 8:
        return False
    a, b, c, d = np.array(rings[0]).reshape(4, 2)
    lengths = [float(np.hypot(*(one - other))) for one, other in ((a, c), (b, d))]
    return bool(np.abs(a + c - b - d).max() < 1) and abs(lengths[0] - lengths[1]) < 1


def _check_labels(file: Path, images: tuple[ConvertedImage, ...], notes: Notes) -> None:
    """Raise `DataError` if no image has labels: they are then in another folder."""
    if not any(image.objects for image in images):
        raise DataError(
            f"{file}: none of its {len(images)} train images has a label file with instances; images/a.jpg needs "
            f"labels/a.txt, in a folder next to images/"
        )
    if all(_is_rectangle(one.segmentation) for image in images for one in image.objects):
        notes.add(
            "every outline is a rectangle of four points, as those of rotated boxes: masks that are learned from them "
            "are rectangles, too"
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
