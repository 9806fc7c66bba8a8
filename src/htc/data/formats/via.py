"""VGG Image Annotator (VIA): projects and annotations of versions 1 and 2 (JSON, CSV) and projects of version 3.

https://www.robots.ox.ac.uk/~vgg/software/via. The files lie beside the images or in their parts train, val and test.
The class of a region is one of its attributes: the only one, or that called name, class, label, ...
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from htc.data.faults import Faults
from htc.data.formats.converted import SPLIT_NAMES, Converted, ConvertedImage, ConvertedInstance, Notes
from htc.data.formats.map_folders import IMAGE_FOLDERS
from htc.data.formats.partners import find_image
from htc.data.formats.shapes import box_of, ellipse_ring, rectangle_ring, ring_of
from htc.data.image_headers import image_size
from htc.errors import DataError
from htc.files import read_text, visible_entries

NAMES = ("name", "class", "label", "type", "category", "object", "object_name", "class_name")
"""Attributes that hold the class, in the order in which they are looked for."""
ONE_CLASS = "object"
COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
HEAD = 65536
THIN = ("point", "polyline", "line")
SHAPES_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon"}
"""Shapes by their number in version 3."""
FIELDS_3 = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}


@dataclass(frozen=True)
class Region:
    """One region of an image."""

    where: str
    shape: Mapping[str, Any]
    """VIA 2's shape attributes: `name` and coordinates."""
    attributes: Mapping[str, Any]


def is_via(folder: Path) -> bool:
    """Test whether a folder, or its `train` folder, contains VIA's files."""
    return bool(_files(folder))


def _files(folder: Path) -> dict[str, list[Path]]:
    """VIA's files of each part."""
    parts = {part: files for name, part in SPLIT_NAMES.items() if (files := _via_files(folder / name))}
    if "train" in parts:
        return parts
    files = _via_files(folder) or _via_files(folder / "annotations")
    return {"train": files} if files else {}


def _via_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in visible_entries(folder) if path.suffix.lower() in (".json", ".csv") and _is_via(path)]


def _is_via(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(HEAD)
    if file.suffix.lower() == ".csv":
        first = start.split(b"\n", 1)[0]
        return all(column.encode() in first for column in COLUMNS)
    if b'"_via_' in start or b'"vid_list"' in start:
        return True
    return b'"regions"' in start and b'"filename"' in start and b'"region_attributes"' in start


def read_via(folder: Path) -> Converted:
    """Read all parts. Raises `DataError` with the file, the region, the fault and the remedy."""
    faults, notes = Faults(folder), Notes()
    found = {
        part: [(file, *one) for file in files for one in _images_of(file, faults)]
        for part, files in _files(folder).items()
    }
    faults.check()
    regions = [region for images in found.values() for *_, own in images for region in own]
    key = _class_attribute(regions, notes)
    names = [_class_of(region, key) for region in regions]
    classes = tuple(sorted({name for name in names if name}))
    if not classes:
        raise DataError(f"{folder}: VIA's files contain no region with a class; annotate some")
    kinds = Counter(str(region.shape.get("name")) for region in regions)
    boxes_only = set(kinds) <= {"rect", *THIN}
    if boxes_only:
        notes.add("all regions are rectangles: only boxes are used for training, no masks")
    parts = {}
    for part, images in found.items():
        of: dict[Path, list[Region]] = {}
        for file, name, own in images:
            places = [base / one for base in (file.parent, file.parent.parent, folder) for one in IMAGE_FOLDERS]
            path = find_image(name, Path(name).stem, (file.parent, *places))
            if path is None:
                faults.add(f"{file}: its image {name!r} does not exist; put it beside the file")
            else:
                of.setdefault(path, []).extend(own)
        parts[part] = tuple(_image(path, own, key, classes, boxes_only, faults, notes) for path, own in of.items())
    faults.check()
    return Converted("VIA", folder, classes, parts, notes.lines())


def _images_of(file: Path, faults: Faults) -> list[tuple[str, list[Region]]]:
    """(file name, regions) of each image of a file."""
    try:
        text = read_text(file)
        content = list(csv.DictReader(io.StringIO(text))) if file.suffix.lower() == ".csv" else json.loads(text)
        if isinstance(content, list):
            return list(_of_rows(file, content))
        if "vid_list" in content.get("project", {}):
            return list(_of_version_3(file, content))
        entries = content.get("_via_img_metadata", content)
        return [_of_entry(file, entry) for entry in entries.values() if isinstance(entry, dict) and "filename" in entry]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        faults.add(f"{file} is not a file of VIA ({error!r}); export it again")
        return []


def _of_entry(file: Path, entry: Mapping[str, Any]) -> tuple[str, list[Region]]:
    regions = entry.get("regions") or []
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    return entry["filename"], [
        Region(
            f"{file}: region {number} of {entry['filename']}", one["shape_attributes"], one.get("region_attributes", {})
        )
        for number, one in enumerate(regions, start=1)
    ]


def _of_rows(file: Path, rows: list[dict[str, str]]) -> Iterator[tuple[str, list[Region]]]:
    for number, row in enumerate(rows, start=2):
        shape = json.loads(row["region_shape_attributes"] or "{}")
        region = Region(f"{file}:{number}", shape, json.loads(row["region_attributes"] or "{}"))
        yield row["filename"], [region] if shape else []


def _of_version_3(file: Path, content: Mapping[str, Any]) -> Iterator[tuple[str, list[Region]]]:
    attributes = content.get("attribute", {})
    names = {view: content["file"][str(one["fid_list"][0])]["fname"] for view, one in content["view"].items()}
    regions: dict[str, list[Region]] = {name: [] for name in names.values()}
    for id, one in content.get("metadata", {}).items():
        number, *values = one["xy"] or [0]
        if number not in SHAPES_3:
            continue  # a segment of a video, or an attribute of the whole image
        name = SHAPES_3[number]
        if name in FIELDS_3:
            shape: dict[str, Any] = dict(zip(FIELDS_3[name], values, strict=False))
        else:
            shape = {"all_points_x": values[0::2], "all_points_y": values[1::2]}
        chosen = {
            attributes[key]["aname"]: attributes[key].get("options", {}).get(value, value)
            for key, value in one.get("av", {}).items()
            if key in attributes
        }
        regions[names[one["vid"]]].append(Region(f"{file}: region {id}", {"name": name, **shape}, chosen))
    yield from regions.items()


def _class_attribute(regions: list[Region], notes: Notes) -> str | None:
    """The attribute that holds the class; None if regions have no attribute."""
    keys = Counter(key for region in regions for key, value in region.attributes.items() if value not in ("", {}))
    if not keys:
        notes.add(f"regions have no attributes, so all are of one class, {ONE_CLASS!r}")
        return None
    known = {key.lower(): key for key in keys}
    key = next((known[name] for name in NAMES if name in known), None) or keys.most_common(1)[0][0]
    if len(keys) > 1:
        notes.add(f"the class of a region is its attribute {key!r}; it also has {', '.join(sorted(set(keys) - {key}))}")
    return key


def _class_of(region: Region, key: str | None) -> str:
    """Name of the class; of several ticked boxes the first; empty if there is none."""
    if key is None:
        return ONE_CLASS
    value = region.attributes.get(key, "")
    if isinstance(value, dict):
        value = next((name for name, ticked in value.items() if ticked), "")
    return str(value).strip()


def _image(
    path: Path,
    regions: list[Region],
    key: str | None,
    classes: tuple[str, ...],
    boxes_only: bool,
    faults: Faults,
    notes: Notes,
) -> ConvertedImage:
    try:
        height, width = image_size(path)
    except DataError as error:
        faults.add(str(error))
        return ConvertedImage(path, 1, 1, ())
    objects = []
    for region in regions:
        name, kind = _class_of(region, key), region.shape.get("name")
        if kind in THIN:
            notes.add(f"region of type {kind}: skipped, it has no area")
            continue
        try:
            ring = _ring(region.shape)
        except (KeyError, TypeError, ValueError) as error:
            faults.add(f"{region.where}: its shape is damaged ({error!r}); draw it again")
            continue
        if not name:
            faults.add(f"{region.where} has no {key}; give it one")
        else:
            box = box_of([ring], height, width) if boxes_only else None
            objects.append(ConvertedInstance(classes.index(name), None if boxes_only else [ring], box))
    return ConvertedImage(path, height, width, tuple(objects))


def _ring(shape: Mapping[str, Any]) -> list[float]:
    """The ring of a shape; raises `KeyError`, `TypeError` and `ValueError` if it is damaged or unknown."""
    kind = shape.get("name")
    if kind == "polygon":
        points = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        if len(points) < 3:
            raise ValueError(f"a polygon of {len(points)} points")
        return ring_of(points)
    if kind == "rect":
        return rectangle_ring(*(float(shape[key]) for key in FIELDS_3["rect"]))
    if kind == "circle":
        return ellipse_ring(float(shape["cx"]), float(shape["cy"]), float(shape["r"]), float(shape["r"]))
    if kind == "ellipse":
        x, y, radius_x, radius_y = (float(shape[key]) for key in FIELDS_3["ellipse"])
        return ellipse_ring(x, y, radius_x, radius_y, float(shape.get("theta", 0)))
    raise ValueError(f"a shape of type {kind!r}")
