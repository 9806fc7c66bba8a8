"""An annotation file as it is, faults and all: what every check looks at.

`read_coco` stops at what training cannot use; here everything that can be understood is, and the rest is left to the
checks.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from htc.data.json_file import read_json
from htc.doctor.findings import Box, Edit, Finding
from htc.doctor.outline import NO_OUTLINE, Outline, is_number, read_outline
from htc.errors import DataError

LISTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Picture:
    """An image record with id and file name."""

    position: int
    id: int | str
    name: str
    path: Path
    record: dict[str, Any]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) as the record says; None if it does not."""
        height, width = self.record.get("height"), self.record.get("width")
        if not isinstance(height, int) or not isinstance(width, int) or height <= 0 or width <= 0:
            return None
        return height, width


@dataclass(frozen=True)
class Object:
    """An annotation that belongs to a picture."""

    position: int
    id: int | str
    picture: Picture
    record: dict[str, Any]
    outline: Outline

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """x, y, width, height as stated; None unless these are four finite numbers and the sizes not negative."""
        return usable_box(self.record.get("bbox"))

    @property
    def where(self) -> tuple[float, float, float, float] | None:
        """xyxy: where to look for it."""
        if self.outline.box is not None:
            return self.outline.box
        box = self.box
        return None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])

    @property
    def crowd(self) -> bool:
        """Whether `iscrowd` says so."""
        return self.record.get("iscrowd", 0) == 1


@dataclass(frozen=True)
class Part:
    """One annotation file and the folder of its pictures."""

    name: str
    """`train`, `val`, or nothing where there is one part only."""
    file: Path
    folder: Path
    content: dict[str, Any]

    @cached_property
    def present(self) -> frozenset[str]:
        """Names of the files directly in the folder."""
        return frozenset(entry.name for entry in self.folder.iterdir())

    @cached_property
    def pictures(self) -> tuple[Picture, ...]:
        """All image records that can be used, in the file's order."""
        return tuple(
            Picture(position, record["id"], record["file_name"], self.path_of(record["file_name"]), record)
            for position, record in enumerate(self.content["images"])
            if isinstance(record, dict)
            and is_id(record.get("id"))
            and isinstance(record.get("file_name"), str)
            and record["file_name"]
        )

    @cached_property
    def by_id(self) -> dict[int | str, Picture]:
        """The first picture of each id."""
        found: dict[int | str, Picture] = {}
        for picture in self.pictures:
            found.setdefault(picture.id, picture)
        return found

    @cached_property
    def classes(self) -> dict[int, str]:
        """Names by id, in order of the ids; the first of each id."""
        found: dict[int, str] = {}
        for record in self.content["categories"]:
            if isinstance(record, dict) and isinstance(record.get("id"), int) and isinstance(record.get("name"), str):
                found.setdefault(record["id"], record["name"])
        return dict(sorted(found.items()))

    @cached_property
    def objects(self) -> tuple[Object, ...]:
        """All annotations that belong to a picture; where that has no size, their outline is not read."""
        found = []
        for position, record in enumerate(self.content["annotations"]):
            image = record.get("image_id") if isinstance(record, dict) else None
            picture = self.by_id.get(image) if is_id(image) else None
            if picture is not None:
                id = record["id"] if is_id(record.get("id")) else f"[{position}]"
                outline = (
                    NO_OUTLINE if picture.size is None else read_outline(record.get("segmentation"), *picture.size)
                )
                found.append(Object(position, id, picture, record, outline))
        return tuple(found)

    @cached_property
    def of_picture(self) -> dict[int, list[Object]]:
        """Objects by the position of their picture's record."""
        found: dict[int, list[Object]] = defaultdict(list)
        for one in self.objects:
            found[one.picture.position].append(one)
        return found

    @cached_property
    def crowded(self) -> Counter[int]:
        """Objects of each picture (by the position of its record), crowds left out."""
        return Counter(one.picture.position for one in self.objects if not one.crowd)

    def finding(
        self,
        one: Object,
        code: str,
        what: str,
        edits: tuple[Edit, ...] = (),
        fixed_by: str = "",
        where: Box | None = None,
    ) -> Finding:
        """A fault of one object, to be seen at `where` (or else where the object is)."""
        rings = tuple(tuple(ring) for ring in one.outline.drawn or ())
        return Finding(
            code, what, self.file, one.picture.id, one.picture.path, one.id, where or one.where, rings, edits, fixed_by
        )

    def path_of(self, name: str) -> Path:
        """The file of a picture, directly in the folder or below it as its name says; as `read_coco` finds it."""
        path = self.folder / name
        if name in self.present or ("/" in name and path.is_file()):
            return path
        plain = Path(name.replace("\\", "/")).name
        return self.folder / plain if plain in self.present else path


def read_part(file: Path, folder: Path, name: str = "") -> Part:
    """Raises `DataError` only if nothing of the file can be understood, or the folder is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of the pictures that {file} names")
    return part_of(read_json(file, "the COCO instance file (.json)"), file, folder, name)


def part_of(content: Any, file: Path, folder: Path, name: str = "") -> Part:
    """The same of a content that is read already."""
    if not isinstance(content, dict):
        raise DataError(
            f"{file} is a list or value, as result files are; give the annotation file, with images, annotations and "
            f"categories"
        )
    missing = [key for key in LISTS if not isinstance(content.get(key), list)]
    if missing:
        panoptic = "images" not in missing and any(
            isinstance(one, dict) and "segments_info" in one for one in content.get("annotations") or ()
        )
        hint = (
            "it is panoptic: give it to training as semantic targets"
            if panoptic
            else "export it as COCO instance segmentation"
        )
        raise DataError(f"{file} is not a COCO instance file: it has no list of {' and '.join(missing)}; {hint}")
    if any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"][:1]):
        raise DataError(
            f"{file} is a COCO panoptic file, whose masks are in PNGs; give the instance file (instances_*.json)"
        )
    return Part(name, file, folder, content)


def is_id(value: Any) -> TypeGuard[int | str]:
    """Whole numbers and texts; JSON's true and false are neither."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def usable_box(value: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers with sizes not negative, or None."""
    if not isinstance(value, list) or len(value) != 4 or not all(is_number(one) for one in value):
        return None
    x, y, width, height = map(float, value)
    return (x, y, width, height) if width >= 0 and height >= 0 else None
