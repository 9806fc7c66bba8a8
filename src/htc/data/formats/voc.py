"""Pascal VOC: instances as label maps in SegmentationObject, their classes in SegmentationClass; boxes as XML files.

The layout is that of VOCdevkit/VOC2012 and of CVAT's "Segmentation mask 1.1", whose labelmap.txt names the class of
each color. Without SegmentationObject, the boxes (and polygons) of the XML files are read, which lie in Annotations or,
as Roboflow exports them, beside the images.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Int
from PIL import Image

from htc.data.faults import Faults
from htc.data.formats.converted import SPLIT_NAMES, Converted, ConvertedImage, ConvertedInstance, Notes, images_in
from htc.data.formats.map_rules import VOC_VOID
from htc.data.formats.map_values import packed, rle, runs_by_value
from htc.data.formats.partners import pair_files
from htc.data.formats.shapes import Box
from htc.data.image_headers import image_size
from htc.data.image_pages import BROKEN
from htc.errors import DataError
from htc.files import read_text, visible_entries

OBJECTS, CLASSES, IMAGES, BOXES = "SegmentationObject", "SegmentationClass", "JPEGImages", "Annotations"
CLASS_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Pascal VOC's classes, whose colors follow from their number."""
VOID = 255
LABEL_MAP = "labelmap.txt"
"""Lines `name:r,g,b:parts:actions`, the background among them."""
LISTS = ("ImageSets/Segmentation", "ImageSets/Main")
BACKGROUND = "background"


def is_voc(folder: Path) -> bool:
    """Test whether a folder contains a dataset in Pascal VOC's layout."""
    return _root(folder) is not None


def _root(folder: Path) -> Path | None:
    """The folder that holds SegmentationObject or XML files: the folder itself or one of VOCdevkit's."""
    if not folder.is_dir():
        return None
    below = [path for pattern in ("VOC*", "VOCdevkit/VOC*") for path in sorted(folder.glob(pattern)) if path.is_dir()]
    return next((root for root in (folder, *below) if (root / OBJECTS).is_dir() or _xml_folders(root)), None)


def _xml_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """(XML files, images) of each part without SegmentationObject; empty if there are no XML files."""
    if (root / IMAGES).is_dir() and _xml_files(root / BOXES):
        return {"": (root / BOXES, root / IMAGES)}
    parts = {part: root / name for name, part in SPLIT_NAMES.items() if _xml_files(root / name)}
    if not parts and _xml_files(root) and images_in(root):
        parts = {"train": root}
    return {part: (path, path) for part, path in parts.items()}


def _xml_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in visible_entries(folder) if path.suffix.lower() == ".xml"]


def read_voc(folder: Path) -> Converted:
    """Read all parts. Raises `DataError` with the file, the fault and the remedy."""
    root = _root(folder)
    assert root is not None
    reader = _Reader(folder, root)
    parts = reader.segmented() if (root / OBJECTS).is_dir() else reader.boxes()
    reader.faults.check()
    if not any(image.objects for image in parts.get("train", ())):
        raise DataError(f"{folder}: no training image has an instance in {OBJECTS} or {BOXES}; check the folders")
    return Converted("Pascal VOC", folder, tuple(reader.classes), parts, reader.notes.lines())


def _listed_parts(root: Path) -> dict[str, list[str]]:
    """Names of the images of each part, from ImageSets; other lists than those of the parts are used if alone."""
    for name in LISTS:
        files = {path.stem.lower(): path for path in sorted((root / name).glob("*.txt"))}
        named = {part: files[split] for split, part in SPLIT_NAMES.items() if split in files}
        if "train" not in named and files:
            only = next(iter(files.values())) if len(files) == 1 else None
            whole = files.get("trainval") or files.get("default") or only
            named = {"train": whole} if whole is not None else {}
        if named:
            return {part: _names(path) for part, path in named.items()}
    return {}


def _names(file: Path) -> list[str]:
    """The first word of each line: lists of one class have a second one."""
    return [line.split()[0] for line in read_text(file).splitlines() if line.split()]


class _Reader:
    """Reads the images of one folder; classes are added as they are met."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.root = folder, root
        self.faults, self.notes = Faults(folder), Notes()
        self.classes: list[str] = []

    def segmented(self) -> dict[str, tuple[ConvertedImage, ...]]:
        """The images that have a map in SegmentationObject."""
        maps = {path.stem: path for path in visible_entries(self.root / OBJECTS) if path.suffix.lower() == ".png"}
        images = _images(self.root)
        names = _listed_parts(self.root) or {"train": sorted(maps)}
        colors = self._colors()
        self.classes = list(dict.fromkeys(colors.values()))
        parts: dict[str, tuple[ConvertedImage, ...]] = {}
        for part, stems in names.items():
            found = []
            for stem in stems:
                if stem not in maps:
                    self.notes.name(f"listed image without a map in {OBJECTS}, which is left out", stem)
                elif stem not in images:
                    self.faults.add(f"{maps[stem]} has no image in {IMAGES}; add {stem}.jpg")
                else:
                    found.append(self._segmented(images[stem], maps[stem], colors))
            parts[part] = tuple(found)
        return parts

    def _colors(self) -> dict[int, str]:
        """Class name of each color of SegmentationClass, as R + 256 G + 65536 B."""
        file = next((path for path in (self.root / LABEL_MAP, self.folder / LABEL_MAP) if path.is_file()), None)
        if file is None:
            return {voc_color(number): name for number, name in enumerate(CLASS_NAMES, start=1)}
        colors = {}
        for line in read_text(file).splitlines():
            if line.strip() and not line.startswith("#"):
                name, _, rest = line.partition(":")
                try:
                    red, green, blue = (int(value) for value in rest.split(":")[0].split(","))
                except ValueError:
                    self.faults.add(f"{file}: {line!r} is not `name:red,green,blue:parts:actions`; correct it")
                    continue
                if name != BACKGROUND:
                    colors[red + 256 * green + 65536 * blue] = name
        self.faults.check()
        return colors

    def _segmented(self, path: Path, map_file: Path, colors: dict[int, str]) -> ConvertedImage:
        class_file = self.root / CLASSES / map_file.name
        try:
            size = image_size(path)
            numbers, classes = _numbers(map_file), _class_colors(class_file) if class_file.is_file() else None
            for file, values in ((map_file, numbers), (class_file, classes)):
                if values is not None and values.shape != size:
                    raise DataError(
                        f"{file} is {values.shape[1]}x{values.shape[0]}, but its image {size[1]}x{size[0]}; a map must "
                        f"have the size of its image"
                    )
        except DataError as error:
            self.faults.add(str(error))
            return ConvertedImage(path, 1, 1, ())
        if classes is None:
            self.faults.add(f"{map_file} has no map of classes; add {class_file}")
            return ConvertedImage(path, *size, ())
        objects = []
        for value, counts in runs_by_value(numbers).items():
            if value in (0, VOID, VOC_VOID):
                continue
            common = Counter(classes[numbers == value].tolist())
            known = [color for color, _ in common.most_common() if color in colors]
            if known:
                label = self.classes.index(colors[known[0]])
                objects.append(ConvertedInstance(label, rle(counts, size)))
            else:
                self.faults.add(
                    f"{map_file}: instance {value} has no known class in {class_file}; add its color to {LABEL_MAP}"
                )
        return ConvertedImage(path, *size, tuple(objects))

    def boxes(self) -> dict[str, tuple[ConvertedImage, ...]]:
        """The images that have an XML file."""
        folders = _xml_folders(self.root)
        trees = {part: self._trees(*where) for part, where in folders.items()}
        self.faults.check()
        of_all = [tree for part in trees.values() for tree in part.values()]
        self.classes = sorted({name.text or "" for tree in of_all for name in tree.findall("object/name")})
        lows = [
            float(value.text or 0)
            for tree in of_all
            for side in ("xmin", "ymin")
            for value in tree.findall(f"object/bndbox/{side}")
        ]
        first = 0.0 if any(value < 1 for value in lows) else 1.0
        self.notes.add(f"coordinates of the boxes begin at {first:g}")
        parts = {
            part: tuple(self._boxed(path, tree, first) for path, tree in images.items())
            for part, images in trees.items()
        }
        if "" not in parts:
            return parts
        listed = _listed_parts(self.root)
        if not listed:
            return {"train": parts[""]}
        of = {image.path.stem: image for image in parts[""]}
        return {part: tuple(of[stem] for stem in stems if stem in of) for part, stems in listed.items()}

    def _trees(self, annotations: Path, images: Path) -> dict[Path, ElementTree.Element]:
        pairs = pair_files(images_in(images), _xml_files(annotations))
        for file in pairs.files_alone:
            self.faults.add(f"{file} has no image in {images}; add it, or remove the file")
        for image in pairs.images_alone:
            self.notes.name("image without XML file, which is left out", image.name)
        for file, owners in pairs.shared.items():
            names = " and ".join(one.name for one in owners)
            self.faults.add(f"{file} belongs to {len(owners)} images, {names}; keep one of them")
        trees = {}
        for image, partners in pairs.of.items():
            try:
                trees[image] = ElementTree.parse(partners[0].file).getroot()
            except (ElementTree.ParseError, ValueError) as error:
                self.faults.add(f"{partners[0].file} is not valid XML ({error}); export it again")
        return dict(sorted(trees.items()))

    def _boxed(self, path: Path, tree: ElementTree.Element, first: float) -> ConvertedImage:
        try:
            height, width = image_size(path)
            objects = tuple(self._objects(tree, first, height, width))
        except (DataError, ValueError) as error:
            self.faults.add(str(error) if path.name in str(error) else f"{path.name}: {error}")
            return ConvertedImage(path, 1, 1, ())
        return ConvertedImage(path, height, width, objects)

    def _objects(self, tree: ElementTree.Element, first: float, height: int, width: int) -> Iterator[ConvertedInstance]:
        for number, item in enumerate(tree.findall("object"), start=1):
            label = self.classes.index(item.findtext("name") or "")
            crowd = item.findtext("difficult") == "1"
            if crowd:
                self.notes.add("object marked as difficult: ignored in training and evaluation, as in VOC's")
            polygon = item.find("polygon")
            rings = None
            if polygon is not None and len(polygon) >= 6:
                rings = [[float(value.text or "nan") for value in polygon]]
            try:
                box = _box(item, first, height, width)
            except (TypeError, ValueError) as error:
                what = f"object {number} has no box of four numbers (xmin, ymin, xmax, ymax); export it again"
                raise DataError(what) from error
            yield ConvertedInstance(label, rings, None if rings else box, crowd)


def _box(item: ElementTree.Element, first: float, height: int, width: int) -> Box:
    """x, y, width, height of VOC's box, whose corners are pixels."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    left, top, right, bottom = (float(item.findtext(f"bndbox/{side}") or "") for side in sides)
    left, top = max(left - first, 0.0), max(top - first, 0.0)
    right, bottom = min(right, float(width)), min(bottom, float(height))
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)


def _images(root: Path) -> dict[str, Path]:
    folder = next((path for name in (IMAGES, "images") if (path := root / name).is_dir()), None)
    return {} if folder is None else {path.stem: path for path in images_in(folder)}


def _numbers(file: Path) -> Int[np.ndarray, "H W"]:
    """Instance numbers: palette indices or gray values, else colors."""
    try:
        with Image.open(file) as image:
            values = np.array(image if image.mode in ("P", "L") or image.mode.startswith("I") else image.convert("RGB"))
    except BROKEN as error:
        raise DataError(f"{file} is not a readable image ({error}); export it again") from error
    return values.astype(np.int64) if values.ndim == 2 else packed(values)


def _class_colors(file: Path) -> Int[np.ndarray, "H W"]:
    """The colors of a map of classes, R + 256 G + 65536 B; gray values are class numbers, whose VOC color is taken."""
    try:
        with Image.open(file) as image:
            if image.mode == "L":
                colors = np.array([voc_color(number) for number in range(256)], np.int64)
                return colors[np.array(image)]
            red, green, blue = (np.array(channel, np.int64) for channel in image.convert("RGB").split())
    except BROKEN as error:
        raise DataError(f"{file} is not a readable image ({error}); export it again") from error
    return red + 256 * green + 65536 * blue


def voc_color(number: int) -> int:
    """The color of a class in Pascal VOC's palette, as R + 256 G + 65536 B: the bits of its number, three at a time."""
    channels = [0, 0, 0]
    for shift in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * shift + channel) & 1) << (7 - shift)
    return channels[0] + 256 * channels[1] + 65536 * channels[2]
