"""Fast reader of faultless COCO instance files: straight into `Columns`, in chunks, without a Python object that stays.

It declines every file that deviates in any way from the plain form (null, an id as text, an unknown field, a fault of
any record); `htc.data.annotation_file` then reads the file tolerantly and gives equal datasets, or reports the fault.
"""

import json
import re
from itertools import chain
from typing import Any, TypeAlias

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int
from msgspec import UNSET, Raw, Struct, UnsetType

from htc.data.coco_records import name_of_url
from htc.data.columns import (
    EMPTY_LIST,
    IGNORE,
    ISCROWD,
    LISTED_RUNS,
    MAX_SIDE,
    NESTED,
    POLYGONS,
    STATED_IGNORE,
    STATED_ISCROWD,
    TEXT_RUNS,
    Columns,
    Growing,
    by_owner,
    clipped_boxes,
    starts_of,
    texts,
)
from htc.data.mask_encodings import valid_counts
from htc.data.record_values import NO_PARENT
from htc.data.segmentation import FAR
from htc.files import uncollected

CHUNK = 8 * 2**20
"""Bytes of annotations that are decoded at a time."""
BETWEEN = re.compile(rb"\}[ \t\r\n]*,[ \t\r\n]*\{")
"""The end of a record and the start of the next one."""
Optional: TypeAlias = Raw | UnsetType


class _File(Struct):
    images: list[Raw]
    annotations: Raw
    categories: Raw


class _Image(Struct, forbid_unknown_fields=True):
    id: int
    height: int
    width: int
    file_name: str | UnsetType = UNSET
    """LVIS has only `coco_url`."""
    license: Optional = UNSET
    flickr_url: Optional = UNSET
    coco_url: str | UnsetType | None = UNSET
    date_captured: Optional = UNSET


class _Category(Struct):
    id: int
    name: str
    supercategory: Any = UNSET


class _Runs(Struct, forbid_unknown_fields=True):
    size: list[int]
    counts: str | list[int]


class _Annotation(Struct, forbid_unknown_fields=True):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    segmentation: list[list[float]] | _Runs | UnsetType = UNSET
    area: float | UnsetType = UNSET
    iscrowd: int | UnsetType = UNSET
    ignore: int | UnsetType = UNSET
    attributes: Optional = UNSET
    keypoints: Optional = UNSET
    num_keypoints: Optional = UNSET


class DeclinedError(Exception):
    """The file is not of the plain form."""


PLAIN = frozenset(_Image.__struct_fields__)


@uncollected()
def read_strictly(content: bytes) -> Columns | None:
    """The columns of a COCO instance file, or None if it must be read tolerantly."""
    try:
        file = msgspec.json.decode(content, type=_File)
        images = _images(file.images)
        categories = _category_ids(file.categories)
        annotations = _annotations(content, file.annotations, images, categories)
    except (DeclinedError, msgspec.MsgspecError, OverflowError, RecursionError, UnicodeError):
        return None
    return Columns(**images, **annotations, categories=np.frombuffer(bytes(file.categories), np.uint8))


def _category_ids(raw: Raw) -> list[int]:
    """Category ids in order; declines a category that may be only the supercategory of all others."""
    records = msgspec.json.decode(raw, type=list[_Category])
    ids, names = {record.id for record in records}, {record.name for record in records}
    if not records or min(len(ids), len(names)) < len(records) or "" in names:
        raise DeclinedError
    for one in records:
        others = [other for other in records if other is not one]
        if one.supercategory in NO_PARENT and others and all(other.supercategory == one.name for other in others):
            raise DeclinedError
    return sorted(ids)


def _images(records: list[Raw]) -> dict[str, np.ndarray]:
    decoder = msgspec.json.Decoder(_Image)
    images: list[_Image] = []
    extras: list[bytes] = []
    for raw in records:
        extra = b""
        try:
            image = decoder.decode(raw)
        except msgspec.ValidationError:
            image, extra = _with_extra(raw)
        images.append(image)
        extras.append(extra)
    ids = np.array([image.id for image in images], np.int64)
    sizes = np.array([(image.height, image.width) for image in images], np.int64).reshape(-1, 2)
    if not len(ids) or _repeated(ids) or sizes.min() < 1 or sizes.max() > MAX_SIDE:
        raise DeclinedError
    listed = [name_of_url(image.coco_url) if image.file_name is UNSET else image.file_name for image in images]
    names, name_starts = texts([name.encode() for name in listed if name])
    if len(name_starts) <= len(images):
        raise DeclinedError
    further, further_starts = texts(extras)
    return {
        "image_ids": ids,
        "sizes": sizes.astype(np.int32),
        "names": names,
        "name_starts": name_starts,
        "extras": further,
        "extra_starts": further_starts,
    }


def _with_extra(raw: Raw) -> tuple[_Image, bytes]:
    """An image record with fields that are not COCO's, and those fields."""
    record = msgspec.json.decode(raw, type=dict[str, Any])
    extra = {key: value for key, value in record.items() if key not in PLAIN}
    plain = {key: record[key] for key in ("id", "file_name", "height", "width", "coco_url") if key in record}
    return msgspec.convert(plain, _Image), json.dumps(extra).encode()


def _annotations(
    content: bytes, raw: Raw, images: dict[str, np.ndarray], category_ids: list[int]
) -> dict[str, np.ndarray]:
    builder = _Builder(images, category_ids)
    decoder = msgspec.json.Decoder(list[_Annotation])
    # The offset in `content`, which is searched without a copy.
    start = _address(raw) - _address(content)
    end = start + len(memoryview(raw)) - 1
    if content[start : start + 1] != b"[":
        raise DeclinedError
    position = start + 1
    while position < end:
        found = BETWEEN.search(content, min(position + CHUNK, end), end)
        stop = end if found is None else found.start() + 1
        # A record that is cut because its text contains `}, {` is not valid JSON, and declines the file.
        builder.add(decoder.decode(b"[" + content[position:stop] + b"]"))
        position = stop if found is None else found.end() - 1
    return builder.finish()


def _address(buffer: Any) -> int:
    return np.frombuffer(buffer, np.uint8).ctypes.data


class _Builder:
    """Collects the columns of all annotations; raises `DeclinedError` for the first fault."""

    def __init__(self, images: dict[str, np.ndarray], category_ids: list[int]) -> None:
        self._sizes = images["sizes"]
        self._image_order = np.argsort(images["image_ids"])
        self._image_ids = images["image_ids"][self._image_order]
        self._category_ids = np.array(category_ids, np.int64)
        self._columns = {
            name: Growing(dtype)
            for name, dtype in {
                "ids": np.int64,
                "owners": np.int32,
                "labels": np.int32,
                "boxes": np.float64,
                "areas": np.float64,
                "flags": np.int16,
                "ring_counts": np.int64,
                "number_counts": np.int64,
                "coordinates": np.float64,
                "run_counts": np.int64,
                "runs": np.uint8,
            }.items()
        }

    def add(self, rows: list[_Annotation]) -> None:
        """Check and append some annotations."""
        if not rows:
            return
        owners = self._image_order[_found(self._image_ids, [row.image_id for row in rows])].astype(np.int32)
        boxes = np.array([row.bbox for row in rows], np.float64)
        if (boxes[:, 2:] < 0).any():
            raise DeclinedError
        sizes = self._sizes[owners]
        runs, run_flags = _encoded_runs(rows, sizes)
        polygons = _polygons(rows, sizes)
        nested = _nested(**polygons)
        values = {
            "ids": np.array([row.id for row in rows], np.int64),
            "owners": owners,
            "labels": _found(self._category_ids, [row.category_id for row in rows]).astype(np.int32),
            "boxes": boxes.ravel(),
            "areas": np.array([np.nan if row.area is UNSET else row.area for row in rows], np.float64),
            "flags": _stated(rows) | run_flags | np.where(nested, NESTED, 0).astype(np.int16),
            **polygons,
            "run_counts": np.array(list(map(len, runs)), np.int64),
            "runs": np.frombuffer(b"".join(runs), np.uint8),
        }
        for name, array in values.items():
            self._columns[name].extend(array)

    def finish(self) -> dict[str, np.ndarray]:
        """The columns of the annotations."""
        columns = {name: column.finish() for name, column in self._columns.items()}
        if _repeated(columns["ids"]):
            raise DeclinedError
        for name, counts in (("ring_starts", "ring_counts"), ("number_starts", "number_counts")):
            columns[name] = starts_of(columns.pop(counts))
        columns["boxes"] = columns["boxes"].reshape(-1, 4)
        columns["run_starts"] = starts_of(columns.pop("run_counts"))
        usable = usable_boxes(columns["boxes"], self._sizes[columns["owners"]])
        columns["order"], columns["order_starts"] = by_owner(columns["owners"], usable, len(self._sizes))
        return columns


def usable_boxes(boxes: Float[np.ndarray, "N 4"], sizes: Int[np.ndarray, "N 2"]) -> Any:
    """Whether each box (x, y, width, height) has at least a pixel and is not completely outside its image."""
    inside = clipped_boxes(boxes, sizes)
    return (boxes[:, 2:] >= 1).all(1) & (inside[:, :2] < inside[:, 2:]).all(1)


def _repeated(ids: Int[np.ndarray, " N"]) -> bool:
    return bool((np.diff(np.sort(ids)) == 0).any())


def _found(known: Int[np.ndarray, " K"], ids: list[int]) -> Int[np.ndarray, " N"]:
    """Positions of ids in a sorted array that contains all of them."""
    wanted = np.array(ids, np.int64)
    positions = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    if (known[positions] != wanted).any():
        raise DeclinedError
    return positions


def _stated(rows: list[_Annotation]) -> np.ndarray:
    """Bits of `iscrowd` and `ignore`."""
    flags = np.zeros(len(rows), np.int16)
    for values, stated, value in (
        ([row.iscrowd for row in rows], STATED_ISCROWD, ISCROWD),
        ([row.ignore for row in rows], STATED_IGNORE, IGNORE),
    ):
        if not set(values) <= {0, 1, UNSET}:
            raise DeclinedError
        flags |= np.array([0 if one is UNSET else stated | (value if one else 0) for one in values], np.int16)
    return flags


def _polygons(rows: list[_Annotation], sizes: Int[np.ndarray, "N 2"]) -> dict[str, np.ndarray]:
    """Numbers of all polygons of at least three points that are not far outside the image."""
    outlines = [row.segmentation if type(row.segmentation) is list else [] for row in rows]
    ring_counts = np.array(list(map(len, outlines)), np.int64)
    rings = list(chain.from_iterable(outlines))
    number_counts = np.array(list(map(len, rings)), np.int64)
    if (number_counts % 2).any() or (number_counts < 6).any():
        raise DeclinedError
    coordinates = np.fromiter(chain.from_iterable(rings), np.float64, int(number_counts.sum()))
    if len(rings):
        farthest = np.maximum.reduceat(np.abs(coordinates), starts_of(number_counts)[:-1])
        if (farthest > FAR * (np.repeat(sizes.max(1), ring_counts) + 1)).any():
            raise DeclinedError
    return {"ring_counts": ring_counts, "number_counts": number_counts, "coordinates": coordinates}


def _nested(
    ring_counts: Int[np.ndarray, " N"], number_counts: Int[np.ndarray, " R"], coordinates: Float[np.ndarray, " _"]
) -> Bool[np.ndarray, " N"]:
    """Whether the box of one of an instance's polygons is inside that of another one."""
    owners = np.repeat(np.arange(len(ring_counts)), ring_counts)
    nested = np.zeros(len(ring_counts), bool)
    if not len(owners):
        return nested
    ends = starts_of(number_counts)[:-1] // 2
    points = coordinates.reshape(-1, 2)
    low, high = np.minimum.reduceat(points, ends), np.maximum.reduceat(points, ends)
    rings = np.flatnonzero(ring_counts[owners] > 1)
    for step in range(1, int(ring_counts.max())):
        rings = rings[rings + step < len(owners)]
        rings = rings[owners[rings] == owners[rings + step]]  # the later rings of an instance have fewer after them
        for one, other in ((rings, rings + step), (rings + step, rings)):
            inside = (low[one] >= low[other]).all(1) & (high[one] <= high[other]).all(1)
            nested[owners[one[inside]]] = True
    return nested


def _encoded_runs(rows: list[_Annotation], sizes: Int[np.ndarray, "N 2"]) -> tuple[list[bytes], np.ndarray]:
    """Run lengths of the instances that have them, and the bits of the encoding of every mask."""
    runs, flags = [b""] * len(rows), np.zeros(len(rows), np.int16)
    texts_of: list[int] = []
    for index, row in enumerate(rows):
        outline = row.segmentation
        if outline is UNSET:
            continue
        if not isinstance(outline, _Runs):
            flags[index] = POLYGONS if outline else EMPTY_LIST
            continue
        height, width = sizes[index].tolist()
        if outline.size != [height, width]:
            raise DeclinedError
        if isinstance(outline.counts, str):
            runs[index] = outline.counts.encode("ascii")
            texts_of.append(index)
        else:
            counts = np.array(outline.counts, np.int64)
            if (counts < 0).any() or sum(outline.counts) != height * width:
                raise DeclinedError
            runs[index] = counts.tobytes()
            flags[index] = LISTED_RUNS
    flags[texts_of] = TEXT_RUNS
    pixels = sizes[texts_of].astype(np.int64).prod(1)
    if not valid_counts([runs[index] for index in texts_of], pixels).all():
        raise DeclinedError
    return runs, flags
