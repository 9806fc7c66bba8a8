"""Records of COCO instance files as typed entries, and the faults of single annotations."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from htc.data.columns import MAX_SIDE
from htc.data.faults import RecordFault
from htc.data.image_names import ImageLocation
from htc.data.record_values import are_numbers, flag, is_id, is_number, is_whole, short, whole
from htc.data.segmentation import EMPTY, NO_OUTLINE, Outline, parse_segmentation, read_outline


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


def listed_name(record: Mapping[str, Any]) -> Any:
    """`file_name` of an image record; of LVIS's, which have none, the name in `coco_url`."""
    name = record.get("file_name")
    return name_of_url(record.get("coco_url")) if name is None else name


def name_of_url(url: object) -> str | None:
    """The last folder and the file of LVIS's `coco_url`, as train2017/000000000009.jpg."""
    parts = PurePosixPath(url).parts if isinstance(url, str) else ()
    return "/".join(parts[-2:]) if len(parts) > 2 else None


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


def usable_box(value: Any) -> tuple[float, float, float, float] | None:
    """Return four finite numbers with non-negative sizes, or None."""
    if not isinstance(value, list) or len(value) != 4 or not are_numbers(value):
        return None
    x, y, width, height = map(float, value)
    return (x, y, width, height) if width >= 0 and height >= 0 else None
