"""The one reader of COCO instance files: typed entries of all that can be understood, and the faults of the rest.

Training (`htc.data.coco.read_coco`) and evaluation refuse a file for the faults found here and for nothing else;
`htc doctor` reports each of them as an error and adds checks of its own. So what the doctor accepts, they accept.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from htc.data.faults import RecordFault
from htc.data.segmentation import NO_OUTLINE, Outline, are_numbers, read_outline, short
from htc.errors import DataError
from htc.files import read_json

KIND = "COCO annotations, an instance file (.json)"
LISTS = ("images", "annotations", "categories")
ID_TYPES = frozenset((int, str))
NO_PATH = Path()
MAX_SIDE = 2**31 - 1
"""Pixels that the COCO tools can count along one side."""


@dataclass(frozen=True)
class ImageEntry:
    """An image record with id and file name."""

    position: int
    id: int | str
    name: str
    path: Path
    record: dict[str, Any]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as annotated; None unless both are possible numbers of pixels."""
        height, width = self.record.get("height"), self.record.get("width")
        if not is_whole(height) or not is_whole(width):
            return None
        return (height, width) if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE else None


@dataclass(slots=True)
class AnnotationEntry:
    """An annotation that belongs to an image of the file.

    Not to be changed; a frozen class with a dictionary takes four times as long to fill, and COCO has 860,000 of them.
    """

    position: int
    id: int | str
    """Its own, or `[position]` where it has none."""
    image: ImageEntry
    record: dict[str, Any]
    _outline: Outline | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def outline(self) -> Outline:
        """Its segmentation with all faults, read at the first call; empty where the image has no size."""
        if self._outline is None:
            size = self.image.size
            self._outline = NO_OUTLINE if size is None else read_outline(self.record.get("segmentation"), *size)
        return self._outline

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """x, y, width, height as annotated; None unless these are four finite numbers and the sizes not negative."""
        return usable_box(self.record.get("bbox"))

    @property
    def where(self) -> tuple[float, float, float, float] | None:
        """xyxy: where to look for it."""
        if self.outline.box is not None:
            return self.outline.box
        box = self.box
        return None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])

    @property
    def category(self) -> int | None:
        """`category_id`, if it is a whole number."""
        category = self.record.get("category_id")
        return category if is_whole(category) else None

    @property
    def crowd(self) -> bool:
        """From `iscrowd` alone."""
        return self.record.get("iscrowd") == 1

    def fault(self, code: str, what: str) -> RecordFault:
        """A fault of this annotation."""
        return RecordFault(code, what, "annotations", self.position, self.image.id, self.id)


def category_fault(entry: AnnotationEntry, categories: Container[Any]) -> RecordFault | None:
    """A label that is no category."""
    if entry.category in categories:
        return None
    what = f"its category_id {short(entry.record.get('category_id'))} is not among the categories"
    return entry.fault("category-unknown", what)


def box_fault(entry: AnnotationEntry) -> RecordFault | None:
    """A box that is none, or neither box nor segmentation."""
    stated = entry.record.get("bbox")
    if stated is None:
        if entry.record.get("segmentation"):
            return None
        return entry.fault("object-empty", "it has neither bbox nor segmentation")
    if entry.box is not None:
        return None
    if isinstance(stated, list) and len(stated) == 4 and are_numbers(stated):
        return entry.fault(
            "box-wrong", f"its bbox {short(stated)} has a negative size; COCO's is [x, y, width, height]"
        )
    return entry.fault("box-wrong", f"its bbox is {short(stated)}; it must be four numbers, [x, y, width, height]")


def crowd_fault(entry: AnnotationEntry) -> RecordFault | None:
    """An `iscrowd` that is neither 0 nor 1; without one, it is 0."""
    stated = entry.record.get("iscrowd")
    if stated is None or stated in (0, 1):
        return None
    return entry.fault("crowd-value", f"its iscrowd is {short(stated)}")


@dataclass(frozen=True)
class AnnotationFile:
    """The content of one COCO instance file, and the folder of its images.

    `images`, `classes` and `annotations` hold what can be understood, in the file's order; each list has its faults.
    """

    file: Path
    folder: Path | None
    """None: the presence of the images does not matter."""
    content: Mapping[str, Any]
    name: str = ""
    """Of the split, `train` or `val`; empty where there is one file only."""
    names_needed: bool = True
    """Whether an image needs a file name; the evaluation of stored results needs none."""

    @cached_property
    def present(self) -> frozenset[str]:
        """Names of the files directly in the folder."""
        return frozenset() if self.folder is None else frozenset(entry.name for entry in self.folder.iterdir())

    @property
    def images(self) -> tuple[ImageEntry, ...]:
        """All image records with id and name, also those of one id."""
        return self._images[0]

    @property
    def image_faults(self) -> tuple[RecordFault, ...]:
        """No images; no id, name or size; ids that occur twice."""
        return self._images[1]

    @property
    def classes(self) -> dict[int, str]:
        """Names by id, in order of the ids; the first of each id."""
        return self._categories[0]

    @property
    def category_faults(self) -> tuple[RecordFault, ...]:
        """No categories; no id or name; ids and names that occur twice."""
        return self._categories[1]

    @property
    def annotations(self) -> tuple[AnnotationEntry, ...]:
        """All annotations that belong to an image."""
        return self._annotations[0]

    @property
    def annotation_faults(self) -> tuple[RecordFault, ...]:
        """No object with fields; no image; ids that occur twice."""
        return self._annotations[1]

    @cached_property
    def by_id(self) -> dict[int | str, ImageEntry]:
        """The first image of each id."""
        first: dict[int | str, ImageEntry] = {}
        for image in self.images:
            first.setdefault(image.id, image)
        return first

    @cached_property
    def by_image(self) -> dict[int, list[AnnotationEntry]]:
        """Annotations by the position of their image's record."""
        grouped: dict[int, list[AnnotationEntry]] = defaultdict(list)
        for one in self.annotations:
            grouped[one.image.position].append(one)
        return grouped

    @cached_property
    def object_counts(self) -> Counter[int]:
        """Annotations of each image (by the position of its record), crowds left out."""
        return Counter(one.image.position for one in self.annotations if not one.crowd)

    def path_of(self, name: str) -> Path:
        """The file of an image, directly in the folder or below it as its name says."""
        if self.folder is None:
            return Path(name)
        if name in self.present or ("/" in name and (self.folder / name).is_file()):
            return self.folder / name
        # Some exports write the folder into file_name as well.
        plain = Path(name.replace("\\", "/")).name
        return self.folder / (plain if plain in self.present else name)

    @cached_property
    def _images(self) -> tuple[tuple[ImageEntry, ...], tuple[RecordFault, ...]]:
        entries: list[ImageEntry] = []
        faults: list[RecordFault] = []
        names: dict[int | str, str] = {}
        for position, record in enumerate(self.content["images"]):
            id, name = (record.get("id"), record.get("file_name")) if isinstance(record, dict) else (None, None)
            if not isinstance(record, dict) or not is_id(id):
                what = f"images[{position}] has the id {id!r}; it needs a whole number or a text as id"
                faults.append(RecordFault("image-record", what, "images", position))
                continue
            if not isinstance(name, str) or not name:
                if self.names_needed:
                    what = f"it has no file_name, but {name!r}"
                    faults.append(RecordFault("image-record", what, "images", position, id))
                    continue
                name = ""
            if id in names:
                what = f"image id {id!r} occurs twice, for {names[id]} and {name}"
                faults.append(RecordFault("image-id-twice", what, "images", position, id))
            names.setdefault(id, name)
            path = self.path_of(name) if self.names_needed else NO_PATH
            entries.append(ImageEntry(position, id, name, path, record))
        for entry in entries:
            if entry.size is None:
                height, width = entry.record.get("height"), entry.record.get("width")
                what = f"it needs height and width in whole pixels; it has {short(height)} and {short(width)}"
                faults.append(RecordFault("image-size-missing", what, "images", entry.position, entry.id))
        if not self.content["images"]:
            faults.append(RecordFault("list-empty", "it has no images", "images"))
        return tuple(entries), tuple(faults)

    @cached_property
    def _categories(self) -> tuple[dict[int, str], tuple[RecordFault, ...]]:
        classes: dict[int, str] = {}
        faults: list[RecordFault] = []
        for position, record in enumerate(self.content["categories"]):
            id, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            if not is_whole(id) or not isinstance(name, str) or not name:
                what = f"categories[{position}] needs a whole number as id and a name; it has {id!r} and {name!r}"
                faults.append(RecordFault("category-record", what, "categories", position))
            elif id in classes:
                what = f"category id {id} occurs twice, for {classes[id]!r} and {name!r}"
                faults.append(RecordFault("category-id-twice", what, "categories", position))
            else:
                if name in classes.values():
                    what = f"the name {name!r} occurs twice"
                    faults.append(RecordFault("category-name-twice", what, "categories", position))
                classes[id] = name
        if not self.content["categories"]:
            faults.append(RecordFault("list-empty", "it has no categories", "categories"))
        return dict(sorted(classes.items())), tuple(faults)

    @cached_property
    def _annotations(self) -> tuple[tuple[AnnotationEntry, ...], tuple[RecordFault, ...]]:
        entries: list[AnnotationEntry] = []
        faults: list[RecordFault] = []
        seen: set[int | str] = set()
        images = self.by_id
        for position, record in enumerate(self.content["annotations"]):
            if not isinstance(record, dict):
                what = f"annotations[{position}] is not an object with fields: {short(record)}"
                faults.append(RecordFault("annotation-record", what, "annotations", position))
                continue
            own, image_id = record.get("id"), record.get("image_id")
            id = own if is_id(own) else f"[{position}]"
            image = images.get(image_id) if is_id(image_id) else None
            if image is None:
                what = f"its image_id {image_id!r} is not among the images"
                known = image_id if is_id(image_id) else None
                faults.append(RecordFault("annotation-without-image", what, "annotations", position, known, id))
                continue
            if is_id(own):
                if own in seen:
                    what = f"annotation id {own} occurs twice"
                    faults.append(RecordFault("annotation-id-twice", what, "annotations", position, image.id, id))
                seen.add(own)
            entries.append(AnnotationEntry(position, id, image, record))
        return tuple(entries), tuple(faults)


def read_annotation_file(
    file: Path, folder: Path | None, name: str = "", lists: tuple[str, ...] = LISTS
) -> AnnotationFile:
    """Reads a file once; raises `DataError` only if nothing of it can be understood, or the folder is missing.

    `lists` must be there; others are read as empty.
    """
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the images that {file} names")
    return annotation_file(read_json(file, KIND), file, folder, name, lists)


def annotation_file(
    content: Any, file: Path, folder: Path | None = None, name: str = "", lists: tuple[str, ...] = LISTS
) -> AnnotationFile:
    """The same of a content that is read already."""
    if not isinstance(content, Mapping):
        like = ", as result files are" if isinstance(content, list) else ""
        raise DataError(
            f"{file}: not COCO annotations but a {type(content).__name__}{like}: not a COCO instance file; give one, "
            f"with images, annotations and categories"
        )
    missing = [key for key in LISTS if (key in lists or key in content) and not isinstance(content.get(key), list)]
    if missing:
        panoptic = "images" not in missing and any(
            isinstance(one, dict) and "segments_info" in one for one in content.get("annotations") or ()
        )
        hint = (
            "it is panoptic: give it to training as semantic targets"
            if panoptic
            else "export it as COCO instance segmentation, with images, annotations, categories"
        )
        raise DataError(f"{file} is not a COCO instance file: it has no list of {' and '.join(missing)}; {hint}")
    absent = {key: [] for key in LISTS if key not in content}
    content = {**absent, **content} if absent else content
    if any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"][:1]):
        raise DataError(
            f"{file} is a COCO panoptic file, whose masks are in PNGs; give the instance file (instances_*.json)"
        )
    return AnnotationFile(file, folder, content, name)


def is_whole(value: Any) -> TypeGuard[int]:
    """A whole number; JSON's true and false are none."""
    return type(value) is int


def is_id(value: Any) -> TypeGuard[int | str]:
    """Whole numbers and texts; JSON's true and false are neither."""
    return type(value) in ID_TYPES


def usable_box(value: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers with sizes not negative, or None."""
    if not isinstance(value, list) or len(value) != 4 or not are_numbers(value):
        return None
    x, y, width, height = map(float, value)
    return (x, y, width, height) if width >= 0 and height >= 0 else None
