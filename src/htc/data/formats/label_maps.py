"""Folders of label maps: images, and for each one or several maps whose values are instances.

`htc.data.formats.map_folders` finds the files, `htc.data.formats.map_rules` decides how their values are read.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int

from htc.data.faults import Faults
from htc.data.formats.converted import Converted, ConvertedImage, ConvertedInstance, Notes, listed
from htc.data.formats.map_folders import MapFile, MapPart, map_parts
from htc.data.formats.map_rules import DECIDED, MapOptions, MapRule, decide
from htc.data.formats.map_statistics import MapStatistics, statistics_of
from htc.data.formats.map_values import LOSSY, numbered_regions, read_pages, rle, runs_by_value
from htc.data.image_headers import TURNED, image_header, image_size, page_count
from htc.errors import DataError
from htc.files import read_text

CLASS_FILES = ("classes.txt", "labels.txt")
NO_CLASSES = ("background", "_background_", "__ignore__", "void")
ONE_CLASS = "object"


def read_label_maps(folder: Path, options: MapOptions = DECIDED) -> Converted:
    """Read all parts of the folder. Raises `DataError` with the file, the fault and the remedy."""
    return _Reader(folder, map_parts(folder), options).read()


class _Reader:
    """Reads all maps twice: for the statistics that decide how they are read, and for the instances."""

    def __init__(self, folder: Path, parts: dict[str, MapPart], options: MapOptions) -> None:
        self.folder, self.parts, self.options = folder, parts, options
        self.faults, self.notes = Faults(folder), Notes()
        self.found: dict[Path, list[MapStatistics]] = {}
        """Statistics of the pages of each map; none if each page is one instance."""

    def read(self) -> Converted:
        for part in self.parts.values():
            self._check_partners(part)
        self.faults.check()
        for part in self.parts.values():
            for image, files in part.maps.items():
                for file in files:
                    if not file.single:
                        self._look_at(image, file.file)
        self.faults.check()
        found = [one for pages in self.found.values() for one in pages]
        rule = decide(found, self.options) if found else MapRule("components", True)
        for note in rule.notes:
            self.notes.add(note)
        if any(file.single for file in self._files()):
            self.notes.add("each of several files of an image is one instance")
        names = self._classes(rule, found)
        labels = {name: label for label, name in enumerate(names)}
        read = {
            name: tuple(self._image(image, part.maps.get(image, []), rule, labels) for image in part.images)
            for name, part in self.parts.items()
        }
        self.faults.check()
        if not any(image.objects for image in read.get("train", ())):
            raise DataError(
                f"{self.folder}: no label map of a train image contains an instance; masks/a.png (or "
                f"masks/CLASS/a.png) must belong to images/a.jpg, and 0 is background"
            )
        return Converted("label-map", self.folder, tuple(names), read, self.notes.lines())

    def _files(self) -> Iterator[MapFile]:
        for part in self.parts.values():
            for files in part.maps.values():
                yield from files

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _check_partners(self, part: MapPart) -> None:
        """Report maps of several images, images without maps and maps without images, all by name."""
        for file, images in part.shared.items():
            self.faults.add(
                f"{self._name(file)} is the only label map of {len(images)} images of the same name, "
                f"{' and '.join(map(self._name, images))}; give each its own map, or remove the other images"
            )
        served = {image for images in part.shared.values() for image in images}
        images = [image for image in part.images if image not in part.maps and image not in served]
        if images and part.alone:
            self.faults.add(
                f"{len(images)} of {len(part.images)} images have no label map ({listed(map(self._name, images))}), "
                f"and {len(part.alone)} label maps have no image ({listed(map(self._name, part.alone))}); give each "
                f"map the name of its image, or remove what does not belong here"
            )
            return
        for image in images:
            self.notes.name("image without label map, used as an image without instances", self._name(image))
        for file in part.alone:
            self.notes.name("label map without image, which is not used", self._name(file))
        for image, files in part.maps.items():
            self._keep_one_each(image, files)

    def _keep_one_each(self, image: Path, files: list[MapFile]) -> None:
        """Of several whole maps of one class, keep the lossless one."""
        for label in {file.label for file in files if not file.single}:
            same = [file for file in files if not file.single and file.label == label]
            best = [file for file in same if file.file.suffix.lower() not in LOSSY]
            if len(same) > 1 and len(best) == 1:
                files[:] = [file for file in files if file not in same or file in best]
            elif len(same) > 1:
                self.faults.add(
                    f"{self._name(image)} has {len(same)} label maps ({listed(self._name(one.file) for one in same)}); "
                    f"keep one of them"
                )

    def _look_at(self, image: Path, file: Path) -> None:
        """Collect the statistics of a map."""
        try:
            pages = read_pages(file)
            whole = len(pages) == 1 or len(pages) == page_count(image)
            self.found[file] = [statistics_of(file, page) for page in pages] if whole else []
        except DataError as error:
            self.faults.add(str(error))

    def _classes(self, rule: MapRule, found: list[MapStatistics]) -> list[str]:
        if rule.mode == "classes":
            values = sorted({value for one in found for value in one.pixels} - rule.without)
            names = self._listed_classes()
            self.class_of = {value: names.get(value, str(value)) for value in values}
            return list(dict.fromkeys(self.class_of.values()))
        return sorted({file.label or ONE_CLASS for file in self._files()}) or [ONE_CLASS]

    def _listed_classes(self) -> dict[int, str]:
        """Class names by value, from a text file with a name per line; the first is 1, or 0 if it names the
        background.
        """
        file = next((path for name in CLASS_FILES if (path := self.folder / name).is_file()), None)
        if file is None:
            return {}
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        return dict(enumerate(names, start=0 if names and names[0].lower() in NO_CLASSES else 1))

    def _image(self, path: Path, files: list[MapFile], rule: MapRule, labels: dict[str, int]) -> ConvertedImage:
        try:
            size = image_size(path)
            objects = tuple(one for file in files for one in self._objects(path, size, file, rule, labels))
            return ConvertedImage(path, *size, objects)
        except DataError as error:
            self.faults.add(str(error))
            return ConvertedImage(path, 1, 1, ())

    def _objects(
        self, image: Path, size: tuple[int, int], file: MapFile, rule: MapRule, labels: dict[str, int]
    ) -> Iterator[ConvertedInstance]:
        pages = self._pages(image, size, file)
        if file.single or not self.found[file.file]:
            label = labels[file.label or ONE_CLASS] if rule.mode != "classes" else 0
            for values in pages:
                yield from _whole(file, values, label, size)
            return
        (values,) = pages
        held: list[int] = []
        if rule.binary:
            foreground = rule.foreground(values, self.found[file.file][0])
            values = cv2.connectedComponents(foreground.astype(np.uint8), connectivity=8)[1]
        elif rule.mode != "instances":
            values, held = numbered_regions(values, rule.without)
        without = rule.without if rule.mode == "instances" else {0}
        for value, counts in runs_by_value(values).items():
            if value not in without:
                name = self.class_of[held[value - 1]] if rule.mode == "classes" else file.label or ONE_CLASS
                yield ConvertedInstance(labels[name], rle(counts, size))

    def _pages(self, image: Path, size: tuple[int, int], file: MapFile) -> list[Int[np.ndarray, "H W"]]:
        """The pages of a map, each of the image's size."""
        pages = read_pages(file.file)
        if len(pages) > 1 and len(pages) == page_count(image):
            self.notes.name(f"image and label map of {len(pages)} pages, of which the first is used", self._name(image))
            pages = pages[:1]
        if pages[0].shape != size and pages[0].shape == size[::-1]:
            orientation = image_header(image).orientation
            if orientation in TURNED:
                self.notes.name("label map of an image as it is stored, turned like the image", self._name(file.file))
                pages = [_turned(page, orientation) for page in pages]
        for values in pages:
            if values.shape != size:
                raise DataError(
                    f"{file.file} is {values.shape[1]}x{values.shape[0]}, but its image {size[1]}x{size[0]}; a label "
                    f"map must have the size of its image"
                )
        return pages


def _whole(
    file: MapFile, values: Int[np.ndarray, "H W"], label: int, size: tuple[int, int]
) -> Iterator[ConvertedInstance]:
    """The one instance of a file or page."""
    found = statistics_of(file.file, values)
    if found.kind == "values":
        raise DataError(
            f"{file.file} has {len(found.pixels)} values, but it is one of several files or pages of its image, each "
            f"of which is one instance; save one label map for each image, or one binary mask for each instance"
        )
    mask = MapRule("components", True).foreground(values, found)
    if mask.any():
        yield ConvertedInstance(label, rle(runs_by_value(mask.astype(np.int64))[1], size))


def _turned(values: Int[np.ndarray, "H W"], orientation: int) -> Int[np.ndarray, "W H"]:
    """Apply an EXIF orientation that swaps height and width."""
    turned = {5: values.T, 6: np.rot90(values, -1), 7: np.rot90(values, 2).T, 8: np.rot90(values, 1)}
    return np.ascontiguousarray(turned[orientation])
