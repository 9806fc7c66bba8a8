"""labelme folders: a JSON file next to each image, with polygons, rectangles, circles and masks.

https://github.com/wkentaro/labelme. Shapes with the same label and `group_id` form one instance. If all shapes of a
folder are rectangles, they are boxes; next to other shapes, a rectangle is an outline, as in labelme's own exports.
"""

import base64
import binascii
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pycocotools import mask as coco_masks

from htc.data.faults import Faults
from htc.data.formats.converted import (
    SPLIT_NAMES,
    Converted,
    ConvertedImage,
    ConvertedInstance,
    Notes,
    images_in,
    text_of,
)
from htc.data.image_headers import image_size
from htc.data.mask_encodings import polygon_runs
from htc.errors import DataError

NO_OBJECTS = ("__ignore__", "_background_")
"""Labels with a special meaning in labelme's tools, which are not object classes."""
THIN = ("point", "points", "line", "linestrip")
CIRCLE_POINTS = 64


def is_labelme(folder: Path) -> bool:
    """Test whether a folder, or its `train` folder, contains labelme's JSON files."""
    for candidate in (folder, folder / "train"):
        for file in sorted(candidate.glob("*.json"))[:1]:
            with file.open("rb") as stream:
                # imageData, a whole image, comes after these keys or between them: the first kilobytes may not include
                # both.
                if b'"shapes"' in stream.read(65536) or '"shapes"' in file.read_text(
                    encoding="utf-8", errors="replace"
                ):
                    return True
    return False


def read_labelme(folder: Path) -> Converted:
    """Read the folder, or its parts train, val (valid, validation) and test. Raises `DataError` with the file, the
    shape, the fault and the remedy.
    """
    folders = {part: folder / name for name, part in SPLIT_NAMES.items() if any((folder / name).glob("*.json"))} or {
        "train": folder
    }
    faults, notes = Faults(folder), Notes()
    read = {
        part: [_load(file, faults) for file in sorted(part_folder.glob("*.json"))]
        for part, part_folder in folders.items()
    }
    faults.check()
    contents = {part: [content for content in files if content is not None] for part, files in read.items()}
    shapes = [shape for files in contents.values() for _, content in files for shape in content["shapes"]]
    classes = _classes(folder, shapes)
    boxes_only = all(shape.get("shape_type") == "rectangle" for shape in shapes)
    if boxes_only:
        notes.add("all shapes are rectangles: only boxes are used for training, no masks")
    elif any(shape.get("shape_type") == "rectangle" for shape in shapes):
        notes.add("rectangles next to other shapes are used as outlines, not as boxes without a mask")
    reader = _Reader(folder, classes, boxes_only, faults, notes)
    parts = {part: tuple(reader.image(file, content) for file, content in files) for part, files in contents.items()}
    faults.check()
    for part, part_folder in folders.items():
        annotated = {image.file_name for image in parts[part]}
        for path in images_in(part_folder):
            if path.relative_to(folder).as_posix() not in annotated:
                notes.add(
                    "image without JSON file: skipped as not annotated (if it has no instances, save it in labelme "
                    "without shapes)"
                )
    return Converted("labelme", folder, classes, parts, notes.lines())


def _load(file: Path, faults: Faults) -> tuple[Path, dict[str, Any]] | None:
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return faults.add(f"{file} is not valid JSON ({error}); save it again in labelme")
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("shapes"), list)
        or not all(isinstance(shape, dict) for shape in content["shapes"])
    ):
        return faults.add(f"{file} has no list of shapes, so it is not a labelme file; move it to another folder")
    return file, content


def _classes(folder: Path, shapes: list[dict[str, Any]]) -> tuple[str, ...]:
    """The names in `labels.txt` in their order, if it exists, else the used labels, sorted."""
    used = {shape["label"] for shape in shapes if isinstance(shape.get("label"), str)} - set(NO_OBJECTS)
    if not used:
        raise DataError(f"{folder}: its labelme files contain no instances; annotate some")
    if not (folder / "labels.txt").is_file():
        return tuple(sorted(used))
    lines = (line.strip() for line in (folder / "labels.txt").read_text(encoding="utf-8").splitlines())
    names = tuple(dict.fromkeys(name for name in lines if name and name not in NO_OBJECTS))
    if used - set(names):
        raise DataError(
            f"{folder / 'labels.txt'} does not contain the label {min(used - set(names))!r} of a shape; add or fix it"
        )
    return names


class _Reader:
    """Converts the content of one file to an image with instances."""

    def __init__(self, folder: Path, classes: tuple[str, ...], boxes_only: bool, faults: Faults, notes: Notes) -> None:
        self.folder, self.boxes_only, self.faults, self.notes = folder, boxes_only, faults, notes
        self.labels = {name: label for label, name in enumerate(classes)}

    def image(self, file: Path, content: dict[str, Any]) -> ConvertedImage:
        """The image with its instances, where the shapes of a group are combined."""
        path = _image_of(file, content)
        if path is None:
            self.faults.add(
                f"{file}: its image {content.get('imagePath')!r} does not exist; put it next to the JSON file"
            )
            return ConvertedImage("", 1, 1, ())
        try:
            size = image_size(path)
        except DataError as error:
            self.faults.add(str(error))
            return ConvertedImage("", 1, 1, ())
        annotated_size = (content.get("imageHeight"), content.get("imageWidth"))
        if None not in annotated_size and annotated_size != size:
            self.faults.add(
                f"{file} was annotated at {annotated_size[1]}x{annotated_size[0]}, but {path.name} is "
                f"{size[1]}x{size[0]}; replace it with the annotated image"
            )
        groups: dict[Any, list[dict[str, Any]]] = {}
        for number, shape in enumerate(content["shapes"], start=1):
            if self._is_object(shape, f"{file}: shape {number}"):
                group = shape.get("group_id")
                groups.setdefault(("alone", number) if group is None else (shape["label"], group), []).append(
                    {**shape, "where": f"{file}: shape {number}"}
                )
        objects = [self._object(shapes, *size) for shapes in groups.values()]
        return ConvertedImage(
            path.relative_to(self.folder).as_posix(),
            *size,
            tuple(instance for instance in objects if instance is not None),
        )

    def _is_object(self, shape: dict[str, Any], where: str) -> bool:
        if shape.get("label") in NO_OBJECTS:
            self.notes.add(f"shape labelled {shape['label']}: skipped")
        elif shape.get("shape_type") in THIN:
            self.notes.add(f"shape of type {shape['shape_type']}: skipped, it has no area")
        elif not isinstance(shape.get("label"), str):
            self.faults.add(f"{where} has no label; give it one in labelme")
        else:
            return True
        return False

    def _object(self, shapes: list[dict[str, Any]], height: int, width: int) -> ConvertedInstance | None:
        label = self.labels[shapes[0]["label"]]
        try:
            rings = [ring for shape in shapes if shape.get("shape_type") != "mask" for ring in _rings(shape)]
            masks = [_mask(shape, height, width) for shape in shapes if shape.get("shape_type") == "mask"]
        except ValueError as error:
            self.faults.add(str(error))
            return None
        if self.boxes_only:
            points = np.array(rings).reshape(-1, 2).clip(0, (width, height))
            low, high = points.min(0), points.max(0)
            return ConvertedInstance(
                label, None, (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
            )
        if not masks:
            return ConvertedInstance(label, rings)
        parts = [coco_masks.encode(np.asfortranarray(mask)) for mask in masks]
        merged = coco_masks.merge([*parts, *(polygon_runs(rings, height, width) if rings else [])])
        return ConvertedInstance(label, {"size": [height, width], "counts": text_of(merged)})


def _image_of(file: Path, content: dict[str, Any]) -> Path | None:
    """The file in imagePath (Windows writes backslashes), else an image with the JSON file's name."""
    named = str(content.get("imagePath") or "").replace("\\", "/")
    candidates = [file.parent / named, file.parent / Path(named).name] if named else []
    found = next((path for path in candidates if path.is_file()), None)
    return found or next((path for path in images_in(file.parent) if path.stem == file.stem), None)


def _rings(shape: dict[str, Any]) -> list[list[float]]:
    """Rings of a polygon, rectangle or circle; raises `ValueError` with the fault."""
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(v) for v in point) for point in points
    ):
        raise ValueError(f"{shape['where']}: points must be pairs of numbers; draw it again in labelme")
    needed = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4}.get(kind)
    if needed is None:
        raise ValueError(
            f"{shape['where']} is of type {kind!r}; only polygon, rectangle, circle and mask are supported: draw it as "
            f"one of them"
        )
    if len(points) < needed or (kind == "circle" and len(points) > 2):
        raise ValueError(
            f"{shape['where']}, a {kind}, has {len(points)} points but needs {needed}; draw it again or remove it"
        )
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points
        radius = math.hypot(edge_x - x, edge_y - y)
        angles = [2 * math.pi * step / CIRCLE_POINTS for step in range(CIRCLE_POINTS)]
        points = [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
    elif kind == "rectangle":
        (x1, y1), (x2, y2) = points[0], points[2 if len(points) == 4 else 1]
        points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    return [[round(float(value), 3) for point in points for value in point]]


def _mask(shape: dict[str, Any], height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    """Bitmap of a mask shape in the image; raises `ValueError` with the fault."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True))) as image:
            bitmap = np.array(image.convert("L")) > 0
        x, y = (int(value) for value in shape["points"][0])
    except (KeyError, IndexError, TypeError, ValueError, OSError, binascii.Error) as error:
        raise ValueError(f"{shape['where']}: its mask cannot be read ({error}); draw it again in labelme") from error
    if x < 0 or y < 0 or y + bitmap.shape[0] > height or x + bitmap.shape[1] > width:
        raise ValueError(
            f"{shape['where']}: its mask extends beyond the {width}x{height} image; draw it again in labelme"
        )
    canvas = np.zeros((height, width), np.uint8)
    canvas[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] = bitmap
    return canvas


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
