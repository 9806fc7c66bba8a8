"""labelme folders: a JSON file for each image, with polygons, rectangles, circles and masks.

https://github.com/wkentaro/labelme. Shapes with the same label and `group_id` form one instance. If all shapes of a
folder are rectangles, they are boxes; next to other shapes, a rectangle is an outline, as in labelme's own exports. The
image is the file in `imagePath`, or one of that name in the folder or beside it, or embedded in `imageData`.
"""

import base64
import binascii
import io
import json
import math
from pathlib import Path, PurePosixPath
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
    absolute,
    images_in,
    text_of,
)
from htc.data.formats.map_folders import IMAGE_FOLDERS
from htc.data.formats.partners import find_image
from htc.data.formats.shapes import box_of, ellipse_ring, rectangle_ring, ring_of
from htc.data.image_headers import image_size
from htc.data.images import read_image
from htc.data.mask_encodings import polygon_runs
from htc.errors import DataError
from htc.files import is_file, read_text, visible_entries

NO_OBJECTS = ("__ignore__", "_background_")
"""Labels with a special meaning in labelme's tools, which are not object classes."""
THIN = ("point", "points", "line", "linestrip")
"""Shapes without an area."""
JSON_FOLDERS = ("labels", "annotations", "labelme", "json", "jsons", "ann")
"""Folders beside those of the images."""
SAMPLE = 20
"""Number of JSON files among which one of labelme's must be."""


def is_labelme(folder: Path) -> bool:
    """Test whether a folder, or one of its parts, contains labelme's JSON files."""
    return bool(_folders(folder))


def _folders(folder: Path) -> dict[str, Path]:
    """The folder of the JSON files of each part: train, val and test, or the folder or one of its `JSON_FOLDERS`."""
    parts = {part: path for name, part in SPLIT_NAMES.items() if (path := _json_folder(folder / name))}
    if "train" in parts:
        return parts
    path = _json_folder(folder)
    return {} if path is None else {"train": path}


def _json_folder(folder: Path) -> Path | None:
    for candidate in (folder, *(folder / name for name in JSON_FOLDERS)):
        if any(map(_has_shapes, _json_files(candidate)[:SAMPLE])):
            return candidate
    return None


def _json_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in visible_entries(folder) if path.suffix.lower() == ".json"]


def _has_shapes(file: Path) -> bool:
    with file.open("rb") as stream:
        # imageData, a whole image, comes after these keys or between them: the first kilobytes may not include both.
        start = stream.read(65536)
        return b'"shapes"' in start or (b'"imageData"' in start and b'"shapes"' in stream.read())


def read_labelme(folder: Path) -> Converted:
    """Read the folder, or its parts train, val (valid, validation) and test. Raises `DataError` with the file, the
    shape, the fault and the remedy.
    """
    faults, notes = Faults(folder), Notes()
    folders = _folders(folder)
    read = {part: [_load(file, faults, notes) for file in _json_files(path)] for part, path in folders.items()}
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
    for part, path in folders.items():
        annotated = {image.path for image in parts[part]}
        _check_once(parts[part], contents[part], faults)
        for image in images_in(path):
            if image not in annotated:
                notes.name(
                    "image without JSON file, skipped as not annotated (if it has no instances, save it in labelme "
                    "without shapes)",
                    image.relative_to(folder).as_posix(),
                )
    faults.check()
    return Converted("labelme", folder, classes, parts, notes.lines())


def _check_once(
    images: tuple[ConvertedImage, ...], contents: list[tuple[Path, dict[str, Any]]], faults: Faults
) -> None:
    """Report images that several JSON files annotate."""
    of: dict[Path, Path] = {}
    for image, (file, _) in zip(images, contents, strict=True):
        other = of.setdefault(image.path, file)
        if other != file:
            faults.add(f"{other.name} and {file.name} annotate the same image, {image.path.name}; keep one of them")


def _load(file: Path, faults: Faults, notes: Notes) -> tuple[Path, dict[str, Any]] | None:
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return faults.add(f"{file} is not valid JSON ({error}); save it again in labelme")
    if not isinstance(content, dict) or "shapes" not in content:
        return notes.name("JSON file without shapes, which is not labelme's", file.name)
    shapes = content["shapes"]
    if not isinstance(shapes, list) or not all(
        isinstance(shape, dict) and isinstance(shape.get("shape_type", ""), str) for shape in shapes
    ):
        return faults.add(f"{file}: its shapes are not a list of shapes with a type; save it again in labelme")
    return file, content


def _classes(folder: Path, shapes: list[dict[str, Any]]) -> tuple[str, ...]:
    """The names in `labels.txt` in their order, if it exists, else the used labels, sorted."""
    used = {shape["label"] for shape in shapes if isinstance(shape.get("label"), str)} - set(NO_OBJECTS)
    if not used:
        raise DataError(f"{folder}: its labelme files contain no instances; annotate some")
    if not (folder / "labels.txt").is_file():
        return tuple(sorted(used))
    lines = (line.strip() for line in read_text(folder / "labels.txt").splitlines())
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
        path = _image_of(file, content, self.folder)
        embedded = None
        try:
            if path is None:
                path, embedded = _embedded(file, content)
                height, width = read_image(io.BytesIO(embedded)).shape[:2]
            else:
                height, width = image_size(path)
        except DataError as error:
            self.faults.add(str(error))
            return ConvertedImage(file, 1, 1, ())
        if embedded is not None:
            self.notes.name(
                "image that only the JSON file holds (imageData), which is written beside the annotations", file.name
            )
        elif not path.is_relative_to(self.folder):
            self.notes.name("image outside of the folder, found by imagePath", str(path))
        size = height, width
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
                alone = not isinstance(group, int | str)
                groups.setdefault(("alone", number) if alone else (shape["label"], group), []).append(
                    {**shape, "where": f"{file}: shape {number}"}
                )
        objects = [self._object(shapes, *size) for shapes in groups.values()]
        return ConvertedImage(path, *size, tuple(one for one in objects if one is not None), embedded)

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
            return ConvertedInstance(label, None, box_of(rings, height, width))
        if not masks:
            return ConvertedInstance(label, rings)
        parts = [coco_masks.encode(np.asfortranarray(mask)) for mask in masks]
        merged = coco_masks.merge([*parts, *(polygon_runs(rings, height, width) if rings else [])])
        return ConvertedInstance(label, {"size": [height, width], "counts": text_of(merged)})


def _image_of(file: Path, content: dict[str, Any], folder: Path) -> Path | None:
    """The file in imagePath (Windows writes backslashes); else, if the JSON file was moved or imagePath is that of
    another machine, the image of that name or of the JSON file's name beside it or in a folder of images.
    """
    named = str(content.get("imagePath") or "").replace("\\", "/")
    if named and is_file(path := file.parent / named):
        return absolute(path) if ".." in path.parts else path
    below = (base / name for base in (file.parent.parent, folder) for name in IMAGE_FOLDERS)
    return find_image(named, file.stem, (file.parent, *below))


def _embedded(file: Path, content: dict[str, Any]) -> tuple[Path, bytes]:
    """Name and content of the image in imageData. Raises `DataError` if there is none."""
    if not content.get("imageData"):
        raise DataError(
            f"{file}: its image {content.get('imagePath')!r} does not exist, and none is embedded (imageData); put it "
            f"next to the JSON file"
        )
    try:
        data = base64.b64decode(content["imageData"], validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise DataError(f"{file}: its imageData is damaged ({error}); put the image next to the JSON file") from error
    named = PurePosixPath(str(content.get("imagePath") or "").replace("\\", "/"))
    return file.with_suffix(named.suffix or ".png"), data


def _rings(shape: dict[str, Any]) -> list[list[float]]:
    """Rings of a polygon, rectangle or circle; raises `ValueError` with the fault."""
    kind, points = shape.get("shape_type", "polygon"), shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 and all(_is_number(v) for v in point) for point in points
    ):
        raise ValueError(f"{shape['where']}: points must be pairs of numbers; draw it again in labelme")
    needed = {"polygon": 3, "rectangle": 2, "circle": 2, "oriented_rectangle": 4, "rotation": 4}.get(kind)
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
        return [ellipse_ring(x, y, radius, radius)]
    if kind == "rectangle":
        (x1, y1), (x2, y2) = points[0], points[2 if len(points) == 4 else 1]
        return [rectangle_ring(x1, y1, x2 - x1, y2 - y1)]
    return [ring_of(points)]


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
