"""The only reader of COCO instance files: typed entries for all valid records, and the faults of the others.

Training (`htc.data.coco.read_coco`) and evaluation reject a file for the faults found here and for no others; `htc
doctor` reports each of them as an error and has further checks. Therefore training and evaluation accept what the
doctor accepts. Values of another type whose meaning is certain (an id as text) are used by all of them, and reported by
the doctor, which knows them from `in_coco_types`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
from jaxtyping import Int

from htc.data.annotation_table import AnnotationTable, table_of_columns, table_of_entries
from htc.data.coco_records import AnnotationEntry, ImageEntry, listed_name
from htc.data.columns import Columns
from htc.data.columns_cache import read_columns
from htc.data.faults import RecordFault
from htc.data.image_names import ImageLocation, leaves_folder, locate, outside_text, top_files
from htc.data.record_values import NO_PARENT, KnownIds, is_id, own_id, short, whole
from htc.errors import DataError
from htc.files import read_json

KIND = "COCO annotations, an instance file (.json)"
LISTS = ("images", "annotations", "categories")
NO_LOCATION = ImageLocation(Path())


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
        if self.columns is not None:
            return {}  # the strict reader declines such files
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
        if self.columns is not None:
            return self._column_images(self.columns)
        named: list[tuple[int, int | str, str, dict[str, Any]]] = []
        faults: list[RecordFault] = []
        names: dict[int | str, str] = {}
        for position, record in enumerate(self.content["images"]):
            stated, name = (record.get("id"), listed_name(record)) if isinstance(record, dict) else (None, None)
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
            if self._leaves_folder(name):
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

    def _column_images(self, columns: Columns) -> tuple[tuple[ImageEntry, ...], tuple[RecordFault, ...]]:
        names = [columns.name(position) for position in range(len(columns.image_ids))]
        fields = zip(columns.image_ids.tolist(), columns.sizes.tolist(), names, self._locations(names), strict=True)
        entries, faults = [], []
        for position, (id, (height, width), name, location) in enumerate(fields):
            record = {"id": id, "file_name": name, "height": height, "width": width, **columns.extra(position)}
            entries.append(ImageEntry(position, id, name, location, record))
            if self._leaves_folder(name):
                faults.append(RecordFault("image-outside", outside_text(name), "images", position, id))
        return tuple(entries), tuple(faults)

    def _leaves_folder(self, name: str) -> bool:
        return self.names_needed and self.folder is not None and leaves_folder(name)

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
        records = content.get("annotations")
        panoptic = "images" not in missing and any(
            isinstance(record, dict) and "segments_info" in record
            for record in (records if isinstance(records, list) else ())
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
