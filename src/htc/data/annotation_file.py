"""The only reader of COCO instance files: typed entries for all valid records, and the faults of the others.

Training (`htc.data.coco.read_coco`) and evaluation reject a file for the faults found here and for no others; `htc
doctor` reports each of them as an error and has further checks. Therefore training and evaluation accept what the
doctor accepts.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, TypeGuard, overload

from htc.data.columns import MAX_SIDE, Columns
from htc.data.columns_cache import read_columns
from htc.data.faults import RecordFault
from htc.data.segmentation import NO_OUTLINE, Outline, are_numbers, read_outline, short
from htc.errors import DataError
from htc.files import read_json

KIND = "COCO annotations, an instance file (.json)"
LISTS = ("images", "annotations", "categories")
ID_TYPES = frozenset((int, str))
NO_PATH = Path()


@dataclass(frozen=True)
class ImageEntry:
    """An image record with an id and a file name."""

    position: int
    id: int | str
    name: str
    path: Path
    record: dict[str, Any]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as annotated; None unless both are valid."""
        height, width = self.record.get("height"), self.record.get("width")
        if not is_whole(height) or not is_whole(width):
            return None
        return (height, width) if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE else None


@dataclass(slots=True)
class AnnotationEntry:
    """An annotation of an image in the file.

    Do not modify: it is not frozen only because a frozen class with a dictionary takes four times as long to create,
    and COCO has 860,000 annotations.
    """

    position: int
    id: int | str
    """The annotation's id, or `[position]` if it has none."""
    image: ImageEntry
    record: dict[str, Any]
    _outline: Outline | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def outline(self) -> Outline:
        """Its segmentation with all faults, parsed on first use; empty if the image has no size."""
        if self._outline is None:
            size = self.image.size
            self._outline = NO_OUTLINE if size is None else read_outline(self.record.get("segmentation"), *size)
        return self._outline

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """x, y, width, height as annotated; None unless these are four finite numbers and the sizes are not
        negative.
        """
        return usable_box(self.record.get("bbox"))

    @property
    def where(self) -> tuple[float, float, float, float] | None:
        """xyxy location for display: the box of the segmentation, else the annotated box."""
        if self.outline.box is not None:
            return self.outline.box
        box = self.box
        return None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])

    @property
    def category(self) -> int | None:
        """`category_id`, if it is an integer."""
        category = self.record.get("category_id")
        return category if is_whole(category) else None

    @property
    def crowd(self) -> bool:
        """Set by `iscrowd` only."""
        return self.record.get("iscrowd") == 1

    def fault(self, code: str, what: str) -> RecordFault:
        """Create a fault of this annotation."""
        return RecordFault(code, what, "annotations", self.position, self.image.id, self.id)


def category_fault(entry: AnnotationEntry, categories: Container[Any]) -> RecordFault | None:
    """Check that the category exists."""
    if entry.category in categories:
        return None
    what = f"its category_id {short(entry.record.get('category_id'))} is not among the categories"
    return entry.fault("category-unknown", what)


def box_fault(entry: AnnotationEntry) -> RecordFault | None:
    """Check that there is a valid box, or else a segmentation."""
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
    """Check that `iscrowd` is 0 or 1; a missing one means 0."""
    stated = entry.record.get("iscrowd")
    if stated is None or stated in (0, 1):
        return None
    return entry.fault("crowd-value", f"its iscrowd is {short(stated)}")


@dataclass(frozen=True)
class AnnotationFile:
    """The content of one COCO instance file, and the folder of its images.

    `images`, `classes` and `annotations` contain the valid records, in the file's order; each list has its faults.
    """

    file: Path
    folder: Path | None
    """None: do not check that the images exist."""
    content: Mapping[str, Any]
    name: str = ""
    """Name of the split, `train` or `val`; empty if there is only one file."""
    names_needed: bool = True
    """Whether images need a file name; the evaluation of saved results does not need them."""
    columns: Columns | None = field(default=None, repr=False)
    """The same content of a faultless file, in columns; entries are then built when they are accessed, and `content` is
    parsed only if it is needed.
    """

    @cached_property
    def present(self) -> frozenset[str]:
        """Names of the files directly in the folder."""
        return frozenset() if self.folder is None else frozenset(entry.name for entry in self.folder.iterdir())

    @property
    def images(self) -> tuple[ImageEntry, ...]:
        """All image records with an id and a name, including those with a duplicate id."""
        return self._images[0]

    @property
    def image_faults(self) -> tuple[RecordFault, ...]:
        """No images; missing id, name or size; duplicate ids."""
        return self._images[1]

    @property
    def classes(self) -> dict[int, str]:
        """Class names by category id, sorted by id; the first record of each id."""
        return self._categories[0]

    @property
    def category_faults(self) -> tuple[RecordFault, ...]:
        """No categories; missing id or name; duplicate ids and names."""
        return self._categories[1]

    @property
    def annotations(self) -> Sequence[AnnotationEntry]:
        """All annotations of an image in the file."""
        return self._annotations[0]

    @property
    def annotation_faults(self) -> tuple[RecordFault, ...]:
        """Records that are not JSON objects; unknown images; duplicate ids."""
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
        for annotation in self.annotations:
            grouped[annotation.image.position].append(annotation)
        return grouped

    @cached_property
    def object_counts(self) -> Counter[int]:
        """Number of annotations of each image (by the position of its record), without crowds."""
        return Counter(annotation.image.position for annotation in self.annotations if not annotation.crowd)

    def path_of(self, name: str) -> Path:
        """Path of an image in the folder, or in a subfolder if its name contains one."""
        if self.folder is None:
            return Path(name)
        if name in self.present or ("/" in name and (self.folder / name).is_file()):
            return self.folder / name
        # Some exports also include the folder in file_name.
        plain = Path(name.replace("\\", "/")).name
        return self.folder / (plain if plain in self.present else name)

    @cached_property
    def _images(self) -> tuple[tuple[ImageEntry, ...], tuple[RecordFault, ...]]:
        if self.columns is not None:
            return tuple(self._column_images(self.columns)), ()
        entries: list[ImageEntry] = []
        faults: list[RecordFault] = []
        names: dict[int | str, str] = {}
        for position, record in enumerate(self.content["images"]):
            id, name = (record.get("id"), record.get("file_name")) if isinstance(record, dict) else (None, None)
            if not isinstance(record, dict) or not is_id(id):
                what = f"images[{position}] has the id {id!r}; an id must be an integer or a string"
                faults.append(RecordFault("image-record", what, "images", position))
                continue
            if not isinstance(name, str) or not name:
                if self.names_needed:
                    what = f"its file_name is {name!r}"
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
                what = f"its height and width are {short(height)} and {short(width)}; they must be integers, in pixels"
                faults.append(RecordFault("image-size-missing", what, "images", entry.position, entry.id))
        if not self.content["images"]:
            faults.append(RecordFault("list-empty", "it has no images", "images"))
        return tuple(entries), tuple(faults)

    def _column_images(self, columns: Columns) -> Iterator[ImageEntry]:
        for position, (id, (height, width)) in enumerate(
            zip(columns.image_ids.tolist(), columns.sizes.tolist(), strict=True)
        ):
            name = columns.name(position)
            record = {"id": id, "file_name": name, "height": height, "width": width, **columns.extra(position)}
            yield ImageEntry(position, id, name, self.path_of(name) if self.names_needed else NO_PATH, record)

    @cached_property
    def _categories(self) -> tuple[dict[int, str], tuple[RecordFault, ...]]:
        if self.columns is not None:
            return self.columns.classes, ()
        classes: dict[int, str] = {}
        faults: list[RecordFault] = []
        for position, record in enumerate(self.content["categories"]):
            id, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            if not is_whole(id) or not isinstance(name, str) or not name:
                what = f"categories[{position}] has the id {id!r} and the name {name!r}; it needs an integer and a name"
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
    def _annotations(self) -> tuple[Sequence[AnnotationEntry], tuple[RecordFault, ...]]:
        if self.columns is not None:
            return ColumnEntries(self.columns, self.images), ()
        entries: list[AnnotationEntry] = []
        faults: list[RecordFault] = []
        seen: set[int | str] = set()
        images = self.by_id
        for position, record in enumerate(self.content["annotations"]):
            if not isinstance(record, dict):
                what = f"annotations[{position}] is not a JSON object: {short(record)}"
                faults.append(RecordFault("annotation-record", what, "annotations", position))
                continue
            stated_id, image_id = record.get("id"), record.get("image_id")
            id = stated_id if is_id(stated_id) else f"[{position}]"
            image = images.get(image_id) if is_id(image_id) else None
            if image is None:
                what = f"its image_id {image_id!r} is not among the images"
                known = image_id if is_id(image_id) else None
                faults.append(RecordFault("annotation-without-image", what, "annotations", position, known, id))
                continue
            if is_id(stated_id):
                if stated_id in seen:
                    what = f"annotation id {stated_id} occurs twice"
                    faults.append(RecordFault("annotation-id-twice", what, "annotations", position, image.id, id))
                seen.add(stated_id)
            entries.append(AnnotationEntry(position, id, image, record))
        return tuple(entries), tuple(faults)


class ColumnEntries(Sequence[AnnotationEntry]):
    """The annotations of columns; an entry is built when it is accessed, and not kept."""

    def __init__(self, columns: Columns, images: Sequence[ImageEntry]) -> None:
        self.columns = columns
        self._images = images

    def __len__(self) -> int:
        return len(self.columns.ids)

    @overload
    def __getitem__(self, index: SupportsIndex) -> AnnotationEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AnnotationEntry, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> AnnotationEntry | tuple[AnnotationEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(len(self))[index])
        position = range(len(self))[index]
        columns = self.columns
        image = self._images[columns.owners[position]]
        return AnnotationEntry(position, columns.ids[position].item(), image, columns.record(position))


class ParsedLater(Mapping[str, Any]):
    """The content of a JSON file, which is parsed when it is accessed for the first time."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        return annotation_file(read_json(self._file, KIND), self._file).content

    def __getitem__(self, key: str) -> Any:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def read_annotation_file(
    file: Path, folder: Path | None, name: str = "", lists: tuple[str, ...] = LISTS
) -> AnnotationFile:
    """Read a file once; raises `DataError` only if it is unusable as a whole, or the folder is missing.

    The lists in `lists` are required; missing others are treated as empty.
    """
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the images that {file} lists")
    if lists == LISTS:
        columns = read_columns(file)
        if columns is not None:
            return AnnotationFile(file, folder, ParsedLater(file), name, columns=columns)
    return annotation_file(read_json(file, KIND), file, folder, name, lists)


def annotation_file(
    content: Any, file: Path, folder: Path | None = None, name: str = "", lists: tuple[str, ...] = LISTS
) -> AnnotationFile:
    """Interpret content that is already parsed; see `read_annotation_file`."""
    if not isinstance(content, Mapping):
        like = ", like a result file" if isinstance(content, list) else ""
        raise DataError(
            f"{file} contains a {type(content).__name__}{like}: not a COCO instance file; give one, with images, "
            f"annotations and categories"
        )
    missing = [key for key in LISTS if (key in lists or key in content) and not isinstance(content.get(key), list)]
    if missing:
        panoptic = "images" not in missing and any(
            isinstance(record, dict) and "segments_info" in record for record in content.get("annotations") or ()
        )
        hint = (
            "it is panoptic: use it for the semantic targets of training"
            if panoptic
            else "export it as COCO instance segmentation, with images, annotations, categories"
        )
        raise DataError(f"{file} is not a COCO instance file: it has no list of {' and '.join(missing)}; {hint}")
    absent = {key: [] for key in LISTS if key not in content}
    content = {**absent, **content} if absent else content
    if any(isinstance(record, dict) and "segments_info" in record for record in content["annotations"][:1]):
        raise DataError(
            f"{file} is a COCO panoptic file, whose masks are in PNGs; give the instance file (instances_*.json)"
        )
    return AnnotationFile(file, folder, content, name)


def is_whole(value: Any) -> TypeGuard[int]:
    """Test for an integer; JSON's true and false are not integers."""
    return type(value) is int


def is_id(value: Any) -> TypeGuard[int | str]:
    """Test for an integer or a string; JSON's true and false are neither."""
    return type(value) in ID_TYPES


def usable_box(value: Any) -> tuple[float, float, float, float] | None:
    """Return four finite numbers with non-negative sizes, or None."""
    if not isinstance(value, list) or len(value) != 4 or not are_numbers(value):
        return None
    x, y, width, height = map(float, value)
    return (x, y, width, height) if width >= 0 and height >= 0 else None
