"""The only reader of COCO instance files: typed entries for all valid records, and the faults of the others.

Training (`htc.data.coco.read_coco`) and evaluation reject a file for the faults found here and for no others; `htc
doctor` reports each of them as an error and has further checks. Therefore training and evaluation accept what the
doctor accepts. Values of another type whose meaning is certain (an id as text) are used by all of them, and reported by
the doctor, which knows them from `in_coco_types`.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int

from htc.data.annotation_table import AnnotationTable, table_of_columns, table_of_entries
from htc.data.columns import MAX_SIDE, Columns
from htc.data.columns_cache import read_columns
from htc.data.faults import RecordFault
from htc.data.image_names import ImageLocation, leaves_folder, locate, outside_text, top_files
from htc.data.record_values import (
    NO_PARENT,
    KnownIds,
    are_numbers,
    flag,
    is_id,
    is_number,
    is_whole,
    own_id,
    short,
    whole,
)
from htc.data.segmentation import EMPTY, NO_OUTLINE, Outline, parse_segmentation, read_outline
from htc.errors import DataError
from htc.files import read_json

KIND = "COCO annotations, an instance file (.json)"
LISTS = ("images", "annotations", "categories")
NO_LOCATION = ImageLocation(Path())


@dataclass(frozen=True)
class ImageEntry:
    """An image record with an id and a file name."""

    position: int
    id: int | str
    name: str
    location: ImageLocation
    record: dict[str, Any]

    @property
    def path(self) -> Path:
        """Its file or, if that is missing, where it should be."""
        return self.location.path

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as annotated; None unless both are valid."""
        height, width = whole(self.record.get("height")), whole(self.record.get("width"))
        if height is None or width is None:
            return None
        return (height, width) if 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE else None

    @property
    def in_coco_types(self) -> dict[str, Any]:
        """The values of fields that had another type than COCO's."""
        values: dict[str, Any] = {} if is_id(self.record.get("id")) else {"id": self.id}
        if self.size is not None:
            sides = zip(("height", "width"), self.size, strict=True)
            values |= {name: side for name, side in sides if not is_whole(self.record[name])}
        return values


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
    holes: bool = True
    """Whether rings inside others, of the opposite orientation, are holes."""
    _outline: Outline | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def outline(self) -> Outline:
        """Its segmentation with all faults, parsed on first use; empty if the image has no size."""
        if self._outline is None:
            size = self.image.size
            self._outline = (
                NO_OUTLINE if size is None else read_outline(self.record.get("segmentation"), *size, holes=self.holes)
            )
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
        return whole(self.record.get("category_id"))

    @property
    def crowd(self) -> bool:
        """Set by `iscrowd` or `ignore` only, never by the encoding of the mask."""
        return bool(flag(self.record.get("iscrowd"))) or self.ignored

    @property
    def ignored(self) -> bool:
        """Whether `ignore` is set: the annotation is used like a crowd region."""
        return bool(flag(self.record.get("ignore")))

    @property
    def area(self) -> float | None:
        """`area`, if it is a number."""
        area = self.record.get("area")
        return area if is_number(area) else None

    @property
    def segmented(self) -> bool:
        """Whether there is a segmentation, usable or not."""
        segmentation = self.record.get("segmentation")
        return not (
            segmentation in EMPTY or (isinstance(segmentation, list) and all(ring == [] for ring in segmentation))
        )

    @property
    def in_coco_types(self) -> dict[str, Any]:
        """The values of fields that had another type than COCO's."""
        record, values = self.record, {}
        if not (is_id(record["image_id"]) and record["image_id"] == self.image.id):
            values["image_id"] = self.image.id
        if "category_id" in record and not is_whole(record["category_id"]) and self.category is not None:
            values["category_id"] = self.category
        if type(record.get("id")) is float and record["id"].is_integer():
            values["id"] = self.id
        for name in ("iscrowd", "ignore"):
            stated = record.get(name)
            if isinstance(stated, str | float) and (meant := flag(stated)) is not None:
                values[name] = int(meant)
        segmentation, size = record.get("segmentation"), self.image.size
        if size is not None and (
            isinstance(segmentation, dict) or (isinstance(segmentation, list) and [] in segmentation)
        ):
            parsed = parse_segmentation(segmentation, *size)
            if parsed.understood and not parsed.faults:
                values["segmentation"] = parsed.written
        return values

    def fault(self, code: str, what: str) -> RecordFault:
        """Create a fault of this annotation."""
        return RecordFault(code, what, "annotations", self.position, self.image.id, self.id, self.image.name)


def category_fault(entry: AnnotationEntry, categories: Container[Any]) -> RecordFault | None:
    """Check that the category exists."""
    if entry.category in categories:
        return None
    what = f"its category_id {short(entry.record.get('category_id'))} is not among the categories"
    return entry.fault("category-unknown", what)


def box_fault(entry: AnnotationEntry) -> RecordFault | None:
    """Check that there is a valid box, or else a segmentation."""
    stated = entry.record.get("bbox")
    if stated is None or stated == []:
        if entry.segmented:
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
    """Check that `iscrowd` and `ignore` are 0 or 1; a missing one means 0."""
    for name in ("iscrowd", "ignore"):
        stated = entry.record.get(name)
        if stated is not None and stated not in (0, 1) and flag(stated) is None:
            return entry.fault("crowd-value", f"its {name} is {short(stated)}")
    return None


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
    holes: bool = True
    """Whether a ring wholly inside another, of the opposite orientation, is a hole (`--coco-holes`)."""
    columns: Columns | None = field(default=None, repr=False)
    """The same content of a plain file, in columns; entries are then built when they are accessed."""

    @cached_property
    def present(self) -> frozenset[str]:
        """Names of the files directly in the folder."""
        return frozenset() if self.folder is None else top_files(self.folder)

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
        """Class names by category id, sorted by id, without `parents`; the first record of each id."""
        parents = self.parents
        return {id: name for id, name in self.categories.items() if id not in parents}

    @property
    def categories(self) -> dict[int, str]:
        """Names of all categories by id, sorted by id; the first record of each id."""
        return self._categories[0]

    @cached_property
    def parents(self) -> dict[int, str]:
        """Categories without annotations that are only the supercategory of all others, as Roboflow's id 0: no
        classes.
        """
        records = [one for one in self.content["categories"] if isinstance(one, dict)]
        parents = {
            id: name
            for id, name in self.categories.items()
            for one in records
            if whole(one.get("id")) == id and "supercategory" in one and one["supercategory"] in NO_PARENT
            if len(records) > 1 and all(other.get("supercategory") == name for other in records if other is not one)
        }
        if not parents or self.columns is not None:  # the strict reader declines a file that may have some
            return {}
        used = {whole(one.get("category_id")) for one in self.content["annotations"] if isinstance(one, dict)}
        return {id: name for id, name in parents.items() if id not in used}

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
    def table(self) -> AnnotationTable:
        """All annotations as arrays."""
        if self.columns is not None:
            return table_of_columns(self.columns, self.annotations)
        return table_of_entries(self.annotations, tuple(self.classes))

    @cached_property
    def by_id(self) -> dict[int | str, ImageEntry]:
        """The first image of each id."""
        first: dict[int | str, ImageEntry] = {}
        for image in self.images:
            first.setdefault(image.id, image)
        return first

    @cached_property
    def _by_image(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
        """Indices of the annotations by image, and the positions of their images."""
        images = self.table.images
        order = np.argsort(images, kind="stable")
        return order, images[order]

    def of_image(self, position: int) -> list[AnnotationEntry]:
        """The annotations of the image with this record."""
        order, images = self._by_image
        first, last = np.searchsorted(images, (position, position + 1))
        return [self.annotations[index] for index in order[first:last].tolist()]

    @cached_property
    def _images(self) -> tuple[tuple[ImageEntry, ...], tuple[RecordFault, ...]]:
        named: list[tuple[int, int | str, str, dict[str, Any]]] = []
        faults: list[RecordFault] = []
        names: dict[int | str, str] = {}
        records = self.content["images"] if self.columns is None else self.columns.image_records()
        for position, record in enumerate(records):
            stated, name = (record.get("id"), record.get("file_name")) if isinstance(record, dict) else (None, None)
            id = own_id(stated)
            if not isinstance(record, dict) or id is None:
                what = f"images[{position}] has the id {stated!r}; an id must be an integer or a string"
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
            if self.names_needed and self.folder is not None and leaves_folder(name):
                faults.append(RecordFault("image-outside", outside_text(name), "images", position, id))
            named.append((position, id, name, record))
        entries = [
            ImageEntry(position, id, name, location, record)
            for (position, id, name, record), location in zip(
                named, self._locations([name for _, _, name, _ in named]), strict=True
            )
        ]
        for entry in entries:
            if entry.size is None:
                height, width = entry.record.get("height"), entry.record.get("width")
                what = f"its height and width are {short(height)} and {short(width)}; they must be integers, in pixels"
                faults.append(
                    RecordFault("image-size-missing", what, "images", entry.position, entry.id, image_name=entry.name)
                )
        if not named and not self.content["images"]:
            faults.append(RecordFault("list-empty", "it has no images", "images"))
        return tuple(entries), tuple(faults)

    def _locations(self, names: list[str]) -> list[ImageLocation]:
        if not self.names_needed:
            return [NO_LOCATION] * len(names)
        if self.folder is None:
            return [ImageLocation(Path(name)) for name in names]
        return locate(self.folder, names, self.present)

    @cached_property
    def _categories(self) -> tuple[dict[int, str], tuple[RecordFault, ...]]:
        classes: dict[int, str] = {}
        faults: list[RecordFault] = []
        for position, record in enumerate(self.content["categories"]):
            stated, name = (record.get("id"), record.get("name")) if isinstance(record, dict) else (None, None)
            id = whole(stated)
            if id is None or not isinstance(name, str) or not name:
                given = f"categories[{position}] has the id {stated!r} and the name {name!r}"
                what = f"{given}; it needs an integer and a name"
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
            return ColumnEntries(self.columns, self.images, self.holes), ()
        entries: list[AnnotationEntry] = []
        faults: list[RecordFault] = []
        seen: set[int | str] = set()
        images = self.by_id
        known = KnownIds(images)
        for position, record in enumerate(self.content["annotations"]):
            if not isinstance(record, dict):
                what = f"annotations[{position}] is not a JSON object: {short(record)}"
                faults.append(RecordFault("annotation-record", what, "annotations", position))
                continue
            given_id, stated = own_id(record.get("id")), record.get("image_id")
            id = f"[{position}]" if given_id is None else given_id
            image_id = known.find(stated)
            if image_id is None:
                what = f"its image_id {short(stated)} is not among the images"
                shown = stated if is_id(stated) else None
                faults.append(RecordFault("annotation-without-image", what, "annotations", position, shown, id))
                continue
            image = images[image_id]
            if given_id is not None:
                if given_id in seen:
                    what = f"annotation id {given_id} occurs twice"
                    faults.append(
                        RecordFault("annotation-id-twice", what, "annotations", position, image.id, id, image.name)
                    )
                seen.add(given_id)
            entries.append(AnnotationEntry(position, id, image, record, self.holes))
        return tuple(entries), tuple(faults)


class ColumnEntries(Sequence[AnnotationEntry]):
    """The annotations of columns; an entry is built when it is accessed, and not kept."""

    def __init__(self, columns: Columns, images: Sequence[ImageEntry], holes: bool) -> None:
        self._columns = columns
        self._images = images
        self._holes = holes

    def __len__(self) -> int:
        return len(self._columns.ids)

    @overload
    def __getitem__(self, index: SupportsIndex) -> AnnotationEntry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AnnotationEntry, ...]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> AnnotationEntry | tuple[AnnotationEntry, ...]:
        if isinstance(index, slice):
            return tuple(self[position] for position in range(len(self))[index])
        position = range(len(self))[index]
        columns = self._columns
        image = self._images[columns.owners[position]]
        return AnnotationEntry(position, columns.ids[position].item(), image, columns.record(position), self._holes)


class ParsedLater(Mapping[str, Any]):
    """The content of a file in columns; only the categories are known before the file is parsed again."""

    def __init__(self, file: Path, columns: Columns) -> None:
        self._file = file
        self._columns = columns

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        return annotation_file(read_json(self._file, KIND), self._file).content

    def __getitem__(self, key: str) -> Any:
        return self._columns.category_records if key == "categories" else self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


def read_annotation_file(
    file: Path, folder: Path | None, name: str = "", lists: tuple[str, ...] = LISTS, *, holes: bool = True
) -> AnnotationFile:
    """Read a file once; raises `DataError` only if it is unusable as a whole, or the folder is missing.

    The lists in `lists` are required; missing others are treated as empty.
    """
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the images that {file} lists")
    columns = read_columns(file) if lists == LISTS and file.is_file() else None
    if columns is not None:
        return AnnotationFile(file, folder, ParsedLater(file, columns), name, holes=holes, columns=columns)
    return annotation_file(read_json(file, KIND), file, folder, name, lists, holes=holes)


def annotation_file(
    content: Any,
    file: Path,
    folder: Path | None = None,
    name: str = "",
    lists: tuple[str, ...] = LISTS,
    *,
    holes: bool = True,
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
    return AnnotationFile(file, folder, content, name, holes=holes)


def usable_box(value: Any) -> tuple[float, float, float, float] | None:
    """Return four finite numbers with non-negative sizes, or None."""
    if not isinstance(value, list) or len(value) != 4 or not are_numbers(value):
        return None
    x, y, width, height = map(float, value)
    return (x, y, width, height) if width >= 0 and height >= 0 else None
